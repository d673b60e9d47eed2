"""From samples to a function: the extension of McShane and Whitney, and distances, with polyhedral cones for round ones."""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.theory.directions import sphere_directions
from pnp_lip.theory.max_min import EXCESS, MaxMin, inside_ball

__all__ = ["distance_to_points", "lipschitz_extension"]


def lipschitz_extension(points: Tensor, values: Tensor, directions: Tensor | None = None) -> MaxMin:
    """A piecewise-affine 1-Lipschitz function through all samples: McShane's extension with polyhedral cones.

    The least 1-Lipschitz function through the samples is F(x) = max_i (y_i − ‖x − x_i‖₂). Its cones are piecewise affine
    in one dimension only. This function is

        f(x) = max_i (y_i − p_i(x − x_i)), p_i(z) = max_{u ∈ U_i} u · z ≤ ‖z‖₂,

    where U_i holds the ``directions`` U and, where U does not suffice for it, the directions to those samples k that the
    cone i must not cover: p_i(x_k − x_i) ≥ y_i − y_k. Therefore

    - f is 1-Lipschitz, f(x_i) = y_i for every i, in every dimension and for every U, and F ≤ f;
    - f = F in one dimension;
    - f ≤ F + (1 − c) max_i ‖x − x_i‖₂ if p ≥ c‖·‖₂, c = ``covering_cosine_lower(d, n)`` for U = ``sphere_directions(d, n)``:
      f → F, with an error that falls like 1/n²;
    - equality is that of the stored numbers: directions and offsets are rounded once, f(x_i) = y_i up to about
      1e-16 (|y_i| + ‖x_i‖).

    The greatest extension, min_i (y_i + ‖x − x_i‖), is ``-lipschitz_extension(points, -values, directions)``.

    ``points`` (n, d), ``values`` (n,), ``directions`` (m, d) with rows of norm at most 1, by default the signed unit
    vectors; the result has between n·m and n·(m + n − 1) terms. Raises ShapeError for other shapes, InputError for
    numbers that are not finite and samples with |y_i − y_k| > ‖x_i − x_k‖.

    Source: McShane (1934); Whitney (1934).

    >>> f = lipschitz_extension(torch.tensor([[0.0], [3.0]]), torch.tensor([0.0, 1.0]))
    >>> f(torch.tensor([[0.0], [1.0], [3.0]])).tolist()
    [0.0, -1.0, 1.0]
    """
    x, y = points.detach().double(), values.detach().double()
    check(x, y)
    u = sphere_directions(x.shape[1]) if directions is None else directions.detach().double()
    if u.ndim != 2 or u.shape[1:] != x.shape[1:] or not len(u):
        raise ShapeError(f"`directions` must have shape (m, {x.shape[1]}), m >= 1; got {tuple(u.shape)}.")
    slopes, offsets, groups, count = [], [], [], 0
    for x_i, y_i in zip(x, y, strict=True):
        cone = torch.cat([u, missing(x - x_i, y_i - y, u)])
        slopes.append(-cone)
        offsets.append(y_i + cone @ x_i)
        groups.append(range(count, count + len(cone)))
        count += len(cone)
    return MaxMin(torch.cat(slopes), torch.cat(offsets), groups)


def distance_to_points(points: Tensor, directions: Tensor | None = None) -> MaxMin:
    """x ↦ min_i p(x − x_i), the distance to a finite set for p(z) = max_{u ∈ U} u · z.

    Exactly that for the norm p, which is |·| in one dimension and ‖·‖_∞ for the default U, the signed unit vectors. For the
    Euclidean distance c · dist ≤ f ≤ dist, where c = ``covering_cosine_lower(d, n)`` for U = ``sphere_directions(d, n)``.
    p is a norm when U spans the space and −U = U.

    Shapes and errors as ``lipschitz_extension``.

    >>> distance_to_points(torch.tensor([[0.0], [3.0]]))(torch.tensor([[1.0], [5.0]])).tolist()
    [1.0, 2.0]
    """
    return -lipschitz_extension(points, points.new_zeros(len(points)), directions)


def missing(differences: Tensor, drops: Tensor, u: Tensor) -> Tensor:
    """Unit vectors to the samples, at ``differences``, that the cone of U would cover though it must fall by ``drops``."""
    covered = (differences @ u.mT).amax(1) < drops
    return inside_ball(torch.nn.functional.normalize(differences[covered], dim=1)).reshape(-1, u.shape[1])


def check(x: Tensor, y: Tensor) -> None:
    """Refuse samples that no 1-Lipschitz function passes through."""
    if x.ndim != 2 or 0 in x.shape or y.shape != x.shape[:1]:
        raise ShapeError(f"expected points (n, d) and values (n,); got {tuple(x.shape)} and {tuple(y.shape)}.")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise InputError("points and values must be finite; got NaN or infinity.")
    excess = (y[:, None] - y).abs() - (1 + EXCESS) * torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    i, k = divmod(int(excess.argmax()), len(x))
    if excess[i, k] > 0:
        raise InputError(
            f"samples {i} and {k} differ by {float((y[i] - y[k]).abs()):.9g} at a distance of "
            f"{float((x[i] - x[k]).norm()):.9g}, so no 1-Lipschitz function passes through both; divide the values by "
            "their Lipschitz constant."
        )
