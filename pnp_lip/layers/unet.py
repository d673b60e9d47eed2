"""A U-net with smooth activations, which defines a potential.

It is not nonexpansive, and need not be: a descent method asks of a potential only that it is smooth.
"""

import math
from collections.abc import Iterable
from itertools import chain, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import InputError

__all__ = ["UNet"]

SIGMA_UNIT = 0.1  # the noise level, on the scale of images in [0, 1], that the network sees as 1
LOG_UNIT = 4.0  # the logarithm of a noise level, in units of SIGMA_UNIT, that the network sees as 1
LEAST_LEVEL = 1e-3  # the noise level, in units of SIGMA_UNIT, below which all look alike in that logarithm
FIRST_STD = 0.1  # of the first weights of convolutions that follow one another, times √width: they are many
SMALLER = math.sqrt(7)  # slope of the leaky ReLU for which Kaiming's weights are half as large as for a linear layer
MOST_SCALES = 9  # the coarsest of nine has blocks of 512 x 512, and the windows in which it runs hold whole ones


class UNet(nn.Module):
    """U(x, σ) = x + √(σ/10) R(x, σ), smooth in the image x.

    R sees the image at half the resolution: its 2 × 2 pixels are channels, beside two channels of the noise level. There it
    has ``depth`` convolutions of 3 × 3 with SiLU between them and ``width`` channels. With ``scales`` = s > 1 it goes on at
    s − 1 coarser resolutions, each half of the one before, as wide as 2, …, s times ``width``, with ``depth`` − 2
    convolutions on the way down and up. The unit of the change lies between the noise and what blurs and scans lose.
    Untrained, R is random: where R = 0, ½‖x − U(x, σ)‖² has no gradient to learn from.

    Shapes: x is (B, channels, H, W), H and W multiples of ``block``, which one number of the coarsest scale stands for, and σ
    (B,) or (1,), on the same scale. ``reach`` is how many pixels beyond a whole block R looks.
    Raises InputError unless width ≥ 1, depth ≥ 2 and 1 ≤ scales ≤ 9.
    Source: Ronneberger, Fischer & Brox (2015).

    >>> x = torch.full((1, 1, 4, 4), 0.5)
    >>> bool((UNet(1, width=4, depth=3, scales=2)(x, sigma=torch.tensor([0.0])) == x).all())
    True
    """

    def __init__(self, channels: int, *, width: int, depth: int, scales: int) -> None:
        super().__init__()
        if width < 1 or depth < 2 or not 1 <= scales <= MOST_SCALES:
            raise InputError(
                f"a U-net has a width of at least 1, a depth of at least 2 and one to {MOST_SCALES} scales; got "
                f"{width}, {depth}, {scales}."
            )
        self.size, self.block, self.reach = (width, depth, scales), 2**scales, reach_of(depth, scales)
        widths = [width * (i + 1) for i in range(scales)]
        sizes = [4 * channels + 2, *[width] * (depth - 1), 4 * channels]
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(sizes))
        self.shrinking = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.growing = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
        self.coarse = nn.ModuleList(small_convolutions(w, depth - 2) for w in widths[1:])  # on the way down
        self.back = nn.ModuleList(small_convolutions(w, depth - 2) for w in widths[:-1])  # on the way up
        for conv in chain(self.convolutions, self.shrinking, self.growing):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.kaiming_normal_(self.convolutions[-1].weight, a=SMALLER)  # type: ignore[arg-type]

    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        """U(x, σ)."""
        unit = sigma.to(image).reshape(-1, 1, 1, 1)
        level = unit / SIGMA_UNIT
        pixels = F.pixel_unshuffle(image, 2)
        seen = [s.expand(len(pixels), 1, *pixels.shape[-2:]) for s in (level, level.clamp_min(LEAST_LEVEL).log() / LOG_UNIT)]
        first, *others, last = self.convolutions
        # In bfloat16 the image would be rounded by as much as the lowest noise that it is about.
        with torch.autocast(image.device.type, enabled=False):
            t = F.silu(first(torch.cat([pixels, *seen], 1)))
        t, finer = residuals(others, t), []
        for shrink, convs in zip(self.shrinking, self.coarse, strict=True):
            finer.append(t)
            t = residuals(convs, shrink(t))  # type: ignore[arg-type]
        for grow, convs in zip(reversed(self.growing), reversed(self.back), strict=True):
            t = residuals(convs, grow(t) + finer.pop())  # type: ignore[arg-type]
        return image + (SIGMA_UNIT * unit).sqrt() * F.pixel_shuffle(last(t), 2).to(image)


def small_convolutions(width: int, count: int) -> nn.ModuleList:
    """``count`` convolutions that keep ``width``, with small first weights."""
    convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(count)]
    for conv in convolutions:
        nn.init.normal_(conv.weight, std=FIRST_STD / math.sqrt(width))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.ModuleList(convolutions)


def residuals(convolutions: Iterable[nn.Module], t: Tensor) -> Tensor:
    """t ↦ t + SiLU(conv(t)) for each convolution."""
    for conv in convolutions:
        t = t + F.silu(conv(t))
    return t


def reach_of(depth: int, scales: int) -> int:
    """How far beyond a block of 2^scales pixels a side the network sees, in whole blocks: back from the result to x."""
    reach, convs = 2, depth - 2
    for i in range(1, scales + 1):  # what a scale sees of the next coarser one are whole blocks
        reach = (-(-reach >> i) + convs) << i
    reach += sum(convs << i for i in range(1, scales)) + 2
    return -(-reach >> scales) << scales
