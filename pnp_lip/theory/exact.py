"""The max-min form of a piecewise-affine 1-Lipschitz function, the networks that equal it, and such forms of samples."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import GradientFlowLinear
from pnp_lip.spectral.norm_bound import sum_of_squares
from pnp_lip.theory.networks import SCALARS, BlockAffine, FixedWidthNetwork, MaxMinLayer, UnboundedWidthNetwork

__all__ = [
    "MaxMin",
    "covering_cosine_lower",
    "distance_to_points",
    "lipschitz_extension",
    "piecewise_linear",
    "sphere_directions",
    "to_fixed_width",
    "to_unbounded_width",
]

EXCESS = 1e-12  # a norm above 1 by no more than this counts as rounding
MAX_DIRECTIONS = 1_000_000  # points of the grid that ``sphere_directions`` builds; 24 MB in dimension 3
COSINE_ROUNDING = 1e-14  # absolute; covers the few roundings of a cosine in float64, 1e-16 each


@dataclasses.dataclass(frozen=True, eq=False)
class MaxMin:
    """f(x) = ± max_i min_{j ∈ S_i} (a_j · x + b_j), which is 1-Lipschitz because every ‖a_j‖₂ ≤ 1.

    Every continuous piecewise-affine function has this form, with its own affine pieces (Ovchinnikov 2002; Tarela &
    Martínez 1999). ``slopes`` (n, d) holds the a_j, ``offsets`` (n,) the b_j, ``groups`` the S_i as indices of pieces, of
    which each may be in several groups; ``-f`` changes the ``sign``. All is kept in float64. A row whose norm exceeds 1 by
    at most 1e-12 counts as a rounded unit vector and is shortened, so that ‖a_j‖ ≤ 1 holds exactly for the stored numbers.

    Calling f with x of shape (..., d) gives (...). Raises ShapeError for shapes that do not fit, InputError for longer
    rows, numbers that are not finite, empty groups, indices out of range and signs other than ±1.

    >>> f = MaxMin(torch.tensor([[1.0], [-1.0]]), torch.tensor([0.0, 0.0]), [[0], [1]])
    >>> f(torch.tensor([[-2.0], [3.0]]))  # |x|
    tensor([2., 3.], dtype=torch.float64)
    """

    slopes: Tensor
    offsets: Tensor
    groups: Sequence[Sequence[int]]
    sign: int = 1

    def __post_init__(self) -> None:
        slopes, offsets = self.slopes.detach().double(), self.offsets.detach().double()
        groups = tuple(tuple(int(j) for j in group) for group in self.groups)
        if slopes.ndim != 2 or 0 in slopes.shape or offsets.shape != slopes.shape[:1]:
            shapes = f"{tuple(slopes.shape)} and {tuple(offsets.shape)}"
            raise ShapeError(f"expected slopes (n, d) and offsets (n,), n and d at least 1; got {shapes}.")
        if not (torch.isfinite(slopes).all() and torch.isfinite(offsets).all()):
            raise InputError("slopes and offsets must be finite; got NaN or infinity.")
        if not groups or not all(groups):
            raise InputError("`groups` needs at least one group, and each at least one piece; got an empty one.")
        if any(not 0 <= j < len(slopes) for group in groups for j in group):
            raise InputError(f"`groups` holds indices of the {len(slopes)} pieces, from 0; got one out of range.")
        if self.sign not in (1, -1):
            raise InputError(f"`sign` must be 1 or -1; got {self.sign}.")
        longest = float(slopes.norm(dim=1).max())
        if longest > 1 + EXCESS:
            raise InputError(f"every slope must have norm at most 1 for this form; got {longest:.15g}. Divide f by it.")
        for name, value in (("slopes", inside_ball(slopes)), ("offsets", offsets), ("groups", groups)):
            object.__setattr__(self, name, value)

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.dimension:
            raise ShapeError(f"this function takes (..., {self.dimension}) tensors; got {tuple(x.shape)}.")
        pieces = x.to(self.slopes) @ self.slopes.mT + self.offsets
        return self.sign * torch.stack([pieces[..., list(group)].amin(-1) for group in self.groups]).amax(0)

    def __neg__(self) -> "MaxMin":
        return dataclasses.replace(self, sign=-self.sign)

    @property
    def dimension(self) -> int:
        return self.slopes.shape[1]

    @property
    def terms(self) -> int:
        """Σ |S_i|, the number of terms in the formula."""
        return sum(len(group) for group in self.groups)


def inside_ball(rows: Tensor) -> Tensor:
    """The rows; those of norm above 1 move towards zero in steps of one unit in the last place until ‖row‖ ≤ 1 exactly.

    >>> row = torch.full((1, 3), 3.0, dtype=torch.float64).rsqrt()
    >>> sum_of_squares(inside_ball(row)[0].tolist()) <= 1
    True
    """
    shortened = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1)).tolist()
    for i, row in enumerate(shortened):
        while sum_of_squares(row) > 1:
            row = [math.nextafter(value, 0.0) for value in row]
        shortened[i] = row
    return torch.tensor(shortened, dtype=torch.float64)


@torch.no_grad()
def to_unbounded_width(f: MaxMin) -> UnboundedWidthNetwork:
    """The network ± e_kᵀ ∘ Φ_L ∘ … ∘ Φ_1 ∘ Q that equals f, in float64: a tournament of pairs.

    Q stacks the N = Σ|S_i| terms a_j · x + b_j. Each row e_p − e_q of a layer's W, with τ = 1 = 2/‖e_p − e_q‖² and
    σ = ReLU, sorts a pair: z_p becomes the minimum, z_q the maximum. In every layer all groups halve their terms by
    minima, and groups that are down to one term halve their number by maxima, so that

        ⌈log₂ N⌉ ≤ L ≤ ⌈log₂ max|S_i|⌉ + ⌈log₂ n⌉ for n groups; width h = N.

    The other weights are 0 and ±1, so the equality is exact up to the rounding of f's own evaluation. ``certify`` proves
    the constant 1 exactly, although ‖Q‖ may be √N. Do not ``seal`` the network: that would divide Q by this norm.
    Source: Murari, Furuya & Schönlieb (2025), Theorem 3.2, there without a count; the tournament is ours.

    >>> f = MaxMin(torch.eye(2), torch.zeros(2), [[0], [1]])
    >>> to_unbounded_width(f)(torch.tensor([[1.0, 5.0]], dtype=torch.float64)).item()
    5.0
    """
    terms = [j for group in f.groups for j in group]
    rounds, winner = tournament([len(group) for group in f.groups])
    with torch.random.fork_rng(devices=[]):  # the classes draw initial weights, which are overwritten
        network = UnboundedWidthNetwork(f.dimension, width=len(terms), depth=0)
        layers = [GradientFlowLinear(len(terms), len(pairs), bias=False) for pairs in rounds]
    network.layers.extend(layers)
    for layer, pairs in zip(layers, rounds, strict=True):
        layer.tau.fill_(1.0)
        layer.weight.zero_()
        for row, (p, q) in zip(layer.weight, pairs, strict=True):
            row[p], row[q] = 1.0, -1.0
    network.double()
    network.lift.weight.copy_(f.slopes[terms])
    network.lift.bias.copy_(f.offsets[terms])
    network.readout.weight.zero_()[0, winner] = f.sign
    return network


def tournament(sizes: Sequence[int]) -> tuple[list[list[tuple[int, int]]], int]:
    """The pairs (p, q) of each round, after which p holds the minimum and q the maximum, and who holds the result.

    >>> tournament([2, 1])
    ([[(0, 1)], [(2, 0)]], 0)
    """
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    groups = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    rounds: list[list[tuple[int, int]]] = []
    while len(groups) > 1 or len(groups[0]) > 1:
        done = [group[0] for group in groups if len(group) == 1]
        open_groups = [group for group in groups if len(group) > 1]
        minima = [pair for group in open_groups for pair in zip(group[::2], group[1::2], strict=False)]
        maxima = list(zip(done[1::2], done[::2], strict=False))
        rounds.append(minima + maxima)
        groups = [group[::2] for group in open_groups] + [[p] for p in done[::2]]
    return rounds, groups[0][0]


@torch.no_grad()
def to_fixed_width(f: MaxMin) -> FixedWidthNetwork:
    """The network ± e_1ᵀ A_L Ψ_L ∘ … ∘ A_1 Ψ_1 ∘ Q on R^{d+3} that equals f, in float64: three registers beside x.

    The lower block carries x unchanged (Φ_ℓ with τ = 0, lower blocks Id). The first two registers are sorted. The third
    keeps the maximum M of the finished groups while the minimum m of the next one is taken:

        (m, a_j · x + b_j, M) → sort → A: (min, next term, M), after the last term of a group A: (M, min, ·).

    Each layer retires one of the N = Σ|S_i| terms, so L = N − 1, the least for one comparison per layer. Rows of A are
    unit vectors or terms of f, so |r|' ≤ 1 and ``certify`` proves the constant 1 exactly.
    Source: Murari, Furuya & Schönlieb (2025), Theorem 4.1 and its exact representation; the count is ours.

    >>> f = MaxMin(torch.eye(2), torch.zeros(2), [[0], [1]])
    >>> to_fixed_width(f)(torch.tensor([[1.0, 5.0]], dtype=torch.float64)).item()
    5.0
    """
    d = f.dimension
    first, *later = program(f)
    with torch.random.fork_rng(devices=[]):  # the classes draw initial weights, which are overwritten
        network = FixedWidthNetwork(d, depth=len(later)).double()
    for layer, affine, loads in zip(network.layers, network.affines, later, strict=True):
        if isinstance(layer, MaxMinLayer) and isinstance(affine, BlockAffine):
            layer.inner.weight.copy_(torch.eye(d))
            layer.inner.bias = None
            layer.inner.tau.zero_()
            affine.rows.copy_(loads[:, :-1])
            affine.lower.copy_(torch.eye(d))
            affine.bias.copy_(nn.functional.pad(loads[:, -1], (0, d)))
    network.lift.weight.copy_(torch.cat([first[:, SCALARS:-1], torch.eye(d)]))
    network.lift.bias.copy_(nn.functional.pad(first[:, -1], (0, d)))
    network.readout.weight.zero_()[0, 0] = f.sign
    return network


def program(f: MaxMin) -> list[Tensor]:
    """What the registers take: from the input, before each sort, and at the end, where the first holds the result.

    Each step has three rows, (z₁, z₂, z₃, x, 1) ↦ the registers.
    """
    size = SCALARS + f.dimension + 1
    nothing = torch.zeros(size, dtype=torch.float64)
    larger, smaller, kept = torch.eye(SCALARS, size, dtype=torch.float64)
    terms = nn.functional.pad(torch.cat([f.slopes, f.offsets[:, None]], 1), (SCALARS, 0))
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    maximum = nothing
    for i, group in enumerate(f.groups):
        minimum, *others = terms[list(group)]
        for term in others:
            steps.append((minimum, term, maximum))
            minimum, maximum = smaller, kept
        if i == 0:
            maximum = minimum
        else:
            steps.append((maximum, minimum, nothing))
            maximum = larger
    return [torch.stack(step) for step in [*steps, (maximum, nothing, nothing)]]


def piecewise_linear(knots: Tensor, values: Tensor) -> MaxMin:
    """The function through (t_k, y_k), linear between the knots and beyond the first and the last one.

    f is cut at its convex kinks, where the slope grows, into runs R_i = [s_i, e_i] on which it is concave, the minimum of
    its pieces. Lines of slope ±1 through the ends keep each run below f elsewhere, because f is 1-Lipschitz:

        f(t) = max_i min(f(s_i) + (t − s_i), f(e_i) − (t − e_i), y_k + m_k (t − t_k) for the pieces k of run i),

    without the first line for the first run and the second for the last one: n + 2(r − 1) terms for n pieces and r runs.

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
    one = torch.ones_like(t)
    pieces, rising, falling = (torch.stack(c, 1) for c in ((m, y[:-1] - m * t[:-1]), (one, y - t), (-one, y + t)))
    runs = []
    for start, end in itertools.pairwise([0, *(k for k in range(1, len(m)) if m[k] > m[k - 1]), len(m)]):
        first = rising[start : start + 1] if start > 0 else rising[:0]
        last = falling[end : end + 1] if end < len(m) else falling[:0]
        runs.append(torch.cat([pieces[start:end], first, last]))
    return grouped(runs)


def grouped(groups: list[Tensor]) -> MaxMin:
    """The form with these groups of pieces (a_j, b_j), a row for each piece."""
    table = torch.cat(groups)
    indices = torch.split(torch.arange(len(table)), [len(group) for group in groups])
    return MaxMin(table[:, :-1], table[:, -1], [group.tolist() for group in indices])


def lipschitz_extension(points: Tensor, values: Tensor, directions: Tensor | None = None) -> MaxMin:
    """A piecewise-affine 1-Lipschitz function through all samples: McShane's extension with polyhedral cones.

    The least 1-Lipschitz function through the samples is F(x) = max_i (y_i − ‖x − x_i‖₂). This function is

        f(x) = max_i (y_i − p_i(x − x_i)), p_i(z) = max_{u ∈ U_i} u · z ≤ ‖z‖₂,

    where U_i holds the ``directions`` U and, where U does not suffice for it, the directions to those samples k that the
    cone i must not cover: p_i(x_k − x_i) ≥ y_i − y_k. Therefore

    - f is 1-Lipschitz, f(x_i) = y_i for every i, in every dimension and for every U, and F ≤ f; f = F in one dimension;
    - f ≤ F + (1 − c) max_i ‖x − x_i‖₂ if p ≥ c‖·‖₂, c = ``covering_cosine_lower(d, n)`` for U = ``sphere_directions(d, n)``;
    - directions and offsets are rounded once, so f(x_i) = y_i up to about 1e-16 (|y_i| + ‖x_i‖).

    ``points`` (n, d), ``values`` (n,), ``directions`` (m, d) with rows of norm at most 1, by default the signed unit
    vectors; the result has between n·m and n·(m + n − 1) terms. Raises ShapeError for other shapes, InputError for
    numbers that are not finite and samples with |y_i − y_k| > ‖x_i − x_k‖. Source: McShane (1934); Whitney (1934).

    >>> f = lipschitz_extension(torch.tensor([[0.0], [3.0]]), torch.tensor([0.0, 1.0]))
    >>> f(torch.tensor([[0.0], [1.0], [3.0]])).tolist()
    [0.0, -1.0, 1.0]
    """
    x, y = points.detach().double(), values.detach().double()
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
    u = sphere_directions(x.shape[1]) if directions is None else directions.detach().double()
    if u.ndim != 2 or u.shape[1:] != x.shape[1:] or not len(u):
        raise ShapeError(f"`directions` must have shape (m, {x.shape[1]}), m >= 1; got {tuple(u.shape)}.")
    cones = []
    for x_i, y_i in zip(x, y, strict=True):
        covered = ((x - x_i) @ u.mT).amax(1) < y_i - y  # samples that the cone of U would cover
        towards = nn.functional.normalize((x - x_i)[covered], dim=1)
        cone = torch.cat([u, inside_ball(towards).reshape(-1, u.shape[1])])
        cones.append(torch.cat([-cone, (y_i + cone @ x_i)[:, None]], 1))
    return grouped(cones)


def distance_to_points(points: Tensor, directions: Tensor | None = None) -> MaxMin:
    """x ↦ min_i p(x − x_i), the distance to a finite set for p(z) = max_{u ∈ U} u · z.

    p is a norm when U spans the space and −U = U: |·| in one dimension and ‖·‖_∞ for the default U. For the Euclidean
    distance c · dist ≤ f ≤ dist, c as in ``lipschitz_extension``, which has the same shapes and errors.

    >>> distance_to_points(torch.tensor([[0.0], [3.0]]))(torch.tensor([[1.0], [5.0]])).tolist()
    [1.0, 2.0]
    """
    return -lipschitz_extension(points, points.new_zeros(len(points)), directions)


def sphere_directions(dimension: int, level: int = 0) -> Tensor:
    """Directions U in the unit ball such that p(z) = max_{u ∈ U} u · z obeys c ‖z‖₂ ≤ p(z) ≤ ‖z‖₂.

    Level 0: the 2d signed unit vectors, p = ‖·‖_∞. Level n ≥ 1: the (2n + 1)^d − (2n − 1)^d integer points on the surface
    of the cube [−n, n]^d, brought to length 1; in one dimension U = {−1, 1}. c is ``covering_cosine_lower(d, n)``.

    Returns float64 of shape (count, dimension), each row of norm at most 1 exactly. Raises InputError for ``dimension``
    below 1, ``level`` below 0, and grids of more than a million points.

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
