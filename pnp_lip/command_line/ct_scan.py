"""The part of ``pnp-lip ct`` that reads scanner files: slice by slice, resumable, a few detector rows in memory at a time."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.command_line.common import say
from pnp_lip.command_line.inputs import make_folder
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.operators import FanBeam, Sinogram
from pnp_lip.operators.filtered_back_projection import bridged
from pnp_lip.reconstruction import Projector
from pnp_lip.scans import (
    Scan,
    check_theta,
    find_center,
    line_integrals,
    read_frames,
    read_hdf5,
    read_matlab,
    read_tiff,
    without_stripes,
)
from pnp_lip.scans.scan import Array
from pnp_lip.scans.tiff import TIFF_SUFFIXES

__all__ = ["is_scan", "open_scan", "parse_slices", "reconstruct_scan"]

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs")
BATCH_BYTES = 2**27  # of projections read at once; float64 copies make it some five times as much
OWN = ("center", "weights", "slices", "flat", "dark", "stripes")  # options that belong to scanner files
SHAPING = ("fan", "size", "spacing", "offset", "misfit", "sigma", "tol", "max_iter", "denoiser", "rounds", "center", "weights",
           "flat", "dark", "stripes", "angles")  # options that change a picture  # fmt: skip

Project: TypeAlias = Callable[[Sinogram, float | None, FanBeam | None], Projector]
Solve: TypeAlias = Callable[[Tensor, Projector, Sinogram, float | None, Path], float]


def is_scan(path: str | None, options: argparse.Namespace) -> bool:
    """Whether this is a scanner's file. Raises InputError for a sinogram's file with options of a scanner's."""
    if path is not None and (Path(path).suffix.lower() in (*HDF5_SUFFIXES, *TIFF_SUFFIXES, ".mat") or Path(path).is_dir()):
        return True
    stated = next((name for name in OWN if getattr(options, name) is not None), None)
    if stated is not None:
        raise InputError(f"--{stated} belongs to a scanner's file (HDF5, TIFF, .mat); of a sinogram state --offset.")
    return False


def open_scan(path: str, theta: NDArray[np.float64] | None) -> Scan:
    """The scan of a file by its suffix, with its angles, which ``theta`` replaces."""
    suffix = Path(path).suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return read_hdf5(path, theta)
    scan = read_matlab(path) if suffix == ".mat" else read_tiff(path)
    if theta is None and scan.theta is None:
        raise InputError(f"{path} holds no angles; pass --angles.")
    if theta is None:
        return scan
    if scan.fan is not None:
        raise InputError(f"{path} describes its angles; --angles does not belong to it.")
    return dataclasses.replace(scan, theta=check_theta(theta, scan.shape[0], path))


def parse_slices(text: str | None, rows: int) -> range:
    """The detector rows START:STOP, STOP excluded, or one row; all by default. Raises InputError for rows that are not there."""
    if text is None:
        return range(rows)
    try:
        parts = [int(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2):
        raise InputError(f"--slices takes START:STOP, STOP excluded, or one number; got {text!r}.")
    chosen = range(parts[0], parts[1] if len(parts) == 2 else parts[0] + 1)
    if not (0 <= chosen.start < chosen.stop <= rows):
        raise InputError(f"--slices {text}: the scan has the slices 0 to {rows - 1}.")
    return chosen


def reconstruct_scan(options: argparse.Namespace, theta: NDArray[np.float64] | None, project: Project, solve: Solve) -> int:
    """All chosen slices, each in a folder of its own, then a volume of them; finished slices are not solved again.

    ``project`` makes the projector of a slice, ``solve`` writes its pictures and returns its sigma. The slice in the middle
    comes first and sets the axis and the strength of the others.
    """
    scan = open_scan(options.sinogram, theta)
    rows = parse_slices(options.slices, scan.shape[1])
    flat, dark = (frames_of(getattr(options, name)) for name in ("flat", "dark"))
    require_fitting(options, scan, rows, has_flat=flat is not None, has_dark=dark is not None)
    out, middle = make_folder(options.out), rows[len(rows) // 2]
    state = begun(out, identity(options, scan))

    def read(chosen: range) -> Iterator[tuple[int, Sinogram, Tensor]]:
        return prepared(scan, chosen, flat, dark, options.weights or "photons", bool(options.stripes))

    _, first, weights = next(read(range(middle, middle + 1)))
    if "center" not in state:
        state["center"] = center_of(options, scan, first, weights)
        write_json(out / "scan.json", state)
    if state["center"] is not None:
        say(f"axis on bin {state['center']:.2f}, counted from 0, of {scan.shape[2]}")
    physics, finished = project(first, state["center"], scan.fan), sum(is_finished(out, number) for number in rows)
    if finished:
        say(f"{finished} of {len(rows)} slices are finished already")
    for chosen in (range(middle, middle + 1), *batches(scan, rows)):
        if all(is_finished(out, number) for number in chosen):
            continue
        for number, sinogram, weights in read(chosen):
            if is_finished(out, number):
                continue
            weighted = cast(Projector, physics.with_weights(weights))
            y = weighted.apply_weights(float(weighted.unit) * sinogram.y)
            sigma = solve(y, weighted, sinogram, state.get("sigma"), make_folder(str(folder_of(out, number))))
            finished += 1
            say(f"slice {number} is finished, {finished} of {len(rows)}")
            if "sigma" not in state:
                state["sigma"] = sigma
                write_json(out / "scan.json", state)
    write_volume(out, rows)
    say(f"wrote {out / 'volume.npy'}: slices {rows.start} to {rows.stop - 1}")
    return 0


def require_fitting(options: argparse.Namespace, scan: Scan, rows: range, *, has_flat: bool, has_dark: bool) -> None:
    """InputError for options that do not belong to this scan, and for a place that would overwrite one of its files."""
    path, out = options.sinogram, Path(options.out).resolve()
    if scan.integrals and (has_flat or has_dark):
        raise InputError(f"{path} holds line integrals; --flat and --dark do not belong to it.")
    if not (scan.integrals or has_flat) and scan.load(rows.start, rows.start + 1).flat is None:
        raise InputError(f"{path} holds no flats; pass --flat FILE, or --flat NUMBER, the counts without an object.")
    if scan.fan is not None and options.fan is not None:
        raise InputError(f"{path} describes its fan; --fan does not belong to it.")
    for name in (path, options.flat, options.dark):
        if name is not None and out in (Path(name).resolve(), *Path(name).resolve().parents):
            raise InputError(f"--out {options.out} holds {name}, which is read; choose another folder.")


def prepared(
    scan: Scan, rows: range, flat: Array | None, dark: Array | None, weights: str, stripes: bool
) -> Iterator[tuple[int, Sinogram, Tensor]]:
    """The slices of these rows, with their line integrals and weights."""
    frames = scan.load(rows.start, rows.stop)
    own = zip(("flat", "dark"), (flat, dark), frames[1:], strict=True)
    parts = [measured if stated is None else cut(name, stated, scan, rows) for name, stated, measured in own]
    try:
        y, w, _ = line_integrals(frames.data, *parts, weights=weights)
    except InputError as error:
        raise InputError(f"slices {rows.start} to {rows.stop - 1} of {scan.source}: {error}") from error
    y = without_stripes(y, w) if stripes else y
    angles = torch.from_numpy(np.asarray(scan.theta, np.float64))
    for k, number in enumerate(rows):
        yield number, Sinogram(y[k : k + 1], angles, f"{scan.source}, slice {number}"), w[k]


def frames_of(stated: str | None) -> Array | None:
    """The frames of --flat or --dark, from a file or as one number."""
    if stated is None:
        return None
    try:
        return np.asarray(float(stated))
    except ValueError:
        return read_frames(stated)


def cut(name: str, frames: Array, scan: Scan, rows: range) -> Array:
    """These rows of frames that were stated; InputError for frames of another shape."""
    if frames.ndim == 0:
        return frames
    if frames.shape[1] not in (1, scan.shape[1]) or frames.shape[2] != scan.shape[2]:
        raise InputError(f"--{name} has frames of {frames.shape[1:]}, the projections of {scan.shape[1:]}.")
    return frames.mean(0)[0] if frames.shape[1] == 1 else frames[:, rows.start : rows.stop]


def center_of(options: argparse.Namespace, scan: Scan, sinogram: Sinogram, weights: Tensor) -> float | None:
    """The bin of the axis that was stated, or that is found in this slice; None leaves it to --offset."""
    if options.center is None:
        return None
    if scan.fan is not None or options.fan is not None or options.offset:
        raise InputError("--center is for parallel rays, and without --offset; of a fan state --offset.")
    bins = scan.shape[2]
    if options.center == "auto":
        whole = bridged(sinogram.y[0, 0], weights > 0).double().numpy()
        return find_center(whole, sinogram.angles.numpy())
    try:
        center = float(options.center)
    except ValueError:
        center = -1.0
    if not 0 <= center <= bins - 1:
        raise InputError(f"--center takes auto or a bin from 0 to {bins - 1}; got {options.center!r}.")
    return center


def identity(options: argparse.Namespace, scan: Scan) -> dict[str, Any]:
    """What the pictures of a folder have in common."""
    return {"source": scan.source, "shape": list(scan.shape), **{name: getattr(options, name) for name in SHAPING}}


def begun(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state of an earlier run in this folder, or a new one. Raises InputError for a run of other settings."""
    path = out / "scan.json"
    if not path.exists():
        return {"settings": settings}
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        other = [name for name in settings if state["settings"][name] != settings[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not the record of a scan; choose another folder for --out.") from error
    if other:
        raise InputError(f"{out} holds slices that differ in {', '.join(other)}; choose another folder for --out.")
    return state


def batches(scan: Scan, rows: range) -> Iterator[range]:
    """Rows that are read at once."""
    at_once = max(1, BATCH_BYTES // (8 * scan.shape[0] * scan.shape[2]))
    for start in range(rows.start, rows.stop, at_once):
        yield range(start, min(start + at_once, rows.stop))


def folder_of(out: Path, number: int) -> Path:
    """Where the pictures of a slice are."""
    return out / f"slice_{number:05d}"


def is_finished(out: Path, number: int) -> bool:
    """Whether a slice is solved: its record is written last."""
    return (folder_of(out, number) / "result.json").is_file()


def write_volume(out: Path, rows: range) -> None:
    """All pictures in one file, of which one is in memory at a time."""
    first = np.load(folder_of(out, rows.start) / "pnp-lip.npy")
    with write_atomically(out / "volume.npy") as path:
        volume = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(len(rows), *first.shape))
        for k, number in enumerate(rows):
            volume[k] = np.load(folder_of(out, number) / "pnp-lip.npy")
        volume.flush()
        del volume


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a record in one atomic step."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
