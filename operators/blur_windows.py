"""Windows of arrays larger than memory, and the gradient of a blur's data distance on them."""

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

UNFOLDED = 2**23  # numbers that torch may unfold for one convolution, as it does in float64: all taps of each pixel


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

    def residual(self, x: ArrayLike, y: ArrayLike, rows: range, columns: range) -> Tensor:
        """Ax − y in these rows and columns of the data, zero where there are none."""
        spans = list(zip((rows, columns), self.shift, self.psf.shape[1:], self.data_size, strict=True))
        seen = [range(r.start + c - h + 1, r.stop + c) for r, c, h, _ in spans]
        found = self.correlate(read(x, seen[0], seen[1], self.wrap), self.psf.flip(-2, -1))
        found = found - read(y, rows, columns, self.wrap)
        if self.wrap:
            return found
        (top, bottom), (left, right) = (overhang(r, n)[1] for r, _, _, n in spans)
        height, width = found.shape[-2:]
        return F.pad(found[..., top : height - bottom, left : width - right], (left, right, top, bottom))

    def gradient(self, x: ArrayLike, y: ArrayLike, rows: range, columns: range) -> Tensor:
        """Aᵀ(Ax − y) in these rows and columns, of which Aᵀ reads h − 1 data more and A as many pixels again."""
        taps = zip((rows, columns), self.shift, self.psf.shape[1:], strict=True)
        data = [range(r.start - c, r.stop - c + h - 1) for r, c, h in taps]
        return self.correlate(self.residual(x, y, data[0], data[1]), self.psf)

    def correlate(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Σ_a k[a] x[j + a], directly, one channel after the other, so that no pixel depends on the size of the window."""
        (h, w), planes = kernel.shape[1:], []
        rows = x.shape[1] - h + 1
        band = rows if x.dtype == torch.float32 else max(1, UNFOLDED // (h * w * x.shape[2]))
        for plane, k in zip(x[:, None, None], kernel.to(x).expand(len(x), -1, -1)[:, None, None], strict=True):
            parts = [F.conv2d(plane[..., r : min(r + band, rows) + h - 1, :], k)[0] for r in range(0, rows, band)]
            planes.append(torch.cat(parts, 1))
        return torch.cat(planes)


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
    return torch.from_numpy(np.pad(block if block.ndim == 3 else block[None], [(0, 0), *widths]))


def overhang(span: range, size: int) -> tuple[slice, tuple[int, int]]:
    """The part of a span inside of 0 … size, and how far the span goes beyond either end."""
    start = max(span.start, 0)
    stop = max(min(span.stop, size), start)
    return slice(start, stop), (start - span.start, span.stop - stop)
