"""The same denoiser with larger filters, or with guidance or a guide network to be learned: to train on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import InputError
from pnp_lip.spectral.polyphase import dilate

__all__ = ["add_guidance", "add_guide_network", "enlarge_filters"]


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
    grown = GradientFlowDenoiser(**config | {"kernel_size": kernel_size, "dilations": [1] * len(config["dilations"])})
    state = denoiser.state_dict()
    for i, dilation in enumerate(config["dilations"]):
        name = f"layers.{i}.weight"
        state[name] = centred(dilate(state[name], (dilation, dilation)), kernel_size)
    grown.to(next(denoiser.parameters())).load_state_dict(state)
    return grown


def add_guidance(denoiser: GradientFlowDenoiser) -> GradientFlowDenoiser:
    """The same denoiser with guidance, centred; what it has not learned of that is untrained, so that D_g may change.

    >>> add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1, 1))).config["guidance"]
    True
    """
    result = GradientFlowDenoiser(**denoiser.config | {"guidance": True, "centred": True})
    result.to(next(denoiser.parameters())).load_state_dict(denoiser.state_dict(), strict=False)
    return result


def add_guide_network(
    denoiser: GradientFlowDenoiser, source: Sequence[int] | GradientFlowDenoiser
) -> GradientFlowDenoiser:
    """The same denoiser with an untrained guide network of that (width, depth[, scales]), which looks at the residual, too, or
    with the one of another denoiser.

    Raises InputError where the other has none, or takes other channels.

    >>> denoiser = add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1, 1)))
    >>> add_guide_network(denoiser, (8, 3)).config["guide_network"]
    [8, 3]
    """
    state = {k: v for k, v in denoiser.state_dict().items() if not k.startswith("guide_network.")}
    size: Any = source
    residual = True
    if isinstance(source, GradientFlowDenoiser):
        if source.guide_network is None or source.in_channels != denoiser.in_channels:
            raise InputError(
                f"the guide network is to come from a denoiser of {denoiser.in_channels} channels that has one; got one of "
                f"{source.in_channels} channels, with `guide_network` {source.config.get('guide_network')}."
            )
        size, residual = source.config["guide_network"], source.config.get("residual", False)
        state |= {k: v for k, v in source.state_dict().items() if k.startswith("guide_network.")}
    result = GradientFlowDenoiser(**denoiser.config | {"guide_network": size, "residual": residual})
    result.to(next(denoiser.parameters())).load_state_dict(state, strict=False)
    return result


def centred(weight: Tensor, size: int) -> Tensor:
    """A filter with zeros around it, ``size`` on a side."""
    border = (size - weight.shape[-1]) // 2
    return F.pad(weight, (border,) * 4)
