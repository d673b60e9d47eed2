"""The calculus of averaged maps, in exact rational arithmetic.

T is α-averaged, 0 < α < 1, if T = (1 − α) Id + α N with N nonexpansive; α = 1/2 is firm nonexpansiveness. Floats are
rationals, so every rule below is evaluated without rounding; only ``round_up`` returns to floats, upwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

__all__ = [
    "MapBound",
    "clip",
    "compose",
    "flow_step",
    "gradient_step",
    "identity",
    "lift",
    "outwards",
    "relax",
    "round_down",
    "round_up",
    "sqrt_up",
]


@dataclasses.dataclass(frozen=True)
class MapBound:
    """What is proved of a map: a Lipschitz constant, averagedness, whether it is a proximal map, and its range.

    ``averagedness`` is an upper bound of α (0 for the identity) or None when no α < 1 is known. ``proximal`` means that
    the map is the prox of a convex function. ``box`` bounds the values of the map's output, None when unbounded.
    """

    lipschitz: Fraction
    averagedness: Fraction | None
    proximal: bool = False
    box: tuple[float, float] | None = None


def identity() -> MapBound:
    """The identity: 0-averaged, the prox of zero."""
    return MapBound(Fraction(1), Fraction(0), proximal=True)


def gradient_step(tau: float, norm_upper: float, slope_upper: float = 1.0) -> MapBound:
    """x − τ Wᵀ σ(Wx + b) with 0 ≤ σ' ≤ s: α = τ s ‖W‖²/2, Lipschitz constant max(1, τ s ‖W‖² − 1).

    α < 1 makes it α-averaged, α ≤ 1/2 the prox of a convex function. Source: Baillon & Haddad (1977); Sherry et al. (2024).

    >>> gradient_step(1.0, 1.0).averagedness
    Fraction(1, 2)
    >>> gradient_step(2.5, 1.0).lipschitz
    Fraction(3, 2)
    """
    return flow_step(Fraction(tau) * Fraction(slope_upper) * Fraction(norm_upper) ** 2)


def flow_step(curvature: Fraction) -> MapBound:
    """``gradient_step`` in terms of τ s ‖W‖² alone, for norms such as √2 whose square is known exactly."""
    if curvature < 0:  # a step against the flow: 1 + |τ| s ‖W‖²
        return MapBound(1 - curvature, None)
    alpha = curvature / 2 if curvature < 2 else None
    return MapBound(max(Fraction(1), curvature - 1), alpha, proximal=curvature <= 1)


def compose(maps: Sequence[MapBound]) -> MapBound:
    """Composition, the first map applied first: S = Σ αᵢ/(1 − αᵢ), α = S/(1 + S).

    One map without a known α leaves only the product of the Lipschitz constants. Two maps other than the identity have no
    common potential. Source: Combettes & Yamada (2015), Proposition 2.5.

    >>> compose([gradient_step(1.0, 1.0)] * 3).averagedness
    Fraction(3, 4)
    """
    lipschitz = math.prod((m.lipschitz for m in maps), start=Fraction(1))
    moving = [m for m in maps if m.averagedness != 0]
    box = maps[-1].box if maps else None
    if not moving:
        return dataclasses.replace(identity(), box=box)
    if len(moving) == 1:
        return dataclasses.replace(moving[0], box=box)
    alphas = [m.averagedness for m in moving]
    if any(alpha is None for alpha in alphas):
        return MapBound(lipschitz, None, box=box)
    total = sum((alpha / (1 - alpha) for alpha in alphas if alpha is not None), Fraction(0))
    return MapBound(lipschitz, total / (1 + total), box=box)


def relax(m: MapBound, theta: float) -> MapBound:
    """(1 − θ) Id + θ T, 0 ≤ θ ≤ 1, is θα-averaged; θ-averaged when T is only nonexpansive."""
    share = Fraction(theta)
    if not 0 <= share <= 1:
        raise ValueError(f"`theta` must lie in [0, 1]; got {theta}.")
    lipschitz = 1 - share + share * m.lipschitz
    alpha = Fraction(1) if m.averagedness is None and m.lipschitz <= 1 else m.averagedness
    return MapBound(lipschitz, None if alpha is None or share * alpha >= 1 else share * alpha, m.proximal)


def lift(inner: MapBound) -> MapBound:
    """QᵀNQ with QᵀQ = Id: the averagedness of N, for every α."""
    return dataclasses.replace(inner, box=None)


def clip(m: MapBound, box: tuple[float, float]) -> MapBound:
    """The projection onto a box after T: 1/(2 − α)-averaged, and the range is the box."""
    projection = MapBound(Fraction(1), Fraction(1, 2), proximal=True)
    return dataclasses.replace(compose([m, projection]), box=box)


def outwards(m: MapBound) -> MapBound:
    """The same bound with numbers that are floats, rounded upwards."""
    alpha = None if m.averagedness is None else Fraction(round_up(m.averagedness))
    return dataclasses.replace(m, lipschitz=Fraction(round_up(m.lipschitz)), averagedness=alpha)


def round_up(value: Fraction) -> float:
    """The smallest float that is not below ``value``."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def sqrt_up(square: Fraction) -> Fraction:
    """A rational that is not below √``square``, at most 2⁻¹²⁸ above it, and at most 1 when ``square`` is.

    >>> sqrt_up(Fraction(1, 4))
    Fraction(1, 2)
    """
    scaled = math.ceil(square * 4**128)
    root = math.isqrt(scaled)
    return Fraction(root + (root**2 < scaled), 2**128)


def round_down(value: Fraction) -> float:
    """The largest float that is not above ``value``."""
    return 0.0 - round_up(-value)  # not the negative zero
