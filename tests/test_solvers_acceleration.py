"""Scheme: the same fixed points, fewer calls, no divergence, and each scheme's hypotheses."""

from __future__ import annotations

import json

import pytest
import solver_cases as cases
import torch

from pnp_lip import firm
from pnp_lip.errors import GuaranteeError, InputError
from pnp_lip.solvers import (
    ADMM,
    FISTA,
    RED,
    Anderson,
    DavisYin,
    ForwardBackward,
    HalfQuadratic,
    Halpern,
    KrasnoselskiiMann,
    LeastSquares,
    PrimalDual,
)
from pnp_lip.solvers.maps import Maps

SCHEMES = [Halpern(), Halpern(restart=None), Anderson(), Anderson(memory=2)]


@pytest.fixture
def setting():
    physics = cases.blur(torch.float32)
    y = physics.A(cases.random(2, *cases.SHAPE, seed=5, dtype=torch.float32).abs())
    return cases.denoiser(), physics, y


@pytest.mark.parametrize("solver", [ForwardBackward, ADMM, PrimalDual])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_scheme_reaches_the_same_fixed_point(scheme, solver):
    physics = cases.blur()
    y = physics.A(cases.random(2, *cases.SHAPE, seed=5).abs())
    net = firm(cases.denoiser(dtype=torch.float64))
    plain = solver(net, sigma=0.1, tol=1e-9).solve(y, physics, max_iter=20000)
    slow = scheme == Halpern(restart=None)
    fast = solver(net, sigma=0.1, tol=1e-3 if slow else 1e-9, scheme=scheme).solve(y, physics, max_iter=20000)
    assert fast.status == "converged" and fast.guarantee.proved
    assert cases.relative(fast.x, plain.x) < (5e-2 if slow else 1e-6)
    if scheme == Anderson():
        assert 3 * fast.iterations < plain.iterations


def test_anderson_remembers_what_the_memory_holds(setting, monkeypatch):
    net, physics, y = setting
    solver = ForwardBackward(firm(net), sigma=0.1, tol=1e-6, scheme=Anderson())
    free = solver.solve(y, physics)
    for differences in (2, 0):
        monkeypatch.setattr("pnp_lip.solvers.anderson.most_kept", lambda d=differences: 2 * d * y.numel() * y.element_size())
        assert solver.scheme.start(y)["images"].shape[1] == max(differences, 1)
        bounded = solver.solve(y, physics, max_iter=5000)
        assert bounded.status == "converged" and cases.relative(bounded.x, free.x) < 1e-4
        assert free.iterations < bounded.iterations


@pytest.mark.parametrize("solver", [ForwardBackward, HalfQuadratic, ADMM, DavisYin, RED])
def test_anderson_needs_a_third_of_the_calls(solver):
    physics = cases.blur(torch.float32)
    y = physics.A(cases.random(1, *cases.SHAPE, seed=5, dtype=torch.float32).abs())
    net = firm(cases.denoiser())
    plain = solver(net, sigma=0.1, tol=1e-6).solve(y, physics, max_iter=5000)
    fast = solver(net, sigma=0.1, tol=1e-6, scheme=Anderson()).solve(y, physics, max_iter=5000)
    assert fast.status == plain.status == "converged" and 3 * fast.iterations <= plain.iterations


def test_halpern_obeys_its_bound_on_a_rotation():
    edge = cases.Reflection()
    physics = cases.MatrixPhysics(1e-9 * torch.eye(64, dtype=torch.float64))
    y, x0 = torch.zeros(1, 64, dtype=torch.float64), torch.ones(1, *cases.SHAPE, dtype=torch.float64)
    options, run = {"data_term": LeastSquares(norm_upper=1e-9), "step": 1.0, "tol": 0}, {"x0": x0, "max_iter": 200}
    with pytest.raises(GuaranteeError, match="may cycle"):
        ForwardBackward(edge, **options).solve(y, physics, **run)
    cycling = ForwardBackward(edge, **options).solve(y, physics, **run, guarantee="report")
    assert cycling.history.residual[-1] == pytest.approx(16.0)
    result = ForwardBackward(edge, scheme=Halpern(restart=None), **options).solve(y, physics, **run)
    assert result.guarantee.proved
    assert all(r <= 2 * 8 / (k + 1) + 1e-9 for k, r in enumerate(result.history.residual))
    assert ForwardBackward(edge, scheme=KrasnoselskiiMann(0.5), **options).solve(y, physics, **run).history.residual[-1] < 1e-6


def random_problem(seed):
    """A solver, denoiser and operator drawn at random, hard ones among them (ill-conditioned, rank deficient, far start)."""
    g = cases.generator(seed)
    draw = lambda: float(torch.rand(1, generator=g))  # noqa: E731
    rows = 8 + int(100 * draw())
    spectrum = torch.logspace(0, -6 * draw(), rows, dtype=torch.float64)
    physics = cases.MatrixPhysics(spectrum[:, None] * cases.random(rows, 64, seed=seed) * 10 ** (4 * draw() - 2))
    limit = 0.3 + 0.69 * draw()
    kind = (cases.denoiser, cases.linear_denoiser)[seed % 2]
    net = kind(limit=limit, seed=seed, dtype=torch.float64)
    solver = (ForwardBackward, HalfQuadratic, ADMM, DavisYin, RED, PrimalDual)[seed % 6]
    net = firm(net) if solver in (ADMM, DavisYin, PrimalDual) else net
    start = cases.random(1, *cases.SHAPE, seed=seed + 1) * 10 ** (6 * draw() - 2)
    y = physics.A(cases.random(1, *cases.SHAPE, seed=seed + 2))
    return solver, net, physics, y, start


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 200), marks=pytest.mark.slow)], ids=["8", "200"])
def test_anderson_never_diverges_on_random_problems(seeds):
    """On every problem the residual ends no higher than the plain iteration's, up to the safeguard's factor and rounding."""
    worse = []
    for seed in seeds:
        solver, net, physics, y, start = random_problem(seed)
        options = {"sigma": 0.1, "tol": 1e-9, "data_term": LeastSquares(norm_upper=physics.norm)}
        fast = solver(net, scheme=Anderson(), **options).solve(y, physics, x0=start, max_iter=60)
        assert fast.status != "diverged" and fast.x.isfinite().all() and fast.guarantee.proved, seed
        r = fast.history.residual
        assert min(r[-2:]) <= r[0], seed
        if seed % 10 == 0:
            plain = solver(net, **options).solve(y, physics, x0=start, max_iter=60).history.residual
            worse.append(min(r[-3:]) > plain[-1] * 1.01 + 1e-9)
    assert sum(worse) <= len(worse) // 10, worse


def test_a_batch_is_accelerated_image_by_image(setting):
    net, physics, y = setting
    y = torch.cat([y, 20 * y.flip(-1)])
    solver = ForwardBackward(net, sigma=0.1, scheme=Anderson())
    batch = solver.solve(y, physics)
    for i in range(4):
        alone = solver.solve(y[i : i + 1], physics)
        assert abs(alone.iterations - batch.histories[i].iterations) <= 1
        assert cases.relative(batch.x[i], alone.x[0]) < 1e-4


def test_momentum_is_unproved_but_for_a_proximal_denoiser(setting):
    net, physics, y = setting
    momentum = {"sigma": 0.1, "scheme": FISTA()}
    with pytest.raises(GuaranteeError, match="Momentum is unproved"):
        ForwardBackward(net, **momentum).solve(y, physics)
    assert not ForwardBackward(net, **momentum).solve(y, physics, max_iter=5, guarantee="report").guarantee.proved
    prox = cases.denoiser(limit=0.49, layers=1)
    short = 1 / physics.norm_upper**2 * (1 - 1e-9)
    result = ForwardBackward(prox, step=short, **momentum).solve(y, physics)
    assert result.guarantee.proved and "o(1/k²)" in result.guarantee.rate and result.status == "converged"
    for refused in ({"step": None}, {"step": short, "box": (0, 1)}):
        with pytest.raises(GuaranteeError, match="Momentum"):
            ForwardBackward(prox, **momentum, **refused).solve(y, physics)
    with pytest.raises(GuaranteeError, match="Momentum"):
        HalfQuadratic(prox, **momentum).solve(y, physics)


def test_the_safeguard_gives_up_bad_points():
    """On a map that is no contraction of anything Anderson understands, the last word is the plain step's."""
    scheme = Anderson(memory=3, growth=1.0)
    v = torch.ones(1, 4)
    memory = scheme.start(v)
    for k, image in enumerate((0.5 * v, 0.4 * v)):
        following, memory = scheme.next(memory, v if k == 0 else 0.5 * v, image, k)
    assert bool(memory["trial"]) and not torch.equal(following, image)
    back, memory = scheme.next(memory, following, following + 1e3, 2)
    assert torch.equal(back, image) and not bool(memory["trial"]) and float(memory["residuals"].abs().max()) == 0


@pytest.mark.parametrize(
    "make",
    [lambda: Halpern(restart=1.0), lambda: Anderson(memory=0),
     lambda: Anderson(growth=0.5), lambda: Anderson(regularisation=-1.0), lambda: FISTA(2.0)],
)  # fmt: skip
def test_bad_settings_are_refused(make):
    with pytest.raises(InputError):
        make()


def primal_dual_problems():
    """Seeds, operators and steps of PrimalDual problems in float64."""
    for seed in range(6):
        physics = (cases.blur(), cases.matrix_physics(seed=seed), cases.MatrixPhysics(10 ** (seed - 3.0) * cases.random(30, 64)))[
            seed % 3
        ]
        options = {} if seed % 3 == 0 else {"data_term": LeastSquares(norm_upper=physics.norm)}
        if seed % 3 == 0:
            options["step"] = (0.1, 5.0)[seed // 3] / physics.norm_upper**2
        yield pytest.param((seed, physics, options), marks=pytest.mark.slow if seed > 1 else (), id=str(seed))


@pytest.mark.parametrize("problem", primal_dual_problems())
def test_primal_dual_is_measured_in_the_norm_of_its_theorem(problem):
    """T is nonexpansive in it, the state's third part is Ax, and the recorded residual obeys the printed bound."""
    seed, physics, options = problem
    y = physics.A(cases.random(1, *cases.SHAPE, seed=seed))
    y = y + 0.3 * cases.random(*y.shape, seed=seed + 1)
    solver = PrimalDual(firm(cases.denoiser(dtype=torch.float64, seed=seed)), sigma=0.1, tol=0.0, **options)
    p = solver.prepare(y, physics)
    g, s = p.iteration.parameters["step"], p.iteration.parameters["dual_step"]
    n, m, a = 64, y.numel(), cases.dense(physics.A)
    P = torch.cat([torch.cat([torch.eye(n).double() / g, -a.T], 1), torch.cat([-a, torch.eye(m).double() / s], 1)])

    def exact(v):
        return float((v[0, : n + m] @ P @ v[0, : n + m]).sqrt())

    def state(z):
        x = z[:, :n].reshape(1, *cases.SHAPE)
        return torch.cat([z, physics.A(x).flatten(1)], dim=1)

    with torch.no_grad():
        for k in range(20):
            z, w = (state(cases.random(1, n + m, seed=100 + 2 * k + j)) for j in (0, 1))
            image, other = p.iteration.T(p.maps, z)[0], p.iteration.T(p.maps, w)[0]
            assert torch.allclose(image[:, n + m :], physics.A(image[:, :n].reshape(1, *cases.SHAPE)).flatten(1), atol=1e-12)
            before, after = exact(z - w), exact(image - other)
            assert after <= before * (1 + 1e-12)
            assert float(p.iteration.norm(p.maps, z - w)) == pytest.approx(before, rel=1e-9)
        v = p.iteration.start(p.maps, p.x)
        first = v
        for _ in range(20000):
            v, old = p.iteration.T(p.maps, v)[0], v
            if exact(v - old) < 1e-12 * exact(v):
                break
    result = solver.solve(y, physics, max_iter=300)
    c = float(result.guarantee.rate.split("√(")[1].split(" ")[0])
    d0 = exact(first - v)
    residual = result.history.residual
    assert all(r <= d0 / (c * (k + 1)) ** 0.5 * (1 + 1e-3) + 1e-9 for k, r in enumerate(residual))
    assert max(residual) > 0.02 * d0  # the bound is not empty


def test_a_callback_gets_a_copy_of_the_image(setting):
    net, physics, y = setting
    honest = ForwardBackward(net, sigma=0.1).solve(y, physics)
    spoiled = ForwardBackward(net, sigma=0.1).solve(y, physics, callback=lambda k, x, r: x.zero_())
    assert torch.equal(honest.x, spoiled.x) and honest.histories == spoiled.histories and spoiled.guarantee.proved


def test_a_denoiser_that_writes_over_its_last_result_does_not_seem_to_have_converged(setting):
    net, physics, y = setting
    room = torch.empty_like(y)
    result = ForwardBackward(lambda x, s: room.copy_(net(x, s)), sigma=0.1).solve(y, physics, guarantee="report")
    honest = ForwardBackward(net, sigma=0.1).solve(y, physics)
    assert result.iterations == honest.iterations and cases.relative(result.x, honest.x) < 1e-6


def test_errors_of_the_prox_beyond_their_budget_withdraw_the_guarantee(setting, monkeypatch):
    net, physics, y = setting
    solver = ADMM(firm(net), sigma=0.1, tol=0.0)
    shares = iter([])
    monkeypatch.setattr(Maps, "take_errors", lambda self: torch.full((2, len(self.y)), next(shares), dtype=torch.float64))
    shares = iter([1e-5] * 100)
    clean = solver.solve(y, physics, max_iter=20)
    assert clean.guarantee.proved and clean.history.prox_error == pytest.approx(2e-4)
    assert json.loads(clean.to_json())["histories"][0]["prox_error"] == clean.history.prox_error
    for share in (1e-1, float("nan")):
        shares = iter([share] * 100)
        result = solver.solve(y, physics, max_iter=20)
        assert not result.guarantee.proved and "the errors of prox_γf add up to" in result.guarantee.failure
