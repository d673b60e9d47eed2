"""What a convolution reads beyond the border of an image: index maps that extend one axis, and their transposes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PADDINGS", "extend", "extension_index", "fold"]

PADDINGS = ("circular", "zeros", "replicate", "reflect", "valid")


def extension_index(size: int, taps: int, padding: str) -> Tensor:
    """For each sample that a filter of ``taps`` taps reads along one axis, the sample of the image that it repeats.

    The filter's tap ``taps // 2`` lies on the pixel itself. With "zeros", samples beyond the border have the index
    ``size``, where the caller puts a zero. "valid" reads the image alone. "reflect" does not repeat the edge sample, as
    in torch and deepinv (whole-sample symmetry).

    >>> extension_index(3, 4, "reflect").tolist(), extension_index(3, 4, "zeros").tolist()
    ([1, 0, 1, 2, 1, 0], [3, 0, 1, 2, 3, 3])
    """
    centre = taps // 2
    if padding == "valid":
        return torch.arange(size)
    position = torch.arange(-(taps - 1 - centre), size + centre)
    if padding == "zeros":
        return torch.where((position >= 0) & (position < size), position, size)
    if padding == "replicate":
        return position.clamp(0, size - 1)
    position = position.abs()
    return torch.where(position >= size, 2 * (size - 1) - position, position)


def extend(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """P x: gather the rows and columns of the last two axes."""
    return x.index_select(-2, rows).index_select(-1, columns)


def fold(x: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """Pᵀ x, the transpose of ``extend``: every extended sample is added to the one that it repeats."""
    x = x.new_zeros(*x.shape[:-1], size[1]).index_add(-1, columns, x)
    return x.new_zeros(*x.shape[:-2], *size).index_add(-2, rows, x)
