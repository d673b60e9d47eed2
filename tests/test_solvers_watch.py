"""The watch over a run: legal runs never alarm it, and what is not the map of the theorem withdraws the guarantee."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import pytest
import solver_cases as cases
import torch
from torch import nn

from pnp_lip import firm
from pnp_lip.solvers import (
    ADMM,
    FISTA,
    RED,
    Anderson,
    DavisYin,
    DouglasRachford,
    ForwardBackward,
    HalfQuadratic,
    Halpern,
    KrasnoselskiiMann,
    LeastSquares,
    PrimalDual,
    ProximalRED,
)
from pnp_lip.solvers.loop import Monitor, iterate

SOLVERS = [ForwardBackward, HalfQuadratic, ADMM, DouglasRachford, DavisYin, RED, ProximalRED, PrimalDual]
FIRM_ONLY = (ADMM, DouglasRachford, DavisYin, PrimalDual)
SCHEMES = [KrasnoselskiiMann(), KrasnoselskiiMann(0.5), Halpern(), Halpern(restart=None), Anderson()]
F32, F64 = torch.float32, torch.float64


class Traced(nn.Module):
    """A certified network behind a function ``change(x, D(x), n)`` of the n-th call, which the certificate cannot see."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change, self.calls = net, change, 0

    def forward(self, x, sigma=None):
        self.calls += 1
        return self.change(x, self.net(x, sigma), self.calls)


def legal(number):
    """One of the runs that every theorem allows: solver and scheme by number, the rest drawn from it."""
    kind, scheme = SOLVERS[number % 8], [*SCHEMES, Anderson(memory=2)][number // 8]
    dtype, scale, sigma = (F32, F64)[number % 3 == 0], (1.0, 255.0, 1e-3)[number % 5 % 3], (0.1, 1e-4, 30.0)[number % 7 % 3]
    physics = cases.blur(dtype, padding="zeros") if number % 2 else cases.blur(dtype)
    if number % 4 == 3:
        physics = cases.matrix_physics(dtype=dtype)
    net = cases.denoiser(dtype=dtype, seed=number)
    net = firm(net) if kind in FIRM_ONLY else net
    x = (
        scale
        * torch.tensor([1.0, 0.01], dtype=dtype).reshape(2, 1, 1, 1)
        * cases.random(2, *cases.SHAPE, seed=number, dtype=dtype)
    )
    y = physics.A(x)
    y = y + 0.1 * (number % 3) * scale * cases.random(*y.shape, seed=number + 1, dtype=dtype)
    options = {"data_term": LeastSquares(norm_upper=physics.norm)} if number % 4 == 3 else {}
    options |= {"box": (-2 * scale, 2 * scale)} if kind is DavisYin else {}
    return kind(net, sigma=sigma * scale, scheme=scheme, tol=0.0, **options), y, physics


@pytest.mark.filterwarnings("ignore:`sigma` is a standard deviation")
@pytest.mark.parametrize("number", range(48))
def test_no_alarm_in_a_legal_run(number):
    solver, y, physics = legal(number)
    result = solver.solve(y, physics, max_iter=40)
    assert result.guarantee.proved and result.status != "diverged", result.guarantee.failure


@pytest.mark.slow
@pytest.mark.parametrize("number", range(48))
def test_no_alarm_at_the_floor_of_rounding(number):
    solver, y, physics = legal(number)
    result = solver.solve(y, physics, max_iter=500)
    assert result.guarantee.proved, result.guarantee.failure


@pytest.mark.parametrize("share", [1 - 1e-9, 1 - 1e-3])
@pytest.mark.parametrize("kind", [ForwardBackward, DavisYin, RED, PrimalDual])
def test_no_alarm_close_to_the_limit_of_the_step(kind, share):
    physics = cases.blur(F32)
    y = physics.A(cases.random(2, *cases.SHAPE, seed=5, dtype=F32).abs())
    step = share * 2 / physics.norm_upper**2
    options = {"dual_step": share / (step * physics.norm_upper**2)} if kind is PrimalDual else {}
    options |= {"weight": 1e-3} if kind is RED else {}
    step *= physics.norm_upper**2 / (physics.norm_upper**2 + 2e-3) if kind is RED else 1
    result = kind(firm(cases.denoiser()), sigma=0.1, step=step, tol=0.0, **options).solve(y, physics, max_iter=200)
    assert result.guarantee.proved, result.guarantee.failure


class Lying(nn.Module):
    """An operator that was a blur when it was examined."""

    def __init__(self, blur, lie):
        super().__init__()
        self.blur, self.lie, self.generator = blur, lie, cases.generator(0)

    def A(self, x):
        y = self.blur.A(x)
        if self.lie == "noise":
            return y + 0.3 * torch.randn(y.shape, generator=self.generator, dtype=y.dtype)
        return {"norm": 3 * y, "sign": y}[self.lie]

    def A_adjoint(self, y):
        return {"norm": 3, "noise": 1, "sign": -1}[self.lie] * self.blur.A_adjoint(y)


@functools.cache
def prepared(kind, scheme):
    """A solver bound to two blurred images, with the blur."""
    momentum = isinstance(scheme, FISTA)
    net = cases.denoiser(limit=0.49, layers=1) if momentum else cases.denoiser()
    net = firm(net) if kind in FIRM_ONLY else net
    physics = cases.blur(F32)
    solver = kind(net, sigma=0.1, step=0.99 if momentum else None, scheme=scheme)
    with torch.no_grad():
        p = solver.prepare(physics.A(cases.random(2, *cases.SHAPE, seed=5, dtype=F32).abs()), physics)
    assert p.guarantee.proved
    return p, physics


def deceived(kind, scheme, lie, max_iter=16):
    """The result of a proved run under whose feet an operator or a denoiser is exchanged after the examination."""
    p, physics = prepared(kind, scheme)
    if callable(lie):
        maps = dataclasses.replace(p.maps, denoiser=Traced(p.maps.denoiser, lie))
    else:
        maps = dataclasses.replace(p.maps, physics=Lying(physics, lie))
    monitor = Monitor(0.0, max_iter, True, None, None, None, None, None)
    with torch.no_grad():
        return iterate(p.iteration, maps, scheme, p.x, monitor).result(p.guarantee, {}, p.iteration, maps)


ILLEGAL = {
    "norm": "norm",
    "noise": "noise",
    "sign": "sign",
    "expansive": lambda x, out, n: 2 * out,
    "drift": lambda x, out, n: out + 0.05 * (n == 7),
    "noisy": lambda x, out, n: out + 0.1 * cases.random(*x.shape, seed=n, dtype=x.dtype),
    "nan": lambda x, out, n: out * float("nan") if n > 9 else out,
}
PAIRS = [*itertools.product(SOLVERS, SCHEMES), (ForwardBackward, FISTA())]


@pytest.mark.parametrize(("kind", "scheme"), PAIRS, ids=str)
@pytest.mark.parametrize("name", ILLEGAL)
def test_what_is_not_the_map_of_the_theorem_withdraws_the_guarantee(name, kind, scheme):
    lie = ILLEGAL[name]
    if isinstance(lie, str) and (kind.uses_prox or (name == "sign" and kind is PrimalDual)):
        return  # their prox is proved by its own error; u = 0 is the start, and −Aᵀ is the adjoint for another sign of u
    result = deceived(kind, scheme, lie)
    assert not result.guarantee.proved
    assert ("T v moved by" in result.guarantee.failure) or ("diverged" in result.guarantee.failure)
    if name != "nan":
        assert "T v moved by" in result.guarantee.failure and "image " in result.guarantee.failure
    assert str(result.guarantee).startswith("not proved")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [HalfQuadratic, ProximalRED, ADMM])
def test_a_solution_that_is_zero_is_no_alarm(kind, dtype):
    """The errors of the prox are counted relative to what it takes and gives, not to the image, which is zero here."""
    physics = cases.blur(dtype, padding="reflect")
    net = cases.denoiser(dtype=dtype)
    net, options = (firm(net), {}) if kind is ADMM else (net, {"box": (0, 1)})
    y = -torch.ones(1, *cases.SHAPE, dtype=dtype)
    result = kind(net, sigma=0.1, **options).solve(y, physics, max_iter=40)
    assert result.guarantee.title == "proved" and result.history.prox_error < 1e-2
    assert kind is ADMM or float(result.x.abs().max()) == 0
