"""Regularisation by denoising, by gradient descent."""

import dataclasses
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.hypothesis import check_positive, interval
from pnp_lip.solvers.iteration import Iteration, chain, in_box, projection
from pnp_lip.solvers.known import TYPICAL, Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import Solver

__all__ = ["RED", "residual_step"]


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
        check_positive("weight", self.weight)

    def bind(self, known: Known) -> Iteration:
        λ = known.scale / TYPICAL if self.weight is None else self.weight
        γ = TYPICAL / (known.scale + 2 * float(known.α or 1) * λ) if self.step is None else self.step
        K = None if known.L is None or known.α is None else known.L + 2 * known.α * Fraction(λ)

        def T(m: Maps, x: Tensor) -> tuple[Tensor, Tensor]:
            x = m.project(x - γ * (m.grad(x) + λ * (x - m.D(x))))
            return x, x

        return Iteration(
            T,
            bound=chain(residual_step(γ, λ, K, known, (known.μ, known.L or known.μ)), *projection(self.box)),
            asks=(*known.needs_norm, interval("`step`", γ, K, "2/(L + 2αλ)")),
            parameters={"step": γ, "weight": λ},
            exists=in_box(self.box),
        )


def residual_step(
    step: float, weight: float, curvature: Fraction | None, known: Known, slopes: tuple[Fraction, ...]
) -> MapBound | None:
    """Id − γ(B + λ(Id − D)), 1/K-cocoercive in the bracket, B the gradient of a function with slopes between ``slopes``.

    γK/2-averaged when γK < 2; with the Lipschitz constant max |1 − γλ − γs| + γλρ when that is below 1.
    """
    if curvature is None or known.denoiser is None:
        return None
    γ, λ = Fraction(step), Fraction(weight)
    q = max(abs(1 - γ * λ - γ * s) for s in slopes) + γ * λ * known.denoiser.lipschitz
    averaged = γ * curvature < 2
    return MapBound(min(q, Fraction(1)) if averaged else q, γ * curvature / 2 if averaged else None)
