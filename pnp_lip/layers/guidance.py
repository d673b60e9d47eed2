"""What a guide image says about the thresholds of a layer."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.layers.activations import NoiseClip
from pnp_lip.layers.gradient_flow_conv2d import GradientFlowConv2d

__all__ = ["Guidance"]

LOG_RANGE = (-5.0, 3.0)  # of the logarithms of the factors G, so that thresholds stay finite and above zero
WINDOW = 3  # the side in pixels of the square over which a filter's squared response to the guide is averaged
FIRST_FACTOR = 2.0  # G before training where the guide shows nothing
FIRST_WIDTH = 3.0  # c before training: the response, in units of the threshold, from which on G falls
FIRST_SHARE = 1 / 10  # ν before training


class Guidance(nn.Module):
    """What a layer's filters clip to at every place, from their responses r to a guide image: factors G > 0 for the
    thresholds and, where it is ``centred``, the share ν in (0, 1) of the response that is left out of the clip.

    G = exp(clamp(a + V f(r²), −5, 3)), ν = 1/(1 + exp(−a' − V'f(r²) − V''f(e²))), f(r²) = log(1 + m(r²)/c²)

    m is the mean over 3 × 3 pixels, c = exp(log_scale). r is in units of the thresholds, and so are the responses e to what
    a guide network has changed. All else is learned; G starts at what reweights an ℓ¹ norm, 2/√(1 + m(r²)/9), ν at 1/10. No
    value of theirs can harm the layer's certificate, which holds for a clip to any interval.

    Shapes: r², e², f, G and ν are (B, filters, H, W).
    Source: Candès, Wakin & Boyd (2008), the reweighting; Pourya, Neumayer & Unser (2024), its learning.

    >>> Guidance(2)(torch.zeros(1, 2, 4, 4))[0, 0, 0, 0].item()
    2.0
    """

    def __init__(self, filters: int, *, centred: bool = False) -> None:
        super().__init__()
        self.mixing = nn.Parameter(-0.5 * torch.eye(filters))  # the exponent −1/2 of that reweighting
        self.offset = nn.Parameter(torch.full((filters,), math.log(FIRST_FACTOR)))
        self.log_scale = nn.Parameter(torch.full((filters,), math.log(FIRST_WIDTH)))
        self.centred = centred
        if centred:
            self.share_mixing = nn.Parameter(torch.zeros(filters, 2 * filters))  # V' and V''
            self.share_offset = nn.Parameter(torch.full((filters,), -math.log(1 / FIRST_SHARE - 1)))

    def feature(self, energy: Tensor, *, circular: bool = False) -> Tensor:
        """f(r²), of which G and ν are made; windows wrap around the image if ``circular``, or end at its border."""
        half = WINDOW // 2
        if circular:
            energy, half = F.pad(energy, (half,) * 4, mode="circular"), 0
        energy = F.avg_pool2d(energy, WINDOW, 1, half, count_include_pad=False)
        return (1 + energy * (-2 * self.log_scale).exp()[:, None, None]).log()  # log1p takes longer

    def forward(self, feature: Tensor) -> Tensor:
        """G for f(r²)."""
        return F.conv2d(feature, self.mixing[:, :, None, None], self.offset).clamp(*LOG_RANGE).exp()

    def clipping(self, layer: GradientFlowConv2d, sigma: Tensor, guide: Tensor, change: Tensor) -> list[Tensor]:
        """λ(p) = λ(σ) G and, where there is one, the centre ν W g, for a ``NoiseClip`` layer's states of guide and change."""
        activation: NoiseClip = layer.activation  # type: ignore[assignment]
        scale, _ = activation.scale_and_shift(sigma)
        scale = scale.reshape(-1, scale.shape[-1], 1, 1)
        response, feature = self.look(layer, guide, scale)
        limits = scale * self(feature)
        if not self.centred:
            return [limits]
        first, second = self.share_mixing[:, :, None, None].chunk(2, 1)
        share = F.conv2d(feature, first, self.share_offset)
        share = (share + F.conv2d(self.look(layer, change, scale)[1], second)).sigmoid()
        return [limits, response * share]

    def look(self, layer: GradientFlowConv2d, image: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's responses to an image, and f of them in units of the thresholds ``scale``."""
        # The filters that look at the guide are trained without one.
        response = layer.conv(image, layer.weight.detach())
        energy = response.square() / scale.detach().square()
        return response, self.feature(energy, circular=layer.padding_mode == "circular")
