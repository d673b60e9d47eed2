"""Douglas-Rachford splitting."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.hypothesis import positive
from pnp_lip.solvers.iteration import Iteration, unproved
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import Solver

__all__ = ["DouglasRachford", "solves_forward_backward"]


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

    theorem: ClassVar[str] = "Douglas-Rachford with a firmly nonexpansive denoiser (Bauschke & Combettes 2017, Thm 26.11)"
    equation: ClassVar[str] = "x = D(x − γ∇f(x))"
    uses_prox: ClassVar[bool] = True
    takes_box: ClassVar[bool] = False

    @staticmethod
    def T(m: Maps, v: Tensor, γ: float) -> tuple[Tensor, Tensor]:
        """T v and the image D(2x − v)."""
        x = m.prox(v, γ)
        z = m.D(2 * x - v)
        return v + z - x, z

    def bind(self, known: Known) -> Iteration:
        γ = known.default_step if self.step is None else self.step
        return Iteration(
            lambda m, v: self.T(m, v, γ),
            bound=reflected(γ, known),
            asks=(positive("`step`", γ), known.firm_denoiser()),
            parameters={"step": γ},
            exists=solves_forward_backward(known),
        )


def solves_forward_backward(known: Known) -> Callable[[Maps, Tensor], str | None]:
    """T has a fixed point where D(Id − γ∇f) has one, as it does when D's range is a box."""
    if known.range_of_denoiser is None:
        return unproved
    text = "proved: D(Id − γ∇f) maps the denoiser's range, a box, into itself (Brouwer), and its fixed points give T's"
    return lambda m, x: text


def reflected(step: float, known: Known) -> MapBound:
    """½(Id + (2D − Id)(2 prox_γf − Id)) for a firm D, with the Lipschitz constant (1 + q)/2 of ``DouglasRachford``."""
    if known.L is None or known.μ <= 0:
        return MapBound(Fraction(1), Fraction(1, 2))
    q = max(abs((1 - Fraction(step) * s) / (1 + Fraction(step) * s)) for s in (known.μ, known.L))
    return MapBound((1 + q) / 2, Fraction(1, 2))
