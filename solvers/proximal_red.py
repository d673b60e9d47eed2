"""Regularisation by denoising, in proximal form."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.solvers.hypothesis import interval
from pnp_lip.solvers.iteration import Iteration, chain, in_box, projection, prox_step
from pnp_lip.solvers.known import TYPICAL, Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.red import RED, residual_step

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

    def bind(self, known: Known) -> Iteration:
        λ = known.scale / TYPICAL if self.weight is None else self.weight
        γ = 0.5 * TYPICAL / (max(float(known.α or 1), 0.5) * λ) if self.step is None else self.step
        K = None if known.α is None else 2 * known.α * Fraction(λ)

        def T(m: Maps, x: Tensor) -> tuple[Tensor, Tensor]:
            x = m.project(m.prox(x - γ * λ * (x - m.D(x)), γ))
            return x, x

        return Iteration(
            T,
            bound=chain(residual_step(γ, λ, K, known, (Fraction(0),)), prox_step(γ, known.μ), *projection(self.box)),
            asks=(interval("`step`", γ, K, "1/(αλ)"),),
            parameters={"step": γ, "weight": λ},
            exists=in_box(self.box),
        )
