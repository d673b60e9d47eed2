"""Davis-Yin three-operator splitting: a box constraint beside the denoiser, without touching its firmness."""

import dataclasses
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.iteration import UNKNOWN, Iteration
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import Solver

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

    def bind(self, known: Known) -> Iteration:
        γ = known.default_step if self.step is None else self.step

        def T(m: Maps, v: Tensor) -> tuple[Tensor, Tensor]:
            x = m.project(v)
            z = m.D(2 * x - v - γ * m.grad(x))
            return v + z - x, x

        step = known.step_below(γ)
        return Iteration(
            T,
            bound=MapBound(Fraction(1), 2 / (4 - Fraction(γ) * known.L)) if known.L and step.met else UNKNOWN,
            asks=(*known.needs_norm, step, known.firm_denoiser()),
            parameters={"step": γ},
            exists=interior_image,
        )


def interior_image(m: Maps, x: Tensor) -> str | None:
    """Whether D maps the constant image in the middle of the box into its interior."""
    if m.box is None:
        return None
    low, high = m.box
    image = m.D(torch.full_like(x, 0.5 * (low + high)))
    if not bool(((image > low) & (image < high)).all()):
        return None
    return "proved: C is bounded and D maps an image into its interior (Rockafellar 1970)"
