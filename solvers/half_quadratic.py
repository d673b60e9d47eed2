"""Half-quadratic splitting, the backward-backward iteration."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates import calculus
from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.bounds import FIRM, UNKNOWN, projection_bound, range_in_box
from pnp_lip.solvers.evidence import Evidence
from pnp_lip.solvers.guarantee import Hypothesis
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.solver import Solver, positive_step

__all__ = ["HalfQuadratic"]


@dataclasses.dataclass(frozen=True, eq=False)
class HalfQuadratic(Solver):
    """x ← P_C D(prox_γf(x)).

    prox_γf is firmly nonexpansive for every γ > 0, so with D averaged T is averaged, and x_k converges to a fixed point
    of T if there is one; with a box C there is one. Linear with factor ρ/(1 + γμ) when that is below 1, for D
    ρ-Lipschitz and f μ-strongly convex. The default γ = 1.9/L only sets how strongly the data are trusted. Its fixed points
    are not those of ForwardBackward.

    Arguments and errors are those of ``Solver``; images have shape (B, C, H, W).

    Source: Combettes & Yamada (2015), Proposition 2.5; Geman & Yang (1995) for the splitting.
    """

    theorem: ClassVar[str] = "backward-backward with an averaged denoiser (Combettes & Yamada 2015, Proposition 2.5)"
    equation: ClassVar[str] = "x = P_C D(prox_γf(x))"
    uses_prox: ClassVar[bool] = True

    def update(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        x = v
        x = p.project(p.denoise(p.prox(x)))
        return x, x

    def hypotheses(self, e: Evidence) -> tuple[Hypothesis, ...]:
        return (positive_step(e),)

    def map_bound(self, e: Evidence) -> MapBound:
        if e.denoiser is None:
            return UNKNOWN
        return calculus.compose([FIRM, e.denoiser, *projection_bound(e)])

    def existence(self, e: Evidence) -> str | None:
        return range_in_box(e)

    def contraction(self, e: Evidence) -> float | None:
        if e.denoiser is None:
            return None
        q = calculus.round_up(e.denoiser.lipschitz / (1 + Fraction(e.gamma) * Fraction(e.convexity)))
        return q if q < 1 else None
