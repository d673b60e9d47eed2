"""The network that improves a guide image before clips follow it."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import InputError

__all__ = ["SIGMA_UNIT", "GuideNetwork", "convolutions_of", "half_resolution", "start_from_identity"]

SIGMA_UNIT = 0.1  # the noise level, on the scale of images in [0, 1], that networks see as 1


class GuideNetwork(nn.Module):
    """U(g, σ) = g + R(g, σ), the guide image g with less of what a first solution got wrong.

    R is a residual network on the image at half the resolution (its 2 × 2 pixels are channels): ``depth`` convolutions of
    3 × 3, ``width`` channels between them. It is not nonexpansive and need not be: a layer keeps its certificate whatever
    image its clips follow. Untrained, R = 0.

    Shapes: g is (B or 1, channels, H, W) of any size and σ (B,) or (1,), on the same scale. ``block`` is the side of what
    one number at half the resolution stands for, ``reach`` how many pixels beyond a whole block R looks. Raises InputError
    unless width ≥ 1 and depth ≥ 2.

    >>> GuideNetwork(1, width=4, depth=3)(torch.full((1, 1, 2, 3), 0.5), torch.tensor([0.1])).tolist()
    [[[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]]
    """

    def __init__(self, channels: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.channels, self.size, self.block, self.reach = channels, (width, depth), 2, 2 * depth
        self.convolutions = convolutions_of(1, channels, width, depth)
        start_from_identity(self.convolutions)

    def forward(self, guide: Tensor, sigma: Tensor) -> Tensor:
        """U(g, σ)."""
        level = sigma.to(guide).reshape(-1, 1, 1, 1) / SIGMA_UNIT
        first, *others, last = self.convolutions
        t = F.relu(first(half_resolution([guide], [level], self.block)))
        for conv in others:
            t = t + F.relu(conv(t))
        h, w = guide.shape[-2:]
        return guide + F.pixel_shuffle(last(t), 2).to(guide)[..., :h, :w]


def convolutions_of(images: int, channels: int, width: int, depth: int) -> nn.ModuleList:
    """``depth`` convolutions at half the resolution: in go some images and one noise level for each, out comes one image."""
    if width < 1 or depth < 2:
        raise InputError(
            f"a guide network needs a width of at least 1 and a depth of at least 2; got {width} and {depth}."
        )
    sizes = [images * (4 * channels + 1), *[width] * (depth - 1), 4 * channels]
    return nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(sizes))


def start_from_identity(convolutions: nn.ModuleList, *others: nn.ModuleList) -> None:
    """Kaiming's first weights, and zeros in the last convolution, so that untrained nothing is changed."""
    for conv in (conv for group in (convolutions, *others) for conv in group):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    nn.init.zeros_(convolutions[-1].weight)  # type: ignore[arg-type]


def half_resolution(images: list[Tensor], levels: list[Tensor], block: int) -> Tensor:
    """Images (B or 1, C, H, W), padded to whole blocks, with 2 × 2 pixels as channels; then one channel for each level.

    >>> half_resolution([torch.zeros(1, 1, 3, 5)], [torch.ones(2, 1, 1, 1)], 4).shape
    torch.Size([2, 5, 2, 4])
    """
    h, w = images[0].shape[-2:]
    batch = max(len(part) for part in (*images, *levels))
    whole = torch.cat([image.expand(batch, -1, -1, -1) for image in images], 1)
    parts = F.pixel_unshuffle(F.pad(whole, (0, -w % block, 0, -h % block), mode="replicate"), 2)
    return torch.cat([parts, *(level.expand(batch, 1, *parts.shape[-2:]) for level in levels)], 1)
