"""The same denoiser with larger filters, or with guidance or a guide network to be learned: to train on from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.denoisers import GradientFlowDenoiser, denoiser_from_config
from pnp_lip.errors import InputError
from pnp_lip.spectral.polyphase import dilate

__all__ = ["enlarge_filters"]


@torch.no_grad()
def enlarge_filters(denoiser: GradientFlowDenoiser, kernel_size: int) -> GradientFlowDenoiser:
    """The same map with filters of ``kernel_size``: zeros around the old ones and between the taps of dilated ones.

    The dilations of the result are 1. Raises InputError for an even size, or one below the reach d(k − 1) + 1 of the
    old filters.

    >>> small = GradientFlowDenoiser(channels=2, hidden_channels=4, kernel_size=3, dilations=(1, 2))
    >>> enlarge_filters(small, 7).layers[1].weight.shape
    torch.Size([4, 2, 7, 7])
    """
    config = denoiser.config
    needed = max(config["dilations"]) * (config["kernel_size"] - 1) + 1
    if kernel_size % 2 == 0 or kernel_size < needed:
        raise InputError(
            f"filters can only grow, to an odd size of at least {needed} (what the widest reaches); got {kernel_size}."
        )
    grown = denoiser_from_config({**config, "kernel_size": kernel_size, "dilations": [1] * len(config["dilations"])})
    state = denoiser.state_dict()
    for i, dilation in enumerate(config["dilations"]):
        name = f"layers.{i}.weight"
        state[name] = centred(dilate(state[name], (dilation, dilation)), kernel_size)
    grown.to(next(denoiser.parameters())).load_state_dict(state)
    return grown


def centred(weight: Tensor, size: int) -> Tensor:
    """A filter with zeros around it, ``size`` on a side."""
    border = (size - weight.shape[-1]) // 2
    return F.pad(weight, (border,) * 4)
