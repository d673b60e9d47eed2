"""Point-spread functions (PSFs): Gaussian, box, disk, straight motion, camera shake, or read from a file."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators.certified_physics import require_positive
from pnp_lip.operators.matlab import load_matlab
from pnp_lip.pictures import read_picture

__all__ = ["FORMS", "box_psf", "check_psf", "disk_psf", "gaussian_psf", "load_psf", "motion_psf", "parse_psf", "shake_psf"]

Array = NDArray[np.float64]

GAUSS_NODE = 0.5 / math.sqrt(3)  # of the two-point rule on an interval of length 1, from its middle
STRAIGHT = 1e-12  # a direction's smaller component below which the motion runs along an axis
FORMS = "a file (image, npy, npz, mat, txt, csv), gaussian:SIGMA, box:SIZE, disk:RADIUS or motion:LENGTH:ANGLE"
TRACE = 1e-3  # of a PSF's largest row or column, or of its sum: what is below it decides nothing
MOST_NEGATIVE = 0.1  # share of Σ|k|; interpolation leaves a few per cent
PICTURE_SIDE = 16  # pixels; smaller arrays may be a PSF whose border was cut off
DARK = 1 / 3  # of the mean in the middle, and of a third of the maximum: a PSF's border is darker
WIDEST = 1000  # pixels, of a PSF in words; a Gaussian of such a sigma takes 300 MB
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


def parse_psf(text: str) -> Tensor:
    """A PSF in words: gaussian:SIGMA, box:SIZE, disk:RADIUS, motion:LENGTH:ANGLE, or a file, of several arrays FILE:NAME.

    Raises InputError for anything else, ShapeError for a box whose size is not a whole number.

    >>> parse_psf("box:2").shape
    torch.Size([2, 2])
    """
    name, *numbers = text.split(":")
    builders: dict[str, Callable[..., Tensor]]
    builders = {"gaussian": gaussian_psf, "box": box_psf, "disk": disk_psf, "motion": motion_psf}
    builder = builders.get(name)
    if Path(text).exists() or (builder is None and not numbers):
        return load_psf(text)
    if builder is None and Path(text.rpartition(":")[0]).is_file():
        return load_psf(text.rpartition(":")[0], key=numbers[-1])
    try:
        given = [int(n) if n.isdecimal() else float(n) for n in numbers]
        if any(n > WIDEST for n in given):
            raise InputError(f"the sizes of a PSF are pixels, at most {WIDEST}; got {text!r}.")
        if name == "motion" and len(given) != 2:
            raise InputError(f"a motion has a length and an angle, such as motion:12:35; got {text!r}.")
        return builders[name](*given)
    except InputError:  # of a builder, which says what is wrong with the numbers
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a PSF is {FORMS}; got {text!r}.") from error


def load_psf(path: str | Path, *, key: str | None = None) -> Tensor:
    """Read a PSF (a measured camera shake, say) from an image, a text file (.txt, .csv), or an array (.npy, .npz, .mat).

    Colour images are averaged to grey. ``key`` names the array of an .npz or .mat file (not needed if it holds one only).
    Returns float64 (height, width), divided by its sum. Raises InputError where the file holds no such PSF, for instance a
    photograph; what ``check_psf`` would move or trim stays as it is.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such PSF file.")
    try:
        psf = np.asarray(read_array(path, key), dtype=np.float64)
    except Exception as error:  # each reader has exceptions of its own
        raise InputError(f"{path}: could not be read as a PSF ({error}).") from error
    try:
        return unit_sum(as_plane(psf))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_array(path: Path, key: str | None) -> NDArray[np.generic]:
    suffix = path.suffix.lower()
    if suffix in (".txt", ".csv"):
        return np.loadtxt(path.read_text().replace(",", " ").replace(";", " ").splitlines(), ndmin=2)
    if suffix not in (".npy", ".npz", ".mat"):
        pixels = read_picture(path).pixels
        return pixels.mean(-1) if pixels.ndim == 3 else pixels
    if suffix == ".mat":
        loaded = {name: value for name, value in load_matlab(path).items() if np.asarray(value).dtype.kind in "fiu"}
    else:
        loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    names = list(loaded)
    if key is None and len(names) != 1:
        raise InputError(f"it holds {len(names)} arrays; choose one by key= or {path.name}:NAME: {', '.join(names)}")
    if key is not None and key not in names:
        raise InputError(f"no array {key!r}; it holds {', '.join(names)}")
    return np.atleast_2d(loaded[key or names[0]])


def check_psf(psf: Tensor | NDArray[np.generic]) -> tuple[Tensor, tuple[str, ...]]:
    """The PSF that was meant, as float64 of sum 1 around its tap (h//2, w//2), and a line for each thing that was mended.

    Margins of zeros are cut. A PSF whose origin is its corner (as Fourier transforms have it) is shifted to the middle, and
    so is one whose middle lies at the edge of its support or outside: its centre of mass then is there. Raises InputError
    for a photograph, for a PSF of sum ≤ 0, not finite, or more than a tenth negative; ShapeError for other than two axes.

    >>> corner = torch.zeros(8, 8)
    >>> corner[0, 0] = corner[0, 1] = corner[0, 7] = 1
    >>> check_psf(corner)
    (tensor([[0.3333, 0.3333, 0.3333]], dtype=torch.float64), ("the PSF's origin was its corner and is now its middle",))
    """
    k, notes = as_plane(np.asarray(psf.detach().cpu() if isinstance(psf, Tensor) else psf, dtype=np.float64)), []
    if (share := -k.clip(max=0).sum() / np.abs(k).sum()) > TRACE:
        notes.append(f"{share:.1%} of the PSF is negative")
    shifted = np.fft.fftshift(k)
    if variance(shifted) < variance(k) / 2:
        k = shifted
        notes.append("the PSF's origin was its corner and is now its middle")
    moves = [off_centre(np.abs(k).sum(1 - axis)) for axis in (0, 1)]
    if any(moves):
        reach = [abs(move) for move in moves]
        k = np.roll(np.pad(k, [(r, r) for r in reach]), moves, (0, 1))
        notes.append(f"the PSF lies to one side and was moved by {moves[0]} rows and {moves[1]} columns")
    return unit_sum(k[tuple(support(np.abs(k).max(1 - axis)) for axis in (0, 1))]), tuple(notes)


def as_plane(k: Array) -> Array:
    """The PSF's two axes, if it can be one."""
    shape = k.shape
    k = k[0] if k.ndim == 3 and shape[0] == 1 else k[..., 0] if k.ndim == 3 and shape[-1] == 1 else k
    if k.ndim != 2 or k.size == 0:
        raise ShapeError(f"a PSF has two axes; got shape {shape}.")
    if not np.isfinite(k).all():
        raise InputError("the PSF holds NaN or infinite values.")
    if k.sum() <= 0:
        raise InputError(f"the PSF's sum is {k.sum():g}, not positive.")
    if (share := -k.clip(max=0).sum() / np.abs(k).sum()) > MOST_NEGATIVE:
        raise InputError(f"{share:.0%} of the PSF is negative; a blur only adds light.")
    if min(k.shape) >= PICTURE_SIDE and is_bright_outside(k) and k.min() < k.max() / 2:  # the last: no measured box either
        raise InputError("this looks like a photograph and not like a PSF, which is dark at its border.")
    return k


def is_bright_outside(k: Array) -> bool:
    """Whether the border is not dark, beside the middle and beside the brightest pixel."""
    ring, (h, w) = np.concatenate([k[0], k[-1], k[:, 0], k[:, -1]]), k.shape
    middle = k[h // 3 : -(h // 3), w // 3 : -(w // 3)]
    return bool(np.median(ring) > DARK * max(middle.mean(), k.max() / 3))


def variance(k: Array) -> float:
    """Mean squared distance from the centre of mass."""
    weights = np.abs(k) / np.abs(k).sum()
    places = np.indices(k.shape)
    return float(sum((weights * (x - (weights * x).sum()) ** 2).sum() for x in places))


def off_centre(profile: Array) -> int:
    """By how many pixels the centre of mass must move to the middle; 0 if the middle lies well inside of the support."""
    inside, middle = np.flatnonzero(profile > TRACE * profile.max()), len(profile) // 2
    first, last = int(inside[0]), int(inside[-1])
    edge = (last - first) / 10 if last - first >= 3 else 0
    if first + edge <= middle <= last - edge:
        return 0
    centre = float((profile * np.arange(len(profile))).sum() / profile.sum())
    return middle - math.floor(centre + 0.5)


def support(profile: Array) -> slice:
    """Without margins of zeros, and with the same middle."""
    inside, middle = np.flatnonzero(profile > 1e-6 * profile.max()), len(profile) // 2
    reach = max(middle - inside[0], inside[-1] - middle)
    return slice(middle - reach, middle + reach + 1) if reach <= min(middle, len(profile) - 1 - middle) else slice(None)


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
