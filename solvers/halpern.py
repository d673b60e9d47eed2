"""Halpern's anchored iteration."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import InputError
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.scheme import Memory, Scheme, norms, per_image

__all__ = ["Halpern"]


@dataclasses.dataclass(frozen=True)
class Halpern(Scheme):
    """v_{k+1} = v_0/(k + 2) + (1 − 1/(k + 2)) T v_k.

    For T nonexpansive with a fixed point, ‖v_k − T v_k‖ ≤ 2‖v_0 − v*‖/(k + 1), and v_k converges to the fixed point next to
    v_0; averagedness is not needed. With ``restart`` = ρ in (0, 1) the anchor a moves to T v_k, and the count starts
    again, whenever the residual has fallen by the factor ρ. v_k still converges to a fixed point, whenever the restarts come
    and in whatever norm they are decided: ‖T v_k − v*‖² ≤ ‖a − v*‖² − ‖a − T a‖²/(2(k + 1)), k ≥ 1 counted from a, makes the
    anchors Fejér monotone, and their residuals tend to 0 along a subsequence: by this if the counts are bounded, by the bound
    above if not. That is usually much faster, as T is often locally a contraction. restart=None keeps the first anchor.

    Source: Halpern (1967); Lieder (2021), Theorem 2.1, for the constant.

    >>> Halpern(restart=None).rate(MapBound(1, None))
    '‖v_k − T v_k‖ ≤ 2 ‖v_0 − v*‖ / (k + 1)'
    """

    restart: float | None = 0.3
    theorem: ClassVar[str] = "Halpern iteration (Lieder 2021, Theorem 2.1)"

    def __post_init__(self) -> None:
        if self.restart is not None and not 0 < self.restart < 1:
            raise InputError(f"`restart` must lie in (0, 1) or be None; got {self.restart}.")

    def hypotheses(self, bound: MapBound, *, proximal: bool = False) -> tuple[Hypothesis, ...]:
        value = float(bound.lipschitz)
        return (Hypothesis("Lipschitz constant of T", value, "be at most 1", bound.lipschitz <= 1),)

    def rate(self, bound: MapBound) -> str:
        text = "‖v_k − T v_k‖ ≤ 2 ‖v_0 − v*‖ / (k + 1)"
        return text if self.restart is None else f"{text} with v_0 and k counted from the last restart"

    def start(self, v: Tensor) -> Memory:
        zero = torch.zeros(len(v), dtype=torch.float64, device=v.device)
        return {"anchor": v, "count": zero, "first": zero + float("inf")}

    def fits(self, memory: Memory, k: int) -> bool:
        return bool((memory["count"] >= 0).all() and (memory["count"] <= k).all() and (memory["first"] >= 0).all())

    def next(self, memory: Memory, v: Tensor, image: Tensor, k: int) -> tuple[Tensor, Memory]:
        anchor, count, first = memory["anchor"], memory["count"], memory["first"]
        r = norms(v - image)
        first = torch.where(count == 0, r, first)
        share = 1 / (count + 2)
        following = image + per_image(share, v) * (anchor - image)
        again = (r <= self.restart * first) & (count > 0) if self.restart is not None else torch.zeros_like(r).bool()
        moved = per_image(again, v).bool()
        following, anchor = torch.where(moved, image, following), torch.where(moved, image, anchor)
        return following, {"anchor": anchor, "count": torch.where(again, 0.0, count + 1), "first": first}
