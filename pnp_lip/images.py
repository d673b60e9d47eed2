"""Where images are written, grey from colour, and the two figures of merit."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from pnp_lip.errors import InputError

__all__ = ["CLIPPED", "IMAGE_SUFFIXES", "NOISE_REACH", "check_output", "psnr", "ssim", "to_grey", "weight_of_grey",
           "write_atomically"]  # fmt: skip

NOISE_REACH = 0.5  # by how much noisy images may leave [0, 1]: five standard deviations at σ = 0.1
CLIPPED = 1e-3  # share of the values at the ends of a range, or beyond, from which on that is said
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, on gamma-encoded values


def to_grey(x: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B for (B, 3, H, W); one channel passes through."""
    return x if x.shape[1] == 1 else (x * x.new_tensor(GREY_WEIGHTS)[:, None, None]).sum(1, keepdim=True)


def weight_of_grey(channels: int) -> float:
    """The standard deviation of ``to_grey`` of white noise of standard deviation 1."""
    return 1.0 if channels == 1 else math.hypot(*GREY_WEIGHTS)


def check_output(path: str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> Path:
    """The output as a path. Raises InputError for an unknown format and for a place where no file can be written."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: the output's suffix must be {'one of ' * (len(suffixes) > 1)}{', '.join(suffixes)}.")
    if path.is_dir():
        raise InputError(f"{path} is a directory; name a file.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: nothing can be written in {folder}; choose another place.")
    return path


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Context manager: yields a temporary path beside ``path`` and renames it into place if nothing was raised."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def psnr(x_hat: Tensor, x: Tensor) -> float:
    """Peak signal-to-noise ratio in dB for images on [0, 1], over the whole tensor: −10 log₁₀ mean((x̂ − x)²)."""
    return float(-10 * (x_hat.double() - x.double()).square().mean().log10())


def ssim(x_hat: Tensor, x: Tensor) -> float:
    """Structural similarity (Wang et al. 2004; Gaussian window) of two images (1, C, H, W) on [0, 1]."""
    from skimage.metrics import structural_similarity

    a, b = (image.detach().cpu().double()[0].numpy() for image in (x_hat, x))
    return float(structural_similarity(a, b, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5))
