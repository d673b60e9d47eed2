"""Finite sets of directions, whose support functions are polyhedral norms just below the Euclidean one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.theory.max_min import inside_ball

__all__ = ["covering_cosine_lower", "sphere_directions"]

MAX_DIRECTIONS = 1_000_000


def sphere_directions(dimension: int, level: int = 0) -> Tensor:
    """Directions U in the unit ball such that p(z) = max_{u ∈ U} u · z obeys c ‖z‖₂ ≤ p(z) ≤ ‖z‖₂.

    Level 0: the 2d signed unit vectors, p = ‖·‖_∞. Level n ≥ 1: the (2n + 1)^d − (2n − 1)^d integer points on the surface
    of the cube [−n, n]^d, brought to length 1. c is ``covering_cosine_lower(dimension, level)``; in one dimension c = 1 and
    U = {−1, 1} at every level.

    Returns float64 of shape (count, dimension), each row of norm at most 1 exactly. Raises InputError for ``dimension``
    below 1, ``level`` below 0, and more than a million directions.

    >>> sphere_directions(1)
    tensor([[-1.],
            [ 1.]], dtype=torch.float64)
    >>> len(sphere_directions(3, 2))
    98
    """
    check(dimension, level)
    if level == 0 or dimension == 1:
        axes = torch.eye(dimension, dtype=torch.float64)
        return torch.cat([-axes, axes])
    values = torch.arange(-level, level + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(*[values] * dimension)
    surface = grid[grid.abs().amax(1) == level]
    return inside_ball(surface / surface.norm(dim=1, keepdim=True))


def covering_cosine_lower(dimension: int, level: int = 0) -> float:
    """A lower bound of c = min over unit z of max_{u ∈ U} u · z, max(1/√d, √(1 − (d − 1)/(4n²))), less 1e-14 for rounding.

    A z with ‖z‖_∞ = 1 lies within r = √(d − 1)/(2n) of a surface point divided by n, one coordinate being met exactly; as
    ‖z‖₂ ≥ 1, the sine of their angle is at most r. The signed unit vectors, which belong to every level, give 1/√d.

    Raises InputError as ``sphere_directions``.

    >>> covering_cosine_lower(1), round(covering_cosine_lower(2, 16), 6)
    (1.0, 0.999512)
    """
    check(dimension, level)
    if dimension == 1:
        return 1.0
    square = 1 - (dimension - 1) / (4 * level**2) if level else 0.0
    return max(math.sqrt(max(square, 0.0)), 1 / math.sqrt(dimension)) - 1e-14


def check(dimension: int, level: int) -> None:
    """Refuse sizes that make no sense or do not fit into memory."""
    if dimension < 1 or level < 0:
        raise InputError(
            f"directions need a dimension of at least 1 and a level of at least 0; got {dimension}, {level}."
        )
    if level and dimension > 1 and (2 * level + 1) ** dimension > MAX_DIRECTIONS:
        raise InputError(
            f"level {level} in dimension {dimension} needs a grid of {(2 * level + 1) ** dimension} points, more than "
            f"{MAX_DIRECTIONS}; lower the level, or pass directions of your own."
        )
