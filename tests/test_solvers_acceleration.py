"""Scheme: the same fixed points, fewer calls, no divergence, and each scheme's hypotheses."""

from __future__ import annotations

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
    plain = solver(net, sigma=0.1, tol=1e-11).solve(y, physics, max_iter=20000)
    slow = scheme == Halpern(restart=None)
    fast = solver(net, sigma=0.1, tol=1e-3 if slow else 1e-11, scheme=scheme).solve(y, physics, max_iter=20000)
    assert fast.status == "converged" and fast.guarantee.proved
    assert cases.relative(fast.x, plain.x) < (5e-2 if slow else 1e-8)
    if scheme == Anderson():
        assert 3 * fast.iterations < plain.iterations


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


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 200), marks=pytest.mark.slow)], ids=["20", "200"])
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
