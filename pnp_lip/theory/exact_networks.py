"""A max-min function as a network of the family of Theorem 3.1: a tournament of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_lip.layers import GradientFlowLinear
from pnp_lip.theory.max_min import MaxMin
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["to_unbounded_width"]

Pair = tuple[int, int]


@torch.no_grad()
def to_unbounded_width(f: MaxMin) -> UnboundedWidthNetwork:
    """The network ± e_kᵀ ∘ Φ_L ∘ … ∘ Φ_1 ∘ Q that equals f, in float64.

    Q stacks the N = Σ|S_i| terms a_j · x + b_j. Each row e_p − e_q of a layer's W, with τ = 1 = 2/‖e_p − e_q‖² and
    σ = ReLU, sorts a pair: z_p becomes the minimum, z_q the maximum. In every layer all groups halve their terms by
    minima at once, and groups that are down to one term halve their number by maxima, so that

        ⌈log₂ N⌉ ≤ L ≤ ⌈log₂ max|S_i|⌉ + ⌈log₂ n⌉ for n groups; width h = N.

    All weights but the slopes are 0 and ±1, so that the equality is exact up to the rounding of f's own evaluation, and
    ``certify`` proves the constant 1 exactly, although ‖Q‖ may be as large as √N. (``seal`` is for trained networks: it
    would divide Q by that norm.)

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
    """The layer that sorts disjoint pairs."""
    layer = GradientFlowLinear(width, len(pairs), bias=False).double()
    layer.weight.copy_(sorting_matrix(width, pairs))
    layer.tau.fill_(1.0)
    return layer


def sorting_matrix(width: int, pairs: Sequence[Pair]) -> Tensor:
    """One row e_p − e_q per pair."""
    matrix = torch.zeros(len(pairs), width, dtype=torch.float64)
    for row, (p, q) in zip(matrix, pairs, strict=True):
        row[p], row[q] = 1.0, -1.0
    return matrix
