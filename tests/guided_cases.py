"""A small denoiser to be guided, shared by the tests of guidance and of guide networks."""

from __future__ import annotations

from typing import Any

import torch

from pnp_lip import GradientFlowDenoiser
from pnp_lip.layers import project


def guided_network(**options: Any) -> GradientFlowDenoiser:
    """An untrained one with guidance whose thresholds matter."""
    torch.manual_seed(0)
    d = GradientFlowDenoiser(hidden_channels=6, dilations=(1, 2), kernel_size=5, guidance=True, **options)
    for layer in d.layers:
        layer.activation.log_scale.data += 1.5
    project(d)
    return d.eval().requires_grad_(False)


def looking_network(size: tuple[int, ...] = (5, 3)) -> GradientFlowDenoiser:
    """A denoiser whose guide network looks at the residual, too, and does something with it."""
    d = guided_network(guide_network=size, residual=True)
    for conv in d.guide_network.convolutions:
        torch.nn.init.normal_(conv.weight, std=0.2)
    return d
