"""FISTA's momentum, with the parameters for which the iterates converge."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import InputError
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.scheme import Memory, Scheme

__all__ = ["FISTA"]


@dataclasses.dataclass(frozen=True)
class FISTA(Scheme):
    """x_{k+1} = T v_k, v_{k+1} = x_{k+1} + k/(k + 1 + a) (x_{k+1} − x_k), a > 2.

    Proved only for ForwardBackward with a denoiser that is the prox of a convex function (``certificate.proximal``), no box
    and γ ≤ 1/L: then an objective is minimised, its values fall as o(1/k²) and the iterates converge. For any other
    denoiser nothing is proved, and averagedness does not help: run it with guarantee="report", or use Anderson.

    Source: Chambolle & Dossal (2015), Theorem 4.1, for the iterates; Attouch & Peypouquet (2016), SIAM J. Optim. 26,
    Theorem 1, for o(1/k²) (their α is a + 1 > 3).
    """

    a: float = 3.0
    theorem: ClassVar[str] = "accelerated proximal gradient (Chambolle & Dossal 2015, Theorem 4.1)"

    def __post_init__(self) -> None:
        if not self.a > 2:
            raise InputError(f"`a` must exceed 2; got {self.a}.")

    def hypotheses(self, bound: MapBound, *, proximal: bool = False) -> tuple[Hypothesis, ...]:
        ask = "be a proximal gradient step with γ ≤ 1/L of a convex objective"
        found = "one" if proximal else "a map of which that is not proved"
        advice = "Momentum is unproved here: use scheme=Anderson(), or a single firm layer with step=1/L."
        return (Hypothesis("T", found, ask, proximal, advice),)

    def rate(self, bound: MapBound) -> str:
        return "objective − minimum = o(1/k²)"

    def start(self, v: Tensor) -> Memory:
        return {"before": v}

    def next(self, memory: Memory, v: Tensor, image: Tensor, k: int) -> tuple[Tensor, Memory]:
        return image + k / (k + 1 + self.a) * (image - memory["before"]), {"before": image}
