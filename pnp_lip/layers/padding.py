"""What a convolution sees beyond the image's border."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PADDING_MODES", "pad"]

PADDING_MODES = ("zeros", "circular")


def pad(x: Tensor, reach: int, mode: str) -> Tensor:
    """x continued by ``reach`` pixels on each side, by zeros or periodically, more than once around a small image.

    >>> pad(torch.tensor([[[[1.0, 2.0]]]]), 3, "circular")[0, 0, 0]
    tensor([2., 1., 2., 1., 2., 1., 2., 1.])
    """
    if mode == "zeros":
        return F.pad(x, (reach,) * 4)
    if reach <= min(x.shape[-2:]):
        return F.pad(x, (reach,) * 4, mode="circular")
    rows, columns = (torch.arange(-reach, size + reach, device=x.device) % size for size in x.shape[-2:])
    return x[..., rows[:, None], columns]
