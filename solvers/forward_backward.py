"""Forward-backward splitting, also known as proximal gradient descent with the denoiser in the place of the prox."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates import calculus
from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.bounds import UNKNOWN, forward_step, projection_bound, range_in_box
from pnp_lip.solvers.evidence import Evidence
from pnp_lip.solvers.guarantee import Hypothesis
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.solver import Solver, step_below_limit

__all__ = ["ForwardBackward"]


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardBackward(Solver):
    """x ← P_C D(x − γ∇f(x)).

    With D averaged and 0 < γ < 2/L, L ≥ ‖A‖² an upper bound, T = P_C D(Id − γ∇f) is averaged, so that x_k converges to a
    fixed point of T if there is one; with a box C there is one (Browder, Göhde, Kirk 1965). A D that is only nonexpansive
    needs ``scheme=KrasnoselskiiMann(0.5)`` or ``Halpern()``. Linear with factor ρ max(|1 − γμ|, |1 − γL|) when that is
    below 1, for D ρ-Lipschitz and f μ-strongly convex. The default γ = 1.9/L; the fixed points depend on γ.

    Arguments and errors are those of ``Solver``; images have shape (B, C, H, W).

    Source: Combettes & Yamada (2015), Propositions 2.4 and 2.5; Bauschke & Combettes (2017), Theorem 26.14.
    """

    theorem: ClassVar[str] = "forward-backward with an averaged denoiser (Combettes & Yamada 2015, Proposition 2.5)"
    equation: ClassVar[str] = "x = P_C D(x − γ∇f(x))"

    def update(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        x = v
        x = p.project(p.denoise(x - p.gamma * p.gradient(x)))
        return x, x

    def hypotheses(self, e: Evidence) -> tuple[Hypothesis, ...]:
        return (step_below_limit(e),)

    def map_bound(self, e: Evidence) -> MapBound:
        if e.denoiser is None or e.lipschitz is None:
            return UNKNOWN
        step = forward_step(Fraction(e.gamma) * Fraction(e.lipschitz))
        return calculus.compose([step, e.denoiser, *projection_bound(e)])

    def existence(self, e: Evidence) -> str | None:
        return range_in_box(e)

    def contraction(self, e: Evidence) -> float | None:
        if e.denoiser is None or e.lipschitz is None:
            return None
        g = Fraction(e.gamma)
        step = max(abs(1 - g * Fraction(e.convexity)), abs(1 - g * Fraction(e.lipschitz)))
        q = calculus.round_up(e.denoiser.lipschitz * step)
        return q if q < 1 else None

    def minimises(self, e: Evidence) -> bool:
        proximal = e.denoiser is not None and e.denoiser.proximal and e.box is None
        return proximal and e.lipschitz is not None and Fraction(e.gamma) * Fraction(e.lipschitz) <= 1
