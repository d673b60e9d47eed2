"""Convolutions with a border rule: what they read beyond the border, and their certified norms."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["PADDINGS", "aliased_maximum", "extension_index", "fold", "repeats", "symbol_maximum"]

PADDINGS = ("circular", "zeros", "replicate", "reflect", "valid")
UNIT = 2.0**-53  # the rounding unit of float64


def symbol_maximum(psf: Tensor, grid: tuple[int, int]) -> tuple[float, float, tuple[float, float]]:
    """Upper and lower bounds of max |k̂(ω)| over ω = 2π(j₁/N₁, j₂/N₂), with the ω of the maximum.

    >>> symbol_maximum(torch.tensor([[0.5, 0.5]], dtype=torch.float64), (4, 4))[2]
    (0.0, 0.0)
    """
    values, error = symbol_sizes(psf, grid, grid[1] // 2 + 1)
    j1, j2 = np.unravel_index(int(values.argmax()), values.shape)
    largest = float(values[j1, j2])
    omega = (2 * math.pi * int(j1) / grid[0], 2 * math.pi * int(j2) / grid[1])
    return (largest + error) * (1 + 8 * UNIT), max(0.0, (largest - error) * (1 - 8 * UNIT)), omega


def aliased_maximum(psf: Tensor, grid: tuple[int, int], factor: int) -> tuple[float, float]:
    """Upper and lower bounds of ‖S C‖ for a circular convolution of which every ``factor``-th sample is kept.

    S C Cᵀ Sᵀ is a circular convolution on the coarse grid, whose symbol is the mean of |k̂|² over the factor²
    frequencies that alias: ‖S C‖² = max mean |k̂|². The factor must divide the grid.
    """
    values, error = symbol_sizes(psf, grid, grid[1])
    shape = (factor, grid[0] // factor, factor, grid[1] // factor)
    upper, lower = (
        np.square(np.maximum(values + change, 0.0)).reshape(shape).mean(axis=(0, 2)).max() for change in (error, -error)
    )
    rounding = (factor**2 + 8) * UNIT
    return math.sqrt(upper * (1 + rounding)) * (1 + UNIT), math.sqrt(lower * (1 - rounding)) * (1 - UNIT)


def symbol_sizes(psf: Tensor, grid: tuple[int, int], columns: int) -> tuple[NDArray[np.float64], float]:
    """|k̂| at ω = 2π(j₁/N₁, j₂/N₂), j₂ < ``columns``, and a bound of the error of any of them.

    k̂ is summed by definition, not by a fast transform, so that its rounding error has a proof: each factor
    exp(−2πi jk/N) is wrong by at most 17 u (argument reduced exactly in integers), the two matrix products add γ_w and
    γ_2h per component: together below (48 + 8(h + w)) u Σ|k|.
    """
    k = psf.numpy()
    values = np.abs(fourier_factor(grid[0], grid[0], len(k)) @ (k @ fourier_factor(columns, grid[1], len(k[0])).T))
    return values, UNIT * (48 + 8 * sum(k.shape)) * float(np.abs(k).sum())


def fourier_factor(count: int, period: int, taps: int) -> NDArray[np.complex128]:
    """exp(−2πi jk/period) for j < ``count`` and k < ``taps``."""
    index = np.outer(np.arange(count), np.arange(taps)) % period
    index = np.where(2 * index > period, index - period, index)
    angle = (2 * math.pi / period) * index
    return np.asarray(np.cos(angle) - 1j * np.sin(angle), dtype=np.complex128)


def extension_index(size: int, taps: int, padding: str) -> Tensor:
    """For each sample that a filter of ``taps`` taps reads along one axis, the sample of the image that it repeats.

    The filter's tap ``taps // 2`` lies on the pixel itself. With "zeros", samples beyond the border have the index
    ``size``, where the caller puts a zero. "valid" reads the image alone. "reflect" does not repeat the edge sample.

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


def fold(x: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """Pᵀ x for P x = x[…, rows, columns]: every extended sample is added to the one that it repeats."""
    x = x.new_zeros(*x.shape[:-1], size[1]).index_add(-1, columns, x)
    return x.new_zeros(*x.shape[:-2], *size).index_add(-2, rows, x)


def repeats(size: int, index: Tensor) -> int:
    """How often an ``extension_index`` repeats a sample of the image, at most: the square of the extension's norm."""
    return int(torch.bincount(index[index < size]).max())
