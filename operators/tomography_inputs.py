"""Checked masks and weights of a tomography operator, and the machine's memory."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError

__all__ = ["as_mask", "as_root_weights", "circle_mask", "physical_memory"]


def as_mask(mask: str | Tensor | None, n: int, dtype: torch.dtype) -> Tensor | None:
    """The mask as a tensor (n, n) in [0, ∞), or None."""
    if mask is None:
        return None
    if isinstance(mask, str):
        if mask != "circle":
            raise InputError(f'`mask` must be "circle", a tensor ({n}, {n}) or None; got {mask!r}.')
        return circle_mask(n).to(dtype)
    if tuple(mask.shape) != (n, n):
        raise ShapeError(f"`mask` must have the shape ({n}, {n}) of the image; got {tuple(mask.shape)}.")
    result = mask.to(dtype, copy=True)
    if not bool((torch.isfinite(result) & (result >= 0)).all()) or not bool(result.any()):
        raise InputError("`mask` must be nonnegative, finite and not zero everywhere.")
    return result


def circle_mask(n: int) -> Tensor:
    """1 for pixels whose middle lies in the inscribed circle.

    >>> int(circle_mask(4).sum())
    12
    """
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).square()
    return (line[:, None] + line[None, :] <= (n / 2) ** 2).to(torch.float32)


def as_root_weights(weights: Tensor | None, data_size: tuple[int, int, int], dtype: torch.dtype) -> Tensor | None:
    """√w of shape (detectors, views), or None."""
    if weights is None:
        return None
    if tuple(weights.shape) != data_size[1:]:
        raise ShapeError(
            f"`weights` must have the shape (detectors, views) = {data_size[1:]}; got {tuple(weights.shape)}."
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()) or not bool((weights > 0).any()):
        raise InputError("`weights` must be nonnegative, finite and not zero everywhere.")
    return weights.to(dtype).sqrt()


def physical_memory() -> float:
    """Bytes of memory in this machine; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf
