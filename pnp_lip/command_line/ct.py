"""``pnp-lip ct``: reconstruct a measured sinogram, the user's own or the shipped one, with the guarantee beside it."""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.command_line.common import ANGLES, NOT_CONVERGED, say
from pnp_lip.command_line.ct_scan import WRITTEN, Run, is_scan
from pnp_lip.command_line.explain import say_result
from pnp_lip.command_line.figure import draw
from pnp_lip.command_line.inputs import by_sigma, check_noise, get_prior, make_folder
from pnp_lip.command_line.items import Item, Outcome
from pnp_lip.command_line.records import Origin, claim, origin_of, sha256_of, write_record
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography, Sinogram, demo_sinogram
from pnp_lip.operators.scan_mistakes import likely_mistake
from pnp_lip.potentials import Potential
from pnp_lip.reconstruction import LARGE_MISFIT, Projector, Slice, linear_images, solve_slice
from pnp_lip.restore import Learned
from pnp_lip.scans import det_offset_of

__all__ = ["parse_angles", "read_sinogram", "run"]

MISSED = 1.5  # times the misfit that was aimed at: beyond it the geometry is probably wrong
# Times the noise: 0.7 to 0.9 in simulated scans, 1.9 to 2.5 if the detector is displaced by two bins. Without noise the estimate
# is that of the sinogram's texture, and a small misfit means nothing. Measured scans have misfits of 1.6 to 4.3 %, whatever their
# noise: only above those it is a warning.
ABOVE_NOISE, SMALL_MISFIT, MEASURED_MISFIT = 1.4, 0.01, 0.05


def run(options: argparse.Namespace) -> int:
    """Check everything, reconstruct in three ways, write images, picture and record; 0 if it has converged, else 3."""
    if options.misfit is not None and not 0 < options.misfit < 1:
        raise InputError(f"--misfit is a fraction of the data's norm, in (0, 1); got {options.misfit}.")
    if options.sigma is not None:
        check_noise(options.sigma, "--sigma")
    if options.jobs < 1:
        raise InputError(f"--jobs counts the slices that are reconstructed at a time and is at least 1; got {options.jobs}.")
    if is_scan(options.sinogram, options):
        return open_run(options).reconstruct(slices)
    sinogram = read_sinogram(options.sinogram, options.angles)
    out = make_folder(options.out)
    claim([out / name for name in WRITTEN], [options.sinogram, options.angles], force=options.force)
    prior = get_prior(options)
    physics = projector(sinogram, options, normalize=isinstance(prior, Potential))
    mistake = likely_mistake(physics, sinogram.y)
    if mistake:
        say(f"WARNING: {mistake}.")
    path = None if options.sinogram is None else Path(options.sinogram)
    origin = origin_of(options, options.sinogram, path)
    y = float(physics.unit) * sinogram.y
    found, record = reconstruct(options, sinogram, physics, y, prior, out, origin)
    say_result(found.result, explain=options.explain)
    misses = ", ".join(f"{name} {value:.1%}" for name, value in record["misfit"].items() if value is not None)
    say(f"wrote {out / 'ct.png'}: sigma {found.choice.best['sigma']:g}, relative data misfit {misses}")
    for line in record["notes"]:
        say(line)
    return 0 if found.result.status == "converged" else NOT_CONVERGED


def open_run(options: argparse.Namespace) -> Run:
    """The slices of a scanner's file."""
    theta = None if options.angles is None else parse_angles(options.angles)
    prior = functools.cache(lambda: get_prior(options))  # a scan that cannot be read needs none

    def project(sinogram: Sinogram, center: float | None, fan: FanBeam | None) -> Projector:
        return projector(sinogram, options, isinstance(prior(), Potential), center=center, fan=fan)

    def solve(y: Tensor, physics: Projector, sinogram: Sinogram, sigma: float | None, out: Path, origin: Origin) -> float:
        settled = argparse.Namespace(**{**vars(options), "sigma": options.sigma if sigma is None else sigma})
        found, _ = reconstruct(settled, sinogram, physics, y, prior(), out, origin)
        if sigma is None:
            say_result(found.result, explain=options.explain)
        return float(found.choice.best["sigma"])

    return Run.open(options, theta, project, solve)


def slices(options: argparse.Namespace) -> Callable[[Item], Outcome]:
    """What reconstructs a slice in a worker, once the first slice has set what all share."""
    return open_run(options).reconstruct_item


def reconstruct(
    options: argparse.Namespace,
    sinogram: Sinogram,
    physics: Projector,
    measured: Tensor,
    prior: Learned,
    out: Path,
    origin: Origin,
) -> tuple[Slice, Origin]:
    """Reconstruct data in the units of A in three ways, and write the images with their record, which is returned.

    The record comes first and pnp-lip's image last: a command that dies between the two leaves what the next one sees.
    """
    images, scale, missing = linear_images(physics, measured)
    y = measured / scale
    found = solve_slice(y, physics, images["Tikhonov"], prior, sigma=options.sigma, misfit=options.misfit, tol=options.tol,
                        max_iter=options.max_iter)  # fmt: skip
    images["pnp-lip"] = found.result.x
    size = float(y.double().norm())
    misfit = {name: float((physics.A(image) - y).double().norm()) / size for name, image in images.items()}
    explained = found.noise * math.sqrt(y.numel()) / size
    unavailable = [] if options.quiet else [f"no {name} to compare with: {reason}" for name, reason in missing.items()]
    record = {
        **origin,
        "source": sinogram.source,
        "misfit": {**dict.fromkeys(missing), **misfit},
        "missing": missing,
        "scale": scale,
        "geometry": type(physics).__name__,
        "views": len(sinogram.angles),
        "norm": {**dataclasses.asdict(physics.norm_bound()), "method": str(physics.norm_bound().method)},
        "criterion": found.choice.criterion,
        "score_by_sigma": by_sigma(found.choice),
        "notes": [*unavailable, *remarks(found.result.x, found.top, misfit["pnp-lip"], explained, options)],
        **json.loads(found.result.to_json()),
    }
    source = (f"sinogram, {len(sinogram.angles)} views", sinogram.y.mT)
    titles = {f"{name}\ndata misfit {misfit[name]:.1%}": image for name, image in images.items()}
    with contextlib.ExitStack() as stack:  # what is entered first gets its name last
        files = {f"{name.lower()}.npy": image for name, image in reversed(images.items())}
        places = {name: stack.enter_context(write_atomically(out / name)) for name in (*files, "ct.png")}
        for name, image in files.items():
            with places[name].open("wb") as file:
                np.save(file, scale * image[0, 0].numpy())
        draw(places["ct.png"], source, titles, {"pnp-lip": found.result}, labels=("detector", "view"))
        record["written"] = {name: sha256_of(place) for name, place in places.items()}
        write_record(out / "result.json", record)
        for name in missing:  # that of an earlier run
            (out / f"{name.lower()}.npy").unlink(missing_ok=True)
    return found, record


def remarks(x: Tensor, top: float, misfit: float, noise: float, options: argparse.Namespace) -> list[str]:
    """What the user should check: pixels at the box's end, and a ``misfit`` above what was aimed at or the ``noise`` explains."""
    found, cut = [], int((x >= top).sum())
    if cut:
        found.append(f"{cut} pixels are as bright as the reconstruction may be: their true values may be higher.")
    stated = options.misfit is not None or options.sigma is not None
    goal = MISSED * (options.misfit or LARGE_MISFIT) if stated else max(ABOVE_NOISE * noise, SMALL_MISFIT)
    expected = f"at most {goal / MISSED:.1%} was expected" if stated else f"their noise explains {noise:.1%}"
    if misfit > goal:
        what = "the rest is what the model leaves out (scatter, beam hardening, motion) or a small error of the geometry."
        if stated or misfit > MEASURED_MISFIT:
            what = "check the angles (degrees), the offset, the direction of rotation, the size, the axes of the sinogram and "
            what = f"{what}that the data are −log(I/I₀)."
        warning = "WARNING: " * (stated or misfit > MEASURED_MISFIT)
        found.append(f"{warning}the result misses the data by {misfit:.1%}, where {expected}; {what}")
    return found


def read_sinogram(path: str | None, angles: str | None) -> Sinogram:
    """The shipped sinogram, or a file's with its angles; raises InputError for anything that is not one."""
    if path is None:
        if angles is not None:
            raise InputError("--angles belongs to a sinogram of your own; name its file.")
        return demo_sinogram()
    arrays = load_arrays(path, "sinogram")
    data = arrays["sinogram"]
    degrees = arrays.get("angles") if angles is None else parse_angles(angles)
    if degrees is None:
        raise InputError(f"{path} holds no angles; pass --angles, {ANGLES}.")
    if data.ndim != 2 or data.dtype.kind not in "fiu" or 0 in data.shape:
        raise InputError(f"{path}: expected real numbers (detectors, views); got {data.shape} of {data.dtype}.")
    if degrees.ndim != 1 or degrees.dtype.kind not in "fiu" or not np.isfinite(degrees).all():
        raise InputError(f"the angles must be a list of finite numbers; got {degrees.shape} of {degrees.dtype}.")
    if not np.isfinite(data).all():
        raise InputError(f"{path}: the sinogram holds NaN or infinite values; repair them first.")
    if data.shape[1] != len(degrees):
        turned = " Its first axis has as many: transpose it." if data.shape[0] == len(degrees) else ""
        raise InputError(f"{path}: {data.shape[1]} views, but {len(degrees)} angles.{turned}")
    y = torch.from_numpy(data.astype(np.float32))[None, None]
    return Sinogram(y, torch.from_numpy(degrees.astype(np.float64)), Path(path).name)


def load_arrays(path: str, name: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file, among them one of that ``name``; the one of an npy or a text file under it."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such {name} file.")
    try:
        if Path(path).suffix not in (".npy", ".npz"):
            return {name: np.loadtxt(path)}
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {name: loaded}
        with loaded:
            return {name: loaded[name], **loaded}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f'{path}: could not be read as npy, text, or an npz file with "{name}" ({error}).') from error


def parse_angles(text: str) -> np.ndarray:
    """Degrees from a file or from START:STOP:STEP.

    >>> parse_angles("0:180:45").tolist()
    [0.0, 45.0, 90.0, 135.0]
    """
    if Path(text).is_file():
        return load_arrays(text, "angles")["angles"]
    try:
        start, stop, step = (float(part) for part in text.split(":"))
        count = math.ceil((stop - start) / step - 1e-9)
    except (ValueError, ZeroDivisionError, OverflowError):
        count = 0
    if not 0 < count <= 10**6:
        raise InputError(f"--angles takes {ANGLES}; got {text!r}.")
    return start + step * np.arange(count)


def projector(
    sinogram: Sinogram,
    options: argparse.Namespace,
    normalize: bool = False,
    *,
    center: float | None = None,
    fan: FanBeam | None = None,
) -> Projector:
    """The geometry that the options describe, lengths in pixels; ``normalize`` scales it to a norm of 1.

    The axis falls on bin ``center``, or else lies where --offset puts it; a ``fan`` from a file replaces that of the options.
    """
    bins, spacing, offset = sinogram.y.shape[2], options.spacing, options.offset
    side = bins if options.size is None else options.size
    if fan is not None:
        described = dataclasses.replace(fan, det_offset=fan.det_offset + offset)
        return FanBeamTomography(described, (1, side, side), normalize=normalize)
    offset = offset if center is None else det_offset_of(center, bins, spacing)
    if options.fan is None:
        if options.curved:
            raise InputError("--curved is a detector of a fan beam; pass --fan SOURCE:DETECTOR.")
        parallel = ParallelBeam(sinogram.angles, n_det=bins, det_spacing=spacing, det_offset=offset)
        return ParallelBeamTomography(parallel, (1, side, side), normalize=normalize)
    try:
        source, detector = (float(part) for part in options.fan.split(":"))
    except ValueError as error:
        raise InputError(f"--fan takes two distances SOURCE:DETECTOR; got {options.fan!r}.") from error
    fan = FanBeam(sinogram.angles, n_det=bins, det_spacing=spacing, det_offset=offset,
                  source_distance=source, detector_distance=detector,
                  detector="curved" if options.curved else "flat")  # fmt: skip
    return FanBeamTomography(fan, (1, side, side), normalize=normalize)
