"""Which parameters a run trains, how fast and how exactly, and their moving average."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.layers import GuideNetwork, UNet

__all__ = ["kernel_muon", "make_optimisers", "ramped_average", "reduced_precision"]

# Thresholds, steps and guidance learn so many times faster than weights. A threshold is stored as its logarithm, of order
# one, and a weight is of order 1/30: equal steps would either freeze the thresholds or let the first hundred steps push
# all of a weight's spectrum into a single frequency.
ACTIVATION_RATE = 3.3

Parameters = tuple[Tensor, ...] | list[Tensor]


def make_optimisers(denoiser: nn.Module, learning: nn.Module) -> list[torch.optim.Optimizer]:
    """Adam for a denoiser or its guidance; Muon for the kernels of a U-net or a guide network, and Adam for its biases.

    A group's "rate" is the rate at which its parameters learn, in units of the run's.
    """
    named = list(learning.named_parameters())
    if isinstance(learning, (GuideNetwork, UNet)):
        biases = [p for _, p in named if p.ndim != 4]
        return [kernel_muon([p for _, p in named if p.ndim == 4]), torch.optim.Adam([{"params": biases, "rate": 1.0}])]
    ours = isinstance(denoiser, GradientFlowDenoiser)
    slow = [p for name, p in named if not ours or "weight" in name]
    fast = [p for name, p in named if ours and "weight" not in name]
    groups = ({"params": slow, "rate": 1.0}, {"params": fast, "rate": ACTIVATION_RATE})
    return [torch.optim.Adam([group for group in groups if group["params"]])]


def kernel_muon(kernels: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Muon for the kernels of convolutions, (C', C, k, k), each as a matrix (C', C k²).

    One rate serves it and Adam, because its updates are scaled to a size like that of Adam's. Of a U-net 3e-3 to 5e-3 were
    best (docs/notebook/training.md).

    Source: Jordan et al. (2024); the scale is that of Liu et al. (2025).
    """
    # Of the same storage: Muon moves the kernels themselves.
    matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in kernels]
    optimiser = torch.optim.Muon([{"params": matrices, "rate": 1.0}], weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def hand_over(*_: object) -> None:
        for matrix, kernel in zip(matrices, kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)

    optimiser.register_step_pre_hook(hand_over)
    return optimiser


def ramped_average(decay: float) -> Callable[[Parameters, Parameters, Tensor | int], None]:
    """An exponential moving average whose memory grows with the run, so that early averages forget the initial weights."""

    @torch.no_grad()
    def update(averaged: Parameters, current: Parameters, count: Tensor | int) -> None:
        share = max(1 - decay, 9 / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, share)

    return update


def reduced_precision(device: str, wanted: bool = True) -> torch.autocast:
    """A context in which convolutions run in bfloat16 if that is ``wanted`` and fast there.

    It is on accelerators, and on processors with instructions for it; others emulate it, eleven times slower (measured).
    """
    fast = torch.device(device).type != "cpu" or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=wanted and fast)
