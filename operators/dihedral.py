"""The symmetry of the square: eight images of one image stand for the views of eight angles."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["SymmetryPlan", "plan_views", "transformed", "transformed_adjoint"]

DIGITS = 9  # angles are rounded to 1e-9 degrees before anything is built, so that equal classes are equal numbers


@dataclasses.dataclass(frozen=True)
class SymmetryPlan:
    """How all (bin, view) data follow from a few base views of at most eight symmetric images.

    ``base_angles`` (degrees) are the views to be built, of which bins ``first_bin`` … n_det − 1 are needed. ``group``
    lists the symmetries (quarter turns, transposed) in use. Datum (bin, view) is entry ``index[bin, view]`` of the
    base product, an array (base view, bin − first_bin, symmetry) laid out flat.
    """

    base_angles: NDArray[np.float64]
    first_bin: int
    group: tuple[tuple[int, bool], ...]
    index: NDArray[np.int64]


def plan_views(angles: NDArray[np.float64], n_det: int, *, flips: bool, halves: bool) -> SymmetryPlan:
    """Reduce views to base angles in [0°, 45°] (or [0°, 90°) without ``flips``).

    With x ∘ Q the image turned by a quarter and p_θ(t; x) the projection: p_{θ+90°}(t; x) = p_θ(t; x ∘ Q), and, for a
    detector centred on the axis (``flips``), p_{90°−θ}(t; x) = p_θ(−t; xᵀ). For parallel rays (``halves``) also
    p_θ(−t; x) = p_θ(t; x ∘ Q²), so that the upper half of the bins is enough.

    >>> plan = plan_views(np.arange(0, 180, 15.0), 8, flips=True, halves=True)
    >>> plan.base_angles.tolist(), plan.first_bin, len(plan.group)
    ([0.0, 15.0, 30.0, 45.0], 4, 8)
    """
    turned = np.mod(np.round(angles, DIGITS), 360.0)
    quarter = np.floor(turned / 90).astype(np.int64)
    base = np.round(turned - 90.0 * quarter, DIGITS)
    mirrored = (base > 45) if flips else np.zeros(len(base), dtype=bool)
    base = np.where(mirrored, np.round(90 - base, DIGITS), base)
    base_angles, which = np.unique(base, return_inverse=True)
    first_bin = n_det // 2 if halves else 0
    bins = np.arange(n_det)[:, None]
    row = np.where(mirrored, n_det - 1 - bins, bins)
    opposite = row < first_bin
    row = np.where(opposite, n_det - 1 - row, row) - first_bin
    turns = (quarter + 2 * opposite) % 4
    code = 2 * turns + mirrored
    used, element = np.unique(code, return_inverse=True)
    group = tuple((int(c) // 2, bool(c % 2)) for c in used)
    index = (which * (n_det - first_bin) + row) * len(group) + element.reshape(row.shape)
    return SymmetryPlan(base_angles, first_bin, group, index)


def transformed(x: Tensor, group: tuple[tuple[int, bool], ...]) -> Tensor:
    """The images (N, n, n) under every symmetry, as columns: shape (n², N·len(group)).

    An image turned by one quarter is torch's rot90 by −1; a transposition comes after the turns.
    """
    images = [turned(x, turns, transposed) for turns, transposed in group]
    return torch.stack(images, -1).permute(1, 2, 0, 3).reshape(x.shape[-1] ** 2, -1)


def turned(x: Tensor, turns: int, transposed: bool) -> Tensor:
    """One symmetry of the images (N, n, n)."""
    x = torch.rot90(x, -turns, (1, 2)) if turns else x
    return x.transpose(1, 2) if transposed else x


def transformed_adjoint(columns: Tensor, group: tuple[tuple[int, bool], ...], n: int) -> Tensor:
    """The transpose of ``transformed``: undo every symmetry and add up, giving (N, n, n)."""
    images = columns.reshape(n, n, -1, len(group)).permute(2, 3, 0, 1)
    total: Tensor | None = None
    for element, (turns, transposed) in enumerate(group):
        image = images[:, element]
        image = image.transpose(1, 2) if transposed else image
        image = torch.rot90(image, turns, (1, 2)) if turns else image
        total = image if total is None else total + image
    assert total is not None  # a group has at least one element
    return total
