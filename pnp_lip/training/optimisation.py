"""Which parameters a run trains, how fast, and their moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["KernelMuon", "learning_names", "parameter_groups", "ramped_average"]

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


class KernelMuon:
    """Muon for a network's convolutions, each kernel (C', C, k, k) a matrix (C', C k²), and Adam for its other parameters.

    One rate serves both, because Muon's updates are scaled to a size like that of Adam's. Of a U-net 3e-3 to 5e-3 were best
    (docs/training.md). Used as torch's optimisers are.

    Source: Jordan et al. (2024); the scale is that of Liu et al. (2025).
    """

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        parameters = list(parameters)
        self.kernels = [p for p in parameters if p.ndim == 4]
        # Of the same storage: Muon moves the kernels themselves.
        self.matrices = [torch.nn.Parameter(p.detach().view(len(p), -1)) for p in self.kernels]
        others = [p for p in parameters if p.ndim != 4]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(self.matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.Adam(others),
        )
        self.others = others
        for group in self.param_groups:
            group["rate"] = rate

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of both."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for p in (*self.kernels, *self.others):
            p.grad = None

    def step(self) -> None:
        """Move all parameters by their gradients."""
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The states of both."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Raises ValueError for the state of another optimiser."""
        if not isinstance(state, list) or len(state) != len(self.parts):
            raise ValueError("the optimiser's state is of another optimiser")
        for part, theirs in zip(self.parts, state, strict=True):
            part.load_state_dict(theirs)


def ramped_average(decay: float) -> Callable[[Parameters, Parameters, Tensor | int], None]:
    """An exponential moving average whose memory grows with the run, so that early averages forget the initial weights."""

    @torch.no_grad()
    def update(averaged: Parameters, current: Parameters, count: Tensor | int) -> None:
        share = max(1 - decay, 9 / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, share)

    return update
