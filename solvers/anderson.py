"""Type-II Anderson acceleration with a safeguard that keeps the convergence of the plain iteration."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import InputError
from pnp_lip.memory import most_kept
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.krasnoselskii_mann import relaxation_below_limit
from pnp_lip.solvers.scheme import Memory, Scheme, norms, per_image

__all__ = ["Anderson"]

REACH = 50.0  # C: an accelerated step is at most this many times the residual
BUDGET = 10.0  # D: how far above its first value the residual may be when an accelerated step is taken
SMALLEST = 2.0**-1022  # keeps the least-squares problem regular when nothing is remembered
DECAY = 1.0 + 1e-6  # 1 + ε: makes the lengths of the accelerated steps summable


@dataclasses.dataclass(frozen=True)
class Anderson(Scheme):
    """w = T v_k − Σ_j γ_j (T v_{j+1} − T v_j), γ minimising ‖g_k − Σ_j γ_j (g_{j+1} − g_j)‖, g = v − T v; or v ← T v_k.

    The last ``memory`` differences enter. The accelerated point w is taken only if ‖w − v_k‖ ≤ C‖g_k‖ and
    ‖g_k‖ ≤ D‖g_0‖ (n + 1)^−(1+ε), n the number of accelerated steps so far, and given up for T v_k if its residual
    exceeds ``growth`` times ‖g_k‖. So the accelerated steps have summable lengths while all others are plain: for an averaged T
    with a fixed point, ‖v_k − v*‖ converges for each v*, ‖g_k‖ tends to 0, and v_k converges to a fixed point.

    Each image has differences, safeguards and counts of its own. ``regularisation`` is relative to the mean squared length
    of the differences; None takes 1e-10 in float64 and 1e-7 in float32. Costs 2·memory states of storage, and about 4·memory
    passes over the state for each update; fewer differences are remembered where they would take over a quarter of the
    machine's memory.

    Raises InputError for memory < 1, growth < 1 or a negative regularisation.
    Source: Anderson (1965); the safeguard follows Zhang, O'Donoghue & Boyd (2020), Theorem 6, with type-II steps.
    """

    memory: int = 8
    growth: float = 2.0
    regularisation: float | None = None
    theorem: ClassVar[str] = "safeguarded Anderson acceleration (after Zhang, O'Donoghue & Boyd 2020, Theorem 6)"

    def __post_init__(self) -> None:
        if self.memory < 1 or not self.growth >= 1 or (self.regularisation is not None and not self.regularisation >= 0):
            raise InputError(
                "Anderson needs memory >= 1, growth >= 1 and regularisation >= 0; "
                f"got {self.memory}, {self.growth}, {self.regularisation}."
            )

    def hypotheses(self, bound: MapBound, *, proximal: bool = False) -> tuple[Hypothesis, ...]:
        return (relaxation_below_limit(1.0, bound),)

    def rate(self, bound: MapBound) -> str:
        return "‖v_k − T v_k‖ → 0; locally as fast as GMRES on the linearised map, which is observed, not proved"

    def start(self, v: Tensor) -> Memory:
        batch, n = len(v), v[0].numel()
        m = min(self.memory, max(1, most_kept() // (2 * v.numel() * v.element_size())))
        zero = torch.zeros(batch, dtype=torch.float64, device=v.device)
        return {
            "images": v.new_zeros(batch, m, n),  # T v_{j+1} − T v_j, a ring
            "residuals": v.new_zeros(batch, m, n),  # g_{j+1} − g_j
            "gram": zero.new_zeros(batch, m, m),
            "right": zero.new_zeros(batch, m),  # ⟨g_{j+1} − g_j, g⟩
            "image": v,
            "residual": torch.zeros_like(v),
            "size": zero,  # ‖g‖ at the point before
            "first": zero,
            "taken": zero,  # accelerated steps so far
            "trial": zero.bool(),  # whether v is an accelerated point, still to be judged
            "known": zero.bool(),  # whether there is a point before, to take differences with
        }

    def fits(self, memory: Memory, k: int) -> bool:
        numbers = torch.stack([memory[name] for name in ("size", "first", "taken")])
        return bool(numbers.isfinite().all() and (numbers >= 0).all() and (memory["taken"] <= k).all())

    def next(self, memory: Memory, v: Tensor, image: Tensor, k: int) -> tuple[Tensor, Memory]:
        m, g = memory, v - image
        size = norms(g)
        first = torch.where(m["first"] > 0, m["first"], size)
        failed = m["trial"] & ~(size <= self.growth * m["size"])
        taken = m["taken"] + (m["trial"] ^ failed)  # a failed point is one on trial
        self.remember(m, image, g, m["known"] & ~failed, failed, k % m["images"].shape[1])
        weights = self.solve(m, torch.finfo(v.dtype).eps)
        step = (weights.to(v.dtype)[:, None] @ m["images"]).reshape(v.shape).add_(g)  # v − w
        summable = size <= BUDGET * first * (taken + 1) ** -DECAY
        trial = ~failed & summable & (norms(step) <= REACH * size) & (weights != 0).any(1)
        following = where(trial, lambda: torch.sub(v, step, out=step), image)
        following = where(failed, lambda: m["image"], following)
        state = {"image": image, "residual": g, "size": size, "first": first, "taken": taken, "trial": trial}
        return following, {**m, **state, "known": ~failed}

    def remember(self, m: Memory, image: Tensor, g: Tensor, fresh: Tensor, failed: Tensor, slot: int) -> None:
        """Put the newest differences into the ring and bring their products up to date; forget all after a failure.

        As g grows by the newest difference, the products of the others with g grow by their products with it: no second
        pass over the ring, and no error that outlives a difference.
        """
        if bool(failed.any()):  # seldom, so that the rings are not copied at every update
            for name in ("images", "residuals", "gram", "right"):
                m[name] *= per_image(~failed, m[name])
        new_image, new_residual = m["images"][:, slot], m["residuals"][:, slot]
        torch.sub(image.flatten(1), m["image"].flatten(1), out=new_image)
        torch.sub(g.flatten(1), m["residual"].flatten(1), out=new_residual)
        if not bool(fresh.all()):
            new_image *= per_image(fresh, new_image)
            new_residual *= per_image(fresh, new_residual)
        row = (m["residuals"] @ new_residual[..., None])[..., 0].double()
        m["gram"][:, slot], m["gram"][:, :, slot] = row, row
        m["right"] += row
        m["right"][:, slot] = (new_residual * g.flatten(1)).sum(1)

    def solve(self, m: Memory, eps: float) -> Tensor:
        """The regularised least-squares weights of each image; zero where nothing is remembered."""
        eta = (1e-10 if eps < 1e-10 else 1e-7) if self.regularisation is None else self.regularisation
        system = m["gram"].clone()
        diagonal = system.diagonal(dim1=1, dim2=2)
        diagonal += (eta * diagonal.mean(1, keepdim=True)).clamp_min(SMALLEST)
        weights: Tensor = torch.linalg.solve_ex(system, m["right"])[0]
        return weights.nan_to_num(0.0, 0.0, 0.0)


def where(chosen: Tensor, new: Callable[[], Tensor], old: Tensor) -> Tensor:
    """The new points of the chosen images, the old ones of the others; made and copied only where that is needed."""
    if not bool(chosen.any()):
        return old
    return new() if bool(chosen.all()) else torch.where(per_image(chosen, old).bool(), new(), old)
