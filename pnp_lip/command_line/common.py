"""What several commands share: options, checked numbers, the denoiser, speaking to the user."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pnp_lip.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pnp_lip.denoisers import GradientFlowDenoiser

__all__ = [
    "Commands",
    "add_denoiser_option",
    "add_noise_option",
    "add_rounds_option",
    "by_channel",
    "check_noise",
    "get_annealer",
    "get_denoiser",
    "get_noise",
    "get_rounds",
    "say",
]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def say(text: str = "") -> None:
    """One line to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def add_denoiser_option(command: argparse.ArgumentParser, *, colour: bool = False) -> None:
    """--denoiser NAME|FILE; ``colour`` for a command that also takes colour images."""
    command.add_argument(
        "--denoiser",
        metavar="NAME|FILE",
        help="a shipped denoiser, or a .safetensors, .pt or .pth file (default: grey"
        + (", for colour images colour)" if colour else ")"),
    )


def add_noise_option(command: argparse.ArgumentParser) -> None:
    """--noise SIGMA, estimated from the image unless given."""
    command.add_argument(
        "--noise",
        type=float,
        metavar="SIGMA",
        help="standard deviation, for images on [0, 1] (default: estimated from the image, as white noise)",
    )


def add_rounds_option(command: argparse.ArgumentParser) -> None:
    """--rounds N, one round where the denoiser can be guided unless given."""
    command.add_argument(
        "--rounds",
        type=int,
        help="solutions after the first, each with the denoiser guided by the one before (default: 1 where it can be guided)",
    )


def get_rounds(rounds: int | None, denoiser: GradientFlowDenoiser) -> int:
    """The number of guided solutions; raises InputError for a negative one."""
    from pnp_lip.denoisers import can_be_guided, require_guidance

    if rounds is None:
        return int(can_be_guided(denoiser))
    if rounds < 0:
        raise InputError(f"--rounds must not be negative; got {rounds}.")
    if rounds:
        require_guidance(denoiser)
    return rounds


def get_denoiser(name: str | None, *, channels: int = 1, require_certified: bool = True) -> GradientFlowDenoiser:
    """A shipped denoiser by name, or one from a file; certified either way unless told otherwise.

    Without a name the one for images of so many ``channels``.
    """
    from pnp_lip.pretrained import TORCH_SUFFIXES, load_denoiser, load_pretrained

    if name is None:
        name = "grey" if channels == 1 else "colour"
    if Path(name).suffix in (".safetensors", *TORCH_SUFFIXES):
        return load_denoiser(name, require_certified=require_certified)
    return load_pretrained(name)


def get_annealer(denoiser: GradientFlowDenoiser, rounds: int) -> GradientFlowDenoiser | None:
    """What improves the guides of blurred images, for guided solutions; None for channels that it does not ship for."""
    from pnp_lip.pretrained import ANNEALERS, load_annealer

    return load_annealer(denoiser.in_channels) if rounds and denoiser.in_channels in ANNEALERS else None


def get_noise(stated: float | None, image: Tensor) -> float:
    """The noise level that was stated, or an estimate from the image, which the user is told."""
    from pnp_lip.noise import estimate_noise

    if stated is not None:
        return check_noise(stated)
    noise = float(estimate_noise(image))
    say(f"noise level {noise:.2g}, estimated from the image; --noise states another")
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
    if x.shape[1] == denoiser.in_channels:
        return x
    if denoiser.in_channels == 1:
        return x.reshape(-1, 1, *x.shape[-2:])
    raise InputError(
        f"this denoiser takes {denoiser.in_channels} channels; the image has {x.shape[1]}. Use --denoiser grey."
    )
