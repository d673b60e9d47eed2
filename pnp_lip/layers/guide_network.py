"""The network that improves a guide image before thresholds follow it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import InputError

__all__ = ["GuideNetwork"]

SIGMA_UNIT = 0.1  # the noise level that the network sees as 1


class GuideNetwork(nn.Module):
    """U(g, σ) = g + R(g, σ), the guide image g with less of what a first solution got wrong.

    R is a residual network on the image at half the resolution (its 2 × 2 pixels are channels) and σ: ``depth``
    convolutions of 3 × 3, ``width`` channels between them. It is not nonexpansive and need not be: a layer keeps its
    certificate whatever image its thresholds follow. Untrained, R = 0.

    Shapes: g is (B or 1, channels, H, W) of any size and σ (B,) or (1,), on the same scale. Raises InputError unless
    width ≥ 1 and depth ≥ 2.

    >>> GuideNetwork(1, width=4, depth=3)(torch.full((1, 1, 2, 3), 0.5), torch.tensor([0.1])).tolist()
    [[[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]]
    """

    def __init__(self, channels: int, *, width: int, depth: int) -> None:
        super().__init__()
        if width < 1 or depth < 2:
            raise InputError(
                f"a guide network needs a width of at least 1 and a depth of at least 2; got {width}, {depth}."
            )
        sizes = [4 * channels + 1, *[width] * (depth - 1), 4 * channels]
        self.reach = 2 * depth  # rows or columns away from which a pixel can still influence another
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(sizes))
        for conv in self.convolutions:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.convolutions[-1].weight)  # type: ignore[arg-type]

    def forward(self, guide: Tensor, sigma: Tensor) -> Tensor:
        """U(g, σ)."""
        h, w = guide.shape[-2:]
        parts = F.pixel_unshuffle(F.pad(guide, (0, w % 2, 0, h % 2), mode="replicate"), 2)
        batch = max(parts.shape[0], sigma.numel())
        level = (sigma.to(parts) / SIGMA_UNIT).reshape(-1, 1, 1, 1).expand(batch, 1, *parts.shape[-2:])
        first, *others, last = self.convolutions
        t = F.relu(first(torch.cat([parts.expand(batch, -1, -1, -1), level], 1)))
        for conv in others:
            t = t + F.relu(conv(t))
        return guide + F.pixel_shuffle(last(t), 2)[..., :h, :w]
