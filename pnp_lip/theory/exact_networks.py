"""A max-min function as a network of either family, exactly: the theorems' constructions, executable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pnp_lip.layers import GradientFlowLinear
from pnp_lip.theory.fixed_width_network import BlockAffine, FixedWidthNetwork, MaxMinLayer
from pnp_lip.theory.max_min import MaxMin
from pnp_lip.theory.projection import SCALARS
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["to_fixed_width", "to_unbounded_width", "tournament"]

Pair = tuple[int, int]


@torch.no_grad()
def to_unbounded_width(f: MaxMin) -> UnboundedWidthNetwork:
    """The network ± e_kᵀ ∘ Φ_L ∘ … ∘ Φ_1 ∘ Q that equals f, in float64: a tournament of pairs.

    Q stacks the N = Σ|S_i| terms a_j · x + b_j. Each row e_p − e_q of a layer's W, with τ = 1 = 2/‖e_p − e_q‖² and
    σ = ReLU, sorts a pair: z_p becomes the minimum, z_q the maximum. In every layer all groups halve their terms by
    minima at once, and groups that are down to one term halve their number by maxima, so that

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
        network = UnboundedWidthNetwork(f.dimension, width=len(terms), depth=0).double()
        network.layers.extend(sorting_layer(len(terms), pairs) for pairs in rounds)
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


def sorting_layer(width: int, pairs: Sequence[Pair]) -> GradientFlowLinear:
    """The layer that sorts disjoint pairs: one row e_p − e_q for each."""
    layer = GradientFlowLinear(width, len(pairs), bias=False).double()
    layer.weight.zero_()
    for row, (p, q) in zip(layer.weight, pairs, strict=True):
        row[p], row[q] = 1.0, -1.0
    layer.tau.fill_(1.0)
    return layer


class Load(NamedTuple):
    """What one register takes from the state (z₁, z₂, z₃, x): a row and an offset."""

    row: Tensor
    offset: float = 0.0


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
            affine.rows.copy_(torch.stack([load.row for load in loads]))
            affine.lower.copy_(torch.eye(d))
            affine.bias.copy_(offsets(loads, d))
    network.lift.weight[:SCALARS].copy_(torch.stack([load.row[SCALARS:] for load in first]))
    network.lift.weight[SCALARS:].copy_(torch.eye(d))
    network.lift.bias.copy_(offsets(first, d))
    network.readout.weight.zero_()[0, 0] = f.sign
    return network


def program(f: MaxMin) -> list[tuple[Load, Load, Load]]:
    """What the registers take: from the input, before each sort, and at the end, where the first holds the result."""
    size = f.dimension + SCALARS
    nothing = Load(torch.zeros(size, dtype=torch.float64))
    larger, smaller, kept = (Load(row) for row in torch.eye(SCALARS, size, dtype=torch.float64))
    terms = torch.nn.functional.pad(f.slopes, (SCALARS, 0))
    loads: list[tuple[Load, Load, Load]] = []
    maximum = nothing
    for i, group in enumerate(f.groups):
        minimum, *others = (Load(terms[j], float(f.offsets[j])) for j in group)
        for term in others:
            loads.append((minimum, term, maximum))
            minimum, maximum = smaller, kept
        if i == 0:
            maximum = minimum
        else:
            loads.append((maximum, minimum, nothing))
            maximum = larger
    return [*loads, (maximum, nothing, nothing)]


def offsets(loads: Sequence[Load], d: int) -> Tensor:
    """The bias on R^{d+3}."""
    return torch.tensor([load.offset for load in loads] + [0.0] * d, dtype=torch.float64)
