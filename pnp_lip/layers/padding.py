"""What a convolution sees beyond the image's border, and the adjoint of letting it see that."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PADDING_MODES", "fold", "pad"]

PADDING_MODES = ("zeros", "circular", "symmetric")


def pad(x: Tensor, reach: int, mode: str) -> Tensor:
    """x continued by ``reach`` pixels on each side: by zeros, periodically, or mirrored with the border pixel repeated.

    Periods and mirror images repeat where the image is smaller than ``reach``.

    >>> pad(torch.tensor([[[[1.0, 2.0]]]]), 2, "symmetric")[0, 0, 0]
    tensor([2., 1., 1., 2., 2., 1.])
    """
    if mode == "zeros":
        return F.pad(x, (reach,) * 4)
    if reach <= min(x.shape[-2:]):
        if mode == "circular":
            return F.pad(x, (reach,) * 4, mode="circular")
        return mirrored(mirrored(x, reach, -1), reach, -2)
    rows, columns = (sources(size, reach, mode, x.device) for size in x.shape[-2:])
    return x[..., rows[:, None], columns]


def fold(x: Tensor, reach: int, mode: str) -> Tensor:
    """The adjoint of ``pad``: what lies in the border is added to the pixels that it was copied from.

    >>> fold(torch.ones(1, 1, 1, 6).expand(1, 1, 6, 6), 2, "symmetric")[0, 0]
    tensor([[9., 9.],
            [9., 9.]])
    """
    size = (x.shape[-2] - 2 * reach, x.shape[-1] - 2 * reach)
    if mode == "zeros":
        return x[..., reach : reach + size[0], reach : reach + size[1]]
    if mode == "symmetric" and reach <= min(size):
        return folded(folded(x, reach, -2), reach, -1)
    for dim, n in ((-2, size[0]), (-1, size[1])):
        shape = list(x.shape)
        shape[dim] = n
        x = x.new_zeros(shape).index_add(dim, sources(n, reach, mode, x.device), x)
    return x


def mirrored(x: Tensor, reach: int, dim: int) -> Tensor:
    """x continued by its mirror images along one axis."""
    if reach == 0:
        return x
    first, last = x.narrow(dim, 0, reach), x.narrow(dim, x.shape[dim] - reach, reach)
    return torch.cat([first.flip(dim), x, last.flip(dim)], dim)


def folded(x: Tensor, reach: int, dim: int) -> Tensor:
    """The adjoint of ``mirrored``."""
    if reach == 0:
        return x
    size = x.shape[dim] - 2 * reach
    first, last = x.narrow(dim, 0, reach).flip(dim), x.narrow(dim, size + reach, reach).flip(dim)
    middle = x.narrow(dim, reach, size).clone()
    middle.narrow(dim, 0, reach).add_(first)
    middle.narrow(dim, size - reach, reach).add_(last)
    return middle


def sources(size: int, reach: int, mode: str, device: torch.device) -> Tensor:
    """Which of ``size`` positions each position of the continuation repeats."""
    positions = torch.arange(-reach, size + reach, device=device)
    if mode == "circular":
        return positions % size
    positions = positions % (2 * size)
    return torch.minimum(positions, 2 * size - 1 - positions)
