"""The watch over a run: at every update T is held against its Lipschitz constant, in the norm of its theorem."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import round_up
from pnp_lip.solvers.examiner import signs
from pnp_lip.solvers.iteration import Iteration, euclidean
from pnp_lip.solvers.maps import Maps

__all__ = ["Watch", "rounding_unit"]

ROUNDING = 16  # units of rounding of the terms that cancel; runs of 300 updates at the floor of rounding reach 0.4 of them


@dataclasses.dataclass(frozen=True)
class Watch:
    """‖T v_k − T v_{k−1}‖ ≤ q‖v_k − v_{k−1}‖, up to rounding and the errors of the prox, for every image at every update.

    It asks nothing of the scheme, and holds across its restarts. ``q`` ≤ 1 is the Lipschitz constant of the theorem, ``unit``
    the rounding of the state's numbers, ``data`` the size of the data's part of T v, for each image of the whole batch.
    """

    iteration: Iteration
    q: float
    unit: float
    data: Tensor

    @classmethod
    def over(cls, iteration: Iteration, maps: Maps, v: Tensor) -> "Watch":
        """The watch over the states that are like v."""
        q = min(1.0, round_up(iteration.bound.lipschitz))
        return cls(iteration, q, rounding_unit(v), data_size(iteration, maps))

    def violation(
        self, m: Maps, v: Tensor, image: Tensor, before: Sequence[Tensor], errors: Tensor, images: list[int]
    ) -> list[str | None]:
        """What contradicts the theorem in each image, with v = v_k, image = T v_k, ``before`` = (v_{k−1}, T v_{k−1}).

        ``errors`` bounds those of the prox in the two images under T, summed.
        """
        norm, size = self.iteration.norm, self.iteration.norm.size
        step = v - before[0]
        moved, went = norm(m, step), norm(m, image - before[1])
        reach = size(m, step)
        terms = 2 * (size(m, v) + size(m, image) + reach) + self.data[images]
        slack = ROUNDING * self.unit * terms + errors.nan_to_num(math.inf)
        # A norm with a cross term rounds like its square.
        allowed = ((self.q * moved).square() + (slack * reach).nan_to_num(math.inf, math.inf)).sqrt() + slack
        rows = torch.stack([went, moved, allowed]).tolist()
        return [None if w <= a else self.words(w, g) for w, g, a in zip(*rows, strict=True)]

    def words(self, went: float, moved: float) -> str:
        """The numbers of a violation."""
        return f"T v moved by {went:.6g} where v moved by {moved:.6g}, and the theorem allows {self.q:.6g} times that"


def rounding_unit(v: Tensor) -> float:
    """The rounding of v's numbers; graphics processors may round the factors of float32 convolutions to ten bits."""
    tf32 = v.is_cuda and v.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return 2.0**-10 if tf32 else float(torch.finfo(v.dtype).eps)


def data_size(iteration: Iteration, maps: Maps) -> Tensor:
    """γ‖Aᵀ|y|‖ of each image: the part of γ∇f whose rounding remains where Ax − y nearly cancels.

    The roundings have signs, so γ‖Aᵀ(±|y|)‖ with random ones counts, too: A may remove all that |y| is made of. Zero where
    the state holds the data's part, as a dual variable does.
    """
    zero = maps.y.new_zeros(len(maps.y), *maps.image_shape)
    if iteration.norm.terms is not None:
        return euclidean(maps, zero)
    rounded = maps.y.abs(), maps.y.abs() * signs(maps.y, torch.Generator().manual_seed(0))
    sizes = [euclidean(maps, dataclasses.replace(maps, y=y).grad(zero)).nan_to_num(0.0) for y in rounded]
    return iteration.parameters["step"] * torch.maximum(*sizes)
