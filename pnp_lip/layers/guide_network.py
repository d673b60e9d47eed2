"""The network that improves a guide image before clips follow it."""

from __future__ import annotations

import contextlib
import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import InputError

__all__ = ["GuideNetwork"]

MOST_SCALES = 9  # a block of 512 pixels a side
SIGMA_UNIT = 0.1  # the noise level that the network sees as 1
SIGMA_LOG = 4.0  # the unit of its logarithm, which the network sees beside a residual
LEAST = 1e-3  # of noise levels, in units of SIGMA_UNIT, below which all look alike there


class GuideNetwork(nn.Module):
    """U(g, σ) = g + R(g, σ), the guide image g with less of what a first solution got wrong; or g + √(σ/10) R(g, r, σ).

    R is a residual network on the image at half the resolution (its 2 × 2 pixels are channels): ``depth`` convolutions of
    3 × 3, ``width`` channels between them. With ``scales`` = s > 1 it is a U-net, as wide as 2, …, s times that at each
    further halving of the resolution, and of ``depth`` − 2 convolutions at each resolution, on the way down and up.
    With ``residual`` it also looks at what the data hold beyond the guide, as an image r: y − g where the data y are a noisy
    image, 0 if nothing is told; and what it changes is in units of √(σ/10), between the noise and what blurs and scans lose.
    It is not nonexpansive and need not be: a layer keeps its certificate whatever image its clips follow. Untrained, R = 0.

    Shapes: g and r are (B or 1, channels, H, W) of any size and σ (B,) or (1,), on the same scale. Raises InputError unless
    width ≥ 1, depth ≥ 2 and 1 ≤ scales ≤ 9.

    Source of the U-net: Ronneberger, Fischer & Brox (2015).

    >>> GuideNetwork(1, width=4, depth=3)(torch.full((1, 1, 2, 3), 0.5), torch.tensor([0.1])).tolist()
    [[[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]]
    """

    def __init__(self, channels: int, *, width: int, depth: int, scales: int = 1, residual: bool = False) -> None:
        super().__init__()
        if width < 1 or depth < 2 or not 1 <= scales <= MOST_SCALES:
            raise InputError(
                f"a guide network needs a width of at least 1, a depth of at least 2 and one to {MOST_SCALES} scales; got "
                f"{width}, {depth}, {scales}."
            )
        self.block = 2**scales  # pixels a side, that one number of the coarsest scale stands for
        self.reach = reach_of(depth, scales)  # rows or columns beyond a whole block that it depends on
        widths = [width * (i + 1) for i in range(scales)]
        self.residual = residual
        sizes = [(4 * channels + 1) * (1 + residual), *[width] * (depth - 1), 4 * channels]
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(sizes))
        self.shrinking = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.growing = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
        self.coarse = nn.ModuleList(Residuals(w, depth - 2) for w in widths[1:])  # on the way down
        self.back = nn.ModuleList(Residuals(w, depth - 2) for w in widths[:-1])  # on the way up
        for conv in (*self.convolutions, *self.shrinking, *self.growing):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.convolutions[-1].weight)  # type: ignore[arg-type]

    def forward(self, guide: Tensor, sigma: Tensor, residual: Tensor | None = None) -> Tensor:
        """U(g, σ) or U(g, σ, r)."""
        h, w = guide.shape[-2:]
        unit = sigma.to(guide).reshape(-1, 1, 1, 1)
        seen, levels = [guide], [unit / SIGMA_UNIT]
        if self.residual:
            seen.append(torch.zeros_like(guide) if residual is None else residual)
            levels.append(levels[0].clamp_min(LEAST).log() / SIGMA_LOG)
        batch = max(sigma.numel(), *(len(image) for image in seen))
        images = torch.cat([image.expand(batch, -1, -1, -1) for image in seen], 1)
        parts = F.pixel_unshuffle(F.pad(images, (0, -w % self.block, 0, -h % self.block), mode="replicate"), 2)
        first, *others, last = self.convolutions
        # In bfloat16 the image would be rounded by as much as the lowest noise that it is about.
        exact = torch.autocast(guide.device.type, enabled=False) if self.residual else contextlib.nullcontext()
        with exact:
            t = F.relu(first(torch.cat([parts, *(level.expand(batch, 1, *parts.shape[-2:]) for level in levels)], 1)))
        for conv in others:
            t = t + F.relu(conv(t))
        finer = []
        for shrink, convs in zip(self.shrinking, self.coarse, strict=True):
            finer.append(t)
            t = convs(shrink(t))
        for grow, convs in zip(reversed(self.growing), reversed(self.back), strict=True):
            t = convs(grow(t) + finer.pop())
        change = F.pixel_shuffle(last(t), 2).to(guide)[..., :h, :w]
        return guide + ((SIGMA_UNIT * unit).sqrt() * change if self.residual else change)


class Residuals(nn.Sequential):
    """t ↦ t + relu(conv(t)) for each of ``count`` convolutions, small at first because many of them follow one another."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(count)))
        for conv in self:
            nn.init.normal_(conv.weight, std=0.1 / math.sqrt(width))  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, t: Tensor) -> Tensor:
        for conv in self:
            t = t + F.relu(conv(t))
        return t


def reach_of(depth: int, scales: int) -> int:
    """How far beyond a block of 2^scales pixels a side the network sees, in whole blocks: back from the result to the guide."""
    reach, convs = 2, depth - 2
    for i in range(1, scales + 1):  # what a scale sees of the next coarser one are whole blocks
        reach = in_blocks(reach, i) + convs * 2**i
    reach += sum(convs * 2**i for i in range(1, scales)) + 2
    return in_blocks(reach, scales)


def in_blocks(n: int, scale: int) -> int:
    """The smallest multiple of 2^scale that is at least n."""
    block: int = 2**scale
    return -(-n // block) * block
