"""The max-min form of a piecewise-affine 1-Lipschitz function, and the networks of either family that equal it."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import GradientFlowLinear
from pnp_lip.spectral.square_upper import sum_of_squares
from pnp_lip.theory.networks import SCALARS, BlockAffine, FixedWidthNetwork, MaxMinLayer, UnboundedWidthNetwork

__all__ = ["EXCESS", "MaxMin", "inside_ball", "to_fixed_width", "to_unbounded_width"]

EXCESS = 1e-12  # a norm above 1 by no more than this counts as rounding
Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class MaxMin:
    """f(x) = ± max_i min_{j ∈ S_i} (a_j · x + b_j), which is 1-Lipschitz because every ‖a_j‖₂ ≤ 1.

    Every continuous piecewise-affine function has this form, with its own affine pieces (Ovchinnikov 2002; Tarela &
    Martínez 1999). With ``sign`` = −1 it is the min-max form of −f, and ``-f`` changes the sign.

    ``slopes`` (n, d) holds the a_j, ``offsets`` (n,) the b_j, ``groups`` the S_i as indices of pieces. A piece may be in
    several groups. All is kept in float64. A row whose norm exceeds 1 by at most 1e-12 counts as a rounded unit vector
    and is shortened by the least amount, so that ‖a_j‖ ≤ 1 holds exactly for the stored numbers.

    Calling f with x of shape (..., d) gives (...).

    Raises ShapeError for shapes that do not fit, InputError for longer rows, numbers that are not finite, empty groups,
    indices out of range and signs other than ±1.

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

    All weights but the slopes are 0 and ±1, so the equality is exact up to the rounding of f's own evaluation, and
    ``certify`` proves the constant 1 exactly, although ‖Q‖ may be as large as √N. Do not ``seal`` the network: that
    would divide Q by this norm.

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


def tournament(sizes: Sequence[int]) -> tuple[list[list[Pair]], int]:
    """The pairs (p, q) of each round, after which p holds the minimum and q the maximum, and who holds the result.

    >>> tournament([2, 1])
    ([[(0, 1)], [(2, 0)]], 0)
    """
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    groups = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    rounds: list[list[Pair]] = []
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

    Each layer retires one of the N = Σ|S_i| terms, so L = N − 1, the least for one comparison per layer; the width is the
    theorem's d + 3. Rows of A are unit vectors or terms of f, so |r|' ≤ 1 and ``certify`` proves the constant 1 exactly.

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
