"""Small denoisers to be guided, shared by tests."""

from __future__ import annotations

import torch

from pnp_lip import GradientFlowDenoiser
from pnp_lip.denoisers import add_guidance
from pnp_lip.layers import project


def plain_network(in_channels: int = 1, padding_mode: str = "zeros") -> GradientFlowDenoiser:
    """An untrained one whose thresholds matter."""
    torch.manual_seed(0)
    d = GradientFlowDenoiser(
        in_channels=in_channels, hidden_channels=6, dilations=(1, 2), kernel_size=5, padding_mode=padding_mode
    )
    for layer in d.layers:
        layer.activation.log_scale.data += 1.5
    project(d)
    return d.eval().requires_grad_(False)


def guided_network(
    in_channels: int = 1,
    padding_mode: str = "zeros",
    *,
    centred: bool = False,
) -> GradientFlowDenoiser:
    """The same with untrained guidance."""
    d = add_guidance(plain_network(in_channels, padding_mode), centred=centred)
    return d.requires_grad_(False)
