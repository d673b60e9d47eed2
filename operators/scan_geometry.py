"""What every scanner has: views, a detector, and the nonnegative entries of its projection matrix, view by view."""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators.certified_physics import require_positive

__all__ = ["Angles", "Entries", "ScanGeometry", "axes", "pixel_centres"]

Angles = Sequence[float] | NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int64] | Tensor
Entries = tuple[Tensor, Tensor, Tensor]  # bins, pixels (row-major numbers) and weights of one view's nonzero entries
SMALLEST = 1e-6  # entries below this part of a pixel's crossing are rounding of the geometry, not geometry


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanGeometry(abc.ABC):
    """A scanner with a straight detector of ``n_det`` equal bins; see ``ParallelBeam`` and ``FanBeam``.

    ``angles`` in degrees, any list. Without ``n_det`` an operator takes as many bins as cover its image. Bin b is centred
    at (b − (n_det − 1)/2) det_spacing + det_offset; all lengths in one unit. ``model`` says how a ray meets a pixel.
    Raises InputError for empty or non-finite angles, non-positive lengths, unknown models.
    """

    angles: Angles = dataclasses.field(kw_only=False)
    n_det: int | None = None
    det_spacing: float = 1.0
    det_offset: float = 0.0
    pixel_size: float = 1.0
    model: str = ""

    models: ClassVar[tuple[str, ...]] = ()  # by the pixel's shadow, by Joseph's interpolation along the ray
    turn: ClassVar[float] = 0.0  # degrees from the user's angles to those of ``shadow`` and ``rays``
    parallel: ClassVar[bool] = False  # whether opposite views see the same lines

    def __post_init__(self) -> None:
        if np.ndim(self.angles) == 0:
            raise InputError(
                f"`angles` is a list of degrees; got {self.angles}. For that many views over half a turn pass "
                "[180 * k / n for k in range(n)]."
            )
        listed = self.angles.detach().cpu().numpy() if isinstance(self.angles, Tensor) else self.angles
        degrees = np.asarray(listed, dtype=np.float64)
        if degrees.ndim != 1 or degrees.size == 0:
            raise InputError(f"`angles` must be a non-empty list of degrees; got shape {degrees.shape}.")
        if not np.isfinite(degrees).all():
            raise InputError("`angles` holds NaN or infinite values.")
        object.__setattr__(self, "angles", tuple(degrees.tolist()))
        if self.n_det is not None and (not isinstance(self.n_det, int) or self.n_det < 1):
            raise InputError(f"`n_det` must be a positive integer; got {self.n_det!r}.")
        require_positive(det_spacing=self.det_spacing, pixel_size=self.pixel_size)
        if not math.isfinite(self.det_offset):
            raise InputError(f"`det_offset` must be finite; got {self.det_offset}.")
        if self.model not in self.models:
            raise InputError(f"`model` must be one of {', '.join(self.models)}; got {self.model!r}.")

    @abc.abstractmethod
    def covering(self, n: int) -> int:
        """How many bins see every ray that meets an image of n × n pixels."""

    @abc.abstractmethod
    def shadow(self, angle: float, n: int) -> tuple[Tensor, Tensor]:
        """The trapezoid that each pixel casts on the detector: its four corners (4, n²) and its height (n²,)."""

    @abc.abstractmethod
    def rays(self, angle: float) -> tuple[Tensor, Tensor]:
        """A point and the direction of the ray into the middle of each bin, (n_det, 2) each."""

    def fitted(self, n: int) -> "ScanGeometry":
        """This scanner with the number of bins settled for an image of n × n pixels."""
        return self if self.n_det is not None else dataclasses.replace(self, n_det=self.covering(n))

    @property
    def degrees(self) -> NDArray[np.float64]:
        """The angles as an array."""
        return np.array(self.angles)

    @property
    def count(self) -> int:
        """The number of bins."""
        if self.n_det is None:
            raise InputError("`n_det` is still open; state it, or take the `geometry` of an operator.")
        return self.n_det

    @property
    def start(self) -> float:
        """The outer edge of bin 0."""
        return self.det_offset - 0.5 * self.count * self.det_spacing

    @property
    def bin_centres(self) -> Tensor:
        """The coordinate of the middle of every bin."""
        return self.start + (torch.arange(self.count, dtype=torch.float64) + 0.5) * self.det_spacing

    def view(self, angle: float, n: int, first_bin: int = 0) -> Entries:
        """The entries of one view, at ``angle`` + ``turn`` of the user's, for an image of n × n pixels."""
        bins = range(first_bin, self.count)
        if self.model == self.models[0]:
            parts = trapezoid_entries(*self.shadow(angle, n), self.start, self.det_spacing, bins)
        else:
            point, direction = self.rays(angle)
            parts = joseph_entries(point[first_bin:], direction[first_bin:], bins, n, self.pixel_size)
        seen, pixels, weights = (torch.cat(column) for column in zip(*parts, strict=True))
        return seen, pixels, weights


def axes(angle: float) -> tuple[Tensor, Tensor]:
    """The unit vectors along the detector, (cos θ, sin θ), and along the central ray, (−sin θ, cos θ)."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, towards = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
    return across, towards


def pixel_centres(n: int, pixel: float) -> tuple[Tensor, Tensor]:
    """x to the right and y upwards of the pixels' middles, origin in the middle of the image, row by row."""
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
    return line.repeat(n), (-line).repeat_interleave(n)


def trapezoid_entries(corners: Tensor, height: Tensor, start: float, spacing: float, bins: range) -> list[Entries]:
    """Means over ``bins`` of trapezoids with the given corners (4, pixels) and height; bin 0 begins at ``start``."""
    lowest = torch.floor((corners[0] - start) / spacing).clamp_min(bins.start).to(torch.int64)
    widest = int(torch.ceil((corners[3] - corners[0]).max() / spacing)) + 1
    parts = []

    def area_below(t: Tensor) -> Tensor:
        return ramp_area(t, corners[0], corners[1]) - ramp_area(t, corners[2], corners[3])

    below = area_below(start + lowest * spacing)
    for step in range(widest):
        reached = lowest + step
        above = area_below(start + (reached + 1) * spacing)
        weight = height * (above - below) / spacing
        below = above
        keep = (reached < bins.stop) & (weight > SMALLEST * height)
        pixels = torch.nonzero(keep)[:, 0]
        parts.append((reached[pixels], pixels, weight[pixels]))
    return parts


def ramp_area(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """∫_{−∞}^t of the ramp that rises from 0 at a to 1 at b ≥ a."""
    inside = torch.minimum(torch.maximum(t, a), b) - a
    return inside.square() / (2 * (b - a).clamp_min(1e-300)) + (t - b).clamp_min(0)  # 1e-300: no division by 0 at a = b


def joseph_entries(point: Tensor, direction: Tensor, bins: range, n: int, pixel: float) -> list[Entries]:
    """Joseph (1982): the rays {point + s·direction} of ``bins``, interpolated linearly on every line of pixels they cut.

    Steep rays are cut by the pixel rows, flat ones by the columns.
    """
    steep = direction[:, 1].abs() >= direction[:, 0].abs()
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
    numbers, parts = torch.arange(bins.start, bins.stop), []
    for by_rows, rays in ((True, steep), (False, ~steep)):
        main, other = (1, 0) if by_rows else (0, 1)
        p, d, ray_bins = point[rays], direction[rays], numbers[rays]
        slope = (d[:, other] / d[:, main])[:, None]
        crossing = p[:, other, None] + (line - p[:, main, None]) * slope  # one for each ray and line
        chord = (pixel * torch.sqrt(1 + slope.square())).expand_as(crossing)
        position = crossing / pixel + (n - 1) / 2
        left = torch.floor(position)
        for neighbour, weight in ((left, 1 - (position - left)), (left + 1, position - left)):
            keep = (neighbour >= 0) & (neighbour < n) & (weight > SMALLEST)
            ray, k = torch.nonzero(keep, as_tuple=True)
            j = neighbour[keep].to(torch.int64)
            # Rows count downwards while y points upwards.
            pixels = (n - 1 - k) * n + j if by_rows else (n - 1 - j) * n + k
            parts.append((ray_bins[ray], pixels, (weight * chord)[keep]))
    return parts
