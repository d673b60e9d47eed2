"""Certified norms of convolutions with a border rule."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.operators.collatz_wielandt import collatz_wielandt, gamma_factor
from pnp_lip.operators.padding import extend, fold

__all__ = ["PaddedConvolution", "aliased_maximum", "multiplicity", "symbol_maximum"]

Array = NDArray[np.float64]
UNIT = 2.0**-53  # the rounding unit of float64


def symbol_maximum(kernel: Array, grid: tuple[int, int]) -> tuple[float, float, tuple[float, float]]:
    """Upper and lower bounds of max |k̂(ω)| over ω = 2π(j₁/N₁, j₂/N₂), with the ω of the maximum.

    >>> symbol_maximum(np.array([[0.5, 0.5]]), (4, 4))[2]
    (0.0, 0.0)
    """
    values, error = symbol_sizes(kernel, grid, grid[1] // 2 + 1)
    j1, j2 = np.unravel_index(int(values.argmax()), values.shape)
    largest = float(values[j1, j2])
    omega = (2 * math.pi * int(j1) / grid[0], 2 * math.pi * int(j2) / grid[1])
    return (largest + error) * (1 + 8 * UNIT), max(0.0, (largest - error) * (1 - 8 * UNIT)), omega


def aliased_maximum(kernel: Array, grid: tuple[int, int], factor: int) -> tuple[float, float]:
    """Upper and lower bounds of ‖S C‖ for a circular convolution of which every ``factor``-th sample is kept.

    S C Cᵀ Sᵀ is a circular convolution on the coarse grid, whose symbol is the mean of |k̂|² over the factor²
    frequencies that alias: ‖S C‖² = max mean |k̂|². The factor must divide the grid.
    """
    values, error = symbol_sizes(kernel, grid, grid[1])
    coarse = (grid[0] // factor, grid[1] // factor)
    upper, lower = (
        np.square(np.maximum(values + change, 0.0))
        .reshape(factor, coarse[0], factor, coarse[1])
        .mean(axis=(0, 2))
        .max()
        for change in (error, -error)
    )
    rounding = (factor**2 + 8) * UNIT
    return math.sqrt(upper * (1 + rounding)) * (1 + UNIT), math.sqrt(lower * (1 - rounding)) * (1 - UNIT)


def symbol_sizes(kernel: Array, grid: tuple[int, int], columns: int) -> tuple[Array, float]:
    """|k̂| at ω = 2π(j₁/N₁, j₂/N₂), j₂ < ``columns``, and a bound of the error of any of them.

    k̂ is summed by definition, not by a fast transform, so that its rounding error has a proof: each factor
    exp(−2πi jk/N) is wrong by at most 17 u (argument reduced exactly in integers), the two matrix products add γ_w and
    γ_2h per component: together below (48 + 8(h + w)) u Σ|k|.
    """
    height, width = kernel.shape
    values = np.abs(fourier_factor(grid[0], grid[0], height) @ (kernel @ fourier_factor(columns, grid[1], width).T))
    return values, UNIT * (48 + 8 * (height + width)) * float(np.abs(kernel).sum())


def fourier_factor(count: int, period: int, taps: int) -> NDArray[np.complex128]:
    """exp(−2πi jk/period) for j < ``count`` and k < ``taps``."""
    index = np.outer(np.arange(count), np.arange(taps)) % period
    index = np.where(2 * index > period, index - period, index)
    angle = (2 * math.pi / period) * index
    return np.asarray(np.cos(angle) - 1j * np.sin(angle), dtype=np.complex128)


@dataclasses.dataclass(frozen=True)
class PaddedConvolution:
    """y = V_k P x for one channel: extend the image by P, then keep the valid part of the convolution with k.

    ``rows`` and ``columns`` are the extension's index maps, or None where P surrounds the image by ``zeros`` = (top,
    left, bottom, right) zeros. The products here go tap by tap in float64, slow and plain: each entry of a nonnegative
    operator is then a sum whose rounding is known (γ), which a fast transform could not promise.
    """

    kernel: Array
    size: tuple[int, int]
    rows: Tensor | None
    columns: Tensor | None
    zeros: tuple[int, int, int, int] = (0, 0, 0, 0)

    def gram(self, v: Tensor) -> Tensor:
        """AᵀA v for v of shape ``size``, float64."""
        return torch.from_numpy(self.adjoint(self.forward(v.numpy())))

    def forward(self, x: Array) -> Array:
        """A x tap by tap."""
        padded = self.extended(x)
        height, width = self.kernel.shape
        y = np.zeros((padded.shape[0] - height + 1, padded.shape[1] - width + 1))
        for a, b in np.argwhere(self.kernel):
            y += self.kernel[a, b] * window(padded, (height - 1 - a, width - 1 - b), y.shape)
        return y

    def adjoint(self, y: Array) -> Array:
        """Aᵀ y tap by tap."""
        height, width = self.kernel.shape
        padded = np.zeros((y.shape[0] + height - 1, y.shape[1] + width - 1))
        for a, b in np.argwhere(self.kernel):
            window(padded, (height - 1 - a, width - 1 - b), y.shape)[...] += self.kernel[a, b] * y
        if self.rows is None or self.columns is None:
            return window(padded, self.zeros[:2], self.size)
        return np.asarray(fold(torch.from_numpy(padded), self.rows, self.columns, self.size).numpy())

    def extended(self, x: Array) -> Array:
        """P x."""
        if self.rows is None or self.columns is None:
            top, left, bottom, right = self.zeros
            return np.pad(x, ((top, bottom), (left, right)))
        return np.asarray(extend(torch.from_numpy(x), self.rows, self.columns).numpy())

    def collatz_wielandt(self, v: Tensor, *, tol: float, max_iter: int) -> tuple[float, float]:
        """Bounds of ‖A‖ for k ≥ 0 from a few certified products started at v > 0."""
        repeats = (
            1 if self.rows is None or self.columns is None else multiplicity(self.rows) * multiplicity(self.columns)
        )
        taps = int(np.count_nonzero(self.kernel))
        rounding = gamma_factor(2 * taps + repeats + 4, torch.float64)
        found = collatz_wielandt(self.gram, v, rounding=rounding, tol=tol, max_iter=max_iter)
        return math.sqrt(found.upper_sq) * (1 + 1e-15), math.sqrt(found.lower_sq) * (1 - 1e-15)


def window(x: Array, corner: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """The part of ``x`` of the given shape that starts at ``corner``, as a view."""
    return x[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]]


def multiplicity(index: Tensor) -> int:
    """How often the most repeated sample of an extension occurs; ‖P‖² is the product of both axes' multiplicities.

    >>> multiplicity(torch.tensor([0, 0, 0, 1, 2]))
    3
    """
    return int(torch.bincount(index).max())
