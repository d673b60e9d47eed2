"""Windows of arrays larger than memory, and the gradient step of a blur on them."""

import dataclasses
import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.operators.blur import Blur

__all__ = ["WINDOWED_PADDINGS", "ArrayLike", "BlurWindows", "read"]

WINDOWED_PADDINGS = ("circular", "zeros", "valid")  # for these ‖A‖ ≤ Σ|k| at every size


class ArrayLike(Protocol):
    """What can be read block by block: a Zarr, Dask, HDF5 or numpy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""

    @property
    def dtype(self) -> Any:
        """The type of its numbers."""

    def __getitem__(self, key: Any, /) -> Any:
        """A block, which numpy can read."""


@dataclasses.dataclass(frozen=True)
class BlurWindows:
    """A and Aᵀ of a ``Blur`` on windows, along both axes the same: y[i] = Σ_a k[a] x[i + c − a], 0 ≤ i < n.

    ``psf`` (1 or C, h, w); ``shift`` c and ``data_size`` n, for rows and columns; with ``wrap`` indices are modulo the size.
    """

    psf: Tensor
    shift: tuple[int, int]
    data_size: tuple[int, int]
    wrap: bool

    @classmethod
    def of(cls, physics: Blur) -> "BlurWindows":
        """The windows of a blur with one of the ``WINDOWED_PADDINGS``."""
        psf, (h, w) = physics.psf.detach().cpu(), physics.psf.shape[1:]
        shift = (h - 1, w - 1) if physics.padding == "valid" else (h // 2, w // 2)
        return cls(psf, shift, physics.data_size[1:], physics.padding == "circular")

    @property
    def norm_upper(self) -> float:
        """Σ|k| ≥ ‖A‖ for these borders and every size (Young's inequality), rounded up; equal for k ≥ 0 and circular."""
        return max(math.nextafter(math.fsum(k.abs().double().flatten().tolist()), math.inf) for k in self.psf)

    def step(self, x: ArrayLike, y: ArrayLike, rows: range, columns: range, gamma: float) -> tuple[Tensor, Tensor]:
        """x and x − γAᵀ(Ax − y) in these rows and columns, of which Aᵀ reads h − 1 data more and A as many pixels again."""
        taps = self.psf.shape[1:]
        seen = [range(r.start - h + 1, r.stop + h - 1) for r, h in zip((rows, columns), taps, strict=True)]
        data = [range(r.start - c, r.stop - c + h - 1) for r, c, h in zip((rows, columns), self.shift, taps, strict=True)]
        around = read(x, seen[0], seen[1], self.wrap)
        residual = self.correlate(around, self.psf.flip(-2, -1)) - read(y, data[0], data[1], self.wrap)
        if not self.wrap:  # data end where they end, though the image may be seen beyond
            (top, bottom), (left, right) = (overhang(r, n)[1] for r, n in zip(data, self.data_size, strict=True))
            height, width = residual.shape[-2:]
            residual = F.pad(residual[..., top : height - bottom, left : width - right], (left, right, top, bottom))
        here = around[..., taps[0] - 1 : 1 - taps[0] or None, taps[1] - 1 : 1 - taps[1] or None]
        return here, here - gamma * self.correlate(residual, self.psf)

    def correlate(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Σ_a k[a] x[j + a], directly, one channel after the other, so that no pixel depends on the size of the window."""
        kernels = kernel.expand(len(x), -1, -1)
        return torch.cat([F.conv2d(plane[None, None], k[None, None])[0] for plane, k in zip(x, kernels, strict=True)])


def read(array: ArrayLike, rows: range, columns: range, wrap: bool = False) -> Tensor:
    """These rows and columns as a tensor (C, h, w): zeros beyond the array's ends, or with ``wrap`` modulo its size.

    >>> read(np.arange(6.0).reshape(2, 3), range(0, 3), range(-1, 2)).tolist()
    [[[0.0, 0.0, 1.0], [0.0, 3.0, 4.0], [0.0, 0.0, 0.0]]]
    """
    spans, size = (rows, columns), array.shape[-2:]
    ends = [overhang(r, n) for r, n in zip(spans, size, strict=True)]
    inside, widths = [held for held, _ in ends], [beyond for _, beyond in ends]
    if wrap and any(map(any, widths)):
        key: list[Any] = [slice(None)] * (len(array.shape) - 2)
        key += [np.arange(r.start, r.stop) % n for r, n in zip(spans, size, strict=True)]
        block = array.oindex[tuple(key)]  # type: ignore[attr-defined]  # the run's own Zarr arrays
        return torch.from_numpy(block.reshape(-1, len(rows), len(columns)))
    block = np.asarray(array[(..., inside[0], inside[1])])
    return torch.from_numpy(np.pad(block.reshape(-1, *block.shape[-2:]), [(0, 0), *widths]))


def overhang(span: range, size: int) -> tuple[slice, tuple[int, int]]:
    """The part of a span inside of 0 … size, and how far the span goes beyond either end."""
    start, stop = max(span.start, 0), min(span.stop, size)
    return slice(start, stop), (start - span.start, span.stop - stop)
