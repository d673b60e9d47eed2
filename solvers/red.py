"""Regularisation by denoising, by gradient descent."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates import calculus
from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import InputError
from pnp_lip.solvers.bounds import UNKNOWN, forward_step, projection_bound, range_in_box
from pnp_lip.solvers.evidence import Evidence
from pnp_lip.solvers.guarantee import Hypothesis
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.solver import Solver, step_below_limit

__all__ = ["RED"]


@dataclasses.dataclass(frozen=True, eq=False)
class RED(Solver):
    """x ← P_C(x − γ(∇f(x) + λ(x − D(x)))).

    For D α-averaged (α = 1: nonexpansive is enough) ∇f + λ(Id − D) is 1/(L + 2αλ)-cocoercive, so with
    0 < γ < 2/(L + 2αλ) T is averaged, and x_k converges to a zero of ∇f + λ(Id − D) (with a box: to a solution of its
    variational inequality over C, which exists) if there is one. Linear with factor
    max(|1 − γλ − γμ|, |1 − γλ − γL|) + γλρ when that is below 1, for D ρ-Lipschitz and f μ-strongly convex.

    ``weight`` λ > 0, by default L/1.9, the strength of ForwardBackward's default step; γ by default 1.9/(L + 2αλ). The
    zeros do not depend on γ. There is an objective only when Id − D is a gradient, which a composition of layers is not.

    Other arguments and errors are those of ``Solver``; images have shape (B, C, H, W).

    Source: Romano, Elad & Milanfar (2017); Bauschke & Combettes (2017), Propositions 4.12 and 26.1.
    """

    weight: float | None = None
    theorem: ClassVar[str] = "RED with a nonexpansive denoiser (cocoercivity; Bauschke & Combettes 2017, Thm 26.14)"
    equation: ClassVar[str] = "0 ∈ N_C(x) + ∇f(x) + λ(x − D(x))"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise InputError(f"`weight` must be positive and finite; got {self.weight}. Pass None to derive it.")

    def update(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        x = v
        x = p.project(x - p.gamma * (p.gradient(x) + p.weight * (x - p.denoise(x))))
        return x, x

    def derived_weight(self, e: Evidence) -> float:
        return e.scale / 1.9 if self.weight is None else self.weight

    def derived_step(self, e: Evidence) -> float:
        return 1.9 / (e.scale + 2 * float(e.alpha or 1) * e.weight)

    def curvature(self, e: Evidence) -> Fraction | None:
        """L + 2αλ."""
        if e.lipschitz is None or e.alpha is None:
            return None
        return Fraction(e.lipschitz) + 2 * e.alpha * Fraction(e.weight)

    def hypotheses(self, e: Evidence) -> tuple[Hypothesis, ...]:
        return (step_below_limit(e, "2/(L + 2αλ)", self.curvature(e)),)

    def map_bound(self, e: Evidence) -> MapBound:
        k = self.curvature(e)
        if k is None:
            return UNKNOWN
        return calculus.compose([forward_step(Fraction(e.gamma) * k), *projection_bound(e)])

    def existence(self, e: Evidence) -> str | None:
        return range_in_box(e, denoised=False)

    def contraction(self, e: Evidence) -> float | None:
        if e.denoiser is None or e.lipschitz is None:
            return None
        g, w = Fraction(e.gamma), Fraction(e.weight)
        ends = [abs(1 - g * w - g * Fraction(s)) for s in (e.convexity, e.lipschitz)]
        q = calculus.round_up(max(ends) + g * w * e.denoiser.lipschitz)
        return q if q < 1 else None
