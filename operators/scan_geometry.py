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

__all__ = ["Angles", "Entries", "Grid", "ScanGeometry", "axes", "pixel_centres"]

Angles = Sequence[float] | NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int64] | Tensor
Grid = tuple[Tensor, Tensor, Tensor]  # numbers of pixels, x and y of their middles
Entries = tuple[Tensor, Tensor, Tensor]  # bins, pixels (row-major numbers) and weights of one view's nonzero entries
SMALLEST = 1e-6  # entries below this part of a pixel's crossing are rounding of the geometry, not geometry
SAME_PLACE = 1e-9  # bins; offsets closer than this to one that symmetry likes are that one
MEAN_SHADOW = 4 / math.pi  # pixel sides; |cos θ| + |sin θ| averaged over the views


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
    def shadow(self, angle: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The trapezoid that each pixel casts on the detector: its four corners (4, pixels) and its height (pixels,)."""

    @abc.abstractmethod
    def rays(self, angle: float, t: Tensor) -> tuple[Tensor, Tensor]:
        """A point and the direction of the ray to each place t on the detector, (len(t), 2) each."""

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

    @property
    def by_shadow(self) -> bool:
        """Whether a datum is the mean over a bin, rather than the value on one ray."""
        return self.model == self.models[0]

    @property
    def samples(self) -> Tensor:
        """What ``view`` needs to know of the bins: their n_det + 1 edges, or the middles that Joseph's rays hit."""
        edges = self.start + torch.arange(self.count + 1, dtype=torch.float64) * self.det_spacing
        return edges if self.by_shadow else self.bin_centres

    def mirrored(self) -> tuple[Tensor, NDArray[np.int64]]:
        """The samples of a detector that is symmetric about the axis, and which of its rows add up to each bin.

        The rows (parts, n_det). If 2 offset/Δ is whole, the detector with more bins at one end. Otherwise its samples and
        their mirror images together: a bin is the sum of the two rows that a mirrored edge cuts it into, exactly, and a
        ray of Joseph's is one row of twice as many.
        """
        excess = 2 * abs(self.det_offset) / self.det_spacing
        whole = abs(excess - round(excess)) < SAME_PLACE
        more = round(excess) if whole else math.floor(excess)
        bins = self.count + more
        low = self.det_offset > 0  # the end that is too short
        number = np.arange(self.count) + (more if low else 0)
        if whole:
            centred = dataclasses.replace(self, n_det=bins, det_offset=0.0)
            return centred.samples, number[None]
        longer = dataclasses.replace(
            self, n_det=bins, det_offset=math.copysign(excess - more, self.det_offset) * self.det_spacing / 2
        )
        samples = torch.cat([longer.samples, -longer.samples]).sort().values
        first = 2 * number + low
        return samples, np.stack([first, first + 1]) if self.by_shadow else first[None]

    def entries(self, n: int, samples: Tensor) -> float:
        """An estimate of how many entries a view of n × n pixels has in the rows of ``samples``."""
        corners, _ = self.shadow(0.0, *torch.zeros(2, 1, dtype=torch.float64))
        width = float(corners[3] - corners[0])  # of a pixel on the detector
        row = float(samples[-1] - samples[0]) / (len(samples) - 1) if len(samples) > 1 else self.det_spacing
        margin = 0.0 if self.by_shadow else row / 2
        seen = min(float(samples[-1]) + margin, 0.5 * n * width) - max(float(samples[0]) - margin, -0.5 * n * width)
        return n * max(seen, 0.0) / width * (MEAN_SHADOW * width / row + 1)

    def view(self, angle: float, n: int, samples: Tensor | None = None, grid: Grid | None = None) -> Entries:
        """The entries of one view, at ``angle`` + ``turn`` of the user's, for an image of n × n pixels.

        Rows are those of ``samples``, by default the detector's bins. Pixels come one after the other as in the ``grid``:
        their numbers and the coordinates of their middles.
        """
        samples = self.samples if samples is None else samples
        if not self.by_shadow:
            return joseph_entries(*self.rays(angle, samples), n, self.pixel_size)
        pixels, x, y = (torch.arange(n * n), *pixel_centres(n, self.pixel_size)) if grid is None else grid
        rows, seen, weights = trapezoid_entries(*self.shadow(angle, x, y), samples, self.det_spacing)
        return rows, pixels[seen], weights


def axes(angle: float) -> tuple[Tensor, Tensor]:
    """The unit vectors along the detector, (cos θ, sin θ), and along the central ray, (−sin θ, cos θ)."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, towards = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
    return across, towards


def pixel_centres(n: int, pixel: float) -> tuple[Tensor, Tensor]:
    """x to the right and y upwards of the pixels' middles, origin in the middle of the image, row by row."""
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
    return line.repeat(n), (-line).repeat_interleave(n)


def trapezoid_entries(corners: Tensor, height: Tensor, edges: Tensor, spacing: float) -> Entries:
    """Integrals over rows between ``edges``, divided by ``spacing``, of trapezoids with the given corners and height.

    Their numbers stand where pixels' stand; trapezoid by trapezoid, rows ascending.
    """
    near = torch.nonzero((corners[3] > edges[0]) & (corners[0] < edges[-1]))[:, 0]
    corners, height = corners[:, near], height[near] / spacing
    parts = max(1, round((len(edges) - 1) * spacing / float(edges[-1] - edges[0])))  # rows of a bin
    bins = torch.floor((corners[::3] - edges[0]) / spacing).clamp_min_(0).to(torch.int64).clamp_max_((len(edges) - 2) // parts)
    lowest = bins[0] * parts
    for _ in range(parts - 1):
        lowest += corners[0] >= edges[lowest + 1]
    widest = min(int(((bins[1] + 1) * parts - lowest).max()), len(edges) - 1) if len(near) else 0

    def area_below(t: Tensor) -> Tensor:
        return ramp_area(t, corners[0], corners[1]) - ramp_area(t, corners[2], corners[3])

    below, weights = area_below(edges[lowest]), []
    for step in range(widest):
        above = area_below(edges[(lowest + (step + 1)).clamp_max_(len(edges) - 1)])
        weights.append(above - below)
        below = above
    table = torch.stack(weights, dim=1).numpy().reshape(-1) if weights else np.zeros(0)
    entries = np.flatnonzero(table > SMALLEST * spacing)
    pixels = entries // max(widest, 1)
    rows = lowest.numpy()[pixels] + (entries - pixels * widest)
    found = rows, near.numpy()[pixels], table[entries] * height.numpy()[pixels]
    seen, numbers, values = (torch.from_numpy(column) for column in found)
    return seen, numbers, values


def ramp_area(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """∫_{−∞}^t of the ramp that rises from 0 at a to 1 at b ≥ a."""
    inside = torch.minimum(torch.maximum(t, a), b).sub_(a)
    rise = inside.square_().div_((b - a).clamp_min_(1e-300).mul_(2))  # 1e-300: no division by 0 at a = b
    return rise.add_((t - b).clamp_min_(0))


def joseph_entries(point: Tensor, direction: Tensor, n: int, pixel: float) -> Entries:
    """Joseph (1982): the rays {point + s·direction}, interpolated linearly on every line of pixels they cut.

    Steep rays are cut by the pixel rows, flat ones by the columns.
    """
    steep = direction[:, 1].abs() >= direction[:, 0].abs()
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
    numbers, parts = torch.arange(len(point)), []
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
    seen, pixels, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    return seen, pixels, weights
