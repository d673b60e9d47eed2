"""Douglas-Rachford splitting."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates.calculus import MapBound, round_up
from pnp_lip.solvers.bounds import FIRM
from pnp_lip.solvers.evidence import Evidence
from pnp_lip.solvers.guarantee import Hypothesis
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.solver import Solver, positive_step

__all__ = ["DouglasRachford", "firm_denoiser"]


@dataclasses.dataclass(frozen=True, eq=False)
class DouglasRachford(Solver):
    """x = prox_γf(v), v ← v + D(2x − v) − x.

    T = ½(Id + (2D − Id)(2 prox_γf − Id)) is firmly nonexpansive for every γ > 0 when D is, so v_k converges to a fixed
    point if there is one, and the images to x = D(x − γ∇f(x)): those of ForwardBackward with the same γ. A denoiser
    that is α-averaged with α > 1/2 enters as ``relax(denoiser, theta)``, θ ≤ 1/(2α), or ``firm(denoiser)``. Linear with factor
    (1 + q)/2, q = max |(1 − γs)/(1 + γs)| over s ∈ {μ, L}, when f is μ-strongly convex, μ > 0. The default γ = 1.9/L.

    There is no box: clipping would cost D its firmness; use DavisYin. Over-relaxation: ``scheme=KrasnoselskiiMann(λ)``, λ < 2.
    Arguments and errors are those of ``Solver``; images have shape (B, C, H, W).

    Source: Lions & Mercier (1979); Bauschke & Combettes (2017), Theorem 26.11; Giselsson & Boyd (2017) for the rate.
    """

    theorem: ClassVar[str] = (
        "Douglas-Rachford with a firmly nonexpansive denoiser (Bauschke & Combettes 2017, Thm 26.11)"
    )
    equation: ClassVar[str] = "x = D(x − γ∇f(x))"
    uses_prox: ClassVar[bool] = True
    takes_box: ClassVar[bool] = False

    def update(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        x = p.prox(v)
        z = p.denoise(2 * x - v)
        return v + z - x, z

    def hypotheses(self, e: Evidence) -> tuple[Hypothesis, ...]:
        return (positive_step(e), firm_denoiser(e))

    def map_bound(self, e: Evidence) -> MapBound:
        return FIRM

    def existence(self, e: Evidence) -> str | None:
        if e.denoiser is None or e.denoiser.box is None:
            return None
        return (
            "proved: D(Id − γ∇f) maps the denoiser's range, a box, into itself (Brouwer), and its fixed points give T's"
        )

    def contraction(self, e: Evidence) -> float | None:
        if e.lipschitz is None or e.convexity <= 0 or not firm_denoiser(e).met:
            return None
        steps = [Fraction(e.gamma) * Fraction(s) for s in (e.convexity, e.lipschitz)]
        q = max(abs((1 - s) / (1 + s)) for s in steps)
        return round_up((1 + q) / 2) if q < 1 else None


def firm_denoiser(e: Evidence) -> Hypothesis:
    """D is firmly nonexpansive: α ≤ 1/2."""
    name, bound = "averagedness α of the denoiser", "be at most 1/2, that is D firmly nonexpansive"
    if e.alpha is None:
        return Hypothesis(name, "unknown", bound, False)
    theta = int(5000 / max(float(e.alpha), 0.5)) / 10000  # 1/(2α), rounded down
    advice = f"Pass relax(denoiser, {theta:g}) or firm(denoiser) as the denoiser."
    return Hypothesis(name, round_up(e.alpha), bound, e.alpha <= Fraction(1, 2), advice)
