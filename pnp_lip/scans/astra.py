"""ASTRA's geometry dictionaries, without ASTRA."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pnp_lip.errors import InputError
from pnp_lip.operators import FanBeam, ParallelBeam

__all__ = ["geometry_from_astra"]

QUARTER = 90.0  # degrees from ASTRA's fan to ours: its source starts below the image, ours at the left
WHOLE = 1e-9  # relative difference of two lengths that are meant to be equal


def geometry_from_astra(projection: Mapping[str, Any], volume: Mapping[str, Any] | None = None) -> ParallelBeam | FanBeam:
    """The scanner of an ASTRA projection geometry "parallel" or "fanflat", and of the pixels of its volume geometry.

    Images keep their orientation. ASTRA's sinograms are (views, bins), so transpose them. Angles are in radians there. Data
    are line integrals in the unit of the lengths, as here.

    Raises InputError for other types, a missing entry, and a volume that is not centred or whose pixels are not square.

    >>> parallel = {"type": "parallel", "DetectorWidth": 0.5, "DetectorCount": 8, "ProjectionAngles": np.array([0, np.pi / 2])}
    >>> geometry_from_astra(parallel)
    ParallelBeam(angles=(0.0, 90.0), n_det=8, det_spacing=0.5, det_offset=0.0, pixel_size=1.0, model='strip')
    """
    kind = projection.get("type")
    if kind not in ("parallel", "fanflat"):
        raise InputError(f'ASTRA geometries of the types "parallel" and "fanflat" are known; got {kind!r}.')
    try:
        angles = np.rad2deg(np.ravel(projection["ProjectionAngles"]))
        bins, width = int(projection["DetectorCount"]), float(projection["DetectorWidth"])
        pixel = 1.0 if volume is None else pixel_of(volume)
        if kind == "parallel":
            return ParallelBeam(angles, n_det=bins, det_spacing=width, pixel_size=pixel)
        return FanBeam(
            angles + QUARTER, n_det=bins, det_spacing=width, pixel_size=pixel,
            source_distance=float(projection["DistanceOriginSource"]),
            detector_distance=float(projection["DistanceOriginDetector"]),
        )  # fmt: skip
    except KeyError as error:
        raise InputError(f"this ASTRA geometry has no {error}.") from error


def pixel_of(volume: Mapping[str, Any]) -> float:
    """The side of a pixel."""
    rows, columns = int(volume["GridRowCount"]), int(volume["GridColCount"])
    window = volume.get("option") or {}
    x = [float(window.get(f"Window{end}X", sign * columns / 2)) for end, sign in (("Min", -1), ("Max", 1))]
    y = [float(window.get(f"Window{end}Y", sign * rows / 2)) for end, sign in (("Min", -1), ("Max", 1))]
    width, height = (x[1] - x[0]) / columns, (y[1] - y[0]) / rows
    if abs(width - height) > WHOLE * width or max(abs(sum(x)), abs(sum(y))) > WHOLE * columns * width:
        raise InputError(f"the volume must have square pixels and its middle at the axis; got x in {x} and y in {y}.")
    return width
