"""How large a construction is, beside the numbers that the theorems and the counting arguments give."""

from __future__ import annotations

import dataclasses

from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.max_min import MaxMin
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["ConstructionSize", "construction_size"]


@dataclasses.dataclass(frozen=True)
class ConstructionSize:
    """Depth (layers) and width (size of the state) that were used, between what the formula needs and what it is promised.

    ``depth_lower`` ≤ ``depth`` ≤ ``depth_upper``: the bounds that the docstrings of ``to_unbounded_width`` and
    ``to_fixed_width`` derive for N terms; ``width_promised`` is N in the former and the theorem's d + 3 in the latter.
    """

    family: str
    depth: int
    width: int
    depth_lower: int
    depth_upper: int
    width_promised: int

    def __str__(self) -> str:
        return (
            f"{self.family}: depth {self.depth} (at least {self.depth_lower}, promised {self.depth_upper}), "
            f"width {self.width} (promised {self.width_promised})"
        )


def construction_size(network: UnboundedWidthNetwork | FixedWidthNetwork, f: MaxMin) -> ConstructionSize:
    """The size of a network that ``to_unbounded_width`` or ``to_fixed_width`` made of ``f``.

    >>> import torch
    >>> from pnp_lip.theory import to_fixed_width
    >>> f = MaxMin(torch.eye(2), torch.zeros(2), [[0], [1]])
    >>> print(construction_size(to_fixed_width(f), f))
    fixed width: depth 1 (at least 1, promised 1), width 5 (promised 5)
    """
    n, depth, width = f.terms, len(network.layers), network.lift.weight.shape[0]
    if isinstance(network, FixedWidthNetwork):
        return ConstructionSize("fixed width", depth, width, n - 1, n - 1, f.dimension + 3)
    promised = ceil_log2(max(len(group) for group in f.groups)) + ceil_log2(len(f.groups))
    return ConstructionSize("unbounded width", depth, width, ceil_log2(n), promised, n)


def ceil_log2(n: int) -> int:
    """⌈log₂ n⌉, without rounding.

    >>> [ceil_log2(n) for n in (1, 2, 3, 64, 65)]
    [0, 1, 2, 6, 7]
    """
    return (n - 1).bit_length()
