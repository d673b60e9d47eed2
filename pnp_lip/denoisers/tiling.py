"""A convolutional map window by window, exactly: in less memory, and in the processor's cache."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import UNet
from pnp_lip.progress import advance

__all__ = ["cache_tile", "improve", "map_windows", "stored", "windows"]

CACHE_NUMBERS = 2**20  # numbers of a layer's hidden channels in one window, 4 MB in float32
CACHE_COLUMNS = 512  # columns of one window
BLOCK_TILE = (512, 512)  # the window in which a network improves an image: whole blocks of every network


def map_windows(
    function: Callable[..., Tensor], x: Tensor, *others: Tensor, tile: tuple[int, int], reach: int, circular: bool
) -> Tensor:
    """f(x, *others) for a map f whose value at a pixel depends on the pixels at most ``reach`` rows and columns away.

    f sees windows of ``tile`` + 2·``reach`` rows and columns, and of f(window) only pixels with their whole neighbourhood
    inside the window are kept. A window never leaves the image, so that f meets the image's border exactly where f(x)
    does; with ``circular`` it wraps around. All windows have one shape, because torch chooses its algorithm by the shape.
    ``others`` are cut as x is. Raises ShapeError unless x is (B, C, H, W), InputError for sides of the tile below 1.
    """
    if x.ndim != 4:
        raise ShapeError(f"images must have the shape (B, C, H, W); got {tuple(x.shape)}.")
    if min(tile) < 1:
        raise InputError(f"`tile` is a number of rows and columns and must be at least 1; got {min(tile)}.")
    bands, across = [], windows(x.shape[-1], tile[1], reach, circular)
    for kept_rows, rows in (down := windows(x.shape[-2], tile[0], reach, circular)):
        band = [function(*(cut(z, rows, columns) for z in (x, *others)))[..., kept_rows, kept] for kept, columns in across]
        advance(1 / len(down))
        bands.append(torch.cat(band, -1) if len(band) > 1 else band[0])
    return torch.cat(bands, -2) if len(bands) > 1 else bands[0]


def improve(network: UNet, guide: Tensor, *, sigma: Tensor) -> Tensor:
    """U(g, σ) in windows of whole blocks, each of which begins with one: the same map, memory bounded by a window."""
    (h, w), b = guide.shape[-2:], network.block
    whole = F.pad(guide, (0, -w % b, 0, -h % b), mode="replicate")
    improved = partial(network, sigma=sigma)
    return map_windows(improved, whole, tile=BLOCK_TILE, reach=network.reach, circular=False)[..., :h, :w]


def windows(size: int, tile: int, reach: int, circular: bool) -> list[tuple[slice, range]]:
    """Along one axis: the positions that each window sees (beyond the ends when it wraps), and which of them it gives.

    >>> windows(10, 4, 1, False)
    [(slice(0, 4, None), range(0, 6)), (slice(1, 5, None), range(3, 9)), (slice(4, 6, None), range(4, 10))]
    """
    length = tile + 2 * reach
    if length >= size:
        return [(slice(0, size), range(size))]
    found = []
    for start in range(0, size, tile):
        first = start - reach if circular else min(max(start - reach, 0), size - length)
        found.append((slice(start - first, min(start + tile, size) - first), range(first, first + length)))
    return found


def cut(x: Tensor, rows: range, columns: range) -> Tensor:
    """The pixels in these rows and columns, modulo the image's size."""
    for dim, positions in ((-2, rows), (-1, columns)):
        if positions.start < 0 or positions.stop > x.shape[dim]:
            x = x.index_select(dim, torch.arange(positions.start, positions.stop, device=x.device) % x.shape[dim])
        else:
            x = x.narrow(dim, positions.start, len(positions))
    return x


def cache_tile(channels: int, height: int, width: int) -> tuple[int, int]:
    """Windows in which (channels, rows, columns) numbers stay in the cache, alike and multiples of eight."""
    columns = even_share(width, CACHE_COLUMNS)
    return even_share(height, max(CACHE_NUMBERS // (channels * columns), 32)), columns


def stored(x: Tensor, *, by_pixel: bool) -> Tensor:
    """x stored pixel by pixel (torch's channels-last) or plane by plane, also where a single channel leaves that open.

    Convolutions choose their algorithm by the strides; pixel by pixel they are spared two copies.
    """
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last if by_pixel else torch.contiguous_format)
    plane = x.squeeze(1).contiguous()
    return plane.unsqueeze(-1).permute(0, 3, 1, 2) if by_pixel else plane.unsqueeze(1)


def even_share(size: int, limit: int) -> int:
    """The size of equal parts, at most about ``limit`` each, rounded up to a multiple of eight."""
    parts = -(-size // limit)
    return -(-size // (8 * parts)) * 8
