"""The U-net that improves a denoised image with what denoising took away."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.layers.guide_network import SIGMA_UNIT, convolutions_of, half_resolution, start_from_identity

__all__ = ["UNet"]

MOST_SCALES = (
    9  # resolutions at most: the coarsest of nine has blocks as large as the window in which it runs, 512 x 512
)
LOG_UNIT = 4.0  # the logarithm of a noise level, in units of SIGMA_UNIT, that the network sees as 1
LEAST_LEVEL = 1e-3  # the noise level, in units of SIGMA_UNIT, below which all look alike in that logarithm
FIRST_STD = 0.1  # of the first weights of a convolution in ``Residuals``, times √width: many of them follow one another


class UNet(nn.Module):
    """U(g, r, σ) = g + √(σ/10) R(g, r, σ), the image g with what belongs to it of the remainder r.

    R is a residual network on the images at half the resolution (their 2 × 2 pixels are channels): ``depth`` convolutions
    of 3 × 3, ``width`` channels between them. With ``scales`` = s > 1 it goes on at s − 1 coarser resolutions, each half of
    the one before, as wide as 2, …, s times ``width``, with ``depth`` − 2 convolutions on the way down and up. The unit of
    the change lies between the noise and what blurs and scans lose. Not nonexpansive. Untrained, R = 0.

    Shapes: g and r are (B or 1, channels, H, W) of any size and σ (B,) or (1,), on the same scale. ``block`` is the side of
    what one number of the coarsest scale stands for, ``reach`` how many pixels beyond a whole block R looks. Raises
    InputError unless width ≥ 1, depth ≥ 2 and 1 ≤ scales ≤ 9.

    Source: Ronneberger, Fischer & Brox (2015).

    >>> g = torch.full((1, 1, 2, 3), 0.5)
    >>> UNet(1, width=4, depth=3, scales=2)(g, 0 * g, torch.tensor([0.1])).tolist()
    [[[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]]
    """

    def __init__(self, channels: int, *, width: int, depth: int, scales: int) -> None:
        super().__init__()
        if not 1 <= scales <= MOST_SCALES:
            raise InputError(f"a U-net has one to {MOST_SCALES} scales; got {scales}.")
        self.size, self.block, self.reach = (width, depth, scales), 2**scales, reach_of(depth, scales)
        widths = [width * (i + 1) for i in range(scales)]
        self.convolutions = convolutions_of(2, channels, width, depth)
        self.shrinking = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.growing = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
        self.coarse = nn.ModuleList(Residuals(w, depth - 2) for w in widths[1:])  # on the way down
        self.back = nn.ModuleList(Residuals(w, depth - 2) for w in widths[:-1])  # on the way up
        start_from_identity(self.convolutions, self.shrinking, self.growing)

    def forward(self, image: Tensor, remainder: Tensor, sigma: Tensor) -> Tensor:
        """U(g, r, σ)."""
        unit = sigma.to(image).reshape(-1, 1, 1, 1)
        level = unit / SIGMA_UNIT
        levels = [level, level.clamp_min(LEAST_LEVEL).log() / LOG_UNIT]
        first, *others, last = self.convolutions
        # In bfloat16 the image would be rounded by as much as the lowest noise that it is about.
        with torch.autocast(image.device.type, enabled=False):
            t = F.relu(first(half_resolution([image, remainder], levels, self.block)))
        for conv in others:
            t = t + F.relu(conv(t))
        finer = []
        for shrink, convs in zip(self.shrinking, self.coarse, strict=True):
            finer.append(t)
            t = convs(shrink(t))
        for grow, convs in zip(reversed(self.growing), reversed(self.back), strict=True):
            t = convs(grow(t) + finer.pop())
        h, w = image.shape[-2:]
        return image + (SIGMA_UNIT * unit).sqrt() * F.pixel_shuffle(last(t), 2).to(image)[..., :h, :w]


class Residuals(nn.Sequential):
    """t ↦ t + relu(conv(t)) for each of ``count`` convolutions."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(count)))
        for conv in self:
            nn.init.normal_(conv.weight, std=FIRST_STD / math.sqrt(width))  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, t: Tensor) -> Tensor:
        for conv in self:
            t = t + F.relu(conv(t))
        return t


def reach_of(depth: int, scales: int) -> int:
    """How far beyond a block of 2^scales pixels a side the network sees, in whole blocks: back from the result to g."""
    reach, convs = 2, depth - 2
    for i in range(1, scales + 1):  # what a scale sees of the next coarser one are whole blocks
        reach = (-(-reach >> i) + convs) << i
    reach += sum(convs << i for i in range(1, scales)) + 2
    return -(-reach >> scales) << scales
