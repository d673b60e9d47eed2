"""``pnp-lip ct``: reconstruct a measured sinogram, the user's own or the shipped one, with the guarantee beside it."""

import argparse
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.command_line.common import ANGLES, say, say_results
from pnp_lip.command_line.figure import draw
from pnp_lip.command_line.inputs import by_sigma, check_noise, get_prior, make_folder, solutions, solver_of
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography, Sinogram, demo_sinogram
from pnp_lip.potentials import RidgePotential
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers import Choice, Result, Solver, Variational, choose_by_discrepancy, choose_by_held_out
from pnp_lip.solvers.scan_strength import SCAN_WEIGHT, choose_for_scan, levels_for_scan, noise_of_scan

__all__ = ["parse_angles", "read_sinogram", "run"]

# Noise levels on [0, 1] that a denoiser may assume, a factor of √2 apart: next to the best one up to 0.5 dB are lost.
SIGMAS = tuple(0.00125 * 2 ** (k / 2) for k in range(15))
BRIGHT = 0.75  # where the brightest thousandth of FBP, or else of Tikhonov, is put on the prior's scale [0, 1]
MISSED = 1.5  # times the misfit that was aimed at: beyond it the geometry is probably wrong
LARGE_MISFIT = 0.1  # relative misfit that is expected at most of a level that the user states
# Times the noise: 0.7 to 0.9 in simulated scans, 1.9 to 2.5 if the detector is displaced by two bins. Without noise the estimate
# is that of the sinogram's texture, and a small misfit means nothing.
ABOVE_NOISE, SMALL_MISFIT = 1.4, 0.01
TIKHONOV = 3000.0  # weight of the data in units of 1/‖A‖²


def run(options: argparse.Namespace) -> int:
    """Check everything, reconstruct in three ways, write images, picture and record."""
    if options.misfit is not None and not 0 < options.misfit < 1:
        raise InputError(f"--misfit is a fraction of the data's norm, in (0, 1); got {options.misfit}.")
    if options.sigma is not None:
        check_noise(options.sigma, "--sigma")
    sinogram = read_sinogram(options.sinogram, options.angles)
    denoiser, rounds = get_prior(options, grey="ridge")
    physics = projector(sinogram, options, normalize=isinstance(denoiser, RidgePotential))
    measured = float(physics.unit) * sinogram.y
    out = make_folder(options.out)
    images, scale, missing = linear_images(physics, measured)
    y = measured / scale
    if not options.quiet:
        say(f"{physics.norm_bound()}")
        for name, reason in missing.items():
            say(f"no {name} to compare with: {reason}")
    choices: list[Choice] = []
    noise = noise_of_scan(y, physics.A(images["Tikhonov"]) - y)

    def search(solver: Solver | Variational, y: Tensor, physics: PhysicsLike, *, x0: Tensor | None) -> Result:
        """The search begins without a prior's help, hence without ``x0``."""
        choices.append(choose(solver, y, physics, noise, options))
        return choices[-1].result

    top = highest(images["Tikhonov"])
    solver = dataclasses.replace(solver_of(denoiser, tol=options.tol, weight=SCAN_WEIGHT), box=(0.0, top))
    results = solutions(solver, y, physics, rounds, solve=search)
    images["pnp-lip"] = results[-1].x
    misfit = {name: float((physics.A(image) - y).norm() / y.norm()) for name, image in images.items()}
    record = {
        "source": sinogram.source,
        "misfit": {**dict.fromkeys(missing), **misfit},
        "missing": missing,
        "scale": scale,
        "geometry": type(physics).__name__,
        "views": len(sinogram.angles),
        "norm": {**dataclasses.asdict(physics.norm_bound()), "method": str(physics.norm_bound().method)},
        "criterion": choices[-1].criterion,
        "score_by_sigma": by_sigma(choices[-1]),
        **json.loads(results[-1].to_json()),
    }
    for name, image in images.items():
        with write_atomically(out / f"{name.lower()}.npy") as path, path.open("wb") as file:
            np.save(file, scale * image[0, 0].numpy())
    with write_atomically(out / "result.json") as path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    source = (f"sinogram, {len(sinogram.angles)} views", sinogram.y.mT)
    titles = {f"{name}\ndata misfit {misfit[name]:.1%}": image for name, image in images.items()}
    draw(out / "ct.png", source, titles, {"pnp-lip": results}, labels=("detector", "view"))
    say_results(results)
    found = ", ".join(f"{name} {value:.1%}" for name, value in misfit.items())
    say(f"wrote {out / 'ct.png'}: sigma {choices[-1].best['sigma']:g}, relative data misfit {found}")
    for line in remarks(results[-1].x, top, misfit["pnp-lip"], noise * math.sqrt(y.numel()) / float(y.norm()), options):
        say(line)
    return 0


def remarks(x: Tensor, top: float, misfit: float, noise: float, options: argparse.Namespace) -> list[str]:
    """What the user should check: pixels at the box's end, and a ``misfit`` above what was aimed at or the ``noise`` explains."""
    found, cut = [], int((x >= top).sum())
    if cut:
        found.append(f"{cut} pixels are as bright as the reconstruction may be: their true values may be higher.")
    goal, expected = MISSED * (options.misfit or LARGE_MISFIT), f"at most {options.misfit or LARGE_MISFIT:.1%} was expected"
    if options.misfit is None and options.sigma is None:
        goal, expected = max(ABOVE_NOISE * noise, SMALL_MISFIT), f"their noise explains {noise:.1%}"
    if misfit > goal:
        found.append(
            f"WARNING: the result misses the data by {misfit:.1%}, where {expected}; check the angles (degrees), the offset, the "
            "direction of rotation, the size, the axes of the sinogram and that the data are −log(I/I₀)."
        )
    return found


def choose(solver: Solver | Variational, y: Tensor, physics: PhysicsLike, noise: float, options: argparse.Namespace) -> Choice:
    """The level that predicts held-out views, or the largest one that fits to --misfit; --sigma is only solved."""
    scan = isinstance(solver, Variational)
    if options.sigma is None and options.misfit is None:
        if scan:
            return choose_for_scan(solver, y, physics, noise=noise, max_iter=options.max_iter)
        return choose_by_held_out(solver, y, physics, values=SIGMAS, max_iter=options.max_iter)
    goal = (options.misfit or LARGE_MISFIT) * float(y.norm()) / math.sqrt(y.numel())
    values = (options.sigma,) if options.sigma is not None else levels_for_scan(goal) if scan else SIGMAS
    return choose_by_discrepancy(solver, y, physics, noise=goal, values=values, max_iter=options.max_iter)


def linear_images(
    physics: ParallelBeamTomography | FanBeamTomography, measured: Tensor
) -> tuple[dict[str, Tensor], float, dict[str, str]]:
    """Filtered back-projection and Tikhonov's image over their scale, and why the first is missing, where it is.

    Without it, Tikhonov is solved on the scale of the plain back-projection Aᵀy / AᵀA1 and sets the final one.
    """
    images, missing = {}, {}
    try:
        guide = images["FBP"] = physics.fbp(measured, filter="hann")
    except InputError as error:  # the views miss lines
        missing["FBP"] = str(error)
        ones = physics.A_adjoint_A(torch.ones(1, 1, *physics.img_size[1:]))
        guide = physics.A_adjoint(measured) / ones.clamp_min(1e-3 * float(ones.max()))
    scale = scale_of(guide, measured)
    gamma, tol = TIKHONOV / physics.norm_upper**2, 1e-3 * math.sqrt(guide.numel())
    images["Tikhonov"] = scale * physics.solve_prox(torch.zeros_like(guide), measured / scale, gamma, tol=tol).x
    if missing:
        scale = scale_of(images["Tikhonov"], measured)
    return {name: image / scale for name, image in images.items()}, scale, missing


def highest(image: Tensor) -> float:
    """The upper end of the box: 1, or twice the brightest pixel where metal or a bead leaves [0, 1.25]."""
    brightest = float(image.max())
    return 1.0 if brightest <= 1.25 else 2 * brightest


def scale_of(guide: Tensor, measured: Tensor) -> float:
    """What the prior's 1 stands for in the data's units; InputError for data that no positive image has."""
    scale = float(np.quantile(guide.numpy(), 0.999)) / BRIGHT
    if not (scale > 0 and float(measured.mean()) > 0):
        raise InputError("this sinogram is not that of a positive image; take −log(I/I₀) of transmitted intensities.")
    return scale


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
    sinogram: Sinogram, options: argparse.Namespace, normalize: bool = False
) -> ParallelBeamTomography | FanBeamTomography:
    """The geometry that the options describe, lengths in pixels; ``normalize`` scales it to a norm of 1."""
    bins, spacing, offset = sinogram.y.shape[2], options.spacing, options.offset
    side = bins if options.size is None else options.size
    if options.fan is None:
        parallel = ParallelBeam(sinogram.angles, n_det=bins, det_spacing=spacing, det_offset=offset)
        return ParallelBeamTomography(parallel, (1, side, side), normalize=normalize)
    try:
        source, detector = (float(part) for part in options.fan.split(":"))
    except ValueError as error:
        raise InputError(f"--fan takes two distances SOURCE:DETECTOR; got {options.fan!r}.") from error
    fan = FanBeam(sinogram.angles, n_det=bins, det_spacing=spacing, det_offset=offset,
                  source_distance=source, detector_distance=detector)  # fmt: skip
    return FanBeamTomography(fan, (1, side, side), normalize=normalize)
