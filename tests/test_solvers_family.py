"""All solvers: the solution of the linear fixed-point equation, agreement among them and with deepinv, refusals."""

from __future__ import annotations

import dataclasses
import itertools

import deepinv
import pytest
import solver_cases as cases
import torch

from pnp_lip import ClippedDenoiser, certify, firm, relax
from pnp_lip.errors import CertificateError, GuaranteeError, InputError
from pnp_lip.solvers import (
    ADMM,
    RED,
    DavisYin,
    Denoising,
    DouglasRachford,
    ForwardBackward,
    HalfQuadratic,
    Hypothesis,
    KrasnoselskiiMann,
    LeastSquares,
    PrimalDual,
    ProximalRED,
    UserFidelity,
    WeightedLeastSquares,
    licensed,
)

SOLVERS = [ForwardBackward, HalfQuadratic, ADMM, DouglasRachford, DavisYin, RED, ProximalRED, PrimalDual]
SOLVER_ORDER = [ForwardBackward, HalfQuadratic, RED, ProximalRED, ADMM, DouglasRachford, DavisYin, PrimalDual]
FIRM_ONLY = [ADMM, DouglasRachford, DavisYin, PrimalDual]
ONE = torch.eye(64, dtype=torch.float64)


def truth(solver, a, d, y, settings, w=None):
    """The image that solves the solver's linear fixed-point equation, by a dense solve."""
    gamma, weight = settings["step"], settings.get("weight")
    w = torch.ones(len(a), dtype=a.dtype) if w is None else w
    h, b = a.T @ (w[:, None] * a), a.T @ (w * y)
    if solver is HalfQuadratic:
        p = torch.linalg.inv(ONE + gamma * h)
        return torch.linalg.solve(ONE - d @ p, gamma * d @ p @ b)
    if issubclass(solver, RED):
        return torch.linalg.solve(h + weight * (ONE - d), b)
    return torch.linalg.solve(ONE - d @ (ONE - gamma * h), gamma * d @ b)


@pytest.mark.parametrize("kind", ["circular", "zeros", "ct", "matrix", "weighted"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_closed_form(solver, kind):
    blurred = kind in ("circular", "zeros")
    physics = cases.blur(padding=kind) if blurred else cases.tomography() if kind == "ct" else cases.matrix_physics()
    y = physics.A(cases.random(1, *cases.SHAPE, seed=1))
    net = cases.linear_denoiser(limit=0.49)
    options = {"data_term": LeastSquares(norm_upper=physics.norm)} if isinstance(physics, cases.MatrixPhysics) else {}
    weights = None
    if kind == "weighted":
        weights = cases.random(*y.shape[1:], seed=2).abs()
        options["data_term"] = WeightedLeastSquares(weights, norm_upper=physics.norm)
    if solver is DavisYin:
        options["box"] = (-1e6, 1e6)
    result = solver(net, sigma=0.1, tol=1e-14, **options).solve(y, physics, max_iter=20000)
    a, d = cases.dense(physics.A), cases.dense(lambda x: net(x, None))
    w = None if weights is None else weights.flatten()
    assert result.status == "converged" and result.guarantee.proved
    assert cases.relative(result.x.flatten(), truth(solver, a, d, y.flatten(), result.settings, w)) < 1e-10


@pytest.fixture
def setting():
    physics = cases.blur(torch.float32)
    y = physics.A(cases.random(2, *cases.SHAPE, seed=5, dtype=torch.float32).abs())
    return firm(cases.denoiser()), physics, y


@pytest.mark.parametrize("solver", SOLVERS)
def test_converges_with_a_certified_network_and_the_residual_never_grows(solver, setting):
    net, physics, y = setting
    result = solver(net, sigma=0.1).solve(y, physics)
    assert result.status == "converged" and result.guarantee.proved, str(result)
    assert result.history.relative[-1] <= 1e-5
    r = result.history.residual
    assert max(b / a for a, b in itertools.pairwise(r)) < 1 + 1e-3


def test_the_splittings_of_one_equation_agree():
    net, physics = firm(cases.denoiser(dtype=torch.float64)), cases.blur()
    y = physics.A(cases.random(1, *cases.SHAPE, seed=5).abs())
    options = {"sigma": 0.1, "tol": 1e-9, "step": 1.5}
    reference = ForwardBackward(net, **options).solve(y, physics, max_iter=3000).x
    for solver in (ADMM, DouglasRachford, PrimalDual):
        assert cases.relative(solver(net, **options).solve(y, physics, max_iter=3000).x, reference) < 1e-7
    unconstrained = DavisYin(net, **{**options, "box": (-100.0, 100.0)}).solve(y, physics, max_iter=3000).x
    assert cases.relative(unconstrained, reference) < 1e-5
    red = {"sigma": 0.1, "tol": 1e-9, "weight": 0.7}
    assert (
        cases.relative(
            RED(net, **red).solve(y, physics, max_iter=3000).x,
            ProximalRED(net, **red).solve(y, physics, max_iter=3000).x,
        )
        < 1e-5
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(ADMM, deepinv.optim.ADMM), (DouglasRachford, deepinv.optim.DRS), (HalfQuadratic, deepinv.optim.HQS)],
)
def test_agrees_with_deepinv(ours, theirs, setting):
    net, _, _ = setting
    kernel = deepinv.physics.functional.blur.gaussian_blur(sigma=(0.6, 0.6))
    physics = deepinv.physics.BlurFFT(img_size=cases.SHAPE, filter=kernel)
    y = physics.A(cases.random(1, *cases.SHAPE, seed=5, dtype=torch.float32).abs())
    mine = ours(net, sigma=0.1, step=1.5, tol=3e-7).solve(y, physics, max_iter=600).x
    model = theirs(
        data_fidelity=deepinv.optim.L2(), prior=deepinv.optim.PnP(net), stepsize=1.5, sigma_denoiser=0.1, max_iter=300,
        early_stop=True, thres_conv=1e-8,
    )  # fmt: skip
    assert cases.relative(mine, model(y, physics, init=(y, torch.zeros_like(y)))) < 1e-5


@pytest.mark.parametrize("solver", FIRM_ONLY)
def test_an_averaged_denoiser_is_offered_relaxation_where_firmness_is_needed(solver, setting):
    _, physics, y = setting
    net = cases.denoiser()
    with pytest.raises(GuaranteeError, match=r"at most 1/2.*got 0\.9\d+\. Pass relax\(denoiser, 0\.5\d+\) or firm"):
        solver(net, sigma=0.1).solve(y, physics)
    theta = 1 / (2 * ForwardBackward(net).solve(y, physics).settings["denoiser_averagedness"])
    assert solver(relax(net, theta * 0.999), sigma=0.1).check(y, physics).proved


def test_red_takes_a_merely_nonexpansive_denoiser_and_guards_its_step(setting):
    _, physics, y = setting
    edge = relax(cases.denoiser(limit=1.0), 1.0)
    for solver in (RED, ProximalRED):
        assert solver(edge, sigma=0.1).check(y, physics).proved
    length, alpha = physics.norm_upper**2, float(certify(edge).averagedness)
    with pytest.raises(GuaranteeError, match=r"2/\(L \+ 2αλ\)"):
        RED(edge, sigma=0.1, weight=1.0, step=2.01 / (length + 2 * alpha)).solve(y, physics)
    with pytest.raises(GuaranteeError, match=r"1/\(αλ\)"):
        ProximalRED(edge, sigma=0.1, weight=1.0, step=1.01 / alpha).solve(y, physics)
    with pytest.raises(GuaranteeError, match=r"2/\|\|A\|\|\^2"):
        DavisYin(firm(edge), sigma=0.1, step=2.01 / length).solve(y, physics)
    with pytest.raises(GuaranteeError, match=r"`dual_step` · ‖A‖² must be below 1; got 1\.01"):
        PrimalDual(firm(edge), sigma=0.1, step=1.0, dual_step=1.01 / length).solve(y, physics)


def test_the_steps_of_proximal_solvers_are_free_and_need_no_norm():
    physics = cases.unknown_physics()
    y = physics.A(cases.random(1, 1, 33, 33))
    net = cases.linear_denoiser(limit=0.49)
    for solver in (HalfQuadratic, ADMM, DouglasRachford, ProximalRED):
        assert solver(net, sigma=0.1).check(y, physics).proved
        if solver is not ProximalRED:
            assert solver(net, sigma=0.1, step=1e3).check(y, physics).proved
    for solver in (ForwardBackward, DavisYin, RED, PrimalDual):
        with pytest.raises(GuaranteeError, match="upper bound of ‖A‖"):
            solver(net, sigma=0.1).solve(y, physics)


def test_existence(setting):
    net, physics, y = setting
    for solver in (ForwardBackward, HalfQuadratic, RED, ProximalRED, DavisYin):
        g = solver(net, sigma=0.1, box=(0.0, 1.0)).check(y, physics)
        assert g.existence.startswith("proved") and "if there is one" not in g.statement
        assert solver(net, sigma=0.1, box=None).check(y, physics).existence.startswith("assumed")
    shifted = DavisYin(lambda x, s: x * 0, box=(2.0, 3.0)).require(y, physics, guarantee="assume")
    assert shifted.existence.startswith("assumed")  # the range of this D, {0}, does not meet the box
    for solver in (ADMM, DouglasRachford, PrimalDual):
        with pytest.raises(InputError, match="DavisYin"):
            solver(net, box=(0, 1))
        assert solver(net, sigma=0.1).check(y, physics).existence.startswith("assumed")
    assert ForwardBackward(ClippedDenoiser(net), sigma=0.1).check(y, physics).existence.startswith("proved")


def test_davis_yin_solves_the_constrained_problem():
    physics = cases.MatrixPhysics(ONE)
    y = 2 * cases.random(1, 64, seed=4)
    net = cases.linear_denoiser(limit=0.49)
    term = LeastSquares(norm_upper=1.0)
    solver = DavisYin(net, sigma=0.1, box=(0.0, 1.0), data_term=term, step=1.0, tol=1e-14)
    result = solver.solve(y, physics, max_iter=5000)
    x, d = result.x.flatten(), cases.dense(lambda v: net(v, None))
    force = x - y.flatten() + (torch.linalg.inv(d) - ONE) @ x  # ∇f(x) + M(x), M = D⁻¹ − Id
    assert 0 < int((x == 0).sum()) < 64 and float(x.min()) >= 0 and float(x.max()) <= 1
    inside = (x > 0) & (x < 1)
    assert float(force[inside].abs().max()) < 1e-9
    assert float(force[x == 0].min()) > -1e-9 and float(force[x == 1].max()) < 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_linear_rates_hold(solver):
    physics = cases.MatrixPhysics(torch.diag(torch.linspace(0.6, 1, 64, dtype=torch.float64)))
    y = physics.A(cases.random(1, *cases.SHAPE))
    options = {"sigma": 0.1, "step": 0.5, "data_term": LeastSquares(convexity=0.36, norm_upper=1.0)}
    options |= {"weight": 0.5} if issubclass(solver, RED) else {}
    states = []
    net = firm(cases.denoiser(dtype=torch.float64))
    tool = solver(net, tol=1e-13, **options)
    rate = tool.check(y, physics).rate
    if solver in (DavisYin, PrimalDual):
        assert "linear" not in rate
        return
    q = float(rate.rsplit("q = ", 1)[1])
    honest = solver.bind

    def watched(self, known):
        iteration = honest(self, known)
        return dataclasses.replace(iteration, T=lambda m, v: (states.append(v), iteration.T(m, v))[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "bind", watched)
        tool.solve(y, physics, max_iter=400, guarantee="report")  # a patched solver claims nothing
    limit = states[-1]
    errors = [float((v - limit).norm()) for v in states]
    assert all(b <= q * a + 1e-10 for a, b in itertools.pairwise(errors)) and q < 1


def test_over_relaxation_within_its_range(setting):
    net, physics, y = setting
    assert DouglasRachford(net, sigma=0.1, scheme=KrasnoselskiiMann(1.9)).solve(y, physics).guarantee.proved
    with pytest.raises(GuaranteeError, match=r"relaxation λ must lie in \(0, 1/a = 2\); got 2"):
        DouglasRachford(net, sigma=0.1, scheme=KrasnoselskiiMann(2.0)).solve(y, physics)
    with pytest.raises(InputError, match="relaxation"):
        KrasnoselskiiMann(0.0)


def test_a_stated_fidelity_has_no_prox_but_a_dual_one(setting):
    net, physics, y = setting
    term = UserFidelity(deepinv.optim.L2(), 1.0)
    dual = PrimalDual(net, sigma=0.1, data_term=term, tol=1e-6).solve(y, physics, max_iter=3000)
    plain = ForwardBackward(net, sigma=0.1, tol=1e-6).solve(y, physics, max_iter=3000)
    assert cases.relative(dual.x, plain.x) < 1e-4
    with pytest.raises(InputError, match="UserFidelity has none"):
        ADMM(net, sigma=0.1, data_term=term).solve(y, physics)


def test_a_wrong_prox_is_solved_further(setting):
    net, _, y = setting
    physics = deepinv.physics.BlurFFT(img_size=cases.SHAPE, filter=torch.ones(1, 1, 3, 3) / 9)
    right = ADMM(net, sigma=0.1).solve(y, physics)
    physics.prox_l2 = lambda z, y, gamma, **kwargs: z
    mended = ADMM(net, sigma=0.1).solve(y, physics)
    assert right.guarantee.title == "proved" and mended.guarantee.proved and mended.history.prox_error < 1e-2
    assert cases.relative(mended.x, right.x) < 1e-3


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": float("inf")}])
def test_red_refuses_bad_weights(options):
    with pytest.raises(InputError, match="weight"):
        RED(cases.denoiser(), **options)
    with pytest.raises(InputError, match="dual_step"):
        PrimalDual(cases.denoiser(), dual_step=-1.0)


def test_licences_are_the_solvers_own_theorems(setting):
    firm_net, physics, y = setting
    averaged = cases.denoiser()
    for net in (firm_net, averaged, cases.Reflection()):
        proved = tuple(kind.__name__ for kind in SOLVER_ORDER if kind(net, sigma=0.1, box=None).check(y, physics).proved)
        assert licensed(certify(net)) == proved
    assert licensed(certify(firm_net)) == tuple(kind.__name__ for kind in SOLVER_ORDER)
    assert licensed(certify(cases.Reflection())) == ("RED", "ProximalRED")
    with torch.no_grad():
        averaged.layers[0].weight.mul_(2)
    assert licensed(certify(averaged)) == ()


def test_denoising_is_one_application_of_the_denoiser(setting):
    net, _, y = setting
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return net(x, sigma)

    identity = deepinv.physics.Denoising()
    result = Denoising(net, sigma=0.1).solve(y, identity)
    with torch.no_grad():  # image by image, as the solver does
        once = net(y, 0.1)
    assert torch.equal(result.x, once) and (result.status, result.iterations) == ("converged", 1)
    assert result.guarantee.proved and "unique" in result.guarantee.existence
    Denoising(counted, sigma=0.1).solve(y, identity, guarantee="report")
    assert len(calls) == 3  # two of them to see whether the map is a fixed one
    with pytest.raises(CertificateError):
        Denoising(counted, sigma=0.1).solve(y, identity)


def test_a_waived_hypothesis_says_by_what_and_stays_unmet(setting):
    _, physics, y = setting
    guarantee = ForwardBackward(lambda x, sigma: 0.9 * x).require(y, physics, guarantee="assume")
    waived = [h for h in guarantee.hypotheses if h.waived is not None]
    assert [h.waived for h in waived] == ['guarantee="assume"'] and not waived[0].met and not guarantee.proved

    class Lying(LeastSquares):
        """A failed hypothesis whose text claims to be waived."""

        def stated(self):
            return (Hypothesis("anything", "assumed to be at most 1", "be true", False),)

    with pytest.raises(GuaranteeError, match="anything must be true"):
        ForwardBackward(firm(cases.denoiser()), sigma=0.1, data_term=Lying()).solve(y, physics)
