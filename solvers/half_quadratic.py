"""Half-quadratic splitting, the backward-backward iteration."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from pnp_lip.solvers.hypothesis import positive
from pnp_lip.solvers.iteration import Iteration, chain, in_box, projection, prox_step
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import Solver

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

    def bind(self, known: Known) -> Iteration:
        γ = known.default_step if self.step is None else self.step

        def T(m: Maps, x: Tensor) -> tuple[Tensor, Tensor]:
            x = m.project(m.D(m.prox(x, γ)))
            return x, x

        return Iteration(
            T,
            bound=chain(prox_step(γ, known.μ), known.denoiser, *projection(self.box)),
            asks=(positive("`step`", γ),),
            parameters={"step": γ},
            exists=in_box(self.box or known.range_of_denoiser),
        )
