"""Which parameters a run trains, how fast, and their moving average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["learning_names", "parameter_groups", "ramped_average"]

Parameters = tuple[Tensor, ...] | list[Tensor]


def learning_names(denoiser: torch.nn.Module) -> list[str]:
    """The names of the parameters that are trained."""
    return [name for name, parameter in denoiser.named_parameters() if parameter.requires_grad]


def parameter_groups(denoiser: torch.nn.Module, activation_rate: float) -> list[dict[str, Any]]:
    """The convolutions' weights at rate 1 and everything else at ``activation_rate``.

    A threshold is stored as its logarithm, of order one, and a weight is of order 1/30: equal steps would either freeze
    the thresholds or let the first hundred steps push all of a weight's spectrum into a single frequency.
    """
    named = list(denoiser.named_parameters())
    slow = ["weight" in name or name.startswith("guide_network.") for name, _ in named]
    weights = [p for (_, p), is_slow in zip(named, slow, strict=True) if is_slow]
    others = [p for (_, p), is_slow in zip(named, slow, strict=True) if not is_slow]
    return [{"params": weights, "rate": 1.0}, {"params": others, "rate": activation_rate}]


def ramped_average(decay: float) -> Callable[[Parameters, Parameters, Tensor | int], None]:
    """An exponential moving average whose memory grows with the run, so that early averages forget the initial weights."""

    @torch.no_grad()
    def update(averaged: Parameters, current: Parameters, count: Tensor | int) -> None:
        share = max(1 - decay, 9 / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, share)

    return update
