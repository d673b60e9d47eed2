"""Convolutions with a border rule: what they read beyond the border, and their certified norms."""

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.operators.collatz_wielandt import collatz_wielandt, gamma_factor
from pnp_lip.spectral import NormBound

__all__ = ["PADDINGS", "PaddedConvolution", "aliased_maximum", "extension_index", "fold", "symbol_maximum"]

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


@dataclasses.dataclass(frozen=True)
class PaddedConvolution:
    """y = V_k P x for one channel: extend the image by P, then keep the valid part of the convolution with k.

    ``rows`` and ``columns`` come from ``extension_index``. The products go tap by tap in float64: each entry is a sum
    whose rounding is known (γ), which a fast transform cannot promise.
    """

    psf: Tensor
    size: tuple[int, int]
    rows: Tensor
    columns: Tensor

    @property
    def repeats(self) -> int:
        """‖P‖²: how often the most repeated sample of either axis occurs, multiplied."""
        axes = zip((self.rows, self.columns), self.size, strict=True)
        return math.prod(int(torch.bincount(index[index < size]).max()) for index, size in axes)

    def forward(self, x: Tensor) -> Tensor:
        """A x for x of shape ``size``, float64."""
        extended = torch.nn.functional.pad(x, (0, 1, 0, 1))[self.rows][:, self.columns]
        y = x.new_zeros(len(self.rows) - self.psf.shape[0] + 1, len(self.columns) - self.psf.shape[1] + 1)
        for a, b in torch.nonzero(self.psf).tolist():
            y += self.psf[a, b] * self.window(extended, a, b)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        extended = y.new_zeros(len(self.rows), len(self.columns))
        for a, b in torch.nonzero(self.psf).tolist():
            self.window(extended, a, b).add_(self.psf[a, b] * y)
        height, width = self.size
        return fold(extended, self.rows, self.columns, (height + 1, width + 1))[:height, :width]

    def window(self, extended: Tensor, a: int, b: int) -> Tensor:
        """The samples that tap (a, b) reads, as a view."""
        height, width = self.psf.shape
        rows, columns = extended.shape[0] - height + 1, extended.shape[1] - width + 1
        return extended[height - 1 - a :, width - 1 - b :][:rows, :columns]

    def bound_norm(self, v: Tensor) -> NormBound:
        """Bounds of ‖A‖ for k ≥ 0 from two certified products started at v > 0."""
        rounding = gamma_factor(2 * int(self.psf.count_nonzero()) + self.repeats + 4, torch.float64)
        found = collatz_wielandt(lambda u: self.adjoint(self.forward(u)), v, rounding=rounding, tol=1e-9, max_iter=2)
        return found.bound()
