"""Forward-backward: the closed form, deepinv's solver, the guarantee, and every way of refusing."""

from __future__ import annotations

import itertools
import json

import deepinv
import pytest
import solver_cases as cases
import torch

from pnp_lip.errors import CertificateError, GuaranteeError, InputError, ShapeError
from pnp_lip.solvers import ForwardBackward, KrasnoselskiiMann, LeastSquares, UserFidelity, WeightedLeastSquares


@pytest.fixture
def setting():
    physics = cases.blur(torch.float32)
    y = physics.A(cases.random(2, *cases.SHAPE, seed=5, dtype=torch.float32).abs())
    return cases.denoiser(), physics, y


@pytest.mark.parametrize("kind", ["blur", "matrix"])
def test_reaches_the_solution_of_the_linear_fixed_point_equation(kind):
    physics = cases.blur() if kind == "blur" else cases.matrix_physics()
    y = physics.A(cases.random(1, *cases.SHAPE, seed=1))
    net = cases.linear_denoiser()
    options = {} if kind == "blur" else {"data_term": LeastSquares(norm_upper=physics.norm)}
    result = ForwardBackward(net, sigma=0.1, tol=1e-14, **options).solve(y, physics, max_iter=20000)
    a, d = cases.dense(physics.A), cases.dense(lambda x: net(x, None))
    gamma, one = result.settings["step"], torch.eye(64, dtype=torch.float64)
    truth = torch.linalg.solve(one - d @ (one - gamma * a.T @ a), gamma * d @ a.T @ y.flatten())
    assert result.status == "converged"
    assert cases.relative(result.x.flatten(), truth) < 1e-10


def test_agrees_with_deepinv(setting):
    net, physics, y = setting
    start = torch.zeros(2, *cases.SHAPE)
    ours = ForwardBackward(net, sigma=0.1, tol=0).solve(y, physics, x0=start, max_iter=50)
    theirs = deepinv.optim.PGD(
        data_fidelity=deepinv.optim.L2(), prior=deepinv.optim.PnP(net), stepsize=ours.settings["step"],
        sigma_denoiser=0.1, max_iter=50, early_stop=False,
    )(y, physics, init=start)  # fmt: skip
    assert cases.relative(ours.x, theirs) < 1e-5


def test_the_guarantee_names_the_theorem_and_its_numbers(setting):
    net, physics, y = setting
    result = ForwardBackward(net, sigma=0.1, box=(0, 1)).solve(y, physics)
    g = result.guarantee
    assert result.status == "converged" and g.proved and g.failure is None and "Browder" in g.existence
    assert all(h.met for h in g.hypotheses) and "Combettes" in g.theorem
    assert {"`step`", "‖A‖", "Lipschitz constant of the denoiser"} <= {h.name for h in g.hypotheses}
    assert float(result.x.min()) >= 0 and float(result.x.max()) <= 1
    without_box = ForwardBackward(net, sigma=0.1).check(y, physics)
    assert without_box.proved and "if there is one" in without_box.statement and "assumed" in without_box.existence


def test_the_residual_never_grows_and_obeys_the_rate(setting):
    net, physics, y = setting
    result = ForwardBackward(net, sigma=0.1, box=(0, 1), tol=1e-6).solve(y, physics)
    for image, history in enumerate(result.histories):
        r = history.residual
        assert all(b <= a + 1e-6 * r[0] for a, b in itertools.pairwise(r)), image
    a = result.settings["map_averagedness"]
    distance = 2.0 * cases.SIZE  # two images in [0, 1] and their start are at most this far apart
    k = len(result.history.residual)
    assert result.history.residual[-1] <= distance * (a / (1 - a) / k) ** 0.5
    assert "√" in result.guarantee.rate


def test_the_linear_rate_holds_where_it_is_claimed():
    physics = cases.MatrixPhysics(torch.diag(torch.linspace(0.5, 1, 64, dtype=torch.float64)))
    y = physics.A(cases.random(1, *cases.SHAPE))
    options = {"sigma": 0.1, "step": 1.5, "data_term": LeastSquares(convexity=0.25, norm_upper=1.0)}
    net = cases.denoiser(dtype=torch.float64)
    far = ForwardBackward(net, tol=1e-14, **options).solve(y, physics, max_iter=2000)
    assert any("convexity" in h.name and "stated" in h.bound for h in far.guarantee.hypotheses)
    assert "q = 0.625" in far.guarantee.rate and "Banach" in far.guarantee.existence
    near = ForwardBackward(net, tol=0, **options).solve(y, physics, max_iter=10)
    start = float((ForwardBackward(net, tol=0, **options).solve(y, physics, max_iter=1).x - far.x).norm())
    assert float((near.x - far.x).norm()) <= 0.625**9 * start * (1 + 1e-9)


def test_a_step_beyond_the_limit_is_refused_with_the_numbers(setting):
    net, physics, y = setting
    limit = 2 / physics.norm_upper**2
    with pytest.raises(GuaranteeError, match=r"`step` must lie in \(0, 2/\|\|A\|\|\^2\) = \(0, [\d.]+\); got 2\.01"):
        ForwardBackward(net, sigma=0.1, step=2.01 * limit / 2).solve(y, physics)
    result = ForwardBackward(net, sigma=0.1, step=2.01 * limit / 2).solve(y, physics, guarantee="report")
    assert not result.guarantee.proved and "`step`" in result.guarantee.failure
    assert ForwardBackward(net, sigma=0.1, step=1.99 * limit / 2).check(y, physics).proved
    for step in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="step"):
            ForwardBackward(net, sigma=0.1, step=step)


def test_an_expansive_layer_is_refused_by_name(setting):
    _net, physics, y = setting
    broken = cases.denoiser(limit=1.0)
    with torch.no_grad():
        broken.layers[1].weight.mul_(1.01)
    with pytest.raises(CertificateError, match=r"layers\.1.*must not exceed 2"):
        ForwardBackward(broken, sigma=0.1).solve(y, physics)
    result = ForwardBackward(broken, sigma=0.1).solve(y, physics, max_iter=5, guarantee="assume")
    assert not result.guarantee.proved and "layers.1" in result.guarantee.failure
    assert result.guarantee.statement == "nothing is proved of this run"


def test_an_unknown_denoiser_is_refused_unless_it_is_assumed(setting):
    _, physics, y = setting
    for unknown in (deepinv.models.DnCNN(1, 1, depth=3, nf=4, pretrained=None), lambda x, sigma: 0.9 * x):
        with pytest.raises(CertificateError, match='guarantee="assume"'):
            ForwardBackward(unknown).solve(y, physics)
        for way in ("assume", "report"):
            assert not ForwardBackward(unknown).solve(y, physics, max_iter=3, guarantee=way).guarantee.proved
    with pytest.raises(GuaranteeError, match="`step`"):  # assuming the denoiser does not excuse the step
        ForwardBackward(lambda x, sigma: x, step=2.5).solve(y, physics, guarantee="assume")


def test_a_merely_nonexpansive_denoiser_needs_relaxation(setting):
    _, physics, y = setting
    flip = cases.Reflection()
    with pytest.raises(GuaranteeError, match=r"relax\(denoiser, 0\.5\)"):
        ForwardBackward(flip).solve(y, physics)
    assert ForwardBackward(flip, scheme=KrasnoselskiiMann(0.5)).check(y, physics).proved


def test_a_missing_norm_bound_and_a_wrong_adjoint_are_refused():
    physics = cases.unknown_physics(torch.float32)
    y = physics.A(torch.ones(1, 1, 33, 33))
    with pytest.raises(GuaranteeError, match="upper bound of ‖A‖"):
        ForwardBackward(cases.denoiser(), sigma=0.1).solve(y, physics)
    assert ForwardBackward(cases.denoiser(), sigma=0.1).solve(y, physics, guarantee="report", max_iter=3).x.isfinite().all()
    physics.A_adjoint = lambda v: 1.01 * cases.MatrixPhysics.A_adjoint(physics, v)
    with pytest.raises(GuaranteeError, match=r"A_adjoint v from the derivative .* at most 1e-03; got 0\.0\d"):
        ForwardBackward(cases.denoiser(), sigma=0.1, data_term=LeastSquares(norm_upper=physics.norm)).solve(y, physics)


def test_bad_input_is_refused(setting):
    net, physics, y = setting
    solver = ForwardBackward(net, sigma=0.1)
    broken = y.clone()
    broken[0, 0, 2, 3] = float("nan")
    with pytest.raises(InputError, match="1 NaN or infinite"):
        solver.solve(broken, physics)
    for wrong in (y[..., :-1], y[0, 0], y.round().int(), y.numpy(), y.double()):
        with pytest.raises(ShapeError):
            solver.solve(wrong, physics)
    for name in ("x0", "reference"):
        for wrong in (torch.zeros(1, *cases.SHAPE), torch.zeros(2, *cases.SHAPE).double(), None if name == "x0" else 3):
            if wrong is not None:
                with pytest.raises(ShapeError, match=name):
                    solver.solve(y, physics, **{name: wrong})
    with pytest.raises(InputError, match="x0"):
        solver.solve(y, physics, x0=torch.full((2, *cases.SHAPE), float("inf")))
    with pytest.raises(InputError, match="forward model is zero"):
        zero = cases.MatrixPhysics(torch.zeros(3, 64))
        ForwardBackward(net).solve(torch.zeros(1, 3), zero, guarantee="report")


@pytest.mark.parametrize(
    "options",
    [{"tol": -1}, {"tol": 1.0}, {"box": (1, 0)}, {"box": (0, float("inf"))}, {"sigma": -0.1}, {"sigma": float("nan")}],
)  # fmt: skip
def test_bad_settings_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        ForwardBackward(cases.denoiser(), **options)


@pytest.mark.parametrize("options", [{"max_iter": 0}, {"max_iter": 1.5}, {"guarantee": "maybe"}])
def test_bad_options_of_a_run_are_refused(options, setting):
    net, physics, y = setting
    with pytest.raises(InputError, match=next(iter(options))):
        ForwardBackward(net).solve(y, physics, **options)


def test_bad_statements_about_the_data_term_are_refused():
    with pytest.raises(InputError, match="norm_upper"):
        LeastSquares(norm_upper=0.0)
    with pytest.raises(InputError, match="denoiser"):
        ForwardBackward(3)


def test_divergence_keeps_the_last_finite_iterate(setting):
    _, physics, y = setting
    result = ForwardBackward(lambda x, sigma: 3 * x, step=0.1).solve(y, physics, guarantee="report")
    assert result.status == "diverged" and result.x.isfinite().all() and result.advice
    calls = []  # two of them before the first update, to see whether the map is fixed

    def poison(x, sigma):
        calls.append(1)
        return 0.5 * x if len(calls) < 8 else x * float("nan")

    result = ForwardBackward(poison, tol=0).solve(y, physics, guarantee="report")
    assert result.status == "diverged" and result.x.isfinite().all() and result.iterations == 6
    assert "null" in result.to_json() and json.loads(result.to_json())["status"] == "diverged"


def test_every_image_stops_on_its_own_and_alone_gives_the_same(setting):
    net, physics, _ = setting
    y = physics.A(cases.random(3, *cases.SHAPE, seed=8, dtype=torch.float32) * torch.tensor([0.01, 1, 30]).reshape(3, 1, 1, 1))
    solver = ForwardBackward(net, sigma=torch.tensor([0.05, 0.1, 0.2]))
    batch = solver.solve(y, physics)
    assert len({h.iterations for h in batch.histories}) > 1
    for i in range(3):
        alone = ForwardBackward(net, sigma=[0.05, 0.1, 0.2][i]).solve(y[i : i + 1], physics)
        assert alone.iterations == batch.histories[i].iterations
        assert cases.relative(batch.x[i], alone.x[0]) < 1e-5


def test_data_terms(setting):
    net, physics, y = setting
    plain = ForwardBackward(net, sigma=0.1).solve(y, physics)
    weights = torch.full_like(y, 0.5)
    weighted = ForwardBackward(net, sigma=0.1, data_term=WeightedLeastSquares(weights)).solve(y, physics)
    stated = ForwardBackward(net, sigma=0.1, data_term=UserFidelity(deepinv.optim.L2(), 1.0)).solve(y, physics)
    assert abs(weighted.settings["step"] / plain.settings["step"] - 2) < 1e-12
    assert cases.relative(weighted.x, plain.x) < 1e-4  # half the weight at twice the step is the same map
    assert cases.relative(stated.x, plain.x) < 1e-4
    assert weighted.guarantee.proved and stated.guarantee.proved
    assert any("stated by the user" in h.bound for h in stated.guarantee.hypotheses)
    for bad in (torch.tensor([-1.0]), torch.zeros(2), torch.tensor([float("nan")])):
        with pytest.raises(InputError, match="weights"):
            WeightedLeastSquares(bad)
    with pytest.raises(ShapeError, match="weights"):
        ForwardBackward(net, data_term=WeightedLeastSquares(torch.ones(7))).solve(y, physics)
    for bad in (0.0, float("inf")):
        with pytest.raises(InputError, match="curvature_upper"):
            UserFidelity(deepinv.optim.L2(), bad)
    with pytest.raises(InputError, match="convexity"):
        LeastSquares(convexity=-1.0)


def test_callback_reference_progress_and_files(setting, tmp_path, capsys):
    net, physics, y = setting
    seen = []
    result = ForwardBackward(net, sigma=0.1, tol=0).solve(
        y, physics, max_iter=25, reference=y, progress=True, callback=lambda k, x, r: seen.append((k, x.shape, len(r)))
    )
    assert [k for k, _, _ in seen] == list(range(1, 26)) and seen[0][1:] == (y.shape, 2)
    assert "ForwardBackward" in capsys.readouterr().err
    history = result.history
    assert result.status == "max_iter" and len(history.psnr) == 25 and history.misfit_at == (0, 10, 20, 24)
    assert history.psnr[-1] == pytest.approx(float(-10 * (result.x[0] - y[0]).square().mean().log10()), rel=1e-5)
    misfit = 0.5 * float((physics.A(result.x) - y)[0].square().sum())
    assert history.misfit[-1] == pytest.approx(misfit, rel=1e-5)
    result.save(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["settings"]["step"] == result.settings["step"] and record["guarantee"]["proved"] is True
    assert (tmp_path / "run" / "x.npy").exists() and [p.name for p in tmp_path.iterdir()] == ["run"]
    with pytest.raises(InputError, match="exists already"):
        result.save(tmp_path / "run")
    result.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert "max_iter after 25" in str(result) and "advice" in str(result)


def test_the_mode_of_the_denoiser_is_put_back(setting):
    net, physics, y = setting
    net.train()
    ForwardBackward(net, sigma=0.1).solve(y, physics, max_iter=2)
    assert net.training and all(m.training for m in net.modules())
