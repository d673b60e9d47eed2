"""Davis-Yin three-operator splitting: a box constraint beside the denoiser, without touching its firmness."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.bounds import UNKNOWN
from pnp_lip.solvers.douglas_rachford import firm_denoiser
from pnp_lip.solvers.evidence import Evidence
from pnp_lip.solvers.guarantee import Hypothesis
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.solver import Solver, step_below_limit

__all__ = ["DavisYin"]


@dataclasses.dataclass(frozen=True, eq=False)
class DavisYin(Solver):
    """x = P_C(v), v ← v + D(2x − v − γ∇f(x)) − x.

    With D firmly nonexpansive, hence the resolvent of a maximally monotone M, and 0 < γ < 2/L, T is a-averaged with
    a = 2/(4 − γL), and v_k converges to a fixed point if there is one; its image solves 0 ∈ N_C(x) + γ∇f(x) + M(x).
    There is one when C is bounded and D maps some image into the interior of C (checked at the constant image in the middle):
    then N_C + γ∇f + M is maximally monotone with a bounded domain, hence onto. The default γ = 1.9/L; box (0, 1).

    Arguments and errors are those of ``Solver``; images have shape (B, C, H, W).

    Source: Davis & Yin (2017), Theorem 2.1 and Proposition 2.1; Rockafellar (1970) for the sum.
    """

    box: tuple[float, float] | None = (0.0, 1.0)
    theorem: ClassVar[str] = "Davis-Yin with a firmly nonexpansive denoiser (Davis & Yin 2017, Theorem 2.1)"
    equation: ClassVar[str] = "0 ∈ N_C(x) + γ∇f(x) + M(x), D = (Id + M)⁻¹"

    def update(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        x = p.project(v)
        z = p.denoise(2 * x - v - p.gamma * p.gradient(x))
        return v + z - x, x

    def hypotheses(self, e: Evidence) -> tuple[Hypothesis, ...]:
        return (step_below_limit(e), firm_denoiser(e))

    def map_bound(self, e: Evidence) -> MapBound:
        if e.lipschitz is None or Fraction(e.gamma) * Fraction(e.lipschitz) >= 2:
            return UNKNOWN
        return MapBound(Fraction(1), 2 / (4 - Fraction(e.gamma) * Fraction(e.lipschitz)))

    def look(self, e: Evidence, p: Problem, x: Tensor) -> Evidence:
        if self.box is None:
            return e
        low, high = self.box
        image = p.denoise(torch.full_like(x, 0.5 * (low + high)))
        return dataclasses.replace(e, inside=bool(((image > low) & (image < high)).all()))

    def existence(self, e: Evidence) -> str | None:
        return "proved: C is bounded and D maps an image into its interior (Rockafellar 1970)" if e.inside else None
