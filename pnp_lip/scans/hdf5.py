"""HDF5 in the layouts of DXchange (synchrotrons of the US) and NeXus NXtomo (of Europe)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pnp_lip.errors import InputError
from pnp_lip.scans.scan import Array, Frames, Scan, check_theta, needs

__all__ = ["opened", "read_hdf5"]

PROJECTION, FLAT, DARK = 0, 1, 2  # NXtomo's image_key


def read_hdf5(path: str | Path, theta: Array | None = None) -> Scan:
    """A DXchange or NXtomo file; ``theta`` in degrees replaces the file's angles.

    DXchange: /exchange/data (views, rows, bins), data_white, data_dark and theta in degrees. NXtomo: a group with ``data``
    and ``rotation_angle`` in it and an ``image_key`` in its detector, which tells projections (0), flats (1) and darks (2)
    apart. An attribute "units" of the angles that begins with "rad" is obeyed.

    Raises InputError for a file that is broken, has no such layout, or whose parts do not fit together.
    """
    with opened(path) as file:
        if "exchange" in file:
            return dxchange(Path(path), file, theta)
        for keys in image_keys(file):
            return nexus(Path(path), file, keys, theta)
        raise InputError(
            f"{path}: neither DXchange (/exchange/data) nor NXtomo (image_key); it holds {', '.join(file) or 'nothing'}."
        )


def opened(path: str | Path) -> Any:
    """The h5py file, to be closed by ``with``."""
    try:
        import h5py
    except ImportError as error:
        raise needs("ct") from error
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: could not be read as HDF5 ({error}).") from error


def dxchange(path: Path, file: Any, theta: Array | None) -> Scan:
    """The scan of the group "exchange"."""
    group = file["exchange"]
    data = stack(path, file, "exchange/data")
    for name in ("data_white", "data_dark"):
        if name in group and stack(path, file, f"exchange/{name}").shape[1:] != data.shape[1:]:
            raise InputError(f"{path}: /exchange/{name} has frames of {group[name].shape[1:]}, the data of {data.shape[1:]}.")
    if theta is None and "theta" not in group:
        raise InputError(f"{path}: /exchange/theta is missing; pass --angles.")
    angles = angles_of(f"{path}: /exchange/theta", group.get("theta"), data.shape[0]) if theta is None else theta

    def load(start: int, stop: int) -> Frames:
        with opened(path) as again:
            parts = (again["exchange"].get(name) for name in ("data", "data_white", "data_dark"))
            data, flat, dark = (None if part is None else read(path, part, start, stop) for part in parts)
            return Frames(np.asarray(data), flat, dark)

    return Scan(source=path.name, shape=data.shape, load=load, theta=check_theta(angles, data.shape[0], str(path), "degrees"))


def nexus(path: Path, file: Any, name: str, theta: Array | None) -> Scan:
    """The scan whose detector holds the image_key of this ``name``."""
    detector = file[name].parent
    keys = np.asarray(file[name])
    data = stack(path, file, f"{detector.name}/data")
    if keys.shape != (data.shape[0],):
        raise InputError(f"{path}: {data.shape[0]} frames, but an image_key of shape {keys.shape}.")
    indices = {key: np.flatnonzero(keys == key) for key in (PROJECTION, FLAT, DARK)}
    views = len(indices[PROJECTION])
    if views == 0:
        raise InputError(f"{path}: image_key marks no projection (0).")
    if theta is None:
        found = next((a for a in rotation_angles(file) if len(a) == len(keys)), None)
        if found is None:
            raise InputError(f"{path}: no rotation_angle with one angle for each of the {len(keys)} frames; pass --angles.")
        theta = angles_of(f"{path}: {found.name}", found, len(keys))[indices[PROJECTION]]
    place = data.name

    def load(start: int, stop: int) -> Frames:
        with opened(path) as again:
            frames = {k: read(path, again[place], start, stop, i) if len(i) else None for k, i in indices.items()}
        return Frames(np.asarray(frames[PROJECTION]), frames[FLAT], frames[DARK])

    shape = (views, *data.shape[1:])
    return Scan(source=path.name, shape=shape, load=load, theta=check_theta(theta, views, str(path), "degrees"))


def stack(path: Path, file: Any, name: str) -> Any:
    """The dataset of this name, which must hold frames of real numbers."""
    data = file.get(name)
    if data is None or not hasattr(data, "dtype"):
        raise InputError(f"{path}: the dataset {name} is missing.")
    if data.ndim != 3 or data.dtype.kind not in "fiu" or 0 in data.shape:
        raise InputError(f"{path}: {name} must be frames of real numbers (frames, rows, bins); got {data.shape} of {data.dtype}.")
    return data


def read(path: Path, data: Any, start: int, stop: int, frames: Array | None = None) -> Array:
    """Rows of a dataset, of all its frames or of some."""
    try:
        rows = data[:, start:stop] if frames is None else data[frames, start:stop]
    except OSError as error:
        raise InputError(f"{path}: {data.name} could not be read; the file is damaged ({error}).") from error
    return np.asarray(rows)


def angles_of(source: str, data: Any, count: int) -> Array:
    """A dataset of angles, in degrees."""
    units = data.attrs.get("units", "")
    return check_theta(np.asarray(data), count, source, units.decode() if isinstance(units, bytes) else str(units))


def image_keys(group: Any) -> Iterator[str]:
    """The names of all datasets called image_key below a group; links are followed."""
    for name, item in group.items():
        if name == "image_key" and hasattr(item, "dtype"):
            yield item.name
        elif hasattr(item, "items"):
            yield from image_keys(item)


def rotation_angles(group: Any) -> Iterator[Any]:
    """All lists called rotation_angle below a group."""
    for name, item in group.items():
        if name == "rotation_angle" and getattr(item, "ndim", 0) == 1:
            yield item
        elif hasattr(item, "items"):
            yield from rotation_angles(item)
