"""Reconstructing again with a prior that knows the first reconstruction."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from pnp_lip.denoisers import GUIDE_SIGMA_FACTOR, guided, require_guidance
from pnp_lip.denoisers.gradient_flow_denoiser import noise_level
from pnp_lip.errors import InputError
from pnp_lip.solvers.annealing import ANNEALING, anneal_result, check_annealer
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.solver import Solver

__all__ = ["denoise_guided", "refine"]


def refine(
    solver: Solver,
    y: Tensor,
    physics: Any,
    *,
    rounds: int = 1,
    sigma: float | Tensor | None = None,
    annealer: Any = None,
    anneal: int = ANNEALING,
    x0: Tensor | None = None,
    reference: Tensor | None = None,
    progress: bool = False,
) -> tuple[Result, ...]:
    """Solve, then solve ``rounds`` times more with the denoiser guided by the result before; the last is the best.

    x⁰ = fix T, xᵏ = fix T_k, T_k the solver's map with D_g in the place of D, g = xᵏ⁻¹ or ``annealed(xᵏ⁻¹)``

    Each T_k is nonexpansive in x with g held fixed and each run carries a guarantee of its own, under the same theorem and
    with the same numbers as the first. Of the limit of many rounds nothing is claimed, nor is anything of x¹ as a function
    of y: g depends on the data. The first round gains most; a second gains where σ is well chosen, and loses where it is
    too small (docs/training.md).

    Parameters as in ``Solver.solve``; ``rounds`` ≥ 0; ``sigma`` the noise level that the guided denoiser is told, by default
    the solver's: deblurring needs no other, in tomography, where the first solution is noisy, three times as much is better;
    ``annealer``, a denoiser with a guide network that looks at the data, such as ``load_pretrained("annealer")``, improves each
    guide in ``anneal`` ≥ 0 steps of half-quadratic splitting with the solver's own noise level, or that which the misfit shows
    if it is higher; meant for blurs (what it gives and where it loses: docs/training.md). Returns the results of all rounds in
    order, their number rounds + 1. Raises what ``solve`` raises, InputError for a denoiser without guidance and for an
    annealer without such a network or of other channels, dtype or device, and ShapeError for a ``sigma`` of another batch,
    before anything runs.

    Source: Pourya, Neumayer & Unser (2024).
    """
    if rounds < 0:
        raise InputError(f"`rounds` counts the solutions after the first and is >= 0; got {rounds}.")
    if rounds:
        require_guidance(solver.denoiser)
        if annealer is not None:
            check_annealer(annealer, solver, y, anneal)
    if sigma is not None:
        noise_level(sigma, len(y))
    later = solver if sigma is None else dataclasses.replace(solver, sigma=sigma)
    results = [solver.solve(y, physics, x0=x0, reference=reference, progress=progress)]
    for _ in range(rounds):
        g = results[-1].x
        if annealer is not None:
            g = anneal_result(annealer, solver, results[-1], y, physics, anneal)
        again = dataclasses.replace(later, denoiser=guided(solver.denoiser, g))
        results.append(again.solve(y, physics, x0=g, reference=reference, progress=progress))
    return tuple(results)


@torch.no_grad()
def denoise_guided(denoiser: Any, y: Tensor, sigma: float) -> Tensor:
    """D_g(y, σ) of noisy images y (B, C, H, W), g = D(y, 1.1 σ)."""
    require_guidance(denoiser)
    x_hat: Tensor = guided(denoiser, denoiser(y, GUIDE_SIGMA_FACTOR * sigma))(y, sigma)
    return x_hat
