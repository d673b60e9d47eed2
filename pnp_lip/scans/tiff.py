"""Projections as TIFF: one file with a page for each view, or a folder with a file for each."""

import re
from pathlib import Path

import numpy as np

from pnp_lip.errors import InputError
from pnp_lip.scans.scan import Array, Frames, Scan

__all__ = ["TIFF_SUFFIXES", "read_frames", "read_tiff"]

TIFF_SUFFIXES = (".tif", ".tiff")


def read_tiff(path: str | Path) -> Scan:
    """Projections (rows, bins), page by page or file by file; files in the order of the numbers in their names.

    Angles, flats and darks lie elsewhere: see ``read_frames``. Raises InputError for pages that cannot be read, differ in
    shape, or are not grey.
    """
    path = Path(path)
    files = files_of(path)
    first = page(files[0], 0)
    views = pages(files[0]) if len(files) == 1 else len(files)

    def load(start: int, stop: int) -> Frames:
        data = np.empty((views, stop - start, first.shape[1]), first.dtype)
        for view in range(views):
            frame = page(files[0], view) if len(files) == 1 else page(files[view], 0)
            if frame.shape != first.shape:
                raise InputError(f"{path}: view {view} has the shape {frame.shape}, the first one {first.shape}.")
            data[view] = frame[start:stop]
        return Frames(data, None, None)

    return Scan(source=path.name, shape=(views, *first.shape), load=load)


def read_frames(path: str | Path) -> Array:
    """Flats or darks (frames, rows, bins) from TIFF, a folder of TIFF files, or npy.

    Raises InputError for a file that is missing, unreadable, or not frames of real numbers.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        try:
            frames = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: could not be read as npy ({error}).") from error
    else:
        scan = read_tiff(path)
        frames = scan.load(0, scan.shape[1]).data
    if frames.ndim not in (1, 2, 3) or frames.dtype.kind not in "fiu" or 0 in frames.shape:
        raise InputError(f"{path}: expected frames of real numbers; got {frames.shape} of {frames.dtype}.")
    return np.asarray(frames.reshape((1,) * (3 - frames.ndim) + frames.shape))


def files_of(path: Path) -> list[Path]:
    """The TIFF file, or those of a folder."""
    if path.is_dir():
        files = [p for p in path.iterdir() if p.suffix.lower() in TIFF_SUFFIXES]
        if not files:
            raise InputError(f"{path}: this folder holds no TIFF file.")
        return sorted(files, key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.stem)])
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if path.suffix.lower() not in TIFF_SUFFIXES:
        raise InputError(f"{path}: expected npy, TIFF, or a folder of TIFF files.")
    return [path]


def pages(path: Path) -> int:
    """How many pages a file has."""
    import tifffile  # comes with scikit-image

    with tifffile.TiffFile(path) as file:
        return len(file.pages)


def page(path: Path, number: int) -> Array:
    """One page, as two axes of real numbers."""
    import tifffile

    try:
        data = np.asarray(tifffile.imread(path, key=number))
    except Exception as error:  # tifffile has many of its own
        raise InputError(f"{path}: page {number} could not be read as TIFF ({error}).") from error
    if data.ndim != 2 or data.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected grey pages (rows, bins); got {data.shape} of {data.dtype}.")
    return data
