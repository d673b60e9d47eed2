"""Bounds of the maps that updates are made of."""

from __future__ import annotations

from fractions import Fraction

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.solvers.evidence import Evidence

__all__ = ["FIRM", "UNKNOWN", "forward_step", "projection_bound", "range_in_box"]

FIRM = MapBound(Fraction(1), Fraction(1, 2))  # a prox, a resolvent, a projection
UNKNOWN = MapBound(Fraction(2), None)  # nothing is claimed


def forward_step(curvature: Fraction) -> MapBound:
    """Id − γB for B 1/K-cocoercive, curvature = γK: γK/2-averaged when γK < 2 (Bauschke & Combettes 2017, Prop. 4.39)."""
    if curvature < 2:
        return MapBound(Fraction(1), curvature / 2)
    return MapBound(max(Fraction(1), curvature - 1), None)


def projection_bound(e: Evidence) -> list[MapBound]:
    """The projection onto the box, where there is one."""
    return [] if e.box is None else [MapBound(Fraction(1), Fraction(1, 2), proximal=True, box=e.box)]


def range_in_box(e: Evidence, *, denoised: bool = True) -> str | None:
    """A nonexpansive map of a compact convex set into itself has a fixed point; ``denoised``: T ends with D."""
    box = e.box
    if box is None and denoised and e.denoiser is not None:
        box = e.denoiser.box
    if box is None:
        return None
    return f"proved: T maps the box [{box[0]:g}, {box[1]:g}] into itself (Browder, Göhde, Kirk 1965)"
