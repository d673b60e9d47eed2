"""What a guide image says about the thresholds of a layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from pnp_lip.layers.activations import NoiseClip
    from pnp_lip.layers.gradient_flow_conv2d import GradientFlowConv2d

__all__ = ["Guidance"]

LOG_RANGE = (-5.0, 3.0)  # of the factors' logarithms
WINDOW = 3  # pixels a side, over which a filter's response to the guide is averaged


class Guidance(nn.Module):
    """What a layer's filters clip to at every place, from their responses r to a guide image: factors G > 0 for the
    thresholds and, where it is ``centred``, the share ν in (0, 1) of the response that is left out of the clip.

    G = exp(clamp(a + V f(r²), −5, 3)), ν = 1/(1 + exp(−a' − V'f(r²) − V''f(e²))), f(r²) = log(1 + m(r²)/c²)

    m is the mean over 3 × 3 pixels, c = exp(log_scale). r is in units of the thresholds, and so are the responses e to what
    a guide network has changed; of filters that are clipped as a group r² is the sum. All else is learned; G starts at what
    reweights an ℓ¹ norm, 2/√(1 + m(r²)/9), ν at 1/10. No value of theirs can harm the layer's certificate, which holds for
    a clip to any interval.

    Shapes: r² and e² are (B, groups, H, W), and so are G and ν. Source: Candès, Wakin & Boyd (2008), the reweighting; Pourya,
    Neumayer & Unser (2024), its learning.

    >>> Guidance(2)(torch.zeros(1, 2, 4, 4))[0, 0, 0, 0].item()
    2.0
    """

    def __init__(self, groups: int, *, centred: bool = False) -> None:
        super().__init__()
        self.mixing = nn.Parameter(-0.5 * torch.eye(groups))
        self.offset = nn.Parameter(torch.full((groups,), math.log(2.0)))
        self.log_scale = nn.Parameter(torch.full((groups,), math.log(3.0)))
        self.centred = centred
        if centred:
            self.share_mixing = nn.Parameter(torch.zeros(groups, 2 * groups))  # V' and V''
            self.share_offset = nn.Parameter(torch.full((groups,), -math.log(9.0)))

    def forward(self, energy: Tensor, *, circular: bool = False) -> Tensor:
        """G(r²); ``circular`` lets the windows wrap around the image, otherwise they end at its border."""
        return self.factors(self.feature(energy, circular=circular))

    def feature(self, energy: Tensor, *, circular: bool = False) -> Tensor:
        """f, of which G and ν are made."""
        half = WINDOW // 2
        if circular:
            energy = F.avg_pool2d(F.pad(energy, (half,) * 4, mode="circular"), WINDOW, 1)
        else:
            energy = F.avg_pool2d(energy, WINDOW, 1, half, count_include_pad=False)
        return (1 + energy * (-2 * self.log_scale).exp()[:, None, None]).log()  # log1p takes longer

    def factors(self, feature: Tensor) -> Tensor:
        """G."""
        return F.conv2d(feature, self.mixing[:, :, None, None], self.offset).clamp(*LOG_RANGE).exp()

    def sizes(self, channels: int) -> list[int]:
        """How many numbers ``clipping`` gives for each place, for a layer of so many filters."""
        return [self.offset.numel(), channels] if self.centred else [self.offset.numel()]

    def clipping(self, layer: GradientFlowConv2d, guide: Tensor, change: Tensor, sigma: Tensor) -> list[Tensor]:
        """λ(p) = λ(σ) G and, where there is one, the centre ν W g, for the layer's states of the guide and of its change.

        Of shapes (B, groups, H, W) and (B, channels, H, W).
        """
        activation: NoiseClip = layer.activation  # type: ignore[assignment]
        scale, _ = activation.of_groups(sigma)
        scale = scale.reshape(-1, scale.shape[-1], 1, 1)
        response, feature = self.look(layer, guide, scale)
        limits = scale * self.factors(feature)
        if not self.centred:
            return [limits]
        first, second = self.share_mixing[:, :, None, None].chunk(2, 1)
        share = F.conv2d(feature, first, self.share_offset)
        share = (share + F.conv2d(self.look(layer, change, scale)[1], second)).sigmoid()
        centre = activation.scaled(response.expand(len(share), -1, -1, -1), share)
        return [limits, centre]

    def look(self, layer: GradientFlowConv2d, image: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's responses to an image, and f of them in units of the thresholds ``scale``."""
        activation: NoiseClip = layer.activation  # type: ignore[assignment]
        # The filters that look at the guide are trained without one.
        response = layer.conv(image, layer.weight.detach())
        energy = activation.energy(response) / scale.detach().square()
        return response, self.feature(energy, circular=layer.padding_mode == "circular")
