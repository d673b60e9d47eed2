"""Regularisation by denoising, in proximal form."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates import calculus
from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.bounds import FIRM, UNKNOWN, forward_step, projection_bound
from pnp_lip.solvers.evidence import Evidence
from pnp_lip.solvers.guarantee import Hypothesis
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.red import RED
from pnp_lip.solvers.solver import step_below_limit

__all__ = ["ProximalRED"]


@dataclasses.dataclass(frozen=True, eq=False)
class ProximalRED(RED):
    """x ← P_C prox_γf(x − γλ(x − D(x))).

    Without a box its fixed points are the zeros of ∇f + λ(Id − D), those of RED. For D α-averaged (α = 1: nonexpansive
    is enough) λ(Id − D) is 1/(2αλ)-cocoercive, so 0 < γ < 1/(αλ) makes T averaged. A box is projected on after the
    prox, which gives T a fixed point, though not in general RED's. Linear with factor (|1 − γλ| + γλρ)/(1 + γμ) when below 1.
    The default γ = 0.95/(max(α, ½) λ).

    Arguments and errors are those of ``RED``; images have shape (B, C, H, W).

    Source: Reehorst & Schniter (2019); Bauschke & Combettes (2017), Theorem 26.14.
    """

    theorem: ClassVar[str] = "proximal RED with a nonexpansive denoiser (Bauschke & Combettes 2017, Theorem 26.14)"
    equation: ClassVar[str] = "x = P_C prox_γf(x − γλ(x − D(x)))"
    uses_prox: ClassVar[bool] = True

    def update(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        x = v
        x = p.project(p.prox(x - p.gamma * p.weight * (x - p.denoise(x))))
        return x, x

    def derived_step(self, e: Evidence) -> float:
        return 0.95 / (max(float(e.alpha or 1), 0.5) * e.weight)

    def curvature(self, e: Evidence) -> Fraction | None:
        """2αλ."""
        return None if e.alpha is None else 2 * e.alpha * Fraction(e.weight)

    def hypotheses(self, e: Evidence) -> tuple[Hypothesis, ...]:
        return (step_below_limit(e, "1/(αλ)", self.curvature(e)),)

    def map_bound(self, e: Evidence) -> MapBound:
        k = self.curvature(e)
        if k is None:
            return UNKNOWN
        forward = forward_step(Fraction(e.gamma) * k)
        return calculus.compose([forward, FIRM, *projection_bound(e)])

    def contraction(self, e: Evidence) -> float | None:
        if e.denoiser is None:
            return None
        g, w = Fraction(e.gamma), Fraction(e.weight)
        forward = abs(1 - g * w) + g * w * e.denoiser.lipschitz
        q = calculus.round_up(forward / (1 + g * Fraction(e.convexity)))
        return q if q < 1 else None
