"""What a scanner's file holds, read a few detector rows at a time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pnp_lip.errors import InputError
from pnp_lip.operators import FanBeam

__all__ = ["Array", "Frames", "Scan", "check_theta", "needs"]

Array: TypeAlias = NDArray[Any]

TURNS = (math.pi, 2 * math.pi)  # spans that angles in radians have
NEAR = 0.02  # relative distance from one of them


class Frames(NamedTuple):
    """Projections (views, rows, bins), and flats and darks (frames, rows, bins) or None, of some detector rows."""

    data: Array
    flat: Array | None
    dark: Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """A file of projections that is still on the disk: ``load(start, stop)`` reads these detector rows.

    ``shape`` is (views, rows, bins); ``theta`` degrees, or None where the file does not tell. ``integrals`` says that the
    data are −log(I/I₀) already. ``fan`` is a fan-beam scanner that the file describes.
    """

    source: str
    shape: tuple[int, int, int]
    load: Callable[[int, int], Frames]
    theta: Array | None = None
    integrals: bool = False
    fan: FanBeam | None = None


def check_theta(theta: Array, views: int, source: str = "theta", units: str = "") -> NDArray[np.float64]:
    """The angles in degrees, (views,). ``units`` is what a file says about them: "rad…" is converted.

    Raises InputError unless they are finite and as many as ``views``, and for angles without units that span π or 2π.

    >>> check_theta(np.array([0.0, np.pi / 2]), 2, units="rad").tolist()
    [0.0, 90.0]
    """
    degrees = np.asarray(theta)
    if degrees.ndim != 1 or degrees.dtype.kind not in "fiu" or not np.isfinite(degrees).all():
        raise InputError(f"{source}: the angles must be a list of finite numbers; got {degrees.shape} of {degrees.dtype}.")
    if len(degrees) != views:
        raise InputError(f"{source}: {views} projections, but {len(degrees)} angles.")
    degrees = np.asarray(np.rad2deg(degrees) if units.lower().startswith("rad") else degrees, np.float64)
    span = float(np.ptp(degrees)) * (views / max(views - 1, 1))
    if not units and views > 2 and any(abs(span / turn - 1) < NEAR for turn in TURNS):
        raise InputError(f"{source}: the angles span {span:.3f}, so they are in radians; state them in degrees.")
    return degrees


def needs(extra: str) -> InputError:
    """The error for an optional package that is missing."""
    return InputError(f'this needs a package that is not installed: pip install "pnp-lip[{extra}]"')
