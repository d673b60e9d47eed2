"""The calculus of blocks: Lipschitz constants counted coordinate by coordinate, in exact rational arithmetic.

The state z = z(x) ∈ R^H of a network, as a function of its input x ∈ R^d, is cut into blocks B of coordinates. Each block
carries a number L_B with ‖z_B(x) − z_B(y)‖₂ ≤ L_B ‖x − y‖₂, which the layers change:

- affine, z ↦ Az + b: an output block O gets Σ_B ‖A_OB‖ L_B;
- flow, z ↦ z − τ Wᵀσ(Wz + b), slopes of σ in [0, s]: blocks that no row of W connects do not see each other. A row w that is
  alone on single coordinates maps differences by Id − τδ wwᵀ for some δ ∈ [0, s]. The absolute row sums of that matrix,
  weighted with the L, are convex in δ, so
      L'_i = max(L_i, |1 − τ s w_i²| L_i + τ s |w_i| Σ_{j≠i} |w_j| L_j).
  For w = (1, −1), τ = s = 1, which sorts a pair, both get max(L₁, L₂). All other connected blocks join into one, with
  √(Σ L_B²) times the Lipschitz constant of the flow on it.

A single block gives the product of the layers' norms. Single coordinates prove what no product can: n rows of length one
have ‖Q‖ up to √n, but the maximum of n 1-Lipschitz functions is 1-Lipschitz.

Source: the constraints of Murari, Furuya & Schönlieb (2025), Theorem 4.1, there with all L_B = 1.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from pnp_lip.certificates.calculus import flow_step, sqrt_up
from pnp_lip.spectral.norm_bound import square_upper
from pnp_lip.spectral.verified import exact_float64

__all__ = ["Affine", "Blocks", "Flow", "State"]

Blocks = Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class State:
    """Disjoint blocks of coordinates that cover the state, with the Lipschitz constant of each."""

    blocks: Blocks
    lipschitz: tuple[Fraction, ...]


@dataclasses.dataclass(frozen=True)
class Affine:
    """z ↦ Az + b with the ``weight`` A. ``blocks`` cut its output, and may cut finer than the input was cut.

    >>> import torch
    >>> lift = Affine("lift", torch.eye(2).repeat(2, 1), [[0], [1], [2], [3]])
    >>> [str(l) for l in lift(State([[0, 1]], (Fraction(1),))).lipschitz]
    ['1', '1', '1', '1']
    """

    path: str
    weight: Tensor
    blocks: Blocks

    def __call__(self, state: State) -> State:
        """The state after the map."""
        a = exact_float64(self.weight)
        parts = [(list(block), value) for block, value in zip(state.blocks, state.lipschitz, strict=True)]
        constants = (
            sum((sqrt_up(square_upper(rows[:, block])) * value for block, value in parts), Fraction(0))
            for rows in (a[list(block)] for block in self.blocks)
        )
        return State(self.blocks, tuple(constants))


@dataclasses.dataclass(frozen=True)
class Flow:
    """z ↦ z − τ Wᵀσ(Wz + b), slopes of σ in [0, ``slope``].

    >>> import torch
    >>> sort = Flow("layers.0", torch.tensor([[1.0, -1.0, 0.0]]), 1.0, 1.0)
    >>> state = State([[0], [1], [2]], (Fraction(1, 2), Fraction(1), Fraction(3)))
    >>> [str(l) for l in sort(state).lipschitz]
    ['1', '1', '3']
    """

    path: str
    weight: Tensor
    tau: float
    slope: float

    def __call__(self, state: State) -> State:
        """The state after the map, its blocks joined where the rows of W connect them."""
        w = exact_float64(self.weight)
        step = Fraction(self.tau) * Fraction(self.slope)
        blocks: list[list[int]] = []
        values: list[Fraction] = []
        for members, rows in components(state.blocks, w):
            united = [list(state.blocks[k]) for k in members]
            constants = [state.lipschitz[k] for k in members]
            joined = [j for block in united for j in block]
            if len(rows) == 1 and len(joined) == len(members):
                blocks += united
                values += of_singles(w[rows[0], joined].tolist(), constants, step)
            else:
                total = constants[0] if len(members) == 1 else sqrt_up(sum((c**2 for c in constants), Fraction(0)))
                blocks.append(joined)
                values.append(total * flow_step(step * square_upper(w[rows][:, joined])).lipschitz if rows else total)
        return State(blocks, tuple(values))


def of_singles(row: Sequence[float], constants: Sequence[Fraction], step: Fraction) -> list[Fraction]:
    """max(L_i, |1 − τ s w_i²| L_i + |τ s| |w_i| Σ_{j≠i} |w_j| L_j), the ``step`` being τ s."""
    w = [abs(Fraction(value)) for value in row]
    total = sum((a * b for a, b in zip(w, constants, strict=True)), Fraction(0))
    return [
        max(value, abs(1 - step * a**2) * value + abs(step) * a * (total - a * value))
        for a, value in zip(w, constants, strict=True)
    ]


def components(blocks: Blocks, w: Tensor) -> Iterator[tuple[list[int], list[int]]]:
    """The connected components: the numbers of their blocks, and of the rows that connect these."""
    home = np.empty(w.shape[1], dtype=int)  # the block of each coordinate
    for k, block in enumerate(blocks):
        home[list(block)] = k
    rows, columns = np.nonzero(w.numpy())
    touched = coo_array((np.ones(len(rows)), (rows, home[columns])), shape=(len(w), len(blocks)))
    count, label = connected_components(touched.T @ touched, directed=False)
    for c in range(count):
        yield np.flatnonzero(label == c).tolist(), np.unique(rows[label[home[columns]] == c]).tolist()
