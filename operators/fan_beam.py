"""Fan-beam tomography with a flat or a curved detector."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators.certified_physics import own_bound, require_positive
from pnp_lip.operators.filtered_back_projection import back_projected, balanced, fan_weights, filtered
from pnp_lip.operators.joseph import Size
from pnp_lip.operators.norm_rules import own_norm_rule
from pnp_lip.operators.scan_geometry import Grid, ScanGeometry, Span, Trapezoids, axes, select
from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["FanBeam", "FanBeamTomography"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FanBeam(ScanGeometry):
    """A point source and a flat or curved detector that turn about the middle of the image.

    ::

        θ = 0:                 ┌───────────┐              │ bin 0
                               │     │     │              │
          source ∗─────────────┼────axis───┼──────────────┤  flat detector, t grows downwards
                               │     │     │              │
                               └───────────┘              │
                  source_distance          detector_distance

    The source turns at −source_distance (cos θ, sin θ), y upwards; t grows along (sin θ, −cos θ) and is 0 where the
    ray through the axis lands; bins and pixels are placed as for the parallel beam. As in deepinv, a far source at θ
    sees what parallel rays see at θ − 90°.

    ``source_distance``: source to axis; ``detector_distance``: axis to detector, 0 or more. ``detector="curved"``: bins of
    equal angle on an arc around the source, t and ``det_spacing`` measured along it. ``model="footprint"``:
    separable footprints, a trapezoid on the detector times the chord of the central ray (Long, Fessler & Balter 2010,
    SF-TR); ``model="joseph"``: the ray to the middle of each bin with linear interpolation. An operator raises InputError
    if the source lies inside its image's circumscribed circle; the detector may.
    """

    source_distance: float
    detector_distance: float
    model: str = "footprint"
    detector: str = "flat"

    models: ClassVar[tuple[str, ...]] = ("footprint", "joseph")
    turn: ClassVar[float] = -90.0  # deepinv's fan beam starts a quarter turn before its parallel beam

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(source_distance=self.source_distance)
        if not (math.isfinite(self.detector_distance) and self.detector_distance >= 0):
            raise InputError(f"`detector_distance` must be zero or a positive length; got {self.detector_distance}.")
        if self.detector not in ("flat", "curved"):
            raise InputError(f'`detector` must be "flat" or "curved"; got {self.detector!r}.')

    @property
    def distance(self) -> float:
        """Source to detector."""
        return float(self.source_distance + self.detector_distance)

    @property
    def fan_angles(self) -> Tensor:
        """The angle (radians) between the central ray and that to each bin, float64."""
        t = self.bin_centres / self.distance
        return t if self.detector == "curved" else torch.atan(t)

    def fitted(self, size: Size) -> ScanGeometry:
        if self.source_distance <= self.radius(size):
            raise InputError(
                f"`source_distance` must exceed the radius {self.radius(size):.4g} of the image's circumscribed circle; "
                f"got {self.source_distance}: the source would turn inside the object."
            )
        return super().fitted(size)

    def covering(self, radius: float) -> int:
        """Out to where the ray that touches the circle lands."""
        edge = (
            math.asin(radius / self.source_distance)
            if self.detector == "curved"
            else (radius / math.sqrt(self.source_distance**2 - radius**2))
        )
        return math.ceil(2 * (edge * self.distance + abs(self.det_offset)) / self.det_spacing)

    def lands(self, across: Tensor, depth: Tensor) -> Tensor:
        """Where on the detector the ray to a point lands, ``depth`` from the source along the central ray."""
        slope = across / depth
        return self.distance * (slope.atan_() if self.detector == "curved" else slope)

    def shadow(self, angles: NDArray[np.float64], x: Tensor, y: Tensor, span: Span) -> Trapezoids:
        """Between the four projected corners; as high as the chord of the pixel's central ray."""
        turn = np.deg2rad(angles)
        cosine, sine = torch.from_numpy(np.cos(turn)), torch.from_numpy(np.sin(turn))
        (tall, wide), x, y = self.sides, x[:, None], y[:, None]
        across, depth = x * cosine + y * sine, self.source_distance + y * cosine - x * sine
        a, b, c, d = (
            self.lands(across + (u * cosine + v * sine), depth + (v * cosine - u * sine))
            for u in (-0.5 * wide, 0.5 * wide)
            for v in (-0.5 * tall, 0.5 * tall)
        )
        # The ray from the source S = −source·(−sin θ, cos θ) through the pixel's middle.
        along_x, along_y = x - self.source_distance * sine, y + self.source_distance * cosine
        height = torch.hypot(along_x, along_y) / torch.maximum(along_x.abs() / wide, along_y.abs() / tall)
        a, b, c, d = torch.minimum(a, b), torch.maximum(a, b), torch.minimum(c, d), torch.maximum(c, d)
        b, c, first, last = torch.maximum(a, c), torch.minimum(b, d), torch.minimum(a, c), torch.maximum(b, d)
        b, c = torch.minimum(b, c), torch.maximum(b, c)
        seen = ((last > span[0]) & (first < span[1])).numpy()
        foot, rise, top, fall, height = (select(value, seen) for value in (first, b - first, c - b, last - c, height))
        return Trapezoids(seen, foot, rise, top, fall, height)

    def rays(self, angle: float, t: Tensor) -> tuple[Tensor, Tensor]:
        """{−source · towards + s (sin γ · across + cos γ · towards)}, γ the ray's angle in the fan."""
        across, towards = axes(angle)
        slope = t[:, None] / self.distance
        slope = torch.tan(slope) if self.detector == "curved" else slope
        direction = self.distance * (slope * across + towards)
        return (-self.source_distance * towards).expand_as(direction), direction


class FanBeamTomography(SymmetricTomography):
    """Line integrals along the rays from a point source to the bins of a detector, both turning about the image.

    The first argument is a ``FanBeam``; for data and settings see ``ParallelBeamTomography``.

    >>> geometry = FanBeam([0.0, 90.0], source_distance=1e6, detector_distance=0.0, n_det=4)
    >>> physics = FanBeamTomography(geometry, (1, 4, 4))
    >>> torch.allclose(physics(torch.ones(1, 1, 4, 4)), torch.full((1, 1, 4, 2), 4.0), atol=1e-4)
    True
    """

    beam: ClassVar[type[ScanGeometry]] = FanBeam
    geometry: FanBeam

    def invert(self, integrals: Tensor, name: str) -> Tensor:
        """f(x) = ∫ U⁻² (h ∗ w p̃)(s(x)) dβ, s = t·source/distance the detector scaled to the axis.

        p̃ = p cos γ, U = 1 + (x · towards)/source; w shares each line out among the views that see it. For a curved detector
        the filter is h (γ/sin γ)² along the arc, and U the distance from the source over ``source_distance``.
        The views must cover a full turn or an arc of at least 180° and the fan's opening; InputError otherwise, and
        for a displaced detector without the full turn.

        Source: Kak & Slaney (1988), sections 3.4.1 and 3.4.2; Parker (1982) for w.
        """
        scan, source = self.geometry, self.geometry.source_distance
        angles, fan = torch.from_numpy(scan.degrees), scan.fan_angles
        spacing, curved = scan.det_spacing * source / scan.distance, scan.detector == "curved"
        seen = min(float(fan.abs().max()), math.asin(scan.radius(self.img_size[1:]) / source))
        step, share = fan_weights(angles, fan, seen)
        data = integrals * torch.cos(fan).to(integrals)[:, None] * share.to(integrals)
        inner = 0.5 * max(count * side for count, side in zip(self.img_size[1:], scan.sides, strict=True))
        rows = balanced(data, fan, math.asin(inner / source), angles)
        views = filtered(data if rows is None else rows, spacing, name, source if curved else math.inf) * step.to(data)
        first = float(scan.bin_centres[0]) * source / scan.distance
        first -= (views.shape[-2] - scan.count) * spacing * (scan.det_offset > 0)
        grid = Grid(self.img_size[1:], scan.sides)
        return back_projected(views, angles + scan.turn, first, spacing, grid, source, curved=curved)


own_norm_rule(FanBeamTomography)(own_bound)
