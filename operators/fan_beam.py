"""Fan-beam tomography with a flat detector."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators.certified_physics import own_bound, require_positive
from pnp_lip.operators.filtered_back_projection import back_projected, balanced, fan_weights, filtered
from pnp_lip.operators.norm_rules import own_norm_rule
from pnp_lip.operators.scan_geometry import ScanGeometry, axes
from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["FanBeam", "FanBeamTomography"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FanBeam(ScanGeometry):
    """A point source and a flat detector that turn about the middle of the image.

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

    ``source_distance``: source to axis; ``detector_distance``: axis to detector, 0 or more. ``model="footprint"``:
    separable footprints, a trapezoid on the detector times the chord of the central ray (Long, Fessler & Balter 2010,
    SF-TR); ``model="joseph"``: the ray to the middle of each bin with linear interpolation. An operator raises InputError
    if the source lies inside its image's circumscribed circle; the detector may.
    """

    source_distance: float
    detector_distance: float
    model: str = "footprint"

    models: ClassVar[tuple[str, ...]] = ("footprint", "joseph")
    turn: ClassVar[float] = -90.0  # deepinv's fan beam starts a quarter turn before its parallel beam

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(source_distance=self.source_distance)
        if not (math.isfinite(self.detector_distance) and self.detector_distance >= 0):
            raise InputError(f"`detector_distance` must be zero or a positive length; got {self.detector_distance}.")

    @property
    def distance(self) -> float:
        """Source to detector."""
        return float(self.source_distance + self.detector_distance)

    def fitted(self, n: int) -> ScanGeometry:
        radius = n * self.pixel_size / math.sqrt(2)
        if self.source_distance <= radius:
            raise InputError(
                f"`source_distance` must exceed the radius {radius:.4g} of the image's circumscribed circle; "
                f"got {self.source_distance}: the source would turn inside the object."
            )
        return super().fitted(n)

    def covering(self, n: int) -> int:
        """Out to where the ray that touches the circumscribed circle lands."""
        radius = n * self.pixel_size / math.sqrt(2)
        edge = radius / math.sqrt(self.source_distance**2 - radius**2) * self.distance
        return math.ceil(2 * (edge + abs(self.det_offset)) / self.det_spacing)

    def shadow(self, angle: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Between the four projected corners; height p / max(|cos φ|, |sin φ|), the chord of the pixel's central ray."""
        pixel, source = self.pixel_size, self.source_distance
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        half = 0.5 * pixel
        a, b, c, d = (
            self.distance * ((x + a) * cosine + (y + b) * sine) / (source + (y + b) * cosine - (x + a) * sine)
            for a in (-half, half)
            for b in (-half, half)
        )
        # The ray from the source S = −source·(−sin θ, cos θ) through the pixel's middle.
        along_x, along_y = x - source * sine, y + source * cosine
        height = pixel * torch.hypot(along_x, along_y) / torch.maximum(along_x.abs(), along_y.abs())
        a, b, c, d = torch.minimum(a, b), torch.maximum(a, b), torch.minimum(c, d), torch.maximum(c, d)
        b, c, first, last = torch.maximum(a, c), torch.minimum(b, d), torch.minimum(a, c), torch.maximum(b, d)
        return torch.stack([first, torch.minimum(b, c), torch.maximum(b, c), last]), height

    def rays(self, angle: float, t: Tensor) -> tuple[Tensor, Tensor]:
        """{−source · towards + s (t · across + distance · towards)}."""
        across, towards = axes(angle)
        direction = t[:, None] * across + self.distance * towards
        return (-self.source_distance * towards).expand_as(direction), direction


class FanBeamTomography(SymmetricTomography):
    """Line integrals along the rays from a point source to the bins of a flat detector, both turning about the image.

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

        p̃ = p · source/√(source² + s²), U = 1 + (x · towards)/source; w shares each line out among the views that see it.
        The views must cover a full turn or an arc of at least 180° and the fan's opening; InputError otherwise, and
        for a displaced detector without the full turn.

        Source: Kak & Slaney (1988), section 3.4.2; Parker (1982) for w.
        """
        n, scan, source = self.img_size[1], self.geometry, self.geometry.source_distance
        angles = torch.from_numpy(scan.degrees)
        spacing = scan.det_spacing * source / scan.distance
        s = (scan.bin_centres * source / scan.distance).to(integrals)
        data = integrals * (source / torch.sqrt(source**2 + s**2))[:, None]
        radius = n * scan.pixel_size / math.sqrt(2)
        seen = min(math.atan(float(s.abs().max()) / source), math.asin(radius / source))
        fan = torch.atan(s.cpu().double() / source)
        step, share = fan_weights(angles, fan, seen)
        data = data * share.to(data)
        rows = balanced(data, fan, math.asin(0.5 * n * scan.pixel_size / source), angles)
        views = filtered(data if rows is None else rows, spacing, name) * step.to(data)
        first = float(s[0]) - (views.shape[-2] - scan.count) * spacing * (scan.det_offset > 0)
        pixel = scan.pixel_size
        return back_projected(views, angles + scan.turn, first / pixel, spacing / pixel, n, source / pixel)


own_norm_rule(FanBeamTomography)(own_bound)
