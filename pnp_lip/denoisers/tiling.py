"""A convolutional map on large images, window by window, exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError

__all__ = ["map_windows", "windows"]


def map_windows(function: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, reach: int, circular: bool) -> Tensor:
    """f(x) for a map f whose value at a pixel depends on the pixels at most ``reach`` rows and columns away.

    f sees windows of ``tile`` + 2·``reach`` rows and columns, and of f(window) only pixels with their whole neighbourhood
    inside the window are kept. A window never leaves the image, so that f meets the image's border exactly where f(x)
    does; with ``circular`` it wraps around. All windows have one shape, because torch chooses its algorithm by the shape.

    Shapes: x is (B, C, H, W), and so is the result. Raises InputError unless
    tile ≥ 1, ShapeError for another number of axes.

    >>> x = torch.rand(1, 1, 9, 7)
    >>> bool((map_windows(lambda z: 2 * z, x, tile=4, reach=0, circular=False) == 2 * x).all())
    True
    """
    if x.ndim != 4:
        raise ShapeError(f"images must have the shape (B, C, H, W); got {tuple(x.shape)}.")
    if tile < 1:
        raise InputError(f"`tile` is a number of rows and columns and must be at least 1; got {tile}.")
    height, width = x.shape[-2:]
    result = torch.empty_like(x)
    for kept_rows, rows in windows(height, tile, reach, circular):
        for kept_columns, columns in windows(width, tile, reach, circular):
            top, left = kept_rows.start - rows.start, kept_columns.start - columns.start
            d = function(cut(x, rows, columns))
            result[..., kept_rows, kept_columns] = d[
                ..., top : top + kept_rows.stop - kept_rows.start, left : left + kept_columns.stop - kept_columns.start
            ]
    return result


def windows(size: int, tile: int, reach: int, circular: bool) -> list[tuple[slice, range]]:
    """Along one axis: what each window contributes, and the positions it sees (beyond the ends when it wraps).

    >>> windows(10, 3, 1, False)
    [(slice(0, 3, None), range(0, 5)), (slice(3, 6, None), range(2, 7)), (slice(6, 9, None), range(5, 10)), \
(slice(9, 10, None), range(5, 10))]
    """
    length = tile + 2 * reach
    if length >= size:
        return [(slice(0, size), range(size))]
    seen = []
    for start in range(0, size, tile):
        first = start - reach if circular else min(max(start - reach, 0), size - length)
        seen.append((slice(start, min(start + tile, size)), range(first, first + length)))
    return seen


def cut(x: Tensor, rows: range, columns: range) -> Tensor:
    """The pixels in these rows and columns, modulo the image's size."""
    for dim, positions in ((-2, rows), (-1, columns)):
        if positions.start < 0 or positions.stop > x.shape[dim]:
            x = x.index_select(dim, torch.arange(positions.start, positions.stop, device=x.device) % x.shape[dim])
        else:
            x = x.narrow(dim, positions.start, len(positions))
    return x
