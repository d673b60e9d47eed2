"""Denoising: one application of the denoiser, with the guarantees of a solver."""

import dataclasses
import functools
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.iteration import Iteration
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import Solver

__all__ = ["Denoising"]


@dataclasses.dataclass(frozen=True, eq=False)
class Denoising(Solver):
    """x = D(y), for data y that are a noisy image.

    T is the constant map with the value D(y), which is evaluated once. As D is nonexpansive, ‖x − x'‖ ≤ ‖y − y'‖ for the
    results of two images. The physics is the identity.

    Arguments and errors are those of ``Solver``; images have shape (B, C, H, W). ``step`` and ``scheme`` have no effect.
    """

    theorem: ClassVar[str] = "one application of a nonexpansive denoiser"
    equation: ClassVar[str] = "x = D(y)"
    takes_box: ClassVar[bool] = False

    def bind(self, known: Known) -> Iteration:
        @functools.cache
        def value(m: Maps) -> Tensor:
            return m.D(m.y)

        return Iteration(
            lambda m, x: (value(m), value(m)),
            bound=MapBound(Fraction(0), Fraction(1, 2)),
            asks=(),
            parameters={"step": 1.0},
            start=lambda m, x: value(m),
        )
