"""Parallel-beam tomography."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.operators.certified_physics import own_bound
from pnp_lip.operators.filtered_back_projection import back_projected, balanced, filtered, view_angles_weight
from pnp_lip.operators.norm_rules import own_norm_rule
from pnp_lip.operators.scan_geometry import Grid, ScanGeometry, Span, Trapezoids, axes, select
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

    The fields are those of ``ScanGeometry``, Δ = ``det_spacing``, p = ``pixel_size``; ``n_det`` defaults to ⌈√2 n p/Δ⌉.
    ``model="strip"``: entries are the exact areas of pixel ∩ strip over Δ. ``model="joseph"``: the ray through the
    middle of the bin, with linear interpolation.
    """

    model: str = "strip"

    models: ClassVar[tuple[str, ...]] = ("strip", "joseph")
    parallel: ClassVar[bool] = True

    def covering(self, radius: float) -> int:
        return math.ceil(2 * radius / self.det_spacing)

    def shadow(self, angles: NDArray[np.float64], x: Tensor, y: Tensor, span: Span) -> Trapezoids:
        """Between the projections of the pixel's corners; as high as its longest chord. Exact."""
        turn = np.deg2rad(angles)
        cosine, sine = torch.from_numpy(np.cos(turn)), torch.from_numpy(np.sin(turn))
        tall, wide = self.sides[0] * sine.abs(), self.sides[1] * cosine.abs()
        outer, inner = 0.5 * (tall + wide), 0.5 * (wide - tall).abs()
        feet = torch.stack([x, y], dim=1) @ torch.stack([cosine, sine]) - outer
        seen = ((feet > span[0] - 2 * outer) & (feet < span[1])).numpy()
        chord = torch.minimum(self.sides[0] / cosine.abs(), self.sides[1] / sine.abs())
        slope, top, height = (select(value, seen) for value in (outer - inner, 2 * inner, chord))
        return Trapezoids(seen, torch.from_numpy(feet.numpy()[seen]), slope, top, slope, height)

    def rays(self, angle: float, t: Tensor) -> tuple[Tensor, Tensor]:
        """{t · across + s · towards}."""
        across, towards = axes(angle)
        point = t[:, None] * across
        return point, towards.expand_as(point)


class ParallelBeamTomography(SymmetricTomography):
    """Line integrals of an image along parallel rays, averaged over detector bins.

    y[b, view] = (1/Δ) ∫_bin ∫ x ds dt; all entries are nonnegative. The first argument is a ``ParallelBeam``, or the
    list of its angles in degrees if everything else in it has its default.

    Data (B, C, n_det, n_angles) and orientation as in ``deepinv.physics.Tomography`` and ``skimage.transform.radon``,
    who turn about the middle of pixel n//2 (theirs is ours with one zero row below and one zero column to the right).

    ``mask``: "circle" or a tensor m like the image; ``weights``: statistical weights w (n_det, n_angles); A = √w P m, data go
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
        scan, sides = self.geometry, self.geometry.sides
        angles = torch.from_numpy(scan.degrees)
        weight = view_angles_weight(angles, 180.0).to(integrals)
        radius = 0.5 * max(count * side for count, side in zip(self.img_size[1:], sides, strict=True))
        rows = balanced(integrals, scan.bin_centres, radius, angles)
        views = filtered(integrals if rows is None else rows, scan.det_spacing, name) * weight
        if rows is not None:  # P has no rows where the detector was lengthened
            first = float(scan.bin_centres[0]) - (rows.shape[-2] - scan.count) * scan.det_spacing * (scan.det_offset > 0)
            return back_projected(views, angles, first, scan.det_spacing, Grid(self.img_size[1:], sides))
        factor = scan.det_spacing / (sides[0] * sides[1] * float(self.unit))
        return self.in_parts(self.back_project, views, self.img_size) * factor


own_norm_rule(ParallelBeamTomography)(own_bound)
