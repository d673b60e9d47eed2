"""Networks that work at half the resolution: they improve guides, or define a potential.

None is nonexpansive, and none needs to be: a layer keeps its certificate whatever image its clips follow, and a descent
method asks of a potential that it is smooth.
"""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import InputError

__all__ = ["GuideNetwork", "UNet"]

SIGMA_UNIT = 0.1  # the noise level, on the scale of images in [0, 1], that networks see as 1
LOG_UNIT = 4.0  # the logarithm of a noise level, in units of SIGMA_UNIT, that the U-net sees as 1
LEAST_LEVEL = 1e-3  # the noise level, in units of SIGMA_UNIT, below which all look alike in that logarithm
FIRST_STD = 0.1  # of the first weights of a U-net's convolutions that follow one another, times √width: they are many
SMALLER = math.sqrt(7)  # slope of the leaky ReLU for which Kaiming's weights are half as large as for a linear layer
MOST_SCALES = 9  # resolutions at most: the coarsest of nine has blocks as large as the window in which it runs, 512 x 512


class GuideNetwork(nn.Module):
    """U(g, σ) = g + R(g, σ), the guide image g with less of what a first solution got wrong.

    R is a residual network on the image at half the resolution (its 2 × 2 pixels are channels): ``depth`` convolutions of
    3 × 3, ``width`` channels between them. Untrained, R = 0.

    Shapes: g is (B or 1, channels, H, W), H and W multiples of ``block``, which one number of the coarsest scale stands for,
    and σ (B,) or (1,), on the same scale. ``denoisers.tiling.improve`` takes any size. ``reach`` is how many pixels beyond a
    whole block R looks. Raises InputError unless width ≥ 1 and depth ≥ 2.

    >>> GuideNetwork(1, width=4, depth=3)(torch.full((1, 1, 2, 2), 0.5), torch.tensor([0.1])).tolist()
    [[[[0.5, 0.5], [0.5, 0.5]]]]
    """

    def __init__(self, channels: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.size, self.block, self.reach = (width, depth), 2, 2 * depth
        self.convolutions = convolutions_of(channels, width, depth)
        start_from_identity(self.convolutions)

    def forward(self, guide: Tensor, sigma: Tensor) -> Tensor:
        """U(g, σ)."""
        level = sigma.to(guide).reshape(-1, 1, 1, 1) / SIGMA_UNIT
        first, *others, last = self.convolutions
        t = residuals(others, F.relu(first(half_resolution(guide, [level]))))
        return guide + F.pixel_shuffle(last(t), 2).to(guide)


class UNet(nn.Module):
    """U(x, σ) = x + √(σ/10) R(x, σ), smooth in the image x.

    R is a network as in ``GuideNetwork`` with SiLU in the place of ReLU. With ``scales`` = s > 1 it goes on at s − 1 coarser
    resolutions, each half of the one before, as wide as 2, …, s times ``width``, with ``depth`` − 2 convolutions on the way
    down and up. The unit of the change lies between the noise and what blurs and scans lose. Untrained, R is random: where
    R = 0, ½‖x − U(x, σ)‖² has no gradient to learn from.

    Shapes as there. Raises InputError unless width ≥ 1, depth ≥ 2 and 1 ≤ scales ≤ 9.
    Source: Ronneberger, Fischer & Brox (2015).

    >>> x = torch.full((1, 1, 4, 4), 0.5)
    >>> bool((UNet(1, width=4, depth=3, scales=2)(x, sigma=torch.tensor([0.0])) == x).all())
    True
    """

    def __init__(self, channels: int, *, width: int, depth: int, scales: int) -> None:
        super().__init__()
        if not 1 <= scales <= MOST_SCALES:
            raise InputError(f"a U-net has one to {MOST_SCALES} scales; got {scales}.")
        self.size, self.block, self.reach = (width, depth, scales), 2**scales, reach_of(depth, scales)
        widths = [width * (i + 1) for i in range(scales)]
        self.convolutions = convolutions_of(channels, width, depth, levels=2)
        self.shrinking = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.growing = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
        self.coarse = nn.ModuleList(small_convolutions(w, depth - 2) for w in widths[1:])  # on the way down
        self.back = nn.ModuleList(small_convolutions(w, depth - 2) for w in widths[:-1])  # on the way up
        start_from_identity(self.convolutions, self.shrinking, self.growing)
        nn.init.kaiming_normal_(self.convolutions[-1].weight, a=SMALLER)  # type: ignore[arg-type]

    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        """U(x, σ)."""
        unit = sigma.to(image).reshape(-1, 1, 1, 1)
        level = unit / SIGMA_UNIT
        levels = [level, level.clamp_min(LEAST_LEVEL).log() / LOG_UNIT]
        first, *others, last = self.convolutions
        # In bfloat16 the image would be rounded by as much as the lowest noise that it is about.
        with torch.autocast(image.device.type, enabled=False):
            t = F.silu(first(half_resolution(image, levels)))
        t, finer = residuals(others, t, F.silu), []
        for shrink, convs in zip(self.shrinking, self.coarse, strict=True):
            finer.append(t)
            t = residuals(convs, shrink(t), F.silu)  # type: ignore[arg-type]
        for grow, convs in zip(reversed(self.growing), reversed(self.back), strict=True):
            t = residuals(convs, grow(t) + finer.pop(), F.silu)  # type: ignore[arg-type]
        return image + (SIGMA_UNIT * unit).sqrt() * F.pixel_shuffle(last(t), 2).to(image)


def convolutions_of(channels: int, width: int, depth: int, levels: int = 1) -> nn.ModuleList:
    """``depth`` convolutions at half the resolution: in go an image and ``levels`` of noise, out comes an image."""
    if width < 1 or depth < 2:
        raise InputError(f"a guide network needs a width of at least 1 and a depth of at least 2; got {width}, {depth}.")
    sizes = [4 * channels + levels, *[width] * (depth - 1), 4 * channels]
    return nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(sizes))


def small_convolutions(width: int, count: int) -> nn.ModuleList:
    """``count`` convolutions that keep ``width``, with small first weights."""
    convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(count)]
    for conv in convolutions:
        nn.init.normal_(conv.weight, std=FIRST_STD / math.sqrt(width))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.ModuleList(convolutions)


def start_from_identity(convolutions: nn.ModuleList, *others: nn.ModuleList) -> None:
    """Kaiming's first weights, and zeros in the last convolution, so that untrained nothing is changed."""
    for conv in (conv for group in (convolutions, *others) for conv in group):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    nn.init.zeros_(convolutions[-1].weight)  # type: ignore[arg-type]


def residuals(convolutions: Iterable[nn.Module], t: Tensor, activation: Callable[[Tensor], Tensor] = F.relu) -> Tensor:
    """t ↦ t + activation(conv(t)) for each convolution."""
    for conv in convolutions:
        t = t + activation(conv(t))
    return t


def half_resolution(image: Tensor, levels: list[Tensor]) -> Tensor:
    """An image (B or 1, C, H, W) with 2 × 2 pixels as channels; then one channel for each level."""
    batch = max(len(part) for part in (image, *levels))
    parts = F.pixel_unshuffle(image.expand(batch, -1, -1, -1), 2)
    return torch.cat([parts, *(level.expand(batch, 1, *parts.shape[-2:]) for level in levels)], 1)


def reach_of(depth: int, scales: int) -> int:
    """How far beyond a block of 2^scales pixels a side the network sees, in whole blocks: back from the result to g."""
    reach, convs = 2, depth - 2
    for i in range(1, scales + 1):  # what a scale sees of the next coarser one are whole blocks
        reach = (-(-reach >> i) + convs) << i
    reach += sum(convs << i for i in range(1, scales)) + 2
    return -(-reach >> scales) << scales
