"""Parallel-beam tomography."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.operators.certified_physics import own_bound
from pnp_lip.operators.filtered_back_projection import back_projected, balanced, filtered, view_angles_weight
from pnp_lip.operators.norm_rules import own_norm_rule
from pnp_lip.operators.scan_geometry import ScanGeometry, axes
from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["ParallelBeam", "ParallelBeamTomography"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelBeam(ScanGeometry):
    """Parallel rays and a straight detector that turn about the middle of the image.

    ::

        y ↑      ╱ rays of the view θ                t = x cos θ + y sin θ
          │    ╱                                     bin b: |t − t_b| ≤ Δ/2,  t_b = (b − (n_det − 1)/2) Δ + offset
          │  ╱ θ = 0: rays run along y,              pixel (i, j): x = (j − (n − 1)/2) p,  y = ((n − 1)/2 − i) p
        ──┼──────→ x  bin 0 at the left

    The fields are those of ``ScanGeometry``, Δ = ``det_spacing``, p = ``pixel_size``; ``n_det`` defaults to ⌈√2 n⌉.
    ``model="strip"``: entries are the exact areas of pixel ∩ strip over Δ. ``model="joseph"``: the ray through the
    middle of the bin, with linear interpolation.
    """

    model: str = "strip"

    models: ClassVar[tuple[str, ...]] = ("strip", "joseph")
    parallel: ClassVar[bool] = True

    def covering(self, n: int) -> int:
        return math.ceil(math.sqrt(2) * n)

    def shadow(self, angle: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Between the projections of the pixel's corners; height p / max(|cos θ|, |sin θ|), the longest chord. Exact."""
        pixel, cosine, sine = self.pixel_size, math.cos(math.radians(angle)), math.sin(math.radians(angle))
        centre = x * cosine + y * sine
        outer, inner = 0.5 * pixel * (abs(cosine) + abs(sine)), 0.5 * pixel * abs(abs(cosine) - abs(sine))
        corners = torch.stack([centre - outer, centre - inner, centre + inner, centre + outer])
        return corners, torch.full_like(centre, pixel / max(abs(cosine), abs(sine)))

    def rays(self, angle: float, t: Tensor) -> tuple[Tensor, Tensor]:
        """{t · across + s · towards}."""
        across, towards = axes(angle)
        point = t[:, None] * across
        return point, towards.expand_as(point)


class ParallelBeamTomography(SymmetricTomography):
    """Line integrals of a square image along parallel rays, averaged over detector bins.

    y[b, view] = (1/Δ) ∫_bin ∫ x ds dt; all entries are nonnegative. The first argument is a ``ParallelBeam``, or the
    list of its angles in degrees if everything else in it has its default.

    Data (B, C, n_det, n_angles) and orientation as in ``deepinv.physics.Tomography`` and ``skimage.transform.radon``,
    who turn about the middle of pixel n//2 (theirs is ours with one zero row below and one zero column to the right).

    ``mask``: "circle" or an (n, n) tensor m; ``weights``: statistical weights w (n_det, n_angles); A = √w P m, data go
    through ``apply_weights``. ``normalize`` scales A by its certified bound. ``storage="free"`` computes entries in every
    product instead of keeping them; "sparse" refuses a matrix above half of the machine's memory.

    Raises InputError for a geometry or settings that make no sense, or a matrix too large for memory.

    >>> physics = ParallelBeamTomography(ParallelBeam([0.0, 90.0], n_det=4), (1, 4, 4))
    >>> physics(torch.ones(1, 1, 4, 4))[0, 0].T.tolist()
    [[4.0, 4.0, 4.0, 4.0], [4.0, 4.0, 4.0, 4.0]]
    >>> ParallelBeamTomography(range(180), (1, 4, 4)).data_size
    (1, 6, 180)
    """

    beam: ClassVar[type[ScanGeometry]] = ParallelBeam
    geometry: ParallelBeam

    def invert(self, integrals: Tensor, name: str) -> Tensor:
        """f(x) = ∫₀^π (h ∗ p_θ)(x · e_θ) dθ, back-projected by Pᵀ, whose columns sum to p²/Δ in each view.

        InputError for a displaced detector without views over a full turn.
        """
        scan = self.geometry
        angles = torch.from_numpy(scan.degrees)
        weight = view_angles_weight(angles, 180.0).to(integrals)
        rows = balanced(integrals, scan.bin_centres, 0.5 * self.img_size[1] * scan.pixel_size, angles)
        views = filtered(integrals if rows is None else rows, scan.det_spacing, name) * weight
        if rows is not None:  # P has no rows where the detector was lengthened
            spacing, first = scan.det_spacing / scan.pixel_size, float(scan.bin_centres[0]) / scan.pixel_size
            first -= (rows.shape[-2] - scan.count) * spacing * (scan.det_offset > 0)
            return back_projected(views, angles, first, spacing, self.img_size[1])
        factor = scan.det_spacing / (scan.pixel_size**2 * float(self.unit))
        return self.in_parts(self.back_project, views, self.img_size) * factor


own_norm_rule(ParallelBeamTomography)(own_bound)
