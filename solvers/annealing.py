"""Better guides: a few steps of a splitting method whose noise level falls, with a network of which nothing is proved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pnp_lip.denoisers import estimate
from pnp_lip.denoisers.guided_denoiser import innermost
from pnp_lip.solvers.data_terms import DataTerm
from pnp_lip.solvers.problem import Box

__all__ = ["ANNEALING", "anneal_result", "annealed"]

ANNEALING = 8  # steps; with four it gains two thirds as much, with sixteen hardly more
STRONGER = 2**0.5  # than the solution's noise level: a little below its best one annealing takes noise for structure
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

    x ← E(prox_{γr²f}(x), rs), E(v, σ) = U(D(v, 1.1 σ), σ, v − D(v, 1.1 σ)), s = √2 σ, r from 15/(255 s) down to 1 in equal
    ratios, γ the ``step``

    At r = 1 data and prior are balanced as at a fixed point of x ↦ D(x − γ∇f(x), s). E is not nonexpansive and nothing is
    proved: the steps are counted beforehand, and the result is a guide, whatever it is (``refine``). Raises what
    ``require_estimate`` and the data term raise.

    Source: Zhang, Li, Zuo, Zhang, Van Gool & Timofte (2022), "Plug-and-play image restoration with deep denoiser prior"; here
    the denoiser begins with a certified one.
    """
    s = STRONGER * torch.as_tensor(sigma)
    most = float(s.max())
    highest = max(1.0, HIGHEST / most) if most else 1.0
    for k in reversed(range(steps)):
        ratio = highest ** (k / max(steps - 1, 1))
        x = estimate(denoiser, data_term.prox(x, y, physics, step * ratio**2), ratio * s)
        x = x if box is None else x.clamp(*box)
    return x


def anneal_result(annealer: Any, solver: Any, result: Any, y: Tensor, physics: Any, steps: int) -> Tensor:
    """A ``Result``'s image annealed with the balance of data and prior that the solver strikes.

    That of a first solution: a guided one is best at a smaller σ, at which annealing takes noise for structure.
    """
    used = result.settings  # at a zero of ∇f + λ(Id − D) the prior weighs as at a step of 1/λ
    step = 1 / used["weight"] if used["weight"] else used["step"]
    sigma = innermost(solver.denoiser).default_sigma if solver.sigma is None else solver.sigma
    term, box = solver.data_term, solver.box
    return annealed(annealer, result.x, y, physics, sigma=sigma, step=step, data_term=term, steps=steps, box=box)
