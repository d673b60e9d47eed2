"""What a benchmark gives to a prior, and what comes back: data, a budget, and an image with the way it was found."""

import dataclasses
import math
import time
from collections.abc import Callable

from torch import Tensor

from pnp_lip.protocols import PhysicsLike

__all__ = ["Budget", "Observation", "OutOfTimeError", "Outcome", "Way"]


@dataclasses.dataclass(frozen=True)
class Observation:
    """Data ``y`` of an image ``x``, their forward model (None for denoising), and the noise's standard deviation.

    That deviation is the unit of strengths.
    """

    x: Tensor
    y: Tensor
    noise: float
    physics: PhysicsLike | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An image, how its run ended, and the class of its guarantee.

    ``status`` is "converged" where the run reached its tolerance, "finished" for a method of a fixed number of steps, else
    why it ended. ``state`` is what a finer run starts from. Of a potential, ``objective`` is J(x) and ``distance`` the proved
    distance from the minimiser.
    """

    x: Tensor
    status: str
    iterations: int
    guarantee: str
    failure: str | None = None
    state: Tensor | None = None
    objective: float | None = None
    distance: float | None = None


# data and their physics, the strength, the tolerance, the budget, and the outcome to continue from
Procedure = Callable[[Observation, float, float, "Budget", Outcome | None], Outcome]


@dataclasses.dataclass(frozen=True)
class Way:
    """How a rival restores, where it is not by a solver of ours. With ``solves_denoising`` it denoises in the same way."""

    name: str
    procedure: Procedure
    solves_denoising: bool = False


class OutOfTimeError(Exception):
    """Ends a run from within its callback."""


class Budget:
    """What a run may spend, the same for every prior: ``max_iter`` updates, and ``seconds`` of processor time.

    It is the callback of a solver: it counts the updates, keeps the last image, and raises OutOfTimeError at the end of time.
    """

    def __init__(self, max_iter: int, seconds: float) -> None:
        self.max_iter, self.end, self.iterations = max_iter, time.process_time() + seconds, 0

    def __call__(self, k: int, x: Tensor, relative: tuple[float, ...]) -> None:
        self.x, self.residual, self.iterations = x, relative[0], self.iterations + 1
        if time.process_time() > self.end:
            raise OutOfTimeError

    residual = math.nan
