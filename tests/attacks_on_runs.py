"""Attacks by hand on runs: existence, divergence, stated numbers, prox, adjoint, linearity, checkpoints, callbacks, rates."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import deepinv.optim.data_fidelity as fidelity
import deepinv.physics as dp
import torch
from attacks import Dense, Outcome, Verdict, judged, matrix_of, refusal, spectral_norm
from attacks_by_hand import attack, honest, on_run, patched
from torch import Tensor, nn

from pnp_lip import certify
from pnp_lip.certificates import MapBound, Proof, rule
from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, RelaxedDenoiser
from pnp_lip.layers import project
from pnp_lip.operators import Blur, ParallelBeamTomography, gaussian_psf
from pnp_lip.solvers import (
    ADMM,
    FISTA,
    RED,
    Anderson,
    Checkpoint,
    DavisYin,
    DouglasRachford,
    ForwardBackward,
    HalfQuadratic,
    Halpern,
    KrasnoselskiiMann,
    LeastSquares,
    PrimalDual,
    ProximalRED,
    Result,
    UserFidelity,
    WeightedLeastSquares,
)

SHAPE = (1, 8, 8)
EXISTENCE, DIVERGED, STATED = "existence", "proved and diverged", "stated numbers against free evidence"
PROX, ADJOINT, LINEAR = "a prox that is none", "an adjoint that is none", "A is a fixed linear map"
STORE, MUTATION, RATES, CONTROL = "checkpoints", "what changes during a run", "rates and records", "honest controls"


def net(*, limit: float = 0.45, layers: int = 1, dtype: torch.dtype = torch.float64) -> GradientFlowDenoiser:
    """A firm denoiser."""
    torch.manual_seed(0)
    made = GradientFlowDenoiser(hidden_channels=3, kernel_size=3, dilations=(1,) * layers)
    for layer in made.layers:
        layer.activation.log_scale.data.fill_(-0.7)
    return project(made, limit=limit).to(dtype).eval().requires_grad_(False)


def blur(dtype: torch.dtype = torch.float64, padding: str = "circular") -> Blur:
    return Blur(gaussian_psf(0.6), SHAPE, padding=padding, dtype=dtype)


def matrix(rows: int = 40, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * torch.randn(rows, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype) / 8


def data(physics: Any, batch: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    return physics.A(x)


def solve(
    kind: Any = ForwardBackward, physics: Any = None, denoiser: Any = None, y: Tensor | None = None, **options: Any
) -> Result:
    """A run of 40 updates that does not stop, of which as much is claimed as can be."""
    physics = blur() if physics is None else physics
    run = {name: options.pop(name) for name in ("callback", "checkpoint", "x0", "reference") if name in options}
    most = options.pop("max_iter", 40)
    solver = kind(net() if denoiser is None else denoiser, **{"sigma": 0.1, "tol": 0.0, **options})
    return solver.solve(data(physics) if y is None else y, physics, max_iter=most, guarantee="report", **run)


def scan() -> ParallelBeamTomography:
    return ParallelBeamTomography([0.0, 40.0, 80.0, 120.0], SHAPE, dtype=torch.float64)


def apart(physics: Any = None) -> Tensor:
    """Data of three images, of which two are flat and converge early."""
    y = data(Dense(matrix(), SHAPE) if physics is None else physics, 3)
    y[:2] *= 1e-3
    return y


def under_gradients() -> Result:
    with torch.enable_grad():
        return solve(denoiser=net().requires_grad_(True))


def in_inference() -> Result:
    with torch.inference_mode():
        return solve()


# ---- honest controls


def control(name: str, run: Callable[[], Result]) -> None:
    def title() -> str:
        return run().guarantee.title

    title.__name__ = f"honest_{name}"
    honest(CONTROL)(title)


for kind_ in (ForwardBackward, HalfQuadratic, DouglasRachford, ADMM, PrimalDual, DavisYin, RED, ProximalRED):
    control(kind_.__name__.lower(), lambda kind=kind_: solve(kind))
for scheme_ in (KrasnoselskiiMann(0.5), Halpern(), Anderson()):
    control(type(scheme_).__name__.lower(), lambda scheme=scheme_: solve(scheme=scheme, denoiser=net(limit=0.97, layers=3)))
control("tomography", lambda: solve(HalfQuadratic, ParallelBeamTomography([0.0, 40.0, 80.0, 120.0], SHAPE, dtype=torch.float64)))
control(
    "float32",
    lambda: solve(physics=blur(torch.float32), denoiser=net(dtype=torch.float32), y=data(blur(torch.float32), 3, torch.float32)),
)
control("matrix", lambda: solve(physics=Dense(matrix(), SHAPE)))
control(
    "inpainting",
    lambda: solve(
        physics=dp.Inpainting(SHAPE, mask=(torch.rand(SHAPE) > 0.5).float()),
        denoiser=net(dtype=torch.float32),
        y=torch.rand(1, *SHAPE),
    ),
)
control("zero_data", lambda: solve(y=torch.zeros(1, *SHAPE, dtype=torch.float64), x0=torch.ones(1, *SHAPE, dtype=torch.float64)))
control("tiny_data", lambda: solve(y=1e-30 * data(blur())))
control("large_data", lambda: solve(y=1e12 * data(blur())))
control("batch_that_converges_apart", lambda: solve(HalfQuadratic, Dense(matrix(), SHAPE), y=apart(), tol=1e-6, max_iter=60))
control("batch_that_converges_apart_in_tomography", lambda: solve(ADMM, scan(), y=apart(scan()), tol=1e-5, max_iter=60))
control(
    "batch_that_converges_apart_in_primal_dual",
    lambda: solve(PrimalDual, Dense(matrix(), SHAPE), y=apart(), tol=1e-5, max_iter=100),
)
control("with_an_honest_callback", lambda: solve(callback=lambda k, x, r: None))
control("under_autograd", lambda: under_gradients())
control("in_inference_mode", lambda: in_inference())
control("own_sigma_for_each_image", lambda: solve(y=data(blur(), 2), sigma=torch.tensor([0.05, 0.2], dtype=torch.float64)))
control("weighted", lambda: solve(data_term=WeightedLeastSquares(torch.rand(1, *SHAPE, dtype=torch.float64) + 0.1)))
control("resumed", lambda: resumed(lambda state: None))


# ---- existence


class Shift(nn.Module):
    """x + ½, by a rule of one's own: an isometry without a fixed point."""

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        return x + 0.5


@rule(Shift)
def certify_shift(module: Shift, path: str, rtol: float) -> Proof:
    return Proof(MapBound(Fraction(1), Fraction(1, 2)))


def half_seen() -> dp.Inpainting:
    """Half of the pixels are unseen, where the data say nothing."""
    mask = torch.zeros(SHAPE)
    mask[..., ::2] = 1
    return dp.Inpainting(SHAPE, mask=mask)


def drifts(denoiser: Any, kind: Any = ForwardBackward, **options: Any) -> Outcome:
    """A map whose iterates leave every ball; existence must not be called proved."""
    try:
        y = torch.zeros(1, *SHAPE)
        guarantee = kind(denoiser, sigma=0.1, **options).check(y, half_seen())
    except Exception as error:
        return refusal(error, honest=False)
    claimed = guarantee.proved and guarantee.existence.startswith(("proved", "unique"))
    return Outcome(Verdict.FALSE_PASS if claimed else Verdict.REFUSED, guarantee.existence, "no fixed point")


@attack(EXISTENCE)
def box_without_an_upper_end() -> Outcome:
    return drifts(ClippedDenoiser(Shift(), 0.0, math.inf))


@attack(EXISTENCE)
def box_of_the_whole_line() -> Outcome:
    return drifts(ClippedDenoiser(Shift(), -math.inf, math.inf))


@attack(EXISTENCE, new=True)
def box_without_an_upper_end_for_admm() -> Outcome:
    return drifts(RelaxedDenoiser(ClippedDenoiser(Shift(), 0.0, math.inf), 0.5), ADMM)


@attack(EXISTENCE, new=True)
def box_opened_after_construction() -> Outcome:
    made = ClippedDenoiser(Shift())
    certify(made)
    made.box = (0.0, math.inf)
    return drifts(made, HalfQuadratic)


@attack(EXISTENCE, new=True)
def box_whose_end_overflows() -> Outcome:
    """A finite number that is infinite in the dtype of the images."""
    return drifts(ClippedDenoiser(Shift(), 0.0, 1e300))


@attack(EXISTENCE, new=True)
def box_of_nan() -> Outcome:
    made = ClippedDenoiser(Shift())
    made.box = (0.0, math.nan)
    return drifts(made)


@attack(EXISTENCE, new=True)
def box_of_a_tensor() -> Outcome:
    made = ClippedDenoiser(Shift())
    made.box = (torch.tensor(0.0), torch.tensor(math.inf))
    return drifts(made)


@attack(EXISTENCE, new=True)
def box_inside_a_relaxation() -> Outcome:
    """The range of (1 − θ) Id + θ D is no box."""
    return drifts(RelaxedDenoiser(ClippedDenoiser(Shift()), 0.5), solver_box_is_none())


def solver_box_is_none() -> Any:
    return ForwardBackward


@attack(EXISTENCE, new=True)
def davis_yin_whose_interior_is_missed() -> Outcome:
    """D maps the middle of the box out of it, so nothing shows a common point."""

    class Away(nn.Module):
        def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
            return x + 100

    rule(Away)(lambda module, path, rtol: Proof(MapBound(Fraction(1), Fraction(1, 2))))
    return drifts(Away(), DavisYin, box=None)


@attack(EXISTENCE, new=True)
def contraction_by_a_convexity_that_is_none() -> Outcome:
    try:
        guarantee = ForwardBackward(net(), sigma=0.1, data_term=LeastSquares(convexity=0.5)).check(data(half64()), half64())
    except Exception as error:
        return refusal(error, honest=False)
    claimed = guarantee.title == "proved" and guarantee.existence.startswith("unique")
    return Outcome(Verdict.FALSE_PASS if claimed else Verdict.STATED, guarantee.existence, "convexity 0")


def half64() -> Dense:
    return Dense(torch.eye(64, dtype=torch.float64)[::2], SHAPE)


# ---- proved and diverged


class Breaks(nn.Module):
    """An honest denoiser below a value, NaN above; certified by a rule of one's own."""

    def __init__(self, above: float, value: float = math.nan) -> None:
        super().__init__()
        self.above, self.value = above, value

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        return torch.where(x > self.above, self.value, 0.9 * x)


@rule(Breaks)
def certify_breaks(module: Breaks, path: str, rtol: float) -> Proof:
    return Proof(MapBound(Fraction(1), Fraction(1, 2)))


def not_both(run: Callable[[], Result]) -> Outcome:
    """``proved`` and ``diverged`` exclude each other, whatever was stated."""
    try:
        result = run()
    except Exception as error:
        return refusal(error, honest=False)
    both = result.guarantee.proved and result.status == "diverged"
    return Outcome(Verdict.FALSE_PASS if both else Verdict.TRUE, result.guarantee.title, result.status)


@attack(DIVERGED)
def denoiser_that_answers_nan() -> Outcome:
    return not_both(lambda: solve(denoiser=Breaks(0.5)))


@attack(DIVERGED)
def data_at_the_end_of_float32() -> Outcome:
    physics = blur(torch.float32)
    return not_both(lambda: solve(physics=physics, denoiser=net(dtype=torch.float32), y=torch.full((1, *SHAPE), 3e38)))


@attack(DIVERGED, new=True)
def start_at_the_end_of_float32() -> Outcome:
    physics = blur(torch.float32)
    return not_both(
        lambda: solve(
            physics=physics,
            denoiser=net(dtype=torch.float32),
            y=data(physics, 1, torch.float32),
            x0=torch.full((1, *SHAPE), 3e38),
        )
    )


@attack(DIVERGED, new=True)
def denoiser_that_answers_infinity() -> Outcome:
    return not_both(lambda: solve(HalfQuadratic, denoiser=Breaks(0.5, math.inf)))


@attack(DIVERGED, new=True)
def one_image_of_a_batch_is_nan() -> Outcome:
    y = data(blur(), 3)
    y[1] *= 1e3
    return not_both(lambda: solve(denoiser=Breaks(50.0), y=y))


def wrong_norm(kind: Any, scheme: Any) -> Callable[[], Result]:
    physics = Dense(matrix(scale=3.0), SHAPE)
    truth = spectral_norm(physics.matrix)
    term = UnreadableLeastSquares(norm_upper=0.3 * truth)
    return lambda: solve(kind, physics, scheme=scheme, data_term=term, max_iter=300)


class UnreadableLeastSquares(LeastSquares):
    """A subclass of a data term."""


for kind_, scheme_ in (
    (ForwardBackward, KrasnoselskiiMann()), (ForwardBackward, Halpern()), (ForwardBackward, Anderson()),
    (RED, Halpern()), (RED, Anderson()), (DavisYin, Halpern()), (DavisYin, Anderson()),
    (PrimalDual, KrasnoselskiiMann()), (PrimalDual, Halpern()), (PrimalDual, Anderson()),
):  # fmt: skip

    def wrong(kind: Any = kind_, scheme: Any = scheme_) -> Outcome:
        return not_both(wrong_norm(kind, scheme))

    wrong.__name__ = f"wrong_norm_{kind_.__name__}_{type(scheme_).__name__}".lower()
    attack(DIVERGED, new=kind_ in (DavisYin, RED))(wrong)


@attack(DIVERGED, new=True)
def fista_with_an_expansive_denoiser_by_a_rule() -> Outcome:
    class Grows(nn.Module):
        def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
            return 1.2 * x

    rule(Grows)(lambda module, path, rtol: Proof(MapBound(Fraction(1), Fraction(1, 2), proximal=True)))
    return not_both(lambda: solve(denoiser=Grows(), scheme=FISTA(), step=0.5, max_iter=300))


# ---- stated numbers


@on_run(STATED)
def norm_stated_a_third() -> Result:
    physics = Dense(matrix(scale=3.0), SHAPE)
    return solve(physics=physics, data_term=LeastSquares(norm_upper=1.0), max_iter=5)


@on_run(STATED, new=True)
def norm_stated_just_too_small() -> Result:
    physics = Dense(matrix(), SHAPE)
    return solve(physics=physics, data_term=LeastSquares(norm_upper=0.98 * spectral_norm(physics.matrix)))


@on_run(STATED, new=True)
def norm_stated_for_a_spike_that_probes_miss() -> Result:
    """Large in one direction only, orthogonal to constants."""
    m = 0.1 * torch.eye(64, dtype=torch.float64)
    u = torch.zeros(64, dtype=torch.float64)
    u[3], u[40] = 1.0, -1.0
    return solve(physics=Dense(m + 2 * torch.outer(u, u), SHAPE), data_term=LeastSquares(norm_upper=0.5))


@on_run(STATED)
def convexity_under_a_blur() -> Result:
    return solve(physics=Blur(torch.ones(5, 5) / 25, SHAPE, dtype=torch.float64), data_term=LeastSquares(convexity=0.9))


@on_run(STATED, new=True)
def convexity_of_a_wide_matrix() -> Result:
    return solve(physics=Dense(matrix(20), SHAPE), data_term=LeastSquares(convexity=0.01))


@on_run(STATED, new=True)
def convexity_of_weights_with_zeros() -> Result:
    w = torch.ones(1, *SHAPE, dtype=torch.float64)
    w[..., 0, 0] = 0
    return solve(physics=blur(), data_term=WeightedLeastSquares(w, convexity=0.1))


@on_run(STATED)
def curvature_of_a_fidelity() -> Result:
    return solve(data_term=UserFidelity(fidelity.L2(sigma=0.2), curvature_upper=1.0))


@on_run(STATED, new=True)
def fidelity_that_is_not_convex() -> Result:
    class Wave(fidelity.L2):
        def __init__(self) -> None:
            super().__init__()
            old = self.d.grad
            self.d.grad = lambda u, y, *a, **k: old(u, y) - 3 * torch.sin(4 * (u - y))

    return solve(data_term=UserFidelity(Wave(), curvature_upper=13.0))


@on_run(STATED, new=True)
def fidelity_whose_dual_prox_is_of_another() -> Result:
    class Other(fidelity.L2):
        def prox_d_conjugate(self, u: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return 3 * u

    return solve(PrimalDual, data_term=UserFidelity(Other(), curvature_upper=1.0))


@on_run(STATED, new=True)
def data_term_whose_gradient_is_overridden() -> Result:
    class Loud(LeastSquares):
        def gradient(self, x: Tensor, y: Tensor, physics: Any) -> Tensor:
            return 5 * super().gradient(x, y, physics)

    return solve(data_term=Loud())


@on_run(STATED, new=True)
def data_term_whose_constant_is_overridden() -> Result:
    class Low(LeastSquares):
        def lipschitz_upper(self, norm_upper: float) -> float:
            return 0.2 * norm_upper**2

    return solve(data_term=Low())


@on_run(STATED, new=True)
def data_term_patched_in_its_class() -> Result:
    old = LeastSquares.gradient
    with patched(LeastSquares, "gradient", lambda self, x, y, physics: 5 * old(self, x, y, physics)):
        return solve()


@on_run(STATED, new=True)
def weights_written_after_construction() -> Result:
    term = WeightedLeastSquares(torch.ones(1, *SHAPE, dtype=torch.float64))
    term.weights.fill_(-1.0)
    return solve(data_term=term)


@on_run(STATED, new=True)
def convexity_forced_into_a_frozen_term() -> Result:
    term = LeastSquares()
    object.__setattr__(term, "convexity", 0.9)
    return solve(physics=Dense(matrix(20), SHAPE), data_term=term)


@on_run(STATED, new=True)
def step_forced_into_a_frozen_solver() -> Result:
    solver = ForwardBackward(net(), sigma=0.1, tol=0.0)
    object.__setattr__(solver, "step", 5.0)
    return solver.solve(data(blur()), blur(), max_iter=20, guarantee="report")


@on_run(STATED, new=True)
def solver_of_a_subclass_with_another_map() -> Result:
    class Loud(ForwardBackward):
        def bind(self, known: Any) -> Any:
            honest_one = super().bind(known)
            return dataclasses.replace(honest_one, T=lambda m, v: (1.5 * v + 1, 1.5 * v + 1))

    return solve(Loud)


@on_run(STATED, new=True)
def solver_of_a_subclass_with_another_contraction() -> Result:
    """Its fixed point is nought, and not what its theorem says."""

    class Other(ForwardBackward):
        def bind(self, known: Any) -> Any:
            return dataclasses.replace(super().bind(known), T=lambda m, v: (0.9 * v, 0.9 * v))

    return solve(Other)


@on_run(STATED, new=True)
def solver_patched_in_an_instance() -> Result:
    solver = ForwardBackward(net(), sigma=0.1, tol=0.0)
    old = ForwardBackward.bind
    other = lambda known: dataclasses.replace(old(solver, known), T=lambda m, v: (0.9 * v, 0.9 * v))  # noqa: E731
    object.__setattr__(solver, "bind", other)
    return solver.solve(data(blur()), blur(), max_iter=40, guarantee="report")


@on_run(STATED, new=True)
def solver_patched_in_its_class() -> Result:
    old = ForwardBackward.bind
    other = lambda self, known: dataclasses.replace(old(self, known), T=lambda m, v: (0.9 * v, 0.9 * v))  # noqa: E731
    with patched(ForwardBackward, "bind", other):
        return solve()


@on_run(STATED, new=True)
def scheme_that_stands_still() -> Result:
    """Proved to converge to a fixed point, and never moves."""

    class Still(KrasnoselskiiMann):
        def next(self, memory: Any, v: Tensor, image: Tensor, k: int) -> Any:
            return v, memory

    return solve(scheme=Still())


@on_run(STATED, new=True)
def data_term_of_another_problem() -> Result:
    """A convex quadratic, and not the one that it is named after."""

    class Other(LeastSquares):
        def gradient(self, x: Tensor, y: Tensor, physics: Any) -> Tensor:
            return super().gradient(x, 0 * y, physics)

        def value(self, x: Tensor, y: Tensor, physics: Any) -> Tensor:
            return super().value(x, 0 * y, physics)

    return solve(data_term=Other())


@on_run(STATED, new=True)
def scheme_of_ones_own() -> Result:
    class Runs(KrasnoselskiiMann):
        def next(self, memory: Any, v: Tensor, image: Tensor, k: int) -> Any:
            return v + 1.9 * (v - image) + 0.1, memory

    return solve(scheme=Runs())


@on_run(STATED, new=True)
def physics_that_states_its_own_norm() -> Result:
    class Small(dp.LinearPhysics):
        norm_upper, norm_lower, img_size = 0.1, 0.1, (1, 40, 40)

        def A(self, x: Tensor, **kwargs: Any) -> Tensor:
            return 3 * x

        A_adjoint = A

    y = torch.rand(1, 1, 40, 40, dtype=torch.float64)
    return solve(physics=Small(), y=y)


# ---- prox


def off(change: Callable[[Tensor, Tensor, float], Tensor]) -> Dense:
    """A physics that says that its prox is a closed form, and changes the true one."""
    physics = Dense(matrix(), SHAPE)

    def prox(z: Tensor, y: Tensor, gamma: float, **kwargs: Any) -> Tensor:
        h = torch.eye(64, dtype=z.dtype) + gamma * physics.matrix.T @ physics.matrix
        x = torch.linalg.solve(h, (z.flatten(1) + gamma * y @ physics.matrix).T).T.reshape(z.shape)
        return change(x, z, gamma)

    physics.closed_form_prox, physics.prox_l2 = True, prox
    return physics


@on_run(PROX)
def prox_off_by_an_eighth() -> Result:
    return solve(HalfQuadratic, off(lambda x, z, g: 1.138 * x))


@on_run(PROX, new=True)
def prox_off_in_one_pixel() -> Result:
    def change(x: Tensor, z: Tensor, g: float) -> Tensor:
        x[..., 2, 5] += 0.1
        return x

    return solve(DouglasRachford, off(change))


@on_run(PROX, new=True)
def prox_that_returns_its_argument() -> Result:
    return solve(ADMM, off(lambda x, z, g: z))


@on_run(PROX, new=True)
def prox_that_is_right_at_the_start_only() -> Result:
    calls = [0]

    def change(x: Tensor, z: Tensor, g: float) -> Tensor:
        calls[0] += 1
        return x if calls[0] < 8 else 1.3 * x

    return solve(HalfQuadratic, off(change))


@on_run(PROX, new=True)
def prox_with_noise() -> Result:
    return solve(HalfQuadratic, off(lambda x, z, g: x + 0.02 * torch.randn_like(x)))


def stiff(product: float, dtype: torch.dtype, kind: Any = HalfQuadratic, weights: Tensor | None = None) -> Outcome:
    """The prox at a large γ‖A‖² in the solver's arithmetic, against dense algebra: off by more than 1 % is no prox."""
    angles = [12.0 * k for k in range(15)]
    physics = ParallelBeamTomography(angles, (1, 16, 16), dtype=dtype)
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = physics.A(x.to(dtype))
    gamma = product / physics.norm_upper**2
    term = LeastSquares() if weights is None else WeightedLeastSquares(weights.to(dtype) * torch.ones_like(y))
    try:
        result = kind(net(dtype=dtype), sigma=0.1, step=gamma, tol=0.0, data_term=term).solve(
            y, physics, max_iter=1, guarantee="report"
        )
    except Exception as error:
        return refusal(error, honest=False)
    a = matrix_of(physics.forward_map, physics.img_size)
    w = torch.ones(len(a), dtype=torch.float64) if weights is None else (weights * torch.ones_like(y)).flatten().double()
    h = torch.eye(256, dtype=torch.float64) + gamma * a.T @ (w[:, None] * a)
    z = 0.5 + 0.1 * torch.randn(256, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = torch.linalg.solve(h, z + gamma * a.T @ (w * y.double().flatten()))
    found = result.maps.prox(z.reshape(1, 1, 16, 16).to(dtype), gamma).double().flatten()
    error_ = float((found - exact).norm() / exact.norm())
    false = error_ > 0.01 and result.guarantee.title == "proved"
    return Outcome(Verdict.FALSE_PASS if false else Verdict.TRUE, result.guarantee.title, f"prox off by {error_:.2g}")


@attack(PROX)
def prox_of_few_views_in_float32() -> Outcome:
    return stiff(1e8, torch.float32)


@attack(PROX)
def prox_of_photon_counts() -> Outcome:
    counts = 10 ** torch.linspace(0, 5, 15, dtype=torch.float64)
    return stiff(1e6, torch.float32, weights=counts.reshape(1, 1, 1, 15))


@attack(PROX, new=True)
def prox_of_photon_counts_in_double() -> Outcome:
    counts = 10 ** torch.linspace(0, 8, 15, dtype=torch.float64)
    return stiff(1e9, torch.float64, weights=counts.reshape(1, 1, 1, 15))


@attack(PROX, new=True)
def prox_of_few_views_for_admm() -> Outcome:
    return stiff(1e9, torch.float32, ADMM)


@on_run(PROX)
def prox_of_a_weighted_blur() -> Result:
    physics = Blur(torch.ones(5, 5) / 25, SHAPE, padding="reflect", dtype=torch.float32)
    w = 10 ** torch.linspace(-3, 3, 64).reshape(1, *SHAPE)
    y = data(physics, 1, torch.float32)
    return solve(HalfQuadratic, physics, net(dtype=torch.float32), y, step=1e9, data_term=WeightedLeastSquares(w))


@on_run(PROX, new=True)
def solve_prox_of_ones_own() -> Result:
    physics = Dense(matrix(), SHAPE)

    @dataclasses.dataclass
    class Answer:
        x: Tensor
        error_bound: Any = dataclasses.field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
        converged: bool = True
        iterations: int = 1

    physics.solve_prox = lambda z, y, gamma, tol: Answer(1.2 * z)
    return solve(HalfQuadratic, physics)


@on_run(PROX, new=True)
def solve_prox_of_a_blur_patched() -> Result:
    physics = blur()
    old = physics.solve_prox

    def sloppy(z: Tensor, y: Tensor, gamma: float, **options: Any) -> Any:
        found = old(z, y, gamma, **options)
        return dataclasses.replace(found, x=1.2 * found.x)

    physics.solve_prox = sloppy
    return solve(HalfQuadratic, physics)


@on_run(PROX, new=True)
def solve_prox_of_ones_own_slightly_off() -> Result:
    """One per cent, and it says that it is exact."""
    physics, other = Dense(matrix(), SHAPE), off(lambda x, z, g: 1.01 * x)

    @dataclasses.dataclass
    class Answer:
        x: Tensor
        error_bound: Any
        converged: bool = True
        iterations: int = 1

    zero = torch.zeros(1, dtype=torch.float64)
    physics.solve_prox = lambda z, y, gamma, tol: Answer(other.prox_l2(z, y, gamma), zero)
    return solve(HalfQuadratic, physics)


@on_run(PROX, new=True)
def solve_prox_of_a_blur_slightly_off() -> Result:
    physics = blur()
    old = physics.solve_prox

    def sloppy(z: Tensor, y: Tensor, gamma: float, **options: Any) -> Any:
        found = old(z, y, gamma, **options)
        return dataclasses.replace(found, x=1.01 * found.x)

    physics.solve_prox = sloppy
    return solve(HalfQuadratic, physics)


@on_run(PROX, new=True)
def prox_of_a_data_term_slightly_off() -> Result:
    class Sloppy(LeastSquares):
        def prox(self, z: Tensor, y: Tensor, physics: Any, gamma: float) -> Any:
            found = super().prox(z, y, physics, gamma)
            return dataclasses.replace(found, x=1.01 * found.x)

    return solve(HalfQuadratic, data_term=Sloppy())


@on_run(PROX, new=True)
def closed_form_of_another_padding() -> Result:
    physics = blur(padding="zeros")
    physics.closed_form_prox = True
    return solve(HalfQuadratic, physics)


@on_run(PROX, new=True)
def prox_of_a_data_term_of_ones_own() -> Result:
    class Sloppy(LeastSquares):
        def prox(self, z: Tensor, y: Tensor, physics: Any, gamma: float) -> Tensor:
            found = super().prox(z, y, physics, gamma)
            return dataclasses.replace(found, x=1.1 * found.x)

    return solve(HalfQuadratic, data_term=Sloppy())


# ---- adjoint and linearity


class Odd(Dense):
    """A matrix with something done before A, and something after A_adjoint."""

    def __init__(self, before: Any = None, after: Any = None, m: Tensor | None = None) -> None:
        super().__init__(matrix(64) if m is None else m, SHAPE)
        self.before, self.after = before, after

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        v = x.flatten(1)
        return (v if self.before is None else self.before(v)) @ self.matrix.T

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        v = y @ self.matrix
        return (v if self.after is None else self.after(v)).reshape(-1, *SHAPE)


def gain(*pixels: int, by: float) -> Callable[[Tensor], Tensor]:
    def apply(v: Tensor) -> Tensor:
        v = v.clone()
        v[:, list(pixels)] *= by
        return v

    return apply


@on_run(ADJOINT)
def sign_of_one_pixel() -> Result:
    return solve(physics=Odd(after=gain(27, by=-1)))


@on_run(ADJOINT)
def wrong_patch() -> Result:
    return solve(physics=Odd(after=gain(18, 19, 26, 27, by=0.3)))


@on_run(ADJOINT, new=True)
def one_pixel_lost_in_red() -> Result:
    return solve(RED, physics=Odd(after=gain(63, by=0)))


@on_run(ADJOINT, new=True)
def one_pixel_a_hundredth_off() -> Result:
    return solve(physics=Odd(after=gain(0, by=1.01)))


@on_run(ADJOINT, new=True)
def two_pixels_that_cancel() -> Result:
    def after(v: Tensor) -> Tensor:
        v = v.clone()
        v[:, 5], v[:, 6] = v[:, 6].clone(), v[:, 5].clone()
        return v

    return solve(PrimalDual, physics=Odd(after=after))


@on_run(ADJOINT, new=True)
def adjoint_for_a_quiet_column() -> Result:
    """A pixel that A hardly sees, and its adjoint much."""
    m = matrix(64)
    m[:, 9] *= 1e-3
    return solve(physics=Odd(after=gain(9, by=200.0), m=m))


@on_run(ADJOINT, new=True)
def adjoint_of_the_second_image_only() -> Result:
    def after(v: Tensor) -> Tensor:
        v = v.clone()
        v[1:] *= 0.5
        return v

    physics = Odd(after=after)
    return solve(physics=physics, y=data(physics, 2))


@on_run(ADJOINT, new=True)
def adjoint_that_is_right_for_a_while() -> Result:
    calls = [0]

    def after(v: Tensor) -> Tensor:
        calls[0] += 1
        return v if calls[0] < 25 else 3 * v

    return solve(physics=Odd(after=after))


@on_run(ADJOINT, new=True)
def adjoint_in_the_other_dtype() -> Result:
    physics = Odd(after=lambda v: v * (0.5 if v.dtype == torch.float32 else 1), m=matrix(64, dtype=torch.float32))
    return solve(physics=physics, denoiser=net(dtype=torch.float32), y=data(physics, 1, torch.float32))


@on_run(ADJOINT, new=True)
def adjoint_with_a_false_backward() -> Result:
    """Automatic differentiation gives the wrong adjoint that A_adjoint returns."""

    class Fake(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, v: Tensor) -> Tensor:
            return v.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return gain(27, by=-1)(g)

    return solve(physics=Odd(before=Fake.apply, after=gain(27, by=-1)))


@on_run(ADJOINT, new=True)
def adjoint_without_gradients() -> Result:
    """A detaches, so that blocks of signs must do."""
    return solve(physics=Odd(before=lambda v: v.detach().clone(), after=gain(27, by=-1)))


@on_run(ADJOINT, new=True)
def adjoint_of_a_blur_patched() -> Result:
    physics = blur()
    old = physics.A_adjoint

    def patchy(y: Tensor, **kwargs: Any) -> Tensor:
        x = old(y).clone()
        x[..., 3, 3] *= -1
        return x

    physics.A_adjoint = patchy
    return solve(physics=physics)


@on_run(LINEAR)
def noise_inside() -> Result:
    return solve(physics=Odd(before=lambda v: v + 0.01 * torch.randn_like(v)))


@on_run(LINEAR)
def clipped_at_4_5() -> Result:
    return solve(physics=Odd(before=lambda v: v.clamp(-4.5, 4.5)))


@on_run(LINEAR)
def batch_size() -> Result:
    physics = Odd(before=lambda v: v * (1 + 0.5 * (len(v) > 1)))
    return solve(physics=physics, y=data(physics, 3))


@on_run(LINEAR)
def dtype() -> Result:
    physics = Odd(before=lambda v: v * (1.5 if v.dtype == torch.float32 else 1), m=matrix(64, dtype=torch.float32))
    return solve(physics=physics, denoiser=net(dtype=torch.float32), y=data(physics, 1, torch.float32))


@on_run(LINEAR, new=True)
def offset() -> Result:
    return solve(physics=Odd(before=lambda v: v + 0.05))


@on_run(LINEAR, new=True)
def clipped_far_out() -> Result:
    return solve(physics=Odd(before=lambda v: v.clamp(-100, 100)))


@on_run(LINEAR, new=True)
def quantised() -> Result:
    return solve(physics=Odd(before=lambda v: (v * 255).round() / 255))


@on_run(LINEAR, new=True)
def dead_near_zero() -> Result:
    return solve(physics=Odd(before=lambda v: torch.where(v.abs() < 1e-2, 0.0, v)))


@on_run(LINEAR, new=True)
def absolute_value_of_negatives() -> Result:
    return solve(physics=Odd(before=lambda v: torch.where(v < 0, -0.5 * v, v)))


@on_run(LINEAR, new=True)
def normalised_image() -> Result:
    return solve(physics=Odd(before=lambda v: v / v.norm(dim=1, keepdim=True).clamp_min(1e-9)))


@on_run(LINEAR, new=True)
def mean_of_the_batch() -> Result:
    physics = Odd(before=lambda v: v - 0.3 * v.mean(0, keepdim=True))
    return solve(physics=physics, y=data(physics, 2))


@on_run(LINEAR, new=True)
def order_of_the_batch() -> Result:
    physics = Odd(before=lambda v: v.flip(0))
    return solve(physics=physics, y=data(physics, 2))


@on_run(LINEAR, new=True)
def counts_its_calls() -> Result:
    calls = [0]

    def before(v: Tensor) -> Tensor:
        calls[0] += 1
        return v if calls[0] < 30 else 2 * v

    return solve(physics=Odd(before=before))


@on_run(LINEAR, new=True)
def counts_its_calls_late() -> Result:
    """A little louder, long after every examination: another problem is solved from then on."""
    calls = [0]

    def before(v: Tensor) -> Tensor:
        calls[0] += 1
        return v if calls[0] < 400 else 1.02 * v

    return solve(physics=Odd(before=before), max_iter=600, step=0.2)


@on_run(LINEAR, new=True)
def counts_its_calls_beyond_the_examination() -> Result:
    """Another map, one per cent louder, as soon as no one examines it any more: the first moves hide it."""

    def run(after: int, updates: int) -> tuple[Result, int]:
        calls = [0]

        def before(v: Tensor) -> Tensor:
            calls[0] += 1
            return v if calls[0] <= after else 1.01 * v

        far = torch.full((1, *SHAPE), 30.0, dtype=torch.float64)
        return solve(physics=Odd(before=before), max_iter=updates, step=0.5, x0=far), calls[0]

    return run(run(10**9, 1)[1], 40)[0]


@on_run(LINEAR, new=True)
def loud_for_the_solution_only() -> Result:
    """Honest but near one image."""
    target = torch.rand(1, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return solve(
        physics=Odd(before=lambda v: v * torch.where((v - target).norm(dim=1, keepdim=True) < 0.5, 1.5, 1.0)), max_iter=200
    )


@on_run(LINEAR, new=True)
def knows_unit_vectors() -> Result:
    """Quiet on single pixels, of which the norm's matrix is made."""
    return solve(physics=Odd(before=lambda v: v * torch.where((v != 0).sum(1, keepdim=True) <= 1, 1.0, 3.0)))


@on_run(LINEAR, new=True)
def knows_gradients() -> Result:
    """Another map where no gradient is recorded."""
    return solve(physics=Odd(before=lambda v: v if v.requires_grad else v + 0.2 * v.abs()))


@on_run(LINEAR, new=True)
def nan_for_bright_images() -> Result:
    return solve(physics=Odd(before=lambda v: torch.where(v > 3, math.nan, v)))


@on_run(LINEAR, new=True)
def remembers_the_last_image() -> Result:
    last = [torch.zeros(1, 64, dtype=torch.float64)]

    def before(v: Tensor) -> Tensor:
        mixed = v + 0.2 * last[0][: len(v)] if len(last[0]) >= len(v) else v
        last[0] = v.detach().clone()
        return mixed

    return solve(physics=Odd(before=before))


@on_run(LINEAR, new=True)
def complex_data() -> Result:
    class Complex(Odd):
        def A(self, x: Tensor, **kwargs: Any) -> Tensor:
            return super().A(x) * (1 + 1j)

    return solve(physics=Complex(), y=torch.rand(1, 64, dtype=torch.float64))


@on_run(LINEAR, new=True)
def writes_into_its_argument() -> Result:
    return solve(physics=Odd(before=lambda v: v.mul_(0.9)))


# ---- checkpoints


def resumed(forge: Callable[[dict[str, Any]], Any], updates: int = 6, **options: Any) -> Result:
    """A run that is stopped, whose file is forged, and that goes on."""
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoint(Path(folder) / "run.pt")
        solve(checkpoint=store, max_iter=updates, **options)
        state = torch.load(store.path, weights_only=True)
        forge(state)
        torch.save(state, store.path)
        return solve(checkpoint=store, max_iter=updates, **options)


def converged(state: dict[str, Any], shift: float = 0.3) -> None:
    for track in state["tracks"]:
        track["status"] = "converged"
        track["residual"][-1] = track["relative"][-1] = 0.0
    state["x"] = state["x"] + shift
    state["v"] = state["v"] + shift


def believed(run: Callable[[], Result]) -> Outcome:
    """A forged file must not give a result that is converged and proved."""
    try:
        result = run()
    except Exception as error:
        return refusal(error, honest=False)
    T = result.maps.D(result.x - result.parameters["step"] * result.maps.grad(result.x))
    true = float((result.x - T).norm() / result.x.norm())
    false = result.status == "converged" and result.guarantee.proved and true > 1e-3
    return Outcome(Verdict.FALSE_PASS if false else Verdict.TRUE, f"{result.status}, {result.guarantee.title}", true)


@attack(STORE)
def forged_convergence() -> Outcome:
    return believed(lambda: resumed(converged))


@attack(STORE, new=True)
def forged_convergence_of_a_batch() -> Outcome:
    return believed(lambda: resumed(converged, y=data(blur(), 3)))


@attack(STORE, new=True)
def forged_image_beside_an_honest_state() -> Outcome:
    def forge(state: dict[str, Any]) -> None:
        converged(state, 0.0)
        state["x"] = state["x"] * 0

    return believed(lambda: resumed(forge))


@attack(STORE, new=True)
def forged_history() -> Outcome:
    """Residuals that never were; the image is honest."""

    def forge(state: dict[str, Any]) -> None:
        for track in state["tracks"]:
            track["residual"] = [0.0] * len(track["residual"])
            track["relative"] = [0.0] * len(track["relative"])
            track["status"] = "converged"

    return believed(lambda: resumed(forge))


@attack(STORE, new=True)
def forged_image_of_nan() -> Outcome:
    def forge(state: dict[str, Any]) -> None:
        state["v"] = state["v"] * math.nan
        state["x"] = state["x"] * math.nan

    return not_both(lambda: resumed(forge))


@attack(STORE, new=True)
def forged_state_with_another_shape() -> Outcome:
    return not_both(lambda: resumed(lambda state: state.update(v=torch.zeros(1, 1, 4, 4, dtype=torch.float64))))


@attack(STORE, new=True)
def forged_state_of_another_dtype() -> Outcome:
    return not_both(lambda: resumed(lambda state: state.update(v=state["v"].float(), x=state["x"].float())))


@attack(STORE, new=True)
def forged_status_of_divergence() -> Outcome:
    def forge(state: dict[str, Any]) -> None:
        state["tracks"][0]["status"] = "diverged"

    return not_both(lambda: resumed(forge))


@attack(STORE, new=True)
def forged_origin() -> Outcome:
    """The file of another run, with this one's origin."""
    with tempfile.TemporaryDirectory() as folder:
        mine, other = Checkpoint(Path(folder) / "a.pt"), Checkpoint(Path(folder) / "b.pt")

        def run() -> Result:
            solve(checkpoint=mine, max_iter=4)
            solve(checkpoint=other, max_iter=4, y=5 * data(blur()))
            state = torch.load(other.path, weights_only=True)
            state["origin"] = torch.load(mine.path, weights_only=True)["origin"]
            for track in state["tracks"]:
                track["status"] = "converged"
                track["relative"][-1] = 0.0
            torch.save(state, mine.path)
            return solve(checkpoint=mine, max_iter=4)

        return believed(run)


@attack(STORE, new=True)
def forged_erasure_of_a_contradiction() -> Outcome:
    """A run that broke its theorem, with the record of that erased: going on, it may claim nothing that is false."""
    physics = Odd(before=lambda v: v)

    def forge(state: dict[str, Any]) -> None:
        state["broken"] = None

    def run() -> Result:
        return resumed(forge, physics=physics, data_term=LeastSquares(norm_upper=0.2 * spectral_norm(physics.matrix)))

    return judged(run, lie="contradiction erased")


@attack(STORE, new=True)
def missing_tracks() -> Outcome:
    return not_both(lambda: resumed(lambda state: state.pop("tracks")))


@attack(STORE, new=True)
def empty_batch_in_the_file() -> Outcome:
    return believed(lambda: resumed(lambda state: state.update(batch=[], k=10**6)))


# ---- what changes during a run


def changing(change: Callable[[], None], at: int = 5, **options: Any) -> Result:
    return solve(callback=lambda k, x, r: change() if k == at else None, **options)


@on_run(MUTATION)
def psf_in_a_callback() -> Result:
    physics = blur()
    return changing(lambda: physics.psf.data.mul_(3), physics=physics)


@on_run(MUTATION)
def weights_in_a_callback() -> Result:
    d = net()
    return changing(lambda: d.layers[0].weight.data.mul_(3), denoiser=d)


@on_run(MUTATION, new=True)
def weights_in_a_callback_slightly() -> Result:
    """Too little for a residual to show it."""
    d = net()
    return changing(lambda: d.layers[0].weight.data.mul_(1.0001), denoiser=d)


@on_run(MUTATION, new=True)
def weights_changed_and_put_back() -> Result:
    """The key is as it was when the run ends, and the run was not."""
    d, before = net(), copy.deepcopy(net().state_dict())

    def callback(k: int, x: Tensor, r: Any) -> None:
        if k == 5:
            d.layers[0].weight.data.mul_(6)
        if k == 12:
            d.load_state_dict(before)

    return solve(denoiser=d, callback=callback)


@on_run(MUTATION, new=True)
def matrix_in_a_callback() -> Result:
    physics = Dense(matrix(), SHAPE)
    return changing(lambda: physics.matrix.mul_(3), physics=physics)


@on_run(MUTATION, new=True)
def forward_model_in_a_callback() -> Result:
    physics = blur()
    return changing(lambda: setattr(physics, "A", lambda x, **k: 3 * x), physics=physics)


@on_run(MUTATION, new=True)
def hook_in_a_callback() -> Result:
    d = net()
    return changing(lambda: d.register_forward_hook(lambda m, a, out: 1.5 * out), denoiser=d)


@on_run(MUTATION, new=True)
def global_hook_in_a_callback() -> Result:
    d, handles = net(), []
    try:
        hook = lambda m, a, out: 1.5 * out if m is d else None  # noqa: E731
        return changing(lambda: handles.append(nn.modules.module.register_module_forward_hook(hook)), denoiser=d)
    finally:
        for handle in handles:
            handle.remove()


@on_run(MUTATION, new=True)
def class_patched_in_a_callback() -> Result:
    old = GradientFlowDenoiser.forward
    try:
        new = lambda self, x, sigma=None, **k: 1.5 * old(self, x, sigma)  # noqa: E731
        return changing(lambda: setattr(GradientFlowDenoiser, "forward", new))
    finally:
        GradientFlowDenoiser.forward = old


@attack(MUTATION, new=True)
def image_in_a_callback() -> Outcome:
    """The image that the callback sees is written to, which for some solvers is their state."""
    plain_, written = solve(max_iter=12), solve(callback=lambda k, x, r: x.add_(1.0), max_iter=12)
    off_ = float((plain_.x - written.x).norm())
    return Outcome(
        Verdict.FALSE_PASS if off_ > 0 and written.guarantee.title == "proved" else Verdict.TRUE, written.guarantee.title, off_
    )


def put_back(change: Callable[[float], Any], **options: Any) -> Result:
    """Another map from the fifth update on, and the honest one again as soon as that has converged."""
    state = {"changed": False}

    def callback(k: int, x: Tensor, relative: Any) -> None:
        if k == 5:
            change(2.0)
            state["changed"] = True
        elif state["changed"] and max(relative) <= 1e-6:
            change(0.5)
            state["changed"] = False

    return solve(callback=callback, tol=1e-6, max_iter=3000, scheme=KrasnoselskiiMann(0.5), **options)


def put_back_unseen(change: Callable[[float], Any], **options: Any) -> Outcome:
    """A little is changed while much moves anyway, and put back when all has converged: to another problem's solution."""
    state = {"factor": 1.0}

    def callback(k: int, x: Tensor, relative: Any) -> None:
        if k == 1:
            state["factor"] = 1 + 2**-6
            change(state["factor"])
        elif state["factor"] != 1 and max(relative) <= 1e-7:
            state["factor"] = 1.0
            change(1.0)

    far = torch.full((1, *SHAPE), 50.0, dtype=torch.float64)
    common: dict[str, Any] = {"tol": 1e-7, "max_iter": 4000, "x0": far, **options}
    try:
        result = solve(callback=callback, **common)
    except Exception as error:
        return refusal(error, honest=False)
    true = float((result.x - solve(scheme=Anderson(), **common).x).norm() / result.x.norm())
    false = result.guarantee.title == "proved" and result.status == "converged" and true > 1e-4
    return Outcome(Verdict.FALSE_PASS if false else Verdict.TRUE, f"{result.guarantee.title}, {result.status}", true)


@attack(MUTATION, new=True)
def data_put_back_unseen() -> Outcome:
    y = data(blur())
    before = y.clone()
    return put_back_unseen(lambda f: y.copy_(f * before), y=y)


@attack(MUTATION, new=True)
def psf_put_back_unseen() -> Outcome:
    physics = blur()
    before = physics.psf.clone()
    return put_back_unseen(lambda f: physics.psf.copy_(f * before), physics=physics, step=1.0, y=data(blur()))


@attack(MUTATION, new=True)
def weights_put_back_unseen() -> Outcome:
    d = net()
    before = d.layers[0].weight.clone()
    return put_back_unseen(lambda f: d.layers[0].weight.copy_(f * before), denoiser=d)


@attack(MUTATION, new=True)
def part_of_a_denoiser() -> Outcome:
    """What a denoiser answers when asked for the images of a batch that still run."""
    d, calls = net(), [0]

    def answer(x: Tensor, sigma: Any = None) -> Tensor:
        calls[0] += 1
        return d(x, sigma) if calls[0] < 3 else 0.99 * d(x, sigma)

    d.part = lambda images: answer
    y = apart(blur())
    common: dict[str, Any] = {"tol": 1e-8, "max_iter": 2000, "physics": blur(), "y": y}
    result, true = solve(denoiser=d, **common), solve(scheme=Anderson(), **common)
    off_ = float((result.x - true.x).norm() / true.x.norm())
    false = result.guarantee.title == "proved" and result.status == "converged" and off_ > 1e-4
    return Outcome(Verdict.FALSE_PASS if false else Verdict.TRUE, f"{result.guarantee.title}, {result.status}", off_)


@on_run(MUTATION, new=True)
def psf_put_back_when_all_has_converged() -> Result:
    physics = blur()
    return put_back(lambda f: physics.psf.data.mul_(f), physics=physics, step=0.3)


@on_run(MUTATION, new=True)
def weights_put_back_when_all_has_converged() -> Result:
    d = net()
    return put_back(lambda f: d.layers[0].tau.data.mul_(f), denoiser=d)


@on_run(MUTATION, new=True)
def data_put_back_when_all_has_converged() -> Result:
    y = data(blur())
    return put_back(lambda f: y.mul_(f), y=y)


@on_run(MUTATION, new=True)
def data_in_a_callback() -> Result:
    y = data(blur())
    return changing(lambda: y.mul_(3), y=y)


@on_run(MUTATION, new=True)
def sigma_in_a_callback() -> Result:
    sigma = torch.tensor([0.1], dtype=torch.float64)
    return changing(lambda: sigma.fill_(0.9), sigma=sigma)


@on_run(MUTATION, new=True)
def weights_of_the_data_in_a_callback() -> Result:
    w = torch.ones(1, *SHAPE, dtype=torch.float64)
    return changing(lambda: w.mul_(9), data_term=WeightedLeastSquares(w))


@on_run(MUTATION, new=True)
def training_mode_in_a_callback() -> Result:
    """Not false for this denoiser, which has no such mode; one with dropout is refused."""
    d = ClippedDenoiser(net())
    return changing(lambda: d.register_forward_pre_hook(lambda m, a: (2 * a[0], *a[1:])), denoiser=d)


@on_run(MUTATION, new=True)
def theta_in_a_callback() -> Result:
    d = RelaxedDenoiser(net(), 0.5)
    return changing(lambda: setattr(d, "theta", 3.0), denoiser=d)


@on_run(MUTATION, new=True)
def box_of_a_denoiser_in_a_callback() -> Result:
    d = ClippedDenoiser(net())
    return changing(lambda: setattr(d, "box", (5.0, 6.0)), denoiser=d)


@on_run(MUTATION, new=True)
def mask_in_a_callback() -> Result:
    physics = half_seen()
    d = net(dtype=torch.float32)
    return changing(lambda: physics.mask.add_(1), physics=physics, denoiser=d, y=torch.rand(1, *SHAPE))


@on_run(MUTATION, new=True)
def noisy_thread_of_dropout() -> Result:
    class Drops(nn.Module):
        def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
            return nn.functional.dropout(x, 0.1, training=True)

    rule(Drops)(lambda module, path, rtol: Proof(MapBound(Fraction(1), Fraction(1, 2))))
    return solve(denoiser=Drops())


@on_run(MUTATION, new=True)
def denoiser_that_writes_into_its_argument() -> Result:
    class Writes(nn.Module):
        def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
            return x.mul_(0.5)

    rule(Writes)(lambda module, path, rtol: Proof(MapBound(Fraction(1), Fraction(1, 2))))
    return solve(RED, denoiser=Writes())


# ---- rates and records


@attack(RATES)
def rate_of_the_primal_dual_in_its_own_norm() -> Outcome:
    """‖v_k − T v_k‖ ≤ ‖v_0 − v*‖/√(k + 1) in the norm ‖x‖²/γ − 2⟨Ax, u⟩ + ‖u‖²/s, and what is recorded is that."""
    physics = Dense(matrix(), SHAPE)
    y = data(physics)
    result = PrimalDual(net(), sigma=0.1, tol=0.0).solve(y, physics, max_iter=400, guarantee="report")
    γ, s = result.parameters["step"], result.parameters["dual_step"]
    m, D = physics.matrix, result.maps.D

    def T(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        new = D((x.flatten(1) - γ * u @ m).reshape(-1, *SHAPE))
        v = u + s * (2 * new - x).flatten(1) @ m.T
        return new, (v - s * y) / (1 + s)

    def norm(x: Tensor, u: Tensor) -> float:
        return float((x.square().sum() / γ - 2 * ((x.flatten(1) @ m.T) * u).sum() + u.square().sum() / s).sqrt())

    first = ForwardBackward(net(), sigma=0.1).prepare(y, physics).x
    states = [(first, torch.zeros_like(y))]
    for _ in range(400):
        states.append(T(*states[-1]))
    found = [norm(a - c, b - d) for (a, b), (c, d) in itertools.pairwise(states)]
    recorded = result.history.residual
    scale = recorded[0] / found[0]
    gap = max(abs(r / (scale * f) - 1) for r, f in zip(recorded[:50], found[:50], strict=True) if f > 1e-9)
    falls = all(b <= a * (1 + 1e-9) + 1e-12 for a, b in itertools.pairwise(recorded))
    return Outcome(Verdict.TRUE if gap < 1e-6 and falls else Verdict.FALSE_PASS, gap, f"the theorem's norm; monotone: {falls}")


@attack(RATES, new=True)
def rate_of_the_plain_iteration() -> Outcome:
    """The residual under the printed bound, v* from a long run."""
    return under_bound(KrasnoselskiiMann(0.5), lambda k, distance, a: distance / math.sqrt(0.5 * (1 / a - 0.5) * (k + 1)))


@attack(RATES, new=True)
def rate_of_halpern() -> Outcome:
    return under_bound(Halpern(restart=None), lambda k, distance, a: 2 * distance / (k + 1))


def under_bound(scheme: Any, bound: Callable[[int, float, float], float]) -> Outcome:
    physics = Dense(matrix(), SHAPE)
    y = data(physics)
    make = lambda s, tol: ForwardBackward(net(), sigma=0.1, scheme=s, tol=tol)  # noqa: E731
    limit = make(Anderson(), 1e-13).solve(y, physics, max_iter=3000, guarantee="report").x
    result = make(scheme, 0.0).solve(y, physics, max_iter=200, guarantee="report")
    first = make(scheme, 0.0).prepare(y, physics).x
    distance, a = float((first - limit).norm()), float(result.settings["map_averagedness"])
    ratio = max(r / bound(k, distance, a) for k, r in enumerate(result.history.residual))
    return Outcome(Verdict.TRUE if ratio <= 1 + 1e-6 else Verdict.FALSE_PASS, 1.0, ratio)


@attack(RATES, new=True)
def linear_rate_of_a_contraction() -> Outcome:
    physics = Dense(torch.diag(torch.linspace(0.5, 1, 64, dtype=torch.float64)), SHAPE)
    y = data(physics)
    solver = ForwardBackward(net(), sigma=0.1, step=1.0, tol=0.0, data_term=LeastSquares(convexity=0.25))
    limit = solver.solve(y, physics, max_iter=600, guarantee="report").x
    first = solver.prepare(y, physics).x
    xs: list[Tensor] = []
    result = solver.solve(y, physics, max_iter=30, guarantee="report", callback=lambda k, x, r: xs.append(x.clone()))
    distances = [float((x - limit).norm()) for x in (first, *xs)]
    worst_ = max(b / a for a, b in itertools.pairwise(distances) if a > 1e-8)
    false = worst_ > 0.75 * (1 + 1e-6)
    return Outcome(Verdict.FALSE_PASS if false else Verdict.TRUE, result.guarantee.rate, worst_)


@attack(RATES, new=True)
def status_of_a_run_that_stands_still() -> Outcome:
    """Tol 0 is reached by a map that does not move, and by no other."""
    result = solve(denoiser=net(limit=0.0001), y=torch.zeros(1, *SHAPE, dtype=torch.float64))
    return Outcome(
        Verdict.TRUE if result.status in ("converged", "max_iter") else Verdict.FALSE_PASS, result.status, "stands still"
    )


@attack(RATES, new=True)
def guarantee_replaced_in_a_result() -> Outcome:
    """A result is a frozen record: its title follows from its hypotheses, not from a field that is set."""
    result = solve(max_iter=3, denoiser=lambda x, sigma: 2 * x)
    title = dataclasses.replace(result.guarantee, failure=None).title
    return Outcome(Verdict.FALSE_PASS if title == "proved" else Verdict.REFUSED, title, "not proved")
