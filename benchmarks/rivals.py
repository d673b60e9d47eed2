"""Rivals as their authors run them: DPIR's half-quadratic steps, BM3D's deblurring, solved total variation, back-projection."""

import contextlib
import functools
import importlib
import importlib.util
import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.problem import Budget, Observation, Outcome
from pnp_lip.errors import InputError
from pnp_lip.operators import Blur, certify_norm
from pnp_lip.operators.tomography import SymmetricTomography
from pnp_lip.protocols import DenoiserLike

__all__ = ["FILTERS", "STEPS", "back_projection", "bm3d", "bm3d_deblurring", "half_quadratic_steps", "schedule", "variation"]

STEPS, FIRST_LEVEL, LAMBDA = 8, 49 / 255, 0.23  # of DPIR
FILTERS = ("ramp", "shepp-logan", "hann")  # of filtered back-projection, from sharp to smooth
SECOND_ORDER = 2.0  # the weight of the second order in total generalised variation, in units of the first


def schedule(sigma: float) -> list[float]:
    """DPIR's noise levels, evenly spaced in logarithms, from 49/255 to ``sigma``.

    >>> [round(255 * level) for level in schedule(0.01)]
    [49, 32, 21, 14, 9, 6, 4, 3]
    """
    return [float(level) for level in np.geomspace(FIRST_LEVEL, sigma, STEPS)]


def half_quadratic_steps(
    denoiser: DenoiserLike, seen: Observation, strength: float, tol: float, budget: Budget, before: Outcome | None
) -> Outcome:
    """DPIR's eight steps z = argmin ‖Ax − y‖²/(2ν²) + λ‖x − x_k‖²/(2σ_k²), x_{k+1} = D(z, σ_k), ν the noise level.

    λ = 0.23; σ_k falls from 49/255 to √``strength``·ν, and strength 1 is the authors' own. Before each step but the first the
    image is turned or mirrored, and back after it. Nothing is proved; the noise levels end the run.

    Source: Zhang, Li, Zuo, Zhang, Van Gool & Timofte (2021), Section 4.2.
    """
    physics, y = seen.physics, seen.y
    x = y
    if isinstance(physics, SymmetricTomography):
        x = physics.fbp(y)
    elif physics is not None and y.shape != seen.x.shape:
        x = physics.A_adjoint(y)
    prox = getattr(physics, "prox_l2", None)
    if prox is None:
        raise InputError("half-quadratic steps need a forward model with `prox_l2`.")
    with torch.no_grad():
        for k, sigma in enumerate(schedule(math.sqrt(strength) * seen.noise)):
            z = prox(x, y, sigma**2 / (LAMBDA * seen.noise**2))
            x = turned(denoiser(turned(z, k), sigma), -k)
            budget(k, x, (math.nan,))
    return Outcome(x, "finished", STEPS, f"none: ends after {STEPS} steps")


def turned(x: Tensor, k: int) -> Tensor:
    """One of the eight symmetries of the square, 0 ≤ k < 8, and for −k its inverse.

    >>> x = torch.arange(6.0).reshape(1, 1, 2, 3)
    >>> all(torch.equal(turned(turned(x, k), -k), x) for k in range(8))
    True
    """
    mirrored = abs(k) >= 4
    if k < 0:
        return torch.rot90(x.flip(-1) if mirrored else x, k, (-2, -1))
    x = torch.rot90(x, k, (-2, -1))
    return x.flip(-1) if mirrored else x


def require(package: str) -> None:
    """Raise InputError when an optional package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"the package {package} is not installed")


def run_bm3d(name: str, *arguments: object) -> np.ndarray:
    """A function of the package bm3d, whose version 4 calls np.trapz, a name that numpy 2.4 took away."""
    with contextlib.nullcontext() if hasattr(np, "trapz") else mock.patch.object(np, "trapz", np.trapezoid, create=True):
        return np.asarray(getattr(importlib.import_module("bm3d"), name)(*arguments))


def bm3d() -> DenoiserLike:
    """BM3D (x, σ) ↦ x of the package bm3d, whose licence allows non-commercial use; InputError without it."""
    require("bm3d")

    def denoise(x: Tensor, sigma: float | Tensor | None) -> Tensor:
        if sigma is None:
            raise InputError("BM3D needs a noise level; pass `sigma`.")
        images = [run_bm3d("bm3d_rgb" if len(image) == 3 else "bm3d", pixels_last(image), float(sigma)) for image in x]
        return torch.stack([torch.from_numpy(z.reshape(pixels_last(x[0]).shape)).permute(2, 0, 1) for z in images]).to(x)

    return denoise


def pixels_last(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.double().permute(1, 2, 0).numpy())


def bm3d_deblurring(seen: Observation, strength: float, tol: float, budget: Budget, before: Outcome | None) -> Outcome:
    """BM3D's own deblurring, regularised inversion and two passes, at the noise level √``strength``·ν; grey, circular borders."""
    physics = seen.physics
    if not isinstance(physics, Blur) or physics.padding != "circular" or seen.y.shape[:2] != (1, 1):
        raise InputError("BM3D deblurs one grey image with circular borders; other problems are left out.")
    psf = physics.psf[0].double().numpy()
    found = run_bm3d("bm3d_deblurring", pixels_last(seen.y[0]), math.sqrt(strength) * seen.noise, psf)
    x = torch.from_numpy(found.reshape(seen.x.shape[-2:]))[None, None].to(seen.y)
    return Outcome(x, "finished", 2, "none: ends after two passes")


def back_projection(seen: Observation, strength: float, tol: float, budget: Budget, before: Outcome | None) -> Outcome:
    """Filtered back-projection; the strength is the number of the filter."""
    if not isinstance(seen.physics, SymmetricTomography):
        raise InputError("filtered back-projection is for tomography.")
    return Outcome(seen.physics.fbp(seen.y, filter=FILTERS[int(strength)]), "finished", 1, "none: one pass")


def differences(x: Tensor) -> Tensor:
    """∇x, to the right and downwards, zero beyond the last column and row: (B, C, H, W) to (B, 2, C, H, W)."""
    found = x.new_zeros((len(x), 2, *x.shape[1:]))
    torch.sub(x[..., 1:], x[..., :-1], out=found[:, 0, ..., :-1])
    torch.sub(x[..., 1:, :], x[..., :-1, :], out=found[:, 1, ..., :-1, :])
    return found


def adjoint(p: Tensor) -> Tensor:
    """∇ᵀp."""
    x = -p.sum(1)
    x[..., -1] += p[:, 0, ..., -1]
    x[..., -1, :] += p[:, 1, ..., -1, :]
    x[..., 1:] += p[:, 0, ..., :-1]
    x[..., 1:, :] += p[:, 1, ..., :-1, :]
    return x


def first_order(u: Tensor) -> Tensor:
    """K of total variation: u is the image, (B, 1, C, H, W)."""
    return differences(u[:, 0])


def first_order_adjoint(z: Tensor) -> Tensor:
    return adjoint(z)[:, None]


def second_order(u: Tensor) -> Tensor:
    """K of total generalised variation: u holds the image and a field v; K u = (∇x − v, the symmetric derivative of v).

    The derivative of v is −∇ᵀ, column by column, with its mixed entries averaged: (B, 6, C, H, W), the mixed one twice, each
    with the weight √½.
    """
    x, v = u[:, 0], u[:, 1:]
    a, b = backward(v[:, 0]), backward(v[:, 1])
    mixed = (a[:, 1] + b[:, 0]) * 0.5
    return torch.stack([*(differences(x) - v).unbind(1), a[:, 0], b[:, 1], mixed, mixed], 1)


def second_order_adjoint(z: Tensor) -> Tensor:
    p, mixed = z[:, :2], 0.5 * (z[:, 4] + z[:, 5])
    a, b = torch.stack([z[:, 2], mixed], 1), torch.stack([mixed, z[:, 3]], 1)
    return torch.stack([adjoint(p), backward_adjoint(a) - p[:, 0], backward_adjoint(b) - p[:, 1]], 1)


def backward(x: Tensor) -> Tensor:
    """Differences to the left and upwards, zero before the first column and row."""
    found = x.new_zeros((len(x), 2, *x.shape[1:]))
    torch.sub(x[..., 1:], x[..., :-1], out=found[:, 0, ..., 1:])
    torch.sub(x[..., 1:, :], x[..., :-1, :], out=found[:, 1, ..., 1:, :])
    return found


def backward_adjoint(p: Tensor) -> Tensor:
    return adjoint(torch.stack([p[:, 0].roll(-1, -1), p[:, 1].roll(-1, -2)], 1) * border(p))


@functools.cache
def border_of(height: int, width: int) -> Tensor:
    """1, but 0 in the last column for the first field and in the last row for the second."""
    mask = torch.ones(1, 2, 1, height, width)
    mask[:, 0, ..., -1], mask[:, 1, ..., -1, :] = 0, 0
    return mask


def border(p: Tensor) -> Tensor:
    return border_of(p.shape[-2], p.shape[-1]).to(p)


Operator = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], float, float]
# K; Kᵀ; a bound of ‖K‖²: ‖∇‖² ≤ 8, with the field the norm of ((√8, 1), (0, √8)) squared, which is below 11.4; and the dual step
# in units of the weight, as the dual solution is as large as the weight. A third or three times as much takes up to three times
# as many iterations to 1e-3 (``camera``, 48², denoising and deblurring).
ORDERS: dict[int, Operator] = {
    1: (first_order, first_order_adjoint, 8.0, 12.0),
    2: (second_order, second_order_adjoint, 11.4, 30.0),
}


def clip(z: Tensor, weight: float) -> Tensor:
    """Each pixel's derivative of one order, over all channels, shortened to the weight of its order."""
    parts = (z[:, :2], z[:, 2:])
    limits = (weight, SECOND_ORDER * weight)
    shorter = [p / (p.square().sum((1, 2), keepdim=True).sqrt_() / w).clamp_(min=1) for p, w in zip(parts, limits, strict=True)]
    return torch.cat(shorter, 1)


def variation(order: int, seen: Observation, strength: float, tol: float, budget: Budget, before: Outcome | None) -> Outcome:
    """argmin ½‖Ax − y‖² + w TV(x) on [0, 1], w = ``strength``·ν, ν the noise level; of second order with TGV in TV's place.

    u⁺ = P(u − τ(∇f(u) + Kᵀz)), z⁺ = clip(z + s K(2u⁺ − u)), 1/τ − s‖K‖² ≥ L/2: it converges to a minimiser. It ends where
    the step, in the norm √(‖u‖²/τ + ‖z‖²/s), is at most ``tol`` of (u, z).

    Source: Condat (2013), Theorem 3.1; Bredies, Kunisch & Pock (2010) for the second order.
    """
    forward, backward, norm, dual_step = ORDERS[order]
    physics, y, weight = seen.physics, seen.y, strength * seen.noise
    L = 1.0 if physics is None else certify_norm(physics).upper ** 2
    s = dual_step * weight
    τ = 0.999 / (L / 2 + s * norm)
    if before is not None and before.state is not None:
        fields = 1 if order == 1 else 3
        u, z = before.state[:, :fields], before.state[:, fields:]
    else:
        x = y if physics is None else physics.A_adjoint(y)
        u = torch.cat([x[:, None], x.new_zeros((len(x), 0 if order == 1 else 2, *x.shape[1:]))], 1)
        z = torch.zeros_like(forward(u))
    status = "max_iter"
    for k in range(budget.max_iter):
        new = u - τ * backward(z)
        x = u[:, 0]
        new[:, 0] -= τ * (x - y if physics is None else physics.A_adjoint(physics.A(x) - y))
        new[:, 0].clamp_(0, 1)
        dual = clip(z + s * forward(2 * new - u), weight)
        step = float((new - u).norm()) ** 2 / τ + float((dual - z).norm()) ** 2 / s
        size = float(new.norm()) ** 2 / τ + float(dual.norm()) ** 2 / s
        u, z = new, dual
        budget(k, u[:, 0], (math.sqrt(step / size) if size else 0.0,))
        if step <= tol**2 * size:
            status = "converged"
            break
    state = torch.cat([u, z], 1)
    return Outcome(u[:, 0], status, budget.iterations, "global minimiser, proved", state=state)
