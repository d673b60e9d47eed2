"""Reading and writing images, and the two figures of merit."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.errors import InputError

__all__ = ["IMAGE_SUFFIXES", "NOISE_REACH", "check_output", "psnr", "read_image", "ssim", "to_grey", "weight_of_grey",
           "write_atomically", "write_image"]  # fmt: skip

NOISE_REACH = 0.5  # by how much noisy images may leave [0, 1]: five standard deviations at σ = 0.1
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, on gamma-encoded values


def read_image(path: str | Path, *, grey: bool = False, beyond: float = 0.0) -> Tensor:
    """Read PNG, JPEG, TIFF, BMP or npy into a float32 tensor (1, C, H, W) on [0, 1], C = 1 or 3.

    Unsigned integers of 8 and 16 bits are divided by 255 and 65,535. Floating-point values must lie in
    [−beyond, 1 + beyond]. An alpha channel is dropped. Raises InputError for a missing or unreadable file, an unknown
    layout, other integer types, non-finite or out-of-range values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such image file.")
    try:
        if path.suffix.lower() == ".npy":
            data = np.load(path, allow_pickle=False)
        else:
            from skimage.io import imread

            data = imread(path)
    except Exception as error:  # each reader has exceptions of its own
        raise InputError(f"{path}: could not be read as an image ({error}).") from error
    data = data[..., None] if data.ndim == 2 else data
    if data.ndim != 3 or data.shape[-1] not in (1, 2, 3, 4) or 0 in data.shape:
        raise InputError(f"{path}: expected an image of shape (H, W), (H, W, 3) or (H, W, 4); got {data.shape}.")
    data = data[..., :-1] if data.shape[-1] in (2, 4) else data
    if data.dtype == np.bool_:
        data = data.astype(np.float32)
    elif data.dtype in (np.uint8, np.uint16):
        data = data / np.float64(np.iinfo(data.dtype).max)
    elif np.issubdtype(data.dtype, np.integer):
        raise InputError(f"{path}: {data.dtype} does not say which number is white; save uint8, uint16 or floats in [0, 1].")
    elif not np.issubdtype(data.dtype, np.floating):
        raise InputError(f"{path}: expected real numbers; got {data.dtype}.")
    if not np.isfinite(data).all():
        raise InputError(f"{path}: the image holds NaN or infinite values; repair them first.")
    if data.min() < -beyond or data.max() > 1 + beyond:
        limits = f"[{-beyond:g}, {1 + beyond:g}]" if beyond else "[0, 1]"
        found = f"[{data.min():.4g}, {data.max():.4g}]"
        raise InputError(f"{path}: values must lie in {limits}; got {found}. Rescale them, and the noise level with them.")
    x = torch.from_numpy(np.ascontiguousarray(data.transpose(2, 0, 1), dtype=np.float32))[None]
    return to_grey(x) if grey else x


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


def write_image(path: str | Path, x: Tensor) -> None:
    """Write (1, C, H, W) or (C, H, W) on [0, 1] as 8 bits (npy: as float32), clipped, in one atomic step."""
    path = check_output(path)
    data = x.detach().cpu().float().clamp(0, 1).reshape(x.shape[-3:]).permute(1, 2, 0).numpy()
    data = data[..., 0] if data.shape[-1] == 1 else data
    with write_atomically(path) as temporary:
        if path.suffix.lower() == ".npy":
            with temporary.open("wb") as file:
                np.save(file, data)
        else:
            from skimage.io import imsave

            imsave(temporary, (data * 255).round().astype(np.uint8), check_contrast=False)


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
