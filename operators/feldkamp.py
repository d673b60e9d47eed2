"""The reconstruction of Feldkamp, Davis & Kress: a start and a baseline for cone beams."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.operators.fan_beam import FanBeam
from pnp_lip.operators.filtered_back_projection import balanced, fan_weights, filtered

__all__ = ["feldkamp"]


def feldkamp(y: Tensor, fan: FanBeam, heights: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """f(x) = ∫ U⁻² (h ∗ w p̃)(s(x), v(x)) dβ from line integrals (B, C, views, rows, columns) to (B, C, D, n, n).

    As ``FanBeamTomography.invert`` in every row of the detector, with p̃ = p · source/√(source² + s² + v²), s and v the
    detector's columns and ``heights`` scaled to the axis. Exact in the central plane, close to it elsewhere. ``size`` is
    (D, n), the ramp filter's window ``name`` is "ramp", "shepp-logan" or "hann".

    Raises InputError for data that are not finite and for views that miss lines through the central slice.

    Source: Feldkamp, Davis & Kress (1984), Practical cone-beam algorithm, J. Opt. Soc. Am. A 1; Parker (1982) for w.
    """
    wrong = int((~torch.isfinite(y)).sum())
    if wrong:
        raise InputError(f"{wrong} data are NaN or infinite. Counts of zero have no logarithm: repair them first.")
    depth, n = size
    source, pixel, scale = fan.source_distance, fan.sides[0], fan.source_distance / fan.distance
    angles, spacing = torch.from_numpy(fan.degrees), fan.det_spacing * scale
    s, v = (t.to(y) * scale for t in (fan.bin_centres, heights))
    data = y.permute(0, 1, 3, 4, 2) * (source / torch.sqrt(source**2 + s**2 + v[:, None] ** 2))[..., None]
    seen = min(math.atan(float(s.abs().max()) / source), math.asin(n * pixel / math.sqrt(2) / source))
    angle = torch.atan(s.cpu().double() / source)
    step, share = fan_weights(angles, angle, seen)
    data = data * share.to(data)
    rows = balanced(data, angle, math.asin(0.5 * n * pixel / source), angles)
    views = filtered(data if rows is None else rows, spacing, name) * step.to(data)
    first = float(s[0]) - (views.shape[-2] - fan.count) * spacing * (fan.det_offset > 0)
    images = views.flatten(0, 1).permute(3, 0, 1, 2)  # views, images, rows, columns
    x = smeared(images, angles + fan.turn, (first / pixel, float(v[0]) / pixel), spacing / pixel, size, source / pixel)
    return x.reshape(*y.shape[:2], depth, n, n)


def smeared(
    views: Tensor, angles: Tensor, first: tuple[float, float], spacing: float, size: tuple[int, int], source: float
) -> Tensor:
    """Σ over ``views`` (views, k, rows, columns) of their values at (x · e_θ, z)/U, over U², U = 1 + (x · towards)/``source``.

    Linear interpolation; column and row 0 lie at ``first``, lengths in voxels, ``angles`` in degrees. Shape (k, D, n·n).
    """
    depth, n = size
    _, images, rows, columns = views.shape
    line, height = ((torch.arange(m, dtype=views.dtype, device=views.device) - (m - 1) / 2) for m in (n, depth))
    x, up = line[None, :], -line[:, None]
    total = views.new_zeros(images, depth, n * n)
    grid = views.new_empty(depth, n * n, 2)
    for view, angle in zip(views, torch.deg2rad(angles).tolist(), strict=True):
        cosine, sine = math.cos(angle), math.sin(angle)
        distance = (1 + (up * cosine - x * sine) / source).reshape(-1)
        place = (x * cosine + up * sine).reshape(-1) / distance
        grid[..., 0] = (2 * (place - first[0]) / spacing + 1) / columns - 1
        grid[..., 1] = (2 * (height[:, None] / distance - first[1]) / spacing + 1) / rows - 1
        values = F.grid_sample(view[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
        total += values[0] / distance.square()
    return total
