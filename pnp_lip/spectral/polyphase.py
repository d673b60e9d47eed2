"""Rearrangements of a kernel that leave the norm of its convolution as it is, without any rounding."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError

__all__ = ["Pair", "dilate", "pair", "polyphase", "trim"]

Pair = tuple[int, int]  # one number per axis


def pair(value: int | Sequence[int]) -> Pair:
    """One positive integer per axis."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or any(not isinstance(v, int) or v < 1 for v in values):
        raise InputError(f"expected a positive integer or two of them, one per axis; got {value!r}.")
    return values[0], values[1]


def trim(kernel: Tensor) -> Tensor:
    """Drop the border rows and columns of taps that are zero: a shift, an isometry."""
    for axis in (2, 3):
        used = kernel.abs().amax([d for d in range(4) if d != axis]).nonzero().flatten()
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        kernel = kernel.narrow(axis, first, last - first + 1)
    return kernel


def dilate(kernel: Tensor, dilation: Pair) -> Tensor:
    """The same convolution with the gaps between its taps written as zeros.

    >>> dilate(torch.ones(1, 1, 1, 2), (1, 3))
    tensor([[[[1., 0., 0., 1.]]]])
    """
    out, channels, *size = kernel.shape
    wide = kernel.new_zeros(out, channels, *((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)))
    wide[:, :, :: dilation[0], :: dilation[1]] = kernel
    return wide


def polyphase(kernel: Tensor, stride: Pair) -> Tensor:
    """The stride-one kernel on the s₁s₂ polyphase components of the image (pixel-unshuffle, a permutation).

    Σ_a K[a] x[sn + a] = Σ_q Σ_m K[sm + q] x_q[n + m], x_q[n] = x[sn + q]. Returns (out, in·s₁s₂, ⌈k₁/s₁⌉, ⌈k₂/s₂⌉).

    >>> polyphase(torch.ones(1, 1, 3, 3), (2, 2)).shape
    torch.Size([1, 4, 2, 2])
    """
    rows, columns = (-k % s for k, s in zip(kernel.shape[2:], stride, strict=True))
    padded = F.pad(kernel, (0, columns, 0, rows))
    phases = [padded[:, :, i :: stride[0], j :: stride[1]] for i in range(stride[0]) for j in range(stride[1])]
    return torch.cat(phases, dim=1)
