"""The part of ``pnp-lip ct`` that reads scanner files: slice by slice, resumable, a few detector rows in memory at a time."""

import argparse
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pnp_lip.command_line.common import say
from pnp_lip.command_line.inputs import make_folder
from pnp_lip.command_line.items import Item, Outcome, exit_status, failure, outcome, report, sweep
from pnp_lip.command_line.records import Origin, changed, claim, origin_of, record_of, sha256_of, write_record, wrote
from pnp_lip.command_line.workers import Begin, outcomes
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.operators import FanBeam, Sinogram
from pnp_lip.progress import hidden
from pnp_lip.reconstruction import Projector
from pnp_lip.scans import (
    Frames,
    Scan,
    check_theta,
    find_common_center,
    line_integrals,
    read_frames,
    read_hdf5,
    read_matlab,
    read_tiff,
    spread_over,
    without_stripes,
)
from pnp_lip.scans.scan import Array
from pnp_lip.scans.tiff import TIFF_SUFFIXES
from pnp_lip.version import __version__

__all__ = ["WRITTEN", "Run", "is_scan", "open_scan", "parse_slices"]

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs")
BATCH_BYTES = 2**27  # of projections read at once, were they float64; the copies of one row come on top
OWN = ("center", "weights", "slices", "flat", "dark", "stripes")  # options that belong to scanner files
APART = 0.5  # bins between the axes of two slices from which on that is said; on sound scans they lie within about 0.1
WRITTEN = ("result.json", "ct.png", "fbp.npy", "tikhonov.npy", "pnp-lip.npy")  # of a slice

Project: TypeAlias = Callable[[Sinogram, float | None, FanBeam | None], Projector]
Solve: TypeAlias = Callable[[Tensor, Projector, Sinogram, float | None, Path, Origin], float]


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


class Run:
    """The ``rows`` of a scan: ``found`` is what became of each, ``state`` the record of what they share."""

    def __init__(
        self,
        scan: Scan,
        rows: range,
        options: argparse.Namespace,
        stated: tuple[Array | None, Array | None],
        project: Project,
        solve: Solve,
    ) -> None:
        self.scan, self.rows, self.options, self.stated, self.solve = scan, rows, options, stated, solve
        self.project = functools.lru_cache(1)(lambda center: project(blank(scan), center, scan.fan))
        self.out, self.found = Path(options.out), dict[int, Outcome]()
        self.origin = origin_of(options, options.sinogram, Path(options.sinogram))
        self.state = begun(self.out, self.origin, force=options.force)
        sweep([Item(options.sinogram, self.out / "volume.npy")])

    @classmethod
    def open(cls, options: argparse.Namespace, theta: NDArray[np.float64] | None, project: Project, solve: Solve) -> "Run":
        """``project`` makes the projector of a slice, ``solve`` writes its pictures and returns its sigma."""
        scan = open_scan(options.sinogram, theta)
        rows = parse_slices(options.slices, scan.shape[1])
        flat, dark = (frames_of(name, getattr(options, name), scan) for name in ("flat", "dark"))
        require_fitting(options, scan, rows, has_flat=flat is not None, has_dark=dark is not None)
        make_folder(options.out)
        return cls(scan, rows, options, (flat, dark), project, solve)

    def reconstruct(self, begin: Begin) -> int:
        """All slices, each in a folder of its own, then a volume; 0, or 2 if some failed, 3 if some did not converge.

        The slice in the middle comes first, or the nearest that can be reconstructed; the others take its sigma.
        ``begin`` makes what reconstructs them in workers, if ``options.jobs`` says so.
        """
        rows = self.rows
        if "sigma" in self.state:
            self.found = {number: known for number in rows if (known := self.finished(number)) is not None}
        if self.found:
            say(f"{len(self.found)} of {len(rows)} slices are finished already")
        for number in sorted(rows, key=lambda number: abs(number - rows[len(rows) // 2])):
            if "sigma" in self.state:
                break
            self.attempt(range(number, number + 1))
        done = len(self.found)
        silent = self.options.quiet or done == len(rows)
        with hidden(), tqdm(initial=done, total=len(rows), unit="slice", disable=silent) as bar:
            if self.options.jobs > 1:
                left = {self.item(number): number for number in rows if number not in self.found}
                for result in outcomes(list(left), self.options, begin):
                    self.found[left[result.item]] = result
                    bar.update()
            for chosen in batches(self.scan, rows):
                self.attempt(chosen, bar.update)
        found = [self.found[number] for number in rows]
        failed = sum(outcome.status == "failed" for outcome in found)
        if failed == len(rows):
            raise InputError(f"{self.options.sinogram}: no slice could be reconstructed; {found[0].text}")
        write_volume(self.out / "volume.npy", found, self.state)
        for line in report(found, self.out, "slices"):
            say(line)
        lost = f", NaN where {failed} of them failed" if failed else ""
        say(f"wrote {self.out / 'volume.npy'}: slices {rows.start} to {rows.stop - 1}{lost}")
        return exit_status(found)

    def reconstruct_item(self, item: Item) -> Outcome:
        """One slice, in a worker."""
        number = next(number for number in self.rows if self.item(number) == item)
        with hidden():
            self.attempt(range(number, number + 1))
        return self.found[number]

    def attempt(self, chosen: range, tell: Callable[[int], object] = bool) -> None:
        """Read the chosen slices at once and reconstruct those of which nothing is known."""
        left = [number for number in chosen if number not in self.found]
        if not left:
            return
        frames = None
        with self.noting(*left):
            frames = self.scan.load(chosen.start, chosen.stop)
        for number in left:
            if frames is not None:
                self.solve_one(number, frames, number - chosen.start)
            tell(1)

    def solve_one(self, number: int, frames: Frames, row: int) -> None:
        """Reconstruct a slice from this row of frames. Raises InputError where the axis or the geometry suits no slice."""
        item, options, started = self.item(number), self.options, time.perf_counter()
        sinogram = None
        with self.noting(number):
            make_folder(str(item.output))
            claim([item.output / name for name in WRITTEN], force=options.force)
            sweep([Item(item.source, item.output / name) for name in WRITTEN])
            sinogram, weights = self.measured(number, frames, row)
        if sinogram is None:
            return
        center = self.state["center"] if "sigma" in self.state else self.center
        physics = cast(Projector, self.project(center).with_weights(weights))
        with self.noting(number):
            y = physics.apply_weights(float(physics.unit) * sinogram.y)
            sigma = self.solve(y, physics, sinogram, self.state.get("sigma"), item.output, self.origin)
            self.found[number] = self.outcome(number, time.perf_counter() - started)
            if "sigma" not in self.state:
                self.state |= {"center": center, "sigma": sigma}
                write_record(self.out / "scan.json", self.state)
                on = "" if center is None else f"; axis on bin {center:.2f}, counted from 0, of {self.scan.shape[2]}"
                say(f"{item.source} sets sigma {sigma:g} of all{on}")

    def measured(self, number: int, frames: Frames, row: int) -> tuple[Sinogram, Tensor]:
        """The line integrals of a slice, which is this row of frames, and their weights."""
        own = zip(self.stated, frames[1:], strict=True)
        flat, dark = (row_of(part, row) if stated is None else row_of(stated, number) for stated, part in own)
        return measured(self.item(number).source, frames.data[:, row : row + 1], flat, dark, self.scan, self.options)

    @functools.cached_property
    def center(self) -> float | None:
        """The bin of the axis that was stated, or the median of those found in some slices; None leaves it to --offset."""
        if self.options.center != "auto":
            return stated_center(self.options, self.scan)
        require_parallel(self.options, self.scan)
        sound, reason = [], ""
        for number in spread_over(self.rows):
            try:
                sound.append(self.measured(number, self.scan.load(number, number + 1), 0))
            except (InputError, OSError) as error:
                reason = str(error)
        if not sound:
            raise InputError(f"no slice shows the axis: {reason}; state --center.")
        y, weights = torch.cat([sinogram.y for sinogram, _ in sound]), torch.stack([w for _, w in sound])
        center, found = find_common_center(y, weights, sound[0][0].angles.numpy())
        if max(found) - min(found) > APART:
            bins = ", ".join(f"{one:.2f}" for one in found)
            taken = f"their median {center:.2f} is taken. Check the picture, or state --center"
            say(f"WARNING: slices disagree on the axis: bins {bins}; {taken}.")
        return center

    def item(self, number: int) -> Item:
        """A slice and its folder."""
        return Item(f"{self.scan.source}, slice {number}", self.out / f"slice_{number:05d}")

    def outcome(self, number: int, seconds: float = 0.0) -> Outcome:
        """What the record of a slice says, without the record, of which a volume has many."""
        record = record_of(self.item(number).output / "result.json")
        found = outcome(self.item(number), record, tuple(record.get("notes", ())), seconds)
        return dataclasses.replace(found, record={})

    def finished(self, number: int) -> Outcome | None:
        """What became of a slice if it is solved, with these settings, and nobody has changed its picture."""
        folder = self.item(number).output
        record = record_of(folder / "result.json")
        same = "request" in record and not changed(record, self.origin["request"], self.origin["input"]["sha256"])
        return self.outcome(number) if same and wrote(folder / "pnp-lip.npy") else None

    @contextlib.contextmanager
    def noting(self, *numbers: int) -> Iterator[None]:
        """Whatever goes wrong inside stays in the records of these slices: the others are to be reconstructed, too."""
        try:
            yield
        except Exception as error:
            for number in numbers:
                self.found[number] = found = failure(self.item(number), error)
                place = found.item.output / "result.json"
                if self.options.force or not place.exists() or wrote(place):
                    about = {"written": record_of(place).get("written", {}), "source": found.item.source}
                    failed = {"status": "failed", "error": found.text}
                    write_record(place, {"pnp_lip": __version__, **about, **failed})


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


def measured(
    source: str, data: Array, flat: Array | None, dark: Array | None, scan: Scan, options: argparse.Namespace
) -> tuple[Sinogram, Tensor]:
    """The line integrals of one slice and their weights."""
    y, w, _ = line_integrals(data, flat, dark, weights=options.weights or "photons")
    y = without_stripes(y, w) if options.stripes else y
    return Sinogram(y, views_of(scan), source), w[0]


def blank(scan: Scan) -> Sinogram:
    """A slice of this scan without data; its geometry is that of all."""
    return Sinogram(torch.zeros(1, 1, scan.shape[2], scan.shape[0]), views_of(scan), scan.source)


def views_of(scan: Scan) -> Tensor:
    """The angles in degrees."""
    return torch.from_numpy(np.asarray(scan.theta, np.float64))


def row_of(frames: Array | None, row: int) -> Array | None:
    """One row of frames (frames, rows, bins); what holds for all rows stays as it is."""
    return frames if frames is None or frames.ndim < 3 else frames[:, row : row + 1]


def frames_of(name: str, stated: str | None, scan: Scan) -> Array | None:
    """The frames of --flat or --dark, from a file or as one number; InputError for frames of another shape."""
    if stated is None:
        return None
    try:
        return np.asarray(float(stated))
    except ValueError:
        frames = read_frames(stated)
    if frames.shape[1] not in (1, scan.shape[1]) or frames.shape[2] != scan.shape[2]:
        raise InputError(f"--{name} has frames of {frames.shape[1:]}, the projections of {scan.shape[1:]}.")
    return frames.mean(0)[0] if frames.shape[1] == 1 else frames


def require_parallel(options: argparse.Namespace, scan: Scan) -> None:
    """InputError where --center does not apply."""
    if scan.fan is not None or options.fan is not None or options.offset:
        raise InputError("--center is for parallel rays, and without --offset; of a fan state --offset.")


def stated_center(options: argparse.Namespace, scan: Scan) -> float | None:
    """The bin of the axis that the user states, if any."""
    if options.center is None:
        return None
    require_parallel(options, scan)
    bins = scan.shape[2]
    try:
        center = float(options.center)
    except ValueError:
        center = -1.0
    if not 0 <= center <= bins - 1:
        raise InputError(f"--center takes auto or a bin from 0 to {bins - 1}; got {options.center!r}.")
    return center


def begun(out: Path, origin: Origin, *, force: bool) -> Origin:
    """The state of an earlier run in this folder, or a new one. InputError for one of other settings, and others' files."""
    path = out / "scan.json"
    claim([path, out / "volume.npy"], force=force, record=path)
    state = record_of(path)
    anew = {**origin, "written": state.get("written", {})}
    if not {"request", "input"} <= state.keys():
        return anew
    changes = changed(state, origin["request"], origin["input"]["sha256"])
    if changes and not force:
        which = ", ".join(changes)
        raise InputError(f"{out} holds slices of other {which}; choose another folder for --out, or replace them by --force.")
    return anew if changes else state


def batches(scan: Scan, rows: range) -> Iterator[range]:
    """Rows that are read at once."""
    at_once = max(1, BATCH_BYTES // (8 * scan.shape[0] * scan.shape[2]))
    for start in range(rows.start, rows.stop, at_once):
        yield range(start, min(start + at_once, rows.stop))


def write_volume(path: Path, found: Sequence[Outcome], state: Origin) -> None:
    """All pictures in one file, of which one is in memory at a time, NaN where there is none; its hash is recorded first."""
    shape = next(np.load(o.item.output / "pnp-lip.npy", mmap_mode="r").shape for o in found if o.status != "failed")
    with write_atomically(path) as temporary:
        volume = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(len(found), *shape))
        for k, outcome in enumerate(found):
            volume[k] = np.nan if outcome.status == "failed" else np.load(outcome.item.output / "pnp-lip.npy")
        volume.flush()
        del volume
        write_record(path.with_name("scan.json"), {**state, "written": {path.name: sha256_of(temporary)}})
