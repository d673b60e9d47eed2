"""``pnp-lip ct``: reconstruct a measured sinogram, the user's own or the shipped one, with the guarantee beside it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pnp_lip.command_line.common import (
    Commands,
    add_denoiser_option,
    add_rounds_option,
    check_noise,
    get_denoiser,
    get_rounds,
    say,
)
from pnp_lip.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pnp_lip.operators import CertifiedPhysics, FanBeamTomography, ParallelBeamTomography, Sinogram
    from pnp_lip.solvers import Choice

__all__ = ["add_command", "parse_angles", "read_sinogram"]

SIGMAS = (0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04)  # the prior's strengths that are tried, in each solution
BRIGHT = 0.75  # where the brightest thousandth of the filtered back-projection is put on the prior's scale [0, 1]
MISSED = 1.5  # times the misfit that was aimed at: no strength of the prior reaches it
LARGE_MISFIT = 0.1  # with a strength of the user's own
TIKHONOV = 3000.0  # weight of the data in units of 1/‖A‖²
ANGLES = "a file (npy or text) or START:STOP:STEP in degrees, STOP excluded"


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("ct", help="reconstruct a tomographic slice from its sinogram")
    command.add_argument(
        "sinogram",
        nargs="?",
        help='npy of shape (detectors, views), or npz with "sinogram" and "angles" (default: a measured one that ships)',
    )
    command.add_argument("--angles", metavar="FILE|START:STOP:STEP", help=ANGLES)
    command.add_argument("--out", required=True, metavar="DIR", help="folder for ct.png, result.json and the images")
    command.add_argument("--fan", metavar="SOURCE:DETECTOR", help="fan beam: distances from the axis, in pixels")
    command.add_argument("--size", type=int, help="side of the image in pixels (default: the number of detectors)")
    command.add_argument("--spacing", type=float, default=1.0, help="width of a detector bin in pixels (default: 1)")
    command.add_argument("--offset", type=float, default=0.0, help="shift of the detector in pixels (default: 0)")
    command.add_argument("--misfit", type=float, default=0.02, help="relative data misfit to aim at (default: 0.02)")
    command.add_argument(
        "--sigma",
        type=float,
        help="the prior's noise level on [0, 1] (default: found from --misfit, for each solution anew)",
    )
    add_rounds_option(command)
    command.add_argument("--tol", type=float, default=1e-4, help="relative residual to stop at (default: 1e-4)")
    command.add_argument("--max-iter", type=int, default=500)
    command.add_argument("--quiet", action="store_true", help="say less")
    add_denoiser_option(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check everything, reconstruct in three ways, write images, picture and record."""
    if not 0 < options.misfit < 1:
        raise InputError(f"--misfit is a part of the data's norm, in (0, 1); got {options.misfit}.")
    if options.sigma is not None:
        check_noise(options.sigma, "--sigma")
    import torch

    from pnp_lip.denoisers import guided
    from pnp_lip.solvers import Anderson, ForwardBackward, choose_by_discrepancy

    sinogram = read_sinogram(options.sinogram, options.angles)
    physics = projector(sinogram, options)
    denoiser = get_denoiser(options.denoiser)
    rounds = get_rounds(options.rounds, denoiser)
    out = make_folder(options.out)
    fbp = physics.fbp(sinogram.y, filter="hann")
    scale = float(np.quantile(fbp.numpy(), 0.999)) / BRIGHT
    if not (scale > 0 and float(sinogram.y.mean()) > 0):
        raise InputError("this sinogram is not that of a positive image; take −log(I/I₀) of transmitted intensities.")
    y = sinogram.y / scale
    gamma = TIKHONOV / physics.norm_upper**2
    tikhonov = physics.solve_prox(torch.zeros_like(fbp), y, gamma, tol=1e-3 * math.sqrt(fbp.numel())).x
    solver = ForwardBackward(denoiser, box=(0, 1), tol=options.tol, max_iter=options.max_iter, scheme=Anderson())
    if not options.quiet:
        say(f"{physics.norm_bound()}")
    noise = options.misfit * float(y.norm()) / math.sqrt(y.numel())
    values = SIGMAS if options.sigma is None else (options.sigma,)
    choice = choose_by_discrepancy(solver, y, physics, noise=noise, values=values)
    for _ in range(rounds):
        guide = choice.result.x
        solver = dataclasses.replace(solver, denoiser=guided(denoiser, guide))
        choice = choose_by_discrepancy(solver, y, physics, noise=noise, values=values)
    images = {"FBP": fbp / scale, "Tikhonov": tikhonov, "pnp-lip": choice.result.x}
    record = write(out, sinogram, physics, images, scale, choice)
    say(str(choice.result))
    misfits = ", ".join(f"{name} {value:.1%}" for name, value in record["misfit"].items())
    say(f"wrote {out / 'ct.png'}: sigma {choice.best['sigma']:g}, relative data misfit {misfits}")
    goal = options.misfit if options.sigma is None else LARGE_MISFIT
    if record["misfit"]["pnp-lip"] > MISSED * goal:
        say(
            f"WARNING: these data are fitted to {record['misfit']['pnp-lip']:.1%} only, where {goal:.1%} was to be expected: "
            "check the angles (degrees), the size, the detector and that the data are −log(I/I₀), or state a larger --misfit."
        )
    return 0


def read_sinogram(path: str | None, angles: str | None) -> Sinogram:
    """The shipped sinogram, or a file's with its angles; raises InputError for anything that is not one."""
    import torch

    from pnp_lip.operators import Sinogram, demo_sinogram

    if path is None:
        if angles is not None:
            raise InputError("--angles belongs to a sinogram of your own; name its file.")
        return demo_sinogram()
    data, stored = load_arrays(Path(path))
    degrees = stored if angles is None else parse_angles(angles)
    if degrees is None:
        raise InputError(f"{path} holds no angles; pass --angles, {ANGLES}.")
    if data.ndim != 2 or data.dtype.kind not in "fiu" or 0 in data.shape:
        raise InputError(
            f"{path}: expected real numbers of shape (detectors, views); got {data.shape} of {data.dtype}."
        )
    if not np.isfinite(data).all():
        raise InputError(f"{path}: the sinogram holds NaN or infinite values; repair them first.")
    if data.shape[1] != len(degrees):
        turned = " Its first axis has as many: transpose it." if data.shape[0] == len(degrees) else ""
        raise InputError(f"{path}: {data.shape[1]} views, but {len(degrees)} angles.{turned}")
    return Sinogram(torch.from_numpy(data.astype(np.float32))[None, None], torch.from_numpy(degrees), Path(path).name)


def load_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The sinogram of an npy or npz file, and the angles if there are any."""
    if not path.is_file():
        raise InputError(f"{path}: no such sinogram file.")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            return loaded["sinogram"], as_degrees(loaded["angles"], str(path)) if "angles" in loaded else None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f'{path}: not an npy file, nor an npz file with "sinogram" ({error}).') from error


def parse_angles(text: str) -> np.ndarray:
    """Degrees from a file or from START:STOP:STEP.

    >>> parse_angles("0:180:45").tolist()
    [0.0, 45.0, 90.0, 135.0]
    """
    if Path(text).is_file():
        try:
            values = np.load(text, allow_pickle=False) if Path(text).suffix == ".npy" else np.loadtxt(text)
        except (OSError, ValueError) as error:
            raise InputError(f"--angles {text}: could not be read as numbers ({error}).") from error
        return as_degrees(values, text)
    try:
        start, stop, step = (float(part) for part in text.split(":"))
        count = math.ceil((stop - start) / step - 1e-9)
    except (ValueError, ZeroDivisionError, OverflowError):
        count = 0
    if not 0 < count <= 10**6:
        raise InputError(f"--angles takes {ANGLES}; got {text!r}.")
    return start + step * np.arange(count)


def as_degrees(values: np.ndarray, name: str) -> np.ndarray:
    """A list of finite numbers."""
    degrees = np.asarray(values)
    if degrees.ndim != 1 or degrees.dtype.kind not in "fiu" or not np.isfinite(degrees).all():
        raise InputError(
            f"{name}: the angles must be a list of finite numbers; got {degrees.shape} of {degrees.dtype}."
        )
    return degrees.astype(np.float64)


def projector(sinogram: Sinogram, options: argparse.Namespace) -> ParallelBeamTomography | FanBeamTomography:
    """The geometry that the options describe, lengths in pixels."""
    from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography

    bins = sinogram.y.shape[2]
    size = bins if options.size is None else options.size
    detector: dict[str, Any] = {"n_det": bins, "det_spacing": options.spacing, "det_offset": options.offset}
    if options.fan is None:
        return ParallelBeamTomography(ParallelBeam(sinogram.angles, **detector), (1, size, size))
    try:
        source, beyond = (float(part) for part in options.fan.split(":"))
    except ValueError as error:
        raise InputError(f"--fan takes two distances SOURCE:DETECTOR; got {options.fan!r}.") from error
    detector |= {"source_distance": source, "detector_distance": beyond}
    return FanBeamTomography(FanBeam(sinogram.angles, **detector), (1, size, size))


def make_folder(path: str) -> Path:
    """The output folder, made if need be."""
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be a folder ({error}).") from error
    return out


def write(
    out: Path, sinogram: Sinogram, physics: CertifiedPhysics, images: Mapping[str, Tensor], scale: float, choice: Choice
) -> dict[str, Any]:
    """Each image as npy in the data's units, ct.png and result.json, each in one step; returns the record."""
    from pnp_lip.images import write_atomically

    y = sinogram.y / scale
    record = {
        "source": sinogram.source,
        "misfit": {name: float((physics.A(image) - y).norm() / y.norm()) for name, image in images.items()},
        "scale": scale,
        "geometry": type(physics).__name__,
        "views": len(sinogram.angles),
        "norm": dataclasses.asdict(physics.norm_bound()),
        "misfit_over_goal_by_sigma": {
            f"{c['sigma']:g}": s for c, s in zip(choice.candidates, choice.scores, strict=True)
        },
        **json.loads(choice.result.to_json()),
    }
    for name, image in images.items():
        with write_atomically(out / f"{name.lower()}.npy") as path, path.open("wb") as file:
            np.save(file, scale * image[0, 0].numpy())
    with write_atomically(out / "ct.png") as path:
        draw(path, sinogram, images, record)
    with write_atomically(out / "result.json") as path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    return record


def draw(path: Path, sinogram: Sinogram, images: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """The sinogram, the three images, a detail of each around the brightest part, and the convergence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7.6), layout="constrained")
    axes = figure.subplots(2, 4)
    axes[0, 0].imshow(sinogram.y[0, 0].T.numpy(), cmap="gray", aspect="auto")
    axes[0, 0].set(title=f"sinogram, {record['views']} views", xlabel="detector", ylabel="view")
    rows, columns = brightest_part(images["FBP"][0, 0])
    for axis, detail, (name, image) in zip(axes[0, 1:], axes[1, 1:], images.items(), strict=True):
        for where, part in ((axis, image[0, 0]), (detail, image[0, 0, rows, columns])):
            where.imshow(part.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            where.axis("off")
        axis.set_title(f"{name}\ndata misfit {record['misfit'][name]:.1%}")
    relative = [r for r in record["histories"][0]["relative"] if r]
    axes[1, 0].semilogy(relative)
    proof = "proved" if record["guarantee"]["proved"] else "no proof"
    axes[1, 0].set(title=f"convergence of pnp-lip: {proof}", xlabel="iteration", ylabel="‖x − Tx‖ / ‖x‖")
    axes[1, 0].grid(alpha=0.3)
    figure.savefig(path, dpi=90, format="png")


def brightest_part(image: Tensor) -> tuple[slice, slice]:
    """A window of a third of the image's side around the centre of mass of its bright half."""
    bright = (image > 0.5 * image.max()).double()
    n, side = image.shape[0], max(1, image.shape[0] // 3)
    centre = [int((bright.sum(1 - axis) * bright.new_tensor(range(n))).sum() / bright.sum()) for axis in (0, 1)]
    starts = [min(max(0, c - side // 2), n - side) for c in centre]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)
