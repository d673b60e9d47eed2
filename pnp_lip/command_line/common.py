"""What several commands share: options, the denoiser, checked numbers, lines for the user."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pnp_lip.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pnp_lip.denoisers import GradientFlowDenoiser
    from pnp_lip.solvers import Anneal, Result

__all__ = [
    "Commands",
    "add_image_options",
    "add_prior_options",
    "add_solver_options",
    "by_channel",
    "check_noise",
    "get_annealing",
    "get_denoiser",
    "get_noise",
    "get_prior",
    "make_folder",
    "say",
    "say_results",
]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def say(text: str = "") -> None:
    """One line to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_results(results: Sequence[Result]) -> None:
    """How each solution ended, then the guarantee of the last one."""
    *before, last = results
    for i, result in enumerate(before, start=1):
        say(f"solution {i} of {len(results)}, which guides the next: {str(result).splitlines()[0]}")
    say((f"solution {len(results)} of {len(results)}: " if before else "") + str(last))


def add_image_options(command: argparse.ArgumentParser) -> None:
    """The image, where the result goes, and the noise level."""
    command.add_argument("image", help="PNG, JPEG, TIFF, BMP or npy; grey or colour")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="where to write the restored image")
    noise = "standard deviation of the noise, for pixel values in [0, 1] (default: estimated from the image)"
    command.add_argument("--noise", type=float, metavar="SIGMA", help=noise)


def add_prior_options(command: argparse.ArgumentParser, *, colour: bool = False) -> None:
    """--denoiser NAME|FILE and --rounds N; ``colour`` for a command that also takes colour images."""
    default = "grey; colour for colour images" if colour else "grey"
    prior = f"grey, colour, tiny, or a .safetensors, .pt or .pth file (default: {default})"
    command.add_argument("--denoiser", metavar="NAME|FILE", help=prior)
    rounds = (
        "solve N more times, each guided by the result before; 0 is faster (default: 1 if the denoiser can be guided)"
    )
    command.add_argument("--rounds", type=int, metavar="N", help=rounds)


def add_solver_options(command: argparse.ArgumentParser, *, max_iter: int) -> None:
    """When the iteration stops, and how much it says."""
    command.add_argument("--tol", type=float, default=1e-4, help="relative residual to stop at (default: 1e-4)")
    limit = f"iterations at most (default: {max_iter})"
    command.add_argument("--max-iter", type=int, default=max_iter, metavar="N", help=limit)
    command.add_argument("--quiet", action="store_true", help="no progress")


def get_denoiser(name: str | None, *, channels: int = 1, require_certified: bool = True) -> GradientFlowDenoiser:
    """A denoiser by its name or from a file; without a name the shipped one for images of so many ``channels``.

    Raises InputError for an unknown name and for a shipped network without a certificate, CertificateError for weights
    that do not certify, unless ``require_certified=False``.
    """
    from pnp_lip.denoisers import GradientFlowDenoiser
    from pnp_lip.pretrained import TORCH_SUFFIXES, certified_names, load_denoiser, load_pretrained

    if name is None:
        name = "grey" if channels == 1 else "colour"
    if Path(name).suffix in (".safetensors", *TORCH_SUFFIXES):
        return load_denoiser(name, require_certified=require_certified)
    found = load_pretrained(name)
    if not isinstance(found, GradientFlowDenoiser):
        raise InputError(f"{name} has no certificate; these denoisers have one: {', '.join(certified_names())}.")
    return found


def get_prior(options: argparse.Namespace, *, channels: int = 1) -> tuple[GradientFlowDenoiser, int]:
    """The denoiser, and how often to solve again; raises InputError for rounds that it cannot do."""
    from pnp_lip.denoisers import can_be_guided, require_guidance

    denoiser = get_denoiser(options.denoiser, channels=channels)
    rounds: int = int(can_be_guided(denoiser)) if options.rounds is None else options.rounds
    if rounds < 0:
        raise InputError(f"--rounds must not be negative; got {rounds}.")
    if rounds:
        require_guidance(denoiser)
    return denoiser, rounds


def get_annealing(denoiser: GradientFlowDenoiser, rounds: int) -> Anneal | None:
    """What improves the guides of blurred images; None without guides, or where no annealer ships for the channels."""
    from pnp_lip.pretrained import ANNEALERS, load_annealer
    from pnp_lip.solvers import Anneal

    return Anneal(load_annealer(denoiser.in_channels)) if rounds and denoiser.in_channels in ANNEALERS else None


def get_noise(stated: float | None, image: Tensor) -> float:
    """The noise level that was stated, or an estimate from the image, which is then said."""
    from pnp_lip.noise import estimate_noise

    if stated is not None:
        return check_noise(stated)
    noise = float(estimate_noise(image))
    say(f"noise level {noise:.2g}, estimated from the image; pass --noise if you know it")
    return noise


def check_noise(value: float, name: str = "--noise") -> float:
    """A noise level on the scale of images in [0, 1]: finite, not negative, and not meant in units of 1/255."""
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a finite standard deviation that is not negative; got {value}.")
    if value > 1:
        raise InputError(f"{name} is on the scale of images in [0, 1]; got {value}. For 8-bit levels divide by 255.")
    return value


def by_channel(x: Tensor, denoiser: GradientFlowDenoiser) -> Tensor:
    """(1, C, H, W) as C images of one channel when the denoiser is grey; as it is when the channels agree."""
    channels = denoiser.in_channels
    if channels not in (1, x.shape[1]):
        raise InputError(f"this denoiser takes {channels} channels; the image has {x.shape[1]}. Use --denoiser grey.")
    return x.reshape(-1, channels, *x.shape[-2:])


def make_folder(path: str) -> Path:
    """The output folder, made if need be."""
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be a folder ({error}).") from error
    return out
