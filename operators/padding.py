"""What lies beyond the border of an image: index maps that extend one axis, and their transposes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PADDINGS", "extend", "extension_index", "fold"]

PADDINGS = ("circular", "zeros", "replicate", "reflect", "valid")


def extension_index(size: int, before: int, after: int, padding: str) -> Tensor:
    """For each sample of the extended axis, the sample of the image it repeats ("replicate" or "reflect").

    "reflect" leaves out the edge sample itself, as torch and deepinv do (whole-sample symmetry), and needs
    before, after < size.

    >>> extension_index(3, 2, 1, "reflect").tolist()
    [2, 1, 0, 1, 2, 1]
    """
    position = torch.arange(-before, size + after)
    if padding == "replicate":
        return position.clamp(0, size - 1)
    position = position.abs()
    return torch.where(position >= size, 2 * (size - 1) - position, position)


def extend(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """P x: gather the rows and columns of the last two axes."""
    return x.index_select(-2, rows).index_select(-1, columns)


def fold(x: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """Pᵀ x, the transpose of ``extend``: every extended sample is added to the one it repeats."""
    x = x.new_zeros(*x.shape[:-1], size[1]).index_add(-1, columns, x)
    return x.new_zeros(*x.shape[:-2], *size).index_add(-2, rows, x)
