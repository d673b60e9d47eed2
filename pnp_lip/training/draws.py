"""Random numbers from a generator of the caller's."""

from __future__ import annotations

import math

import torch

__all__ = ["draw", "draw_log"]


def draw(low: float, high: float, generator: torch.Generator) -> float:
    """Uniform from ``low`` to ``high``."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def draw_log(low: float, high: float, generator: torch.Generator) -> float:
    """With uniform logarithm from ``low`` to ``high``, both above 0."""
    return math.exp(draw(math.log(low), math.log(high), generator))
