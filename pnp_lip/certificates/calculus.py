"""The calculus of averaged maps, in exact rational arithmetic.

T is α-averaged, 0 < α < 1, if T = (1 − α) Id + α N with N nonexpansive; α = 1/2 is firm nonexpansiveness. Floats are
rationals, so every rule below is evaluated without rounding; only ``round_up`` returns to floats, upwards.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

from pnp_lip.errors import CertificateError

__all__ = ["CurvatureBound", "MapBound", "clip", "compose", "flow_step", "outwards", "relax", "round_down",
           "round_up", "sqrt_up"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MapBound:
    """What is proved of a map: upper bounds of its Lipschitz constant and of α (None when no α < 1 is known).

    ``proximal`` means that it is the prox of a convex function, so that an objective exists; ``box`` bounds its output's
    values, None when unbounded.
    """

    lipschitz: Fraction
    averagedness: Fraction | None
    proximal: bool = False
    box: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class CurvatureBound:
    """lower‖x − y‖² ≤ ⟨∇R(x) − ∇R(y), x − y⟩ ≤ upper‖x − y‖² for all images x, y of one size: −ρ and L, rounded outwards.

    R + ρ/2‖·‖² is then convex, and ∇R is max(ρ, L)-Lipschitz. Raises CertificateError for numbers that bound nothing.

    >>> CurvatureBound(-0.5, 8.0).rho
    0.5
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not -math.inf < self.lower <= self.upper < math.inf:
            raise CertificateError(f"expected finite numbers lower <= upper as a curvature; got [{self.lower}, {self.upper}].")

    @property
    def rho(self) -> float:
        """ρ = −lower: R is ρ-weakly convex; negative when R is strongly convex."""
        return 0.0 - self.lower


IDENTITY = MapBound(Fraction(1), Fraction(0), proximal=True)  # 0-averaged, the prox of zero


def flow_step(curvature: Fraction) -> MapBound:
    """x − τ Wᵀ σ(Wx + b) with 0 ≤ σ' ≤ s and ``curvature`` κ ≥ τ s ‖W‖²: α = κ/2, Lipschitz constant max(1, κ − 1).

    α < 1 makes it α-averaged, α ≤ 1/2 the prox of a convex function. For κ < 0, a step against the flow, the Lipschitz
    constant is 1 + |κ|. Source: Baillon & Haddad (1977); Sherry et al. (2024).

    >>> flow_step(Fraction(1)).averagedness
    Fraction(1, 2)
    >>> flow_step(Fraction(5, 2)).lipschitz
    Fraction(3, 2)
    """
    if curvature < 0:
        return MapBound(1 - curvature, None)
    alpha = curvature / 2 if curvature < 2 else None
    return MapBound(max(Fraction(1), curvature - 1), alpha, proximal=curvature <= 1)


def compose(maps: Sequence[MapBound]) -> MapBound:
    """Composition, the first map applied first: S = Σ αᵢ/(1 − αᵢ), α = S/(1 + S).

    One map without a known α leaves only the product of the Lipschitz constants. Two maps other than the identity have no
    common potential. Source: Combettes & Yamada (2015), Proposition 2.5.

    >>> compose([flow_step(Fraction(1))] * 3).averagedness
    Fraction(3, 4)
    """
    lipschitz = math.prod((m.lipschitz for m in maps), start=Fraction(1))
    moving = [m for m in maps if m.averagedness != 0]
    box = maps[-1].box if maps else None
    if len(moving) <= 1:
        return dataclasses.replace(moving[0] if moving else IDENTITY, box=box)
    alphas = [m.averagedness for m in moving if m.averagedness is not None]
    if len(alphas) < len(moving):
        return MapBound(lipschitz, None, box=box)
    total = sum((alpha / (1 - alpha) for alpha in alphas), Fraction(0))
    return MapBound(lipschitz, total / (1 + total), box=box)


def relax(m: MapBound, theta: float) -> MapBound:
    """(1 − θ) Id + θ T, 0 ≤ θ ≤ 1, is θα-averaged; θ-averaged when T is only nonexpansive."""
    share = Fraction(theta)
    if not 0 <= share <= 1:
        raise ValueError(f"`theta` must lie in [0, 1]; got {theta}.")
    lipschitz = 1 - share + share * m.lipschitz
    alpha = Fraction(1) if m.averagedness is None and m.lipschitz <= 1 else m.averagedness
    return MapBound(lipschitz, None if alpha is None or share * alpha >= 1 else share * alpha, m.proximal)


def clip(m: MapBound, box: tuple[float, float]) -> MapBound:
    """The projection onto a box after T: 1/(2 − α)-averaged, and the range is the box where both of its ends are finite."""
    projection = MapBound(Fraction(1), Fraction(1, 2), proximal=True, box=box if all(map(math.isfinite, box)) else None)
    return compose([m, projection])


def outwards(m: MapBound) -> MapBound:
    """The same bound with numbers that are floats, rounded upwards."""
    alpha = None if m.averagedness is None else Fraction(round_up(m.averagedness))
    return dataclasses.replace(m, lipschitz=Fraction(round_up(m.lipschitz)), averagedness=alpha)


def round_up(value: Fraction) -> float:
    """The smallest float that is not below ``value``.

    Raises CertificateError where that is infinite.
    """
    try:
        nearest = float(value)
    except OverflowError as error:
        raise CertificateError("a bound exceeds the range of float64; scale the weights down.") from error
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def round_down(value: Fraction) -> float:
    """The largest float that is not above ``value``; zero is positive."""
    return 0.0 - round_up(-value)


def sqrt_up(square: Fraction) -> Fraction:
    """A rational that is not below √``square``, at most 2⁻¹²⁸ above it, and at most 1 when ``square`` is.

    >>> sqrt_up(Fraction(1, 4))
    Fraction(1, 2)
    """
    scaled = math.ceil(square * 4**128)
    root = math.isqrt(scaled)
    return Fraction(root + (root**2 < scaled), 2**128)
