"""What the commands share: from the user's options to a checked prior, noise level, folder and range; a search's scores."""

import argparse
import math
from pathlib import Path

from pnp_lip.errors import InputError
from pnp_lip.restore import DEFAULTS, Learned, prior_of
from pnp_lip.solvers import Choice

__all__ = ["by_sigma", "check_noise", "get_prior", "get_range", "make_folder"]


def get_prior(options: argparse.Namespace) -> Learned:
    """The denoiser or potential, by default the command's one."""
    return prior_of(options.denoiser, DEFAULTS[options.command])[0]


def get_range(text: str | None) -> tuple[float, float] | None:
    """--range LOW:HIGH in numbers."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise InputError(f"--range takes LOW:HIGH, what black and white are in the file; got {text!r}.") from error
    return low, high


def check_noise(value: float, name: str = "--noise") -> float:
    """A noise level on the scale of images in [0, 1]: finite, not negative, and not meant in units of 1/255."""
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a finite standard deviation that is not negative; got {value}.")
    if value > 1:
        raise InputError(f"{name} is on the scale of images in [0, 1]; got {value}. For 8-bit levels divide by 255.")
    return value


def make_folder(path: str) -> Path:
    """The output folder, made if need be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be a folder ({error}).") from error
    return Path(path)


def by_sigma(choice: Choice) -> dict[str, float]:
    """The score of each noise level that was tried."""
    return {f"{c['sigma']:g}": score for c, score in zip(choice.candidates, choice.scores, strict=True)}
