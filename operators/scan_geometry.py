"""What every scanner has: views, a detector, and the nonnegative entries of its projection matrix, view by view."""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators.certified_physics import require_positive
from pnp_lip.operators.joseph import Sides, Size, joseph_entries

__all__ = ["Angles", "Grid", "ScanGeometry", "Span", "Trapezoids", "axes", "select"]

Angles = Sequence[float] | NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int64] | Tensor
Columns = tuple[
    NDArray[np.float32] | NDArray[np.float64], NDArray[np.int32], NDArray[np.int64]
]  # values, rows, how many of them in each column
Span = tuple[float, float]  # of the detector: from where to where
SMALLEST = 1e-6  # entries below this part of a pixel's crossing are rounding of the geometry, not geometry
SAME_PLACE = 1e-9  # bins; offsets closer than this to one that symmetry likes are that one
LIKELY_RADIANS = 8  # views from which a range of π or 2π is taken for radians
MEAN_SHADOW = 4 / math.pi  # pixel sides; |cos θ| + |sin θ| averaged over the views


class Grid:
    """The pixels of an image in some ``order`` (their row-major numbers), and x to the right and y upwards of their middles.

    The origin is the middle of the image; ``sides`` are the height and the width of a pixel.
    """

    def __init__(self, size: Size, sides: Sides, order: NDArray[np.int64] | None = None) -> None:
        self.size, self.sides = size, sides
        self.order = np.arange(size[0] * size[1]) if order is None else order
        row, column = np.divmod(self.order, size[1])
        self.x = torch.from_numpy((column - (size[1] - 1) / 2) * sides[1])
        self.y = torch.from_numpy(((size[0] - 1) / 2 - row) * sides[0])
        self.position = np.empty(len(self.order), dtype=np.int32)  # of each pixel in ``order``
        self.position[self.order] = np.arange(len(self.order), dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Trapezoids:
    """What pixels cast on the detector: zero up to ``foot``, rising over ``rise``, constant over ``top``, falling over ``fall``.

    ``seen`` (pixels, views) says which of them these are, row by row; all else has one number for each of these.
    """

    seen: NDArray[np.bool_]
    foot: Tensor
    rise: Tensor
    top: Tensor
    fall: Tensor
    height: Tensor

    @property
    def width(self) -> float:
        """Of the widest."""
        return float((self.rise + self.top + self.fall).max()) if len(self.foot) else 0.0


def select(values: Tensor, seen: NDArray[np.bool_]) -> Tensor:
    """The values, numbers for the views or for (pixels, views), that are ``seen``."""
    return torch.from_numpy(np.broadcast_to(values.numpy(), seen.shape)[seen])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanGeometry(abc.ABC):
    """A scanner with a straight detector of ``n_det`` equal bins; see ``ParallelBeam`` and ``FanBeam``.

    ``angles`` in degrees, any list. Without ``n_det`` an operator takes as many bins as cover its image. Bin b is centred
    at (b − (n_det − 1)/2) det_spacing + det_offset; all lengths in one unit. ``pixel_size`` is a pixel's side, or its
    (height, width). ``model`` says how a ray meets a pixel. Raises InputError for empty or non-finite angles, angles in
    radians, non-positive lengths, unknown models.
    """

    angles: Angles = dataclasses.field(kw_only=False)
    n_det: int | None = None
    det_spacing: float = 1.0
    det_offset: float = 0.0
    pixel_size: float | Sides = 1.0
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
        require_degrees(degrees)
        object.__setattr__(self, "angles", tuple(degrees.tolist()))
        if self.n_det is not None and (not isinstance(self.n_det, int) or self.n_det < 1):
            raise InputError(f"`n_det` must be a positive integer; got {self.n_det!r}.")
        if isinstance(self.pixel_size, (tuple, list)) and len(self.pixel_size) != 2:
            raise InputError(f"`pixel_size` is one side or (height, width); got {self.pixel_size}.")
        for side in self.sides:
            require_positive(det_spacing=self.det_spacing, pixel_size=side)
        if not math.isfinite(self.det_offset):
            raise InputError(f"`det_offset` must be finite; got {self.det_offset}.")
        if self.model not in self.models:
            raise InputError(f"`model` must be one of {', '.join(self.models)}; got {self.model!r}.")

    @abc.abstractmethod
    def covering(self, radius: float) -> int:
        """How many bins see every ray that meets the circle of that radius about the axis."""

    @abc.abstractmethod
    def shadow(self, angles: NDArray[np.float64], x: Tensor, y: Tensor, span: Span) -> Trapezoids:
        """The trapezoids, in some views, of the pixels at (x, y) that reach into the ``span`` of the detector."""

    @abc.abstractmethod
    def rays(self, angle: float, t: Tensor) -> tuple[Tensor, Tensor]:
        """A point and the direction of the ray to each place t on the detector, (len(t), 2) each."""

    @property
    def sides(self) -> Sides:
        """Height and width of a pixel."""
        return (self.pixel_size[0], self.pixel_size[1]) if isinstance(self.pixel_size, (tuple, list)) else (self.pixel_size,) * 2

    def radius(self, size: Size) -> float:
        """Of the circle around an image of this size."""
        return 0.5 * math.hypot(size[0] * self.sides[0], size[1] * self.sides[1])

    def fitted(self, size: Size) -> "ScanGeometry":
        """This scanner with the number of bins settled for an image of this size."""
        return self if self.n_det is not None else dataclasses.replace(self, n_det=self.covering(self.radius(size)))

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

    def entries(self, size: Size, samples: Tensor) -> float:
        """An estimate of how many entries a view of an image has in the rows of ``samples``."""
        middle, across = torch.zeros(1, dtype=torch.float64), math.sqrt(size[0] * size[1])  # pixels of a square as large
        width = self.shadow(np.zeros(1), middle, middle, (-math.inf, math.inf)).width  # of a pixel on the detector
        width *= math.sqrt(self.sides[0] / self.sides[1])
        row = float(samples[-1] - samples[0]) / (len(samples) - 1) if len(samples) > 1 else self.det_spacing
        margin = 0.0 if self.by_shadow else row / 2
        seen = min(float(samples[-1]) + margin, 0.5 * across * width) - max(float(samples[0]) - margin, -0.5 * across * width)
        return across * max(seen, 0.0) / width * (MEAN_SHADOW * width / row + 1)

    def view(self, angle: float, grid: Grid, samples: Tensor | None = None) -> scipy.sparse.csr_array:
        """The matrix of one view, at ``angle`` + ``turn`` of the user's.

        Rows are those of ``samples``, by default the detector's bins; columns are the pixels in the order of ``grid``.
        """
        samples = self.samples if samples is None else samples
        if self.by_shadow:
            values, rows, counts = self.columns(np.array([angle]), grid.x, grid.y, samples)
            starts = np.concatenate([[0], counts.cumsum()])
            return scipy.sparse.csc_array((values, rows, starts), shape=(len(samples) - 1, len(grid.order))).tocsr()
        rays, pixels, weights = joseph_entries(*self.rays(angle, samples), grid.size, grid.sides)
        entries = weights.numpy(), (rays.to(torch.int32).numpy(), grid.position[pixels.numpy()])
        return scipy.sparse.coo_array(entries, shape=(len(samples), len(grid.order))).tocsr()

    def columns(
        self, angles: NDArray[np.float64], x: Tensor, y: Tensor, edges: Tensor, dtype: torch.dtype = torch.float64
    ) -> Columns:
        """The columns of the pixels at (x, y) in the matrix of several views below one another, rows between ``edges``."""
        return trapezoid_columns(self.shadow(angles, x, y, (float(edges[0]), float(edges[-1]))), edges, self.det_spacing, dtype)


def axes(angle: float) -> tuple[Tensor, Tensor]:
    """The unit vectors along the detector, (cos θ, sin θ), and along the central ray, (−sin θ, cos θ)."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, towards = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
    return across, towards


def require_degrees(angles: NDArray[np.float64]) -> None:
    """Raise InputError for many views that cover π or 2π, with their last step or without: these are radians."""
    covered = float(np.ptp(angles))
    ends = covered, covered * len(angles) / max(1, len(angles) - 1)
    if len(angles) >= LIKELY_RADIANS and any(abs(end - turn) < 1e-3 for end in ends for turn in (math.pi, 2 * math.pi)):
        turn = "π" if min(abs(end - math.pi) for end in ends) < 1e-3 else "2π"
        raise InputError(f"`angles` are degrees; these {len(angles)} cover {turn}, as radians do. Pass numpy.rad2deg(angles).")


def trapezoid_columns(shadow: Trapezoids, edges: Tensor, spacing: float, dtype: torch.dtype) -> Columns:
    """Integrals over the rows between ``edges``, divided by ``spacing``, of trapezoids; those of one pixel make a column."""
    foot, rise, fall, shift = shadow.foot, shadow.rise, shadow.fall, shadow.rise + shadow.top
    count, least, views = len(edges) - 1, SMALLEST * spacing, np.arange(shadow.seen.shape[1], dtype=np.int32)
    half_rise, half_fall = (0.5 / slope.clamp_min(1e-300) for slope in (rise, fall))  # 1e-300: 0 · ∞ = 0
    parts = max(1, round(count * spacing / float(edges[-1] - edges[0])))  # rows of a bin
    widest = min(parts * (math.ceil(shadow.width / spacing) + 1), count)
    lowest = ((foot - edges[0]) / spacing).clamp_(0, (count - 1) // parts).to(torch.int32) * parts
    for _ in range(parts - 1):
        lowest += foot >= edges[lowest + 1]

    def area_below(t: Tensor, which: slice | Tensor = slice(None)) -> Tensor:
        risen = ramp_area(t, rise[which], half_rise[which])
        return risen.sub_(ramp_area(t.sub_(shift[which]), fall[which], half_fall[which]))

    below, total, height = torch.zeros_like(foot), shift + 0.5 * (fall - rise), shadow.height / spacing
    cut = torch.nonzero(foot < edges[0])[:, 0]
    below[cut] = area_below(edges[0] - foot[cut], cut)
    later = torch.cat([edges, edges[-1:].expand(widest)])
    table, stored = (torch.empty(len(foot), widest, dtype=kind) for kind in (dtype, torch.bool))
    for step in range(widest):
        if step < widest - 1:
            above = area_below(later[step + 1 :].index_select(0, lowest).sub_(foot))
        else:  # nothing lies further on, except beyond the last edge
            above = total
            cut = torch.nonzero(foot + shift + fall > edges[-1])[:, 0]
            above[cut] = area_below(edges[-1] - foot[cut], cut)
        area = above - below
        torch.gt(area, least, out=stored[:, step])
        torch.mul(area, height, out=table[:, step])
        below = above
    keep, counts = stored.numpy(), np.zeros(shadow.seen.shape, dtype=np.int8 if widest < 128 else np.int32)
    counts[shadow.seen] = keep.sum(1, dtype=counts.dtype) if widest > 4 else sum(keep[:, k].view(np.int8) for k in range(widest))
    first = lowest + select(torch.from_numpy(views * np.int32(count)), shadow.seen)
    rows = (first[:, None] + torch.arange(widest, dtype=torch.int32)).numpy()[keep]
    return table.numpy()[keep], rows, counts.sum(1, dtype=np.int64)


def ramp_area(t: Tensor, rise: Tensor, half: Tensor) -> Tensor:
    """∫₀^t of the ramp that goes from 0 at 0 to 1 at ``rise`` and stays there; ``half`` is 1/(2 rise).

    With s = min(t, rise): t − s + s²/(2 rise) = t + s (s/(2 rise) − 1).
    """
    above = t.clamp_min(0)
    inside = torch.minimum(above, rise)
    return above.addcmul_(inside, (inside * half).sub_(1))
