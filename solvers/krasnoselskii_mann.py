"""The Krasnoselskii-Mann iteration, relaxed or over-relaxed; with λ = 1 the plain iteration v ← T v."""

import dataclasses
import math
from typing import ClassVar

from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import InputError
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.scheme import Memory, Scheme, averagedness_of

__all__ = ["KrasnoselskiiMann"]


@dataclasses.dataclass(frozen=True)
class KrasnoselskiiMann(Scheme):
    """v_{k+1} = v_k + λ (T v_k − v_k).

    For an a-averaged T with a fixed point, 0 < λ < 1/a makes v_k converge to one and ‖v_k − T v_k‖ never grow, with
    ‖v_k − T v_k‖ ≤ ‖v_0 − v*‖ / √(c (k + 1)), c = λ(1/a − λ). A T that is only nonexpansive has a = 1 and needs λ < 1.

    Raises InputError for λ ≤ 0. Source: Krasnoselskii (1955); Bauschke & Combettes (2017), Proposition 5.16.

    >>> KrasnoselskiiMann().next({}, 0.0, 1.0, 0)[0]
    1.0
    """

    relaxation: float = 1.0
    theorem: ClassVar[str] = "Krasnoselskii-Mann iteration (Bauschke & Combettes 2017, Proposition 5.16)"

    def __post_init__(self) -> None:
        if not 0 < self.relaxation < math.inf:
            raise InputError(f"`relaxation` must be positive; got {self.relaxation}. 1 is the plain iteration.")

    def hypotheses(self, bound: MapBound, *, proximal: bool = False) -> tuple[Hypothesis, ...]:
        return (relaxation_below_limit(self.relaxation, bound),)

    def rate(self, bound: MapBound) -> str:
        a = averagedness_of(bound)
        c = 0.0 if a is None else self.relaxation * (1 / a - self.relaxation)
        return f"‖v_k − T v_k‖ ≤ ‖v_0 − v*‖ / √({c:.4g} (k + 1)), and o(1/√k)" if c > 0 else "none"

    def linear_rate(self, q: float, bound: MapBound) -> str:
        factor = abs(1 - self.relaxation) + self.relaxation * q
        return f"linear, ‖v_k − v*‖ ≤ q^k ‖v_0 − v*‖ with q = {factor:.6g}" if factor < 1 else self.rate(bound)

    def next(self, memory: Memory, v: Tensor, image: Tensor, k: int) -> tuple[Tensor, Memory]:
        return (image if self.relaxation == 1 else v + self.relaxation * (image - v)), memory


def relaxation_below_limit(relaxation: float, bound: MapBound) -> Hypothesis:
    """0 < λ < 1/a."""
    a = averagedness_of(bound)
    limit = "1/a, where T is a-averaged" if a is None else f"1/a = {1 / a:.6g}"
    return Hypothesis(
        "relaxation λ",
        relaxation,
        f"lie in (0, {limit})",
        a is not None and relaxation * a < 1,
        "A map that is only nonexpansive may cycle under the plain iteration: pass relax(denoiser, 0.5) as the denoiser, "
        "or scheme=KrasnoselskiiMann(0.5), or scheme=Halpern().",
    )
