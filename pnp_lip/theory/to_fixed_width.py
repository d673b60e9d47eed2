"""A max-min function as a network of the family of Theorem 4.1: three registers beside a copy of the input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_lip.layers import GradientFlowLinear
from pnp_lip.theory.block_affine import BlockAffine
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.max_min import MaxMin
from pnp_lip.theory.max_min_layer import SCALARS, MaxMinLayer

__all__ = ["to_fixed_width"]


@dataclasses.dataclass(frozen=True)
class Source:
    """What a register takes from the state (z₁, z₂, z₃, x): a row and an offset."""

    row: Tensor
    offset: float = 0.0


@torch.no_grad()
def to_fixed_width(f: MaxMin) -> FixedWidthNetwork:
    """The network ± e_1ᵀ A_L Ψ_L ∘ … ∘ A_1 Ψ_1 ∘ Q on R^{d+3} that equals f, in float64.

    The lower block carries x unchanged (Φ_ℓ with τ = 0, lower blocks Id). Of the three registers the first two are
    sorted, and the third keeps the maximum M of the finished groups while the minimum m of the next one is taken:

        (m, a_j · x + b_j, M) → sort → A: (min, next term, M), after the last term of a group A: (M, min, ·).

    Each layer retires one of the N = Σ|S_i| terms, so L = N − 1, which no arrangement with one comparison per layer can
    undercut; the width is the theorem's d + 3. Rows of A are unit vectors or terms of f, so that |r|' ≤ 1 and ``certify``
    proves the constant 1 exactly.

    Source: Murari, Furuya & Schönlieb (2025), Theorem 4.1 and its exact representation; the count is ours.

    >>> f = MaxMin(torch.eye(2), torch.zeros(2), [[0], [1]])
    >>> to_fixed_width(f)(torch.tensor([[1.0, 5.0]], dtype=torch.float64)).item()
    5.0
    """
    d = f.dimension
    first, *later = program(f)
    with torch.random.fork_rng(devices=[]):  # the classes draw initial weights, which are overwritten
        network = FixedWidthNetwork(d, depth=0).double()
        network.layers.extend(sort_and_keep(d) for _ in later)
        network.affines.extend(read_out_of(d, sources) for sources in later)
    network.lift.weight.copy_(torch.cat([stack(first)[:, SCALARS:], torch.eye(d, dtype=torch.float64)]))
    network.lift.bias.copy_(offsets(first, d))
    network.readout.weight.zero_()[0, 0] = f.sign
    return network


def program(f: MaxMin) -> list[tuple[Source, Source, Source]]:
    """What the registers take: from the input, before each sort, and at the end, where the first holds the result."""
    size = f.dimension + SCALARS
    nothing = Source(torch.zeros(size, dtype=torch.float64))
    larger, smaller, kept = (Source(row) for row in torch.eye(SCALARS, size, dtype=torch.float64))
    terms = torch.nn.functional.pad(f.slopes, (SCALARS, 0))
    loads: list[tuple[Source, Source, Source]] = []
    maximum = nothing
    for i, group in enumerate(f.groups):
        minimum, *others = (Source(terms[j], float(f.offsets[j])) for j in group)
        for term in others:
            loads.append((minimum, term, maximum))
            minimum, maximum = smaller, kept
        if i == 0:
            maximum = minimum
        else:
            loads.append((maximum, minimum, nothing))
            maximum = larger
    return [*loads, (maximum, nothing, nothing)]


def sort_and_keep(d: int) -> MaxMinLayer:
    """Ψ with Φ = Id."""
    inner = GradientFlowLinear(d, bias=False).double()
    inner.weight.copy_(torch.eye(d))
    inner.tau.zero_()
    return MaxMinLayer(inner)


def read_out_of(d: int, sources: Sequence[Source]) -> BlockAffine:
    """The map A that loads the registers and leaves x as it is."""
    affine = BlockAffine(d).double()
    affine.rows.copy_(stack(sources))
    affine.lower.copy_(torch.eye(d))
    affine.bias.copy_(offsets(sources, d))
    return affine


def stack(sources: Sequence[Source]) -> Tensor:
    """The three rows."""
    return torch.stack([source.row for source in sources])


def offsets(sources: Sequence[Source], d: int) -> Tensor:
    """The bias on R^{d+3}."""
    return torch.tensor([source.offset for source in sources] + [0.0] * d, dtype=torch.float64)
