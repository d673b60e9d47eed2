"""Forward-backward splitting, also known as proximal gradient descent with the denoiser in the place of the prox."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.solvers.iteration import Iteration, chain, forward_step, in_box, projection
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import Solver

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

    def bind(self, known: Known) -> Iteration:
        γ = known.default_step if self.step is None else self.step

        def T(m: Maps, x: Tensor) -> tuple[Tensor, Tensor]:
            x = m.project(m.D(x - γ * m.grad(x)))
            return x, x

        return Iteration(
            T,
            bound=chain(forward_step(γ, known.μ, known.L), known.denoiser, *projection(self.box)),
            asks=(*known.needs_norm, known.step_below(γ)),
            parameters={"step": γ},
            exists=in_box(self.box or known.range_of_denoiser),
            minimises=known.is_proximal and self.box is None and known.L is not None and Fraction(γ) * known.L <= 1,
        )
