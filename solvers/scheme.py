"""What every iteration scheme promises: the next point from the current one and its image under the fixed-point map."""

import abc
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import MapBound, round_up
from pnp_lip.solvers.hypothesis import Hypothesis

__all__ = ["Memory", "Scheme", "averagedness_of", "per_image"]

Memory = dict[str, Tensor]  # every tensor has the batch as its first axis, so that images stay apart


class Scheme(abc.ABC):
    """How v_{k+1} is made of v_k and T v_k; ``theorem`` completes the solver's theorem.

    Its own norms are Euclidean. The norm of T's theorem is equivalent, and so what follows from summable steps or from residuals
    that tend to 0 does not depend on the choice.
    """

    theorem: ClassVar[str]

    @abc.abstractmethod
    def hypotheses(self, bound: MapBound, *, proximal: bool = False) -> tuple[Hypothesis, ...]:
        """What the scheme asks of T, of which ``bound`` is known; ``proximal``: an objective is minimised."""

    @abc.abstractmethod
    def rate(self, bound: MapBound) -> str:
        """The speed that the theorem gives, in words and numbers."""

    def linear_rate(self, q: float, bound: MapBound) -> str:
        """The same when T has the Lipschitz constant q < 1."""
        return self.rate(bound)

    def start(self, v: Tensor) -> Memory:
        """The memory before the first update."""
        return {}

    def fits(self, memory: Memory, k: int) -> bool:
        """Whether the numbers of a stored memory can be those after k updates."""
        return True

    @abc.abstractmethod
    def next(self, memory: Memory, v: Tensor, image: Tensor, k: int) -> tuple[Tensor, Memory]:
        """v_{k+1} from v = v_k and image = T v_k, with the memory for the next call."""


def averagedness_of(bound: MapBound) -> float | None:
    """T's averagedness as a float rounded up; 1.0 when T is only nonexpansive, None when not even that is known."""
    if bound.averagedness is not None:
        return round_up(bound.averagedness)
    return 1.0 if bound.lipschitz <= 1 else None


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """View one number per image so that it broadcasts against ``like``."""
    return value.to(like.dtype).reshape(-1, *([1] * (like.ndim - 1)))


def norms(v: Tensor) -> Tensor:
    """The Euclidean norm of each image, in float64: first of the rows, as a long sum in float32 loses thousands of roundings."""
    values: Tensor = torch.linalg.vector_norm(v, dim=-1).double().reshape(len(v), -1).norm(dim=1)
    return values
