"""What a solver binds to a problem: its fixed-point map, what is proved of that map, and what its theorem asks."""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction

from torch import Tensor

from pnp_lip.certificates import calculus
from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.maps import Box, Maps
from pnp_lip.solvers.scheme import norms

__all__ = ["UNKNOWN", "Iteration", "Norm", "chain", "euclidean", "forward_step", "in_box", "projection", "prox_step", "unproved"]

UNKNOWN = MapBound(Fraction(2), None)  # nothing is claimed


def euclidean(maps: Maps, v: Tensor) -> Tensor:
    """‖v‖, one number per image in float64."""
    return norms(v)


def unproved(maps: Maps, x: Tensor) -> str | None:
    """No fixed point is proved to exist."""
    return None


@dataclasses.dataclass(frozen=True)
class Norm:
    """The norm of a theorem, one number per image.

    ``terms`` is the norm of what cancels in it, where something does; ``whole`` computes anew what a state holds only so
    that the norm costs nothing, such as Ax beside x.
    """

    of: Callable[[Maps, Tensor], Tensor] = euclidean
    terms: Callable[[Maps, Tensor], Tensor] | None = None
    whole: Callable[[Maps, Tensor], Tensor] | None = None

    def __call__(self, maps: Maps, v: Tensor) -> Tensor:
        """‖v‖."""
        return self.of(maps, v)

    def size(self, maps: Maps, v: Tensor) -> Tensor:
        """What the rounding of ‖v‖ is relative to."""
        return (self.terms or self.of)(maps, v)


@dataclasses.dataclass(frozen=True)
class Iteration:
    """A fixed-point map T and what is known of it.

    ``T(maps, v)`` gives T v and the image that belongs to v; ``bound`` its Lipschitz constant and averagedness when the
    hypotheses ``asks`` hold; ``parameters`` the numbers it uses, given or derived; ``exists(maps, x)`` says why T has a
    fixed point, or None; ``start(maps, x)`` is the first state; ``norm(maps, v)`` the norm of ``bound``, in which the
    residual is measured; ``minimises``: T is a proximal gradient step of a convex objective with γ ≤ 1/L.
    """

    T: Callable[[Maps, Tensor], tuple[Tensor, Tensor]]
    bound: MapBound
    asks: tuple[Hypothesis, ...]
    parameters: Mapping[str, float]
    exists: Callable[[Maps, Tensor], str | None] = unproved
    start: Callable[[Maps, Tensor], Tensor] = lambda maps, x: x
    norm: Norm = Norm()
    minimises: bool = False


def chain(*maps: MapBound | None) -> MapBound:
    """The bound of a composition, the first map applied first; ``UNKNOWN`` when one of them is."""
    known = [m for m in maps if m is not None]
    return calculus.compose(known) if len(known) == len(maps) else UNKNOWN


def forward_step(step: float, convexity: Fraction, curvature: Fraction | None) -> MapBound | None:
    """Id − γ∇f for f convex, μ-strongly so, and ∇f K-Lipschitz: γK/2-averaged when γK < 2, Lipschitz max(|1 − γμ|, |1 − γK|).

    Source: Bauschke & Combettes (2017), Proposition 4.39; Nesterov (2018), Theorem 2.1.12, for the constant.

    >>> forward_step(0.5, Fraction(1), Fraction(2)).lipschitz
    Fraction(1, 2)
    """
    if curvature is None:
        return None
    γ, μ, K = Fraction(step), convexity, curvature
    constant = max(abs(1 - γ * μ), abs(1 - γ * K))
    return MapBound(constant, γ * K / 2 if γ * K < 2 else None)


def projection(box: Box) -> list[MapBound]:
    """The projection onto the box, where there is one."""
    return [] if box is None else [MapBound(Fraction(1), Fraction(1, 2), proximal=True, box=box)]


def in_box(box: Box) -> Callable[[Maps, Tensor], str | None]:
    """T maps a box into itself: a nonexpansive map of a compact convex set into itself has a fixed point."""
    if box is None:
        return unproved
    return lambda m, x: f"proved: T maps the box [{box[0]:g}, {box[1]:g}] into itself (Browder, Göhde, Kirk 1965)"


def prox_step(step: float, convexity: Fraction) -> MapBound:
    """prox_γf for f convex, μ-strongly so: firmly nonexpansive, with the Lipschitz constant 1/(1 + γμ).

    >>> prox_step(1.0, Fraction(1)).lipschitz
    Fraction(1, 2)
    """
    return MapBound(1 / (1 + Fraction(step) * convexity), Fraction(1, 2))
