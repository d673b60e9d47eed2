"""Solve, then solve again with a prior that knows the first reconstruction."""

import dataclasses
from typing import Protocol, cast

from torch import Tensor, nn

from pnp_lip.denoisers import guided, require_guidance
from pnp_lip.denoisers.gradient_flow_denoiser import noise_level
from pnp_lip.errors import InputError
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.solver import Solver

__all__ = ["refine"]


class Solve(Protocol):
    """How each of the solutions is found: ``Solver.solve``, or a search that solves several times."""

    def __call__(self, solver: Solver, y: Tensor, physics: PhysicsLike, /, *, x0: Tensor | None) -> Result:
        """The result of ``solver`` for these data."""


def refine(
    solver: Solver,
    y: Tensor,
    physics: PhysicsLike,
    rounds: int = 1,
    *,
    sigma: float | Tensor | None = None,
    x0: Tensor | None = None,
    solve: Solve = Solver.solve,
) -> tuple[Result, ...]:
    """Solve, then solve ``rounds`` times more with the denoiser guided by the result before; the last is the best.

    x⁰ = fix T, xᵏ = fix T_k, T_k the solver's map with D_g in the place of D, g = xᵏ⁻¹

    Each T_k is nonexpansive in x with g held fixed, so that each run converges, under the same theorem and with the same
    numbers as the first. Of the limit of many rounds nothing is claimed, nor of x¹ as a function of y: g depends on the data.

    ``rounds`` ≥ 0; ``sigma`` is the noise level that the guided denoiser assumes, by default the solver's; ``x0`` the start of
    the first solution; each solution is found by ``solve(solver, y, physics, x0=...)``, for instance
    ``functools.partial(Solver.solve, max_iter=300)``.

    Returns the results of all rounds in order, their number rounds + 1. Raises what ``solve`` raises, and before anything
    runs InputError for a denoiser without guidance, ShapeError for a ``sigma`` of another batch.

    Source: Pourya, Neumayer & Unser (2024).
    """
    if rounds < 0:
        raise InputError(f"`rounds` counts the solutions after the first and is >= 0; got {rounds}.")
    if rounds:
        require_guidance(solver.denoiser)
    if sigma is not None:
        noise_level(sigma, len(y))
    later = solver if sigma is None else dataclasses.replace(solver, sigma=sigma)
    results = [solve(solver, y, physics, x0=x0)]
    for _ in range(rounds):
        guide = results[-1].x
        again = dataclasses.replace(later, denoiser=guided(cast(nn.Module, solver.denoiser), guide))
        results.append(solve(again, y, physics, x0=guide))
    return tuple(results)
