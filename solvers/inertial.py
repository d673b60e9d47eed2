"""The inertial Krasnoselskii-Mann iteration."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import InputError
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.scheme import Memory, Scheme, averagedness_of

__all__ = ["Inertial"]


@dataclasses.dataclass(frozen=True)
class Inertial(Scheme):
    """v_k = u_k + κ (u_k − u_{k−1}), u_{k+1} = v_k + λ (T v_k − v_k), with inertia κ and relaxation λ.

    For an a-averaged T with a fixed point (a = 1: nonexpansive) u_k converges to one when 0 ≤ κ < 1 and
    0 < λ < (1 − κ)² / (a (1 − κ + 2κ²)). The residual need not fall at every step.

    Source: Attouch & Cabot (2019), constant parameters; Maingé (2008).
    """

    inertia: float = 0.3
    relaxation: float = 0.5
    theorem: ClassVar[str] = "inertial Krasnoselskii-Mann iteration (Attouch & Cabot 2019)"
    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.inertia < 1:
            raise InputError(f"`inertia` must lie in [0, 1); got {self.inertia}.")
        if not self.relaxation > 0:
            raise InputError(f"`relaxation` must be positive; got {self.relaxation}.")

    def hypotheses(self, bound: MapBound, *, proximal: bool = False) -> tuple[Hypothesis, ...]:
        a, kappa = averagedness_of(bound), self.inertia
        limit = 0.0 if a is None else (1 - kappa) ** 2 / (a * (1 - kappa + 2 * kappa**2))
        met = self.relaxation < limit * (1 - 1e-12)  # the formula's own rounding
        advice = "Lower `relaxation` or `inertia`."
        return (Hypothesis("relaxation λ", self.relaxation, f"lie in (0, {limit:.6g})", met, advice),)

    def rate(self, bound: MapBound) -> str:
        return "‖v_k − T v_k‖ = o(1/√k)"

    def start(self, v: Tensor) -> Memory:
        return {"before": v}

    def next(self, memory: Memory, v: Tensor, image: Tensor, k: int) -> tuple[Tensor, Memory]:
        u = v + self.relaxation * (image - v)
        return u + self.inertia * (u - memory["before"]), {"before": u}
