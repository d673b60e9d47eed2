"""``.mat`` files of the Finnish Inverse Problems Society and of the Helsinki Tomography Challenge 2022."""

from pathlib import Path
from typing import Any, cast

import numpy as np

from pnp_lip.errors import InputError
from pnp_lip.operators import FanBeam
from pnp_lip.operators.matlab import load_matlab
from pnp_lip.scans.astra import geometry_from_astra
from pnp_lip.scans.scan import Array, Frames, Scan

__all__ = ["read_matlab"]

STRUCTS = ("CtDataLimited", "CtDataFull", "CtData")  # the challenge's two, and what HelTomo writes
Struct = dict[str, Any]


def read_matlab(path: str | Path) -> Scan:
    """One slice of line integrals.

    The struct CtDataLimited, CtDataFull or CtData holds ``sinogram`` (views, bins) and, in ``parameters``, the angles in
    degrees and the flat fan of the scanner; lengths become those of ``effectivePixelSizePost`` (formerly
    ``effectivePixelSize``). Otherwise the matrix ``m`` (bins, views), as in FIPS' first data sets; its angles and fan are in
    their papers. Files before MATLAB's v7.3 and v7.3 itself (HDF5).

    Raises InputError for a file that is broken or holds neither.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        content = load_matlab(path)
    except Exception as error:  # scipy and h5py raise what their parsers met
        raise InputError(f"{path}: could not be read as a MATLAB file ({error}).") from error
    name = next((n for n in STRUCTS if n in content), None)
    if name is None:
        if "m" not in content:
            named = ", ".join(content) or "nothing"
            raise InputError(f"{path}: holds neither {', '.join(STRUCTS)} nor a sinogram m, but {named}.")
        return one_slice(path, np.asarray(content["m"]).T)
    try:
        sinogram, parameters = np.asarray(content[name]["sinogram"]), content[name]["parameters"]
        geometry = fan_of(parameters)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: {name} has no {error}; is it a two-dimensional fan-beam scan?") from error
    return one_slice(path, sinogram, geometry)


def fan_of(parameters: Struct) -> FanBeam:
    """The geometry as HelTomo hands it to ASTRA: all lengths in effective pixels, the detector's bins magnified."""
    old = "effectivePixelSize" in parameters
    pixel = float(parameters["effectivePixelSize" if old else "effectivePixelSizePost"])
    source, detector = float(parameters["distanceSourceOrigin"]), float(parameters["distanceSourceDetector"])
    described = {
        "type": "fanflat",
        "DetectorWidth": detector / source,
        "DetectorCount": int(parameters["numDetectors" if old else "numDetectorsPost"]),
        "ProjectionAngles": np.deg2rad(np.ravel(parameters["angles"]).astype(float)),
        "DistanceOriginSource": source / pixel,
        "DistanceOriginDetector": (detector - source) / pixel,
    }
    return cast(FanBeam, geometry_from_astra(described))


def one_slice(path: Path, sinogram: Array, fan: FanBeam | None = None) -> Scan:
    """A scan of a single slice (views, bins)."""
    if sinogram.ndim != 2 or sinogram.dtype.kind not in "fiu" or 0 in sinogram.shape:
        raise InputError(f"{path}: expected a sinogram of real numbers; got {sinogram.shape} of {sinogram.dtype}.")
    views, bins = sinogram.shape
    if fan is not None and (len(fan.degrees), fan.n_det) != sinogram.shape:
        raise InputError(f"{path}: a sinogram of {sinogram.shape}, but {len(fan.degrees)} angles and {fan.n_det} bins.")
    frames = Frames(sinogram[:, None], None, None)
    theta = None if fan is None else fan.degrees
    return Scan(source=path.name, shape=(views, 1, bins), load=lambda *_: frames, theta=theta, integrals=True, fan=fan)
