"""Point-spread functions (PSFs): Gaussian, box, disk, straight motion, camera shake, or read from a file."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators.certified_physics import require_positive

__all__ = ["box_psf", "disk_psf", "gaussian_psf", "load_psf", "motion_psf", "shake_psf"]

Array = NDArray[np.float64]

GAUSS_NODE = 0.5 / math.sqrt(3)  # of the two-point rule on an interval of length 1, from its middle
STRAIGHT = 1e-12  # a direction's smaller component below which the motion runs along an axis
SNAP = 1e-9  # pixels; a segment that ends so close to a grid line does not reach beyond it


def gaussian_psf(sigma: float | tuple[float, float], *, size: int | tuple[int, int] | None = None, angle: float = 0.0) -> Tensor:
    """Sampled Gaussian exp(−½(u²/σ₁² + v²/σ₂²)), divided by its sum; u, v are the axes turned by ``angle`` degrees.

    ``sigma`` > 0 in pixels: σ₁ along columns (horizontal before turning), σ₂ along rows. ``size`` is the PSF's
    height and width; the default reaches 3 standard deviations. Returns float64 (height, width) of sum 1.

    >>> k = gaussian_psf(1.0)
    >>> tuple(k.shape), round(k.sum().item(), 12)
    ((7, 7), 1.0)
    """
    sigma_1, sigma_2 = (sigma, sigma) if isinstance(sigma, (int, float)) else sigma
    require_positive(sigma=sigma_1)
    require_positive(sigma=sigma_2)
    require_degrees(angle)
    reach = 2 * math.ceil(3 * max(sigma_1, sigma_2)) + 1
    height, width = as_size(reach if size is None else size)
    rows, columns = np.arange(height)[:, None] - height // 2, np.arange(width)[None, :] - width // 2
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    u, v = cosine * columns - sine * rows, sine * columns + cosine * rows
    return unit_sum(np.exp(-0.5 * ((u / sigma_1) ** 2 + (v / sigma_2) ** 2)))


def box_psf(size: int | tuple[int, int]) -> Tensor:
    """Mean over a rectangle of height × width pixels, as float64 of sum 1.

    >>> box_psf((1, 2))
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    return unit_sum(np.ones(as_size(size)))


def disk_psf(radius: float) -> Tensor:
    """Out-of-focus blur: the exact area of each pixel inside a disk of ``radius`` > 0 pixels, divided by πr².

    Returns float64 of odd side 2⌈r − ½⌉ + 1 and sum 1.

    >>> disk_psf(0.5).tolist()
    [[1.0]]
    """
    require_positive(radius=radius)
    reach = max(0, math.ceil(radius - 0.5))
    edges: Array = np.arange(-reach, reach + 2, dtype=np.float64) - 0.5
    corner = disk_corner_area(edges[:, None], edges[None, :], radius)
    return unit_sum(np.maximum(np.diff(np.diff(corner, axis=0), axis=1), 0.0))


def disk_corner_area(x: Array, y: Array, radius: float) -> Array:
    """Area of the disk inside the rectangle between the origin and (x, y), with the sign of xy."""
    sign = np.sign(x) * np.sign(y)
    x, y = np.minimum(np.abs(x), radius), np.minimum(np.abs(y), radius)
    x, y = np.broadcast_arrays(x, y)
    flat = np.minimum(np.sqrt(radius**2 - y**2), x)  # up to here the rectangle lies inside the disk

    def primitive(t: Array) -> Array:
        return 0.5 * (t * np.sqrt(np.maximum(radius**2 - t**2, 0.0)) + radius**2 * np.arcsin(np.minimum(t / radius, 1)))

    return np.asarray(sign * (y * flat + primitive(x) - primitive(flat)))


def motion_psf(length: float, angle: float = 0.0) -> Tensor:
    """Straight motion: a segment of ``length`` > 0 pixels through the centre, spread bilinearly on the grid.

    ``angle`` in degrees counts anticlockwise from the horizontal. Returns float64 of odd sides and sum 1.

    >>> motion_psf(2.0).tolist()
    [[0.25, 0.5, 0.25]]
    """
    require_positive(length=length)
    require_degrees(angle)
    directions = np.array([-math.sin(math.radians(angle)), math.cos(math.radians(angle))])
    directions[np.abs(directions) < STRAIGHT] = 0.0
    half = length / 2
    reach = [math.ceil(half * abs(d) - SNAP) for d in directions]
    crossings = [np.arange(-r, r + 1) / d for r, d in zip(reach, directions, strict=True) if d != 0]
    times = np.unique(np.clip(np.concatenate([[-half, half], *crossings]), -half, half))
    middle, step = (times[1:] + times[:-1]) / 2, np.diff(times)
    psf = np.zeros([2 * r + 1 for r in reach])
    # Between crossings of grid lines the bilinear weights are quadratic: two Gauss points integrate them exactly.
    for node in (-GAUSS_NODE, GAUSS_NODE):
        spread(psf, directions * (middle + node * step)[:, None], step / 2, reach)
    return unit_sum(psf)


def shake_psf(generator: torch.Generator, *, reach: int = 8) -> Tensor:
    """A hand-held camera's shake: a path with random, slowly changing velocity, spread bilinearly on the grid.

    Returns float64 (2·reach + 1, 2·reach + 1), nonnegative and of sum one.
    """
    acceleration = torch.randn(256, 2, generator=generator, dtype=torch.float64)
    velocity = torch.randn(1, 2, generator=generator, dtype=torch.float64) * 4 + acceleration.cumsum(0) / 2
    path = velocity.cumsum(0)
    path = path - path.mean(0)
    path = path * ((reach - 1) / path.abs().max()) + reach
    psf = np.zeros([2 * reach + 1, 2 * reach + 1])
    spread(psf, path.numpy(), np.ones(len(path)), [0, 0])
    return unit_sum(psf)


def spread(psf: Array, points: Array, weights: Array, origin: Sequence[int]) -> None:
    """Share out weighted points (k, 2), counted from the pixel ``origin``, bilinearly among their four pixels each."""
    corner = np.floor(points).astype(np.int64)
    for shift in np.ndindex(2, 2):
        index = corner + np.array(shift)
        share = np.prod(1 - np.abs(points - index), axis=1) * weights
        inside = share > 0
        np.add.at(psf, tuple((index + np.array(origin))[inside].T), share[inside])


def load_psf(path: str | Path, *, key: str | None = None) -> Tensor:
    """Read a PSF (a measured camera shake, say) from an image, an .npy file or one array of an .npz file.

    Colour images are averaged to grey. ``key`` names the array of an .npz file (not needed if it holds one only).
    Returns float64 (height, width), divided by its sum. Raises InputError where the file holds no such PSF.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such PSF file.")
    try:
        psf = np.asarray(read_array(path, key), dtype=np.float64)
    except Exception as error:  # each reader has exceptions of its own
        raise InputError(f"{path}: could not be read as a PSF ({error}).") from error
    if psf.ndim != 2 or psf.size == 0:
        raise InputError(f"{path}: a PSF has two axes; got shape {psf.shape}.")
    if not np.isfinite(psf).all():
        raise InputError(f"{path}: the PSF holds NaN or infinite values.")
    if psf.sum() <= 0:
        raise InputError(f"{path}: the PSF's sum is {psf.sum():g}, not positive.")
    return unit_sum(psf)


def read_array(path: Path, key: str | None) -> NDArray[np.generic]:
    if path.suffix.lower() not in (".npy", ".npz"):
        from skimage.io import imread

        image = np.asarray(imread(path), dtype=np.float64)
        return image[..., :3].mean(-1) if image.ndim == 3 else image
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as archive:
        names = list(archive.keys())
        if key is None and len(names) != 1:
            raise InputError(f"pass key= to choose one of the arrays {names}")
        if key is not None and key not in names:
            raise InputError(f"no array {key!r}; it holds {names}")
        return np.asarray(archive[key or names[0]])


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of positive integers."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(not isinstance(side, int) or side < 1 for side in pair):
        raise ShapeError(f"`size` must be a positive integer or a pair (height, width) of them; got {size!r}.")
    return pair[0], pair[1]


def require_degrees(angle: float) -> None:
    if not math.isfinite(angle):
        raise InputError(f"`angle` must be a finite number of degrees; got {angle}.")


def unit_sum(psf: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(psf / psf.sum()))
