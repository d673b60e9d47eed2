"""Better guides: a few steps of a splitting method whose noise level falls, with a network of which nothing is proved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pnp_lip.denoisers import GradientFlowDenoiser, innermost
from pnp_lip.errors import InputError
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares, UserFidelity
from pnp_lip.solvers.problem import Box

__all__ = ["ANNEALING", "anneal_result", "annealed", "check_annealer"]

ANNEALING = 8  # steps; four gain four fifths as much, sixteen hardly more
STRONGER = 2**0.5  # than the solution's noise level: a little below its best one annealing takes noise for structure
LEAST = 2**-1.5  # σ in units of √γ times the misfit, which tells of the noise; s = ½ in them is above where that begins
HIGHEST = 15 / 255  # the first noise level; a solution is not noisier than that


@torch.no_grad()
def annealed(
    denoiser: Any,
    x: Tensor,
    y: Tensor,
    physics: Any,
    *,
    sigma: float | Tensor,
    step: float,
    data_term: DataTerm,
    steps: int,
    box: Box = None,
) -> Tensor:
    """x after ``steps`` steps of half-quadratic splitting with what a guide network makes of noisy images.

    x ← E(prox_{γr²f}(x), rs), E(v, σ) = U(D(v, 1.1 σ), σ, v − D(v, 1.1 σ)), s = √2 σ, r from max(1, 15/(255 s)) down to 1 in
    equal ratios, γ the ``step``

    At r = 1 data and prior are balanced as at a fixed point of x ↦ D(x − γ∇f(x), s). E is not nonexpansive and nothing is
    proved: the steps are counted beforehand, and the result is a guide, whatever it is (``refine``). Without noise, σ = 0,
    the steps are proximal ones. ``sigma`` is a number or one for each image. Raises what ``require_estimate`` and the data
    term raise.

    Source: Zhang, Li, Zuo, Zhang, Van Gool & Timofte (2022), "Plug-and-play image restoration with deep denoiser prior"; here
    the denoiser begins with a certified one.
    """
    levels = torch.as_tensor(sigma).reshape(-1)
    if len(levels) > 1:  # each image has a schedule of its own
        parts = [
            annealed(
                denoiser, x[i : i + 1], y[i : i + 1], physics, sigma=level, step=step,
                data_term=data_term.part([i], y), steps=steps, box=box,
            )
            for i, level in enumerate(levels)
        ]  # fmt: skip
        return torch.cat(parts)
    s = STRONGER * levels
    highest = max(1.0, HIGHEST / float(s)) if s else 1.0
    for k in reversed(range(steps)):
        ratio = highest ** (k / max(steps - 1, 1))
        x = denoiser(data_term.prox(x, y, physics, step * ratio**2), ratio * s)
        x = x if box is None else x.clamp(*box)
    return x


def anneal_result(annealer: Any, solver: Any, result: Any, y: Tensor, physics: Any, steps: int) -> Tensor:
    """A ``Result``'s image annealed with the balance of data and prior that the solver strikes.

    With least squares it is told at least ½ √γ ‖y − Ax‖/√m, m numbers y: the noise level as x shows it, however weak the prior
    (that of the noisiest image where one σ is told for all).
    At a fixed point with a relaxed denoiser, (1 − θ) Id + θ D, the prior weighs as at a step of γ/θ; at a zero of
    ∇f + λ(Id − D) as at a step of 1/λ. It is that of a first solution: a guided one is best at a smaller σ, at which annealing
    takes noise for structure.
    """
    used, inner = result.settings, solver.denoiser
    step = 1 / used["weight"] if used["weight"] else used["step"]
    while not isinstance(inner, GradientFlowDenoiser):
        step /= float(getattr(inner, "theta", 1))
        inner = inner.denoiser
    sigma = inner.default_sigma if solver.sigma is None else solver.sigma
    term, box = solver.data_term, solver.box
    if isinstance(term, LeastSquares):
        misfit = (y - physics.A(result.x)).flatten(1).square().mean(1).sqrt()
        told = torch.as_tensor(sigma).to(misfit).reshape(-1)
        # One level for all stays one: a physics may hold something for each image, and then a batch is not taken apart.
        least = LEAST * step**0.5 * (misfit if len(told) > 1 else misfit.max())
        sigma = told.maximum(least)
    return annealed(annealer, result.x, y, physics, sigma=sigma, step=step, data_term=term, steps=steps, box=box)


def check_annealer(annealer: Any, solver: Any, y: Tensor, steps: int) -> None:
    """Raise InputError unless ``anneal_result`` will take the annealer with this solver and these data."""
    if not isinstance(steps, int) or steps < 0:
        raise InputError(f"`anneal` counts the steps that improve a guide and is an integer >= 0; got {steps}.")
    own, like = annealer, innermost(solver.denoiser)
    if own.in_channels != like.in_channels:
        raise InputError(f"the annealer takes {own.in_channels} channels, and the denoiser {like.in_channels}.")
    weight = next(own.parameters())
    if (weight.dtype, weight.device) != (y.dtype, y.device):
        raise InputError(
            f"the annealer is of {weight.dtype} on {weight.device}, and the data of {y.dtype} on {y.device}: annealer.to(y)."
        )
    if isinstance(solver.data_term, UserFidelity):
        raise InputError(
            "annealing needs the data term's proximal map, which UserFidelity has not; leave the annealer out."
        )
