"""‖W‖² without the rounding of a square root, for matrices whose rows or columns do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from pnp_lip.spectral.norm_bound import norm_bound

__all__ = ["square_upper", "sum_of_squares"]


def square_upper(weight: Tensor, norm: float | None = None) -> Fraction:
    """A bound of ‖W‖²: the exact largest squared row when no two rows share a column, or by columns; else ``norm``².

    ``norm`` ≥ ‖W‖ is found by ``norm_bound`` where it is needed and not given.

    >>> import torch
    >>> square_upper(torch.tensor([[1.0, -1.0]]))
    Fraction(2, 1)
    """
    if weight.ndim == 2:
        support = weight != 0
        for lines, crossing in ((weight, support.sum(0)), (weight.T, support.sum(1))):
            if int(crossing.max()) <= 1:
                return max(sum_of_squares(line[line != 0].tolist()) for line in lines)
    return Fraction(norm_bound(weight).upper if norm is None else norm) ** 2


def sum_of_squares(values: Sequence[float]) -> Fraction:
    """Σ v² without rounding, over one common denominator because adding fractions one by one is slow."""
    ratios = [float(value).as_integer_ratio() for value in values]
    scale = max((denominator for _, denominator in ratios), default=1)
    return Fraction(sum((n * (scale // d)) ** 2 for n, d in ratios), scale**2)
