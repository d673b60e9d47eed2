"""The alternating direction method of multipliers."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from pnp_lip.solvers.douglas_rachford import DouglasRachford
from pnp_lip.solvers.maps import Maps

__all__ = ["ADMM"]


@dataclasses.dataclass(frozen=True, eq=False)
class ADMM(DouglasRachford):
    """x = D(v), v ← v + prox_γf(2x − v) − x.

    In the usual scaled form, u ← prox_γf(x − z), x ← D(u + z), z ← z + u − x, the whole state is v = u + z, and one
    update of v reads as above: Douglas-Rachford with the roles of D and prox_γf exchanged. Everything said of
    DouglasRachford holds: any γ > 0, D firmly nonexpansive, images with x = D(x − γ∇f(x)).

    Arguments and errors are those of ``Solver``; images have shape (B, C, H, W).

    Source: Gabay (1983); Eckstein & Bertsekas (1992), Theorem 8.
    """

    theorem: ClassVar[str] = "ADMM with a firmly nonexpansive denoiser (Eckstein & Bertsekas 1992, Theorem 8)"

    @staticmethod
    def T(m: Maps, v: Tensor, γ: float) -> tuple[Tensor, Tensor]:
        """T v and the image D(v)."""
        x = m.D(v)
        u = m.prox(2 * x - v, γ)
        return v + u - x, x
