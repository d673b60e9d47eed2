"""From samples to a function in max-min form: breakpoints, the extension of McShane and Whitney, distances."""

import itertools
import math

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.theory.exact import EXCESS, MaxMin, inside_ball

__all__ = [
    "covering_cosine_lower",
    "distance_to_points",
    "lipschitz_extension",
    "piecewise_linear",
    "sphere_directions",
]

MAX_DIRECTIONS = 1_000_000  # points of the grid that ``sphere_directions`` builds; 24 MB in dimension 3
COSINE_ROUNDING = 1e-14  # absolute; covers the few roundings of a cosine in float64, 1e-16 each


def piecewise_linear(knots: Tensor, values: Tensor) -> MaxMin:
    """The function through (t_k, y_k), linear between the knots and continued linearly beyond the first and the last one.

    f is cut at its convex kinks, where the slope grows, into runs R_i = [s_i, e_i] on which it is concave, the minimum of
    its pieces. Lines of slope ±1 through the ends keep each run below f elsewhere, because f is 1-Lipschitz:

        f(t) = max_i min(f(s_i) + (t − s_i), f(e_i) − (t − e_i), y_k + m_k (t − t_k) for the pieces k of run i),

    without the first line for the first run and the second for the last one. That makes n + 2(r − 1) terms for n pieces
    and r runs, where the general formula needs up to n².

    ``knots`` and ``values`` have shape (n + 1,), n ≥ 1, knots increasing; slopes |m_k| ≤ 1, where an excess of 1e-12 counts
    as rounding. Raises ShapeError and InputError otherwise.

    >>> f = piecewise_linear(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> f(torch.tensor([[-1.0], [0.5], [1.5], [2.0], [4.0]])).tolist()
    [-1.0, 0.5, 0.5, 0.0, 2.0]
    """
    t, y = knots.detach().double(), values.detach().double()
    if t.ndim != 1 or t.shape != y.shape or len(t) < 2:
        raise ShapeError(f"expected knots and values (n + 1,), n >= 1; got {tuple(t.shape)} and {tuple(y.shape)}.")
    if not (torch.isfinite(t).all() and torch.isfinite(y).all() and (t.diff() > 0).all()):
        raise InputError("knots must be finite and strictly increasing, values finite; sort and drop repeated ones.")
    m = y.diff() / t.diff()
    if (steepest := float(m.abs().max())) > 1 + EXCESS:
        raise InputError(f"every slope must lie in [-1, 1]; got {steepest:.15g} in size. Divide the values by it.")
    m = m.clamp(-1, 1)
    pieces = [(float(m[k]), float(y[k] - m[k] * t[k])) for k in range(len(m))]
    cuts = [0, *(k for k in range(1, len(m)) if m[k] > m[k - 1]), len(m)]
    lines: list[tuple[float, float]] = []
    groups: list[range] = []
    for start, end in itertools.pairwise(cuts):
        run = pieces[start:end]
        if start > 0:
            run.append((1.0, float(y[start] - t[start])))
        if end < len(m):
            run.append((-1.0, float(y[end] + t[end])))
        groups.append(range(len(lines), len(lines) + len(run)))
        lines += run
    table = torch.tensor(lines, dtype=torch.float64)
    return MaxMin(table[:, :1], table[:, 1], groups)


def lipschitz_extension(points: Tensor, values: Tensor, directions: Tensor | None = None) -> MaxMin:
    """A piecewise-affine 1-Lipschitz function through all samples: McShane's extension with polyhedral cones.

    The least 1-Lipschitz function through the samples is F(x) = max_i (y_i − ‖x − x_i‖₂). Its cones are piecewise affine
    in one dimension only. This function is

        f(x) = max_i (y_i − p_i(x − x_i)), p_i(z) = max_{u ∈ U_i} u · z ≤ ‖z‖₂,

    where U_i holds the ``directions`` U and, where U does not suffice for it, the directions to those samples k that the
    cone i must not cover: p_i(x_k − x_i) ≥ y_i − y_k. Therefore

    - f is 1-Lipschitz, f(x_i) = y_i for every i, in every dimension and for every U, and F ≤ f; f = F in one dimension;
    - f ≤ F + (1 − c) max_i ‖x − x_i‖₂ if p ≥ c‖·‖₂, c = ``covering_cosine_lower(d, n)`` for U = ``sphere_directions(d, n)``:
      f → F, with an error that falls like 1/n²;
    - equality holds for the stored numbers: directions and offsets are rounded once, f(x_i) = y_i up to about
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
    check_samples(x, y)
    u = sphere_directions(x.shape[1]) if directions is None else directions.detach().double()
    if u.ndim != 2 or u.shape[1:] != x.shape[1:] or not len(u):
        raise ShapeError(f"`directions` must have shape (m, {x.shape[1]}), m >= 1; got {tuple(u.shape)}.")
    slopes, offsets, groups, count = [], [], [], 0
    for x_i, y_i in zip(x, y, strict=True):
        covered = ((x - x_i) @ u.mT).amax(1) < y_i - y  # samples that the cone of U would cover
        towards = torch.nn.functional.normalize((x - x_i)[covered], dim=1)
        cone = torch.cat([u, inside_ball(towards).reshape(-1, u.shape[1])])
        slopes.append(-cone)
        offsets.append(y_i + cone @ x_i)
        groups.append(range(count, count + len(cone)))
        count += len(cone)
    return MaxMin(torch.cat(slopes), torch.cat(offsets), groups)


def check_samples(x: Tensor, y: Tensor) -> None:
    """Refuse samples that no 1-Lipschitz function passes through."""
    if x.ndim != 2 or 0 in x.shape or y.shape != x.shape[:1]:
        raise ShapeError(f"expected points (n, d) and values (n,); got {tuple(x.shape)} and {tuple(y.shape)}.")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise InputError("points and values must be finite; got NaN or infinity.")
    excess = (y[:, None] - y).abs() - (1 + EXCESS) * torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    i, k = divmod(int(excess.argmax()), len(x))
    if excess[i, k] > 0:
        difference, distance = float((y[i] - y[k]).abs()), float((x[i] - x[k]).norm())
        raise InputError(
            f"samples {i} and {k} differ by {difference:.9g} at a distance of {distance:.9g}, so no 1-Lipschitz function "
            "passes through both; divide the values by their Lipschitz constant."
        )


def distance_to_points(points: Tensor, directions: Tensor | None = None) -> MaxMin:
    """x ↦ min_i p(x − x_i), the distance to a finite set for p(z) = max_{u ∈ U} u · z.

    This is exact for the norm p, which is |·| in one dimension and ‖·‖_∞ for the default U, the signed unit vectors. For the
    Euclidean distance c · dist ≤ f ≤ dist, where c = ``covering_cosine_lower(d, n)`` for U = ``sphere_directions(d, n)``.
    p is a norm when U spans the space and −U = U.

    Shapes and errors as ``lipschitz_extension``.

    >>> distance_to_points(torch.tensor([[0.0], [3.0]]))(torch.tensor([[1.0], [5.0]])).tolist()
    [1.0, 2.0]
    """
    return -lipschitz_extension(points, points.new_zeros(len(points)), directions)


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
    check_level(dimension, level)
    if level == 0 or dimension == 1:
        axes = torch.eye(dimension, dtype=torch.float64)
        return torch.cat([-axes, axes])
    values = torch.arange(-level, level + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(*[values] * dimension)
    surface = grid[grid.abs().amax(1) == level]
    return inside_ball(surface / surface.norm(dim=1, keepdim=True))


def covering_cosine_lower(dimension: int, level: int = 0) -> float:
    """A lower bound of c = min over unit z of max_{u ∈ U} u · z, max(1/√d, √(1 − (d − 1)/(4n²))), less 1e-14 for rounding.

    A z with ‖z‖_∞ = 1 lies within r = √(d − 1)/(2n) of a surface point divided by n, since one coordinate is met exactly;
    as ‖z‖₂ ≥ 1, the sine of their angle is at most r. The signed unit vectors, which belong to every level, give 1/√d.

    Raises InputError as ``sphere_directions``.

    >>> covering_cosine_lower(1), round(covering_cosine_lower(2, 16), 6)
    (1.0, 0.999512)
    """
    check_level(dimension, level)
    if dimension == 1:
        return 1.0
    square = 1 - (dimension - 1) / (4 * level**2) if level else 0.0
    return max(math.sqrt(max(square, 0.0)), 1 / math.sqrt(dimension)) - COSINE_ROUNDING


def check_level(dimension: int, level: int) -> None:
    if dimension < 1 or level < 0:
        raise InputError(f"expected a dimension of at least 1 and a level of at least 0; got {dimension} and {level}.")
    points = (2 * level + 1) ** dimension
    if dimension > 1 and points > MAX_DIRECTIONS:
        raise InputError(f"level {level} needs a grid of {points} points, more than {MAX_DIRECTIONS}; lower the level.")
