"""A point source and a flat detector on a circular orbit, and where their rays meet the planes of a volume."""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.operators.certified_physics import require_positive
from pnp_lip.operators.dihedral import SymmetryPlan, plan_views
from pnp_lip.operators.fan_beam import FanBeam
from pnp_lip.operators.scan_geometry import Angles

__all__ = ["ConeBeam", "View", "base_view", "plan_orbit", "transposed"]

COLUMNS_LIKE_INDEX = 16  # columns whose products take as long as working out where a ray meets a plane


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConeBeam:
    """A point source and a flat detector that turn about the vertical axis through the middle of the volume.

    The central plane is that of ``FanBeam``: the source turns at −source_distance (cos θ, sin θ), columns grow along
    (sin θ, −cos θ). Rows grow with the volume's slices, along the axis. ``det_offset`` = (of rows, of columns) is where the
    middle of the detector lies; row k, of ``n_det`` = (rows, columns), is centred at
    (k − (rows − 1)/2) ``det_spacing`` + offset. All lengths in one unit.

    ``angles`` in degrees, any list; without ``n_det`` an operator takes as many rows and columns as cover its volume.
    Raises InputError for empty or non-finite angles and for lengths that are not positive.
    """

    angles: Angles = dataclasses.field(kw_only=False)
    source_distance: float
    detector_distance: float
    n_det: tuple[int, int] | None = None
    det_spacing: float = 1.0
    det_offset: tuple[float, float] = (0.0, 0.0)
    voxel_size: float = 1.0

    def __post_init__(self) -> None:
        pairs = {"n_det": self.n_det or (1, 1), "det_offset": self.det_offset}
        for name, pair in pairs.items():
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise InputError(f"`{name}` must be (of rows, of columns); got {pair!r}.")
        rows = pairs["n_det"][0]
        if not isinstance(rows, int) or rows < 1:
            raise InputError(f"`n_det` must hold positive integers; got {self.n_det!r}.")
        if not math.isfinite(self.det_offset[0]):
            raise InputError(f"`det_offset` must be finite; got {self.det_offset}.")
        require_positive(voxel_size=self.voxel_size)
        object.__setattr__(self, "angles", self.fan.angles)

    @property
    def fan(self) -> FanBeam:
        """The rays of the central plane, which Joseph's interpolation follows."""
        return FanBeam(
            self.angles, source_distance=self.source_distance, detector_distance=self.detector_distance,
            n_det=None if self.n_det is None else self.n_det[1], det_spacing=self.det_spacing,
            det_offset=self.det_offset[1], pixel_size=self.voxel_size, model="joseph",
        )  # fmt: skip

    def fitted(self, depth: int, n: int) -> "ConeBeam":
        """This scanner with the detector's size settled for a volume of depth × n × n voxels."""
        fan = self.fan.fitted((n, n))
        if self.n_det is not None:
            return self
        near = self.source_distance - n * self.voxel_size / math.sqrt(2)
        edge = 0.5 * depth * self.voxel_size * self.fan.distance / near + abs(self.det_offset[0])
        return dataclasses.replace(self, n_det=(math.ceil(2 * edge / self.det_spacing), fan.count))

    @property
    def row_centres(self) -> Tensor:
        """The height of the middle of every row on the detector."""
        rows = 1 if self.n_det is None else self.n_det[0]
        places: Tensor = torch.arange(rows, dtype=torch.float64) - (rows - 1) / 2
        return places * self.det_spacing + self.det_offset[0]


@dataclasses.dataclass(frozen=True)
class View:
    """Where the rays of one base view meet the planes of voxels that they cut, for c columns of the detector and n planes.

    ``pixels`` and ``weights`` (c, n, 2): the two lines of voxels beside the ray, of which it takes the weighted mean;
    ``share`` (c, n) of the way from source to detector at which that is; ``stretch`` (c,), lengths between planes in the
    central plane; ``advance`` (c,), distance along the main axis from source to detector.
    """

    pixels: Tensor
    weights: Tensor
    share: Tensor
    stretch: Tensor
    advance: Tensor


def plan_orbit(fan: FanBeam) -> SymmetryPlan:
    """The plan of least work: all symmetries, quarter turns alone, or none."""
    bins = np.arange(fan.count)[None]
    plans = [
        plan_views(fan.degrees + fan.turn, bins, fan.count, quarters=1, turns=turns, flips=flips, halves=False)
        for turns, flips in ((True, True), (True, False), (False, False))
        if not (flips and fan.det_offset)
    ]
    return min(plans, key=lambda plan: len(plan.base_angles) * (COLUMNS_LIKE_INDEX + len(plan.group)))


def base_view(fan: FanBeam, angle: float, n: int) -> View:
    """The view at ``angle`` + ``turn``: steep rays of the central plane are cut by rows of pixels, flat ones by columns."""
    point, direction = fan.rays(angle, fan.bin_centres)
    steep = direction[:, 1].abs() >= direction[:, 0].abs()
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * fan.sides[0]
    start, across = torch.where(steep, point[:, 1], point[:, 0]), torch.where(steep, point[:, 0], point[:, 1])
    advance, drift = (torch.where(steep, direction[:, i], direction[:, 1 - i]) for i in (1, 0))
    share = (line - start[:, None]) / advance[:, None]
    place = (across[:, None] + share * drift[:, None]) / fan.sides[0] + (n - 1) / 2
    left = place.floor()
    neighbour = torch.stack([left, left + 1], dim=-1)
    weights = 1 - (place[..., None] - neighbour).abs()
    inside = (neighbour >= 0) & (neighbour < n)
    j, k = neighbour.clamp(0, n - 1).long(), torch.arange(n)[:, None]
    # Rows count downwards while y points upwards.
    pixels = torch.where(steep[:, None, None], (n - 1 - k) * n + j, (n - 1 - j) * n + k)
    weights = torch.where(inside, weights, 0.0)
    share = torch.where(inside.any(-1), share, 1.0)  # beside the volume a ray may meet a plane anywhere
    stretch = torch.sqrt(1 + (drift / advance).square())
    return View(pixels.int(), weights, share, stretch, advance)


def transposed(pixels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixels with a weight, and for each the places (column, plane) that use it, their weights, and where these start."""
    used = torch.nonzero(weights.reshape(-1) > 0)[:, 0]
    order = used[torch.argsort(pixels.reshape(-1)[used], stable=True)]
    touched, counts = torch.unique_consecutive(pixels.reshape(-1)[order], return_counts=True)
    starts = F.pad(counts.cumsum(0), (1, 0))
    return touched.long(), order // 2, weights.reshape(-1)[order], starts
