"""Checked masks and weights of a tomography operator, and the machine's memory."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError

__all__ = ["as_mask", "as_nonnegative", "circle_mask", "physical_memory"]


def as_mask(mask: str | Tensor | None, n: int, dtype: torch.dtype) -> Tensor | None:
    """The mask as a tensor (n, n) in [0, ∞), or None."""
    if mask is None or isinstance(mask, Tensor):
        return None if mask is None else as_nonnegative("mask", mask, (n, n), dtype)
    if mask != "circle":
        raise InputError(f'`mask` must be "circle", a tensor ({n}, {n}) or None; got {mask!r}.')
    return circle_mask(n).to(dtype)


def as_nonnegative(name: str, values: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A checked copy."""
    if tuple(values.shape) != shape:
        raise ShapeError(f"`{name}` must have the shape {shape}; got {tuple(values.shape)}.")
    if not bool((torch.isfinite(values) & (values >= 0)).all()) or not bool((values > 0).any()):
        raise InputError(f"`{name}` must be nonnegative, finite and not zero everywhere.")
    return values.to(dtype, copy=True)


def circle_mask(n: int) -> Tensor:
    """1 for pixels whose middle lies in the inscribed circle.

    >>> int(circle_mask(4).sum())
    12
    """
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).square()
    return (line[:, None] + line[None, :] <= (n / 2) ** 2).to(torch.float32)


def physical_memory() -> float:
    """Bytes of memory in this machine; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf
