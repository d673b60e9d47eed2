"""What one pixel leaves on the detector: the nonnegative entries of a projection matrix, view by view."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

__all__ = ["Detector", "Entries", "fan_footprint", "joseph_fan", "joseph_parallel", "strip_footprint"]

Entries = tuple[Tensor, Tensor, Tensor]
"""Bins, pixels (row-major numbers) and weights of one view's nonzero entries."""

SMALLEST = 1e-6  # entries below this part of a pixel's crossing are rounding of the geometry, not geometry


@dataclasses.dataclass(frozen=True)
class Detector:
    """``count`` bins of width ``spacing`` whose middle lies at ``offset`` from the foot of the central ray."""

    count: int
    spacing: float
    offset: float = 0.0

    @property
    def start(self) -> float:
        """The outer edge of bin 0."""
        return self.offset - 0.5 * self.count * self.spacing

    def centres(self) -> Tensor:
        """The coordinate of the middle of every bin."""
        return self.start + (torch.arange(self.count, dtype=torch.float64) + 0.5) * self.spacing


def pixel_centres(n: int, pixel: float) -> tuple[Tensor, Tensor]:
    """x to the right and y upwards of the pixels' middles, origin in the middle of the image, row by row."""
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
    return line.repeat(n), (-line).repeat_interleave(n)


def strip_footprint(angle: float, n: int, pixel: float, detector: Detector, first_bin: int = 0) -> Entries:
    """Parallel rays: (area of the pixel inside the bin's strip) / (bin width), exact; mean chord length over the bin.

    The pixel's shadow is a trapezoid of height pixel / max(|cos θ|, |sin θ|) between the projections of its corners.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = pixel_centres(n, pixel)
    centre = x * cosine + y * sine
    outer, inner = 0.5 * pixel * (abs(cosine) + abs(sine)), 0.5 * pixel * abs(abs(cosine) - abs(sine))
    corners = torch.stack([centre - outer, centre - inner, centre + inner, centre + outer])
    height = torch.full_like(centre, pixel / max(abs(cosine), abs(sine)))
    return trapezoid_entries(corners, height, detector, first_bin)


def fan_footprint(
    angle: float, n: int, pixel: float, detector: Detector, source: float, distance: float, first_bin: int = 0
) -> Entries:
    """Fan beam on a flat detector: the separable footprint of Long, Fessler & Balter (2010), SF-TR.

    The shadow is the trapezoid between the four projected corners, its height the chord pixel / max(|cos φ|, |sin φ|)
    of the ray through the pixel's middle. ``source`` is the distance from source to axis, ``distance`` from source to
    detector.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = pixel_centres(n, pixel)
    half = 0.5 * pixel
    corners = [
        distance * ((x + a) * cosine + (y + b) * sine) / (source + (y + b) * cosine - (x + a) * sine)
        for a in (-half, half)
        for b in (-half, half)
    ]
    # The ray from the source S = −source·(−sin θ, cos θ) through the pixel's middle.
    along_x, along_y = x - source * sine, y + source * cosine
    longest = torch.maximum(along_x.abs(), along_y.abs())
    height = pixel * torch.hypot(along_x, along_y) / longest
    return trapezoid_entries(torch.stack(corners).sort(dim=0).values, height, detector, first_bin)


def trapezoid_entries(corners: Tensor, height: Tensor, detector: Detector, first_bin: int) -> Entries:
    """Bin means of trapezoids with the given corners (4, pixels) and height."""
    start, spacing = detector.start, detector.spacing
    lowest = torch.floor((corners[0] - start) / spacing).clamp_min(first_bin).to(torch.int64)
    widest = int(torch.ceil((corners[3] - corners[0]).max() / spacing)) + 1
    parts = []
    below = area_below(start + lowest * spacing, corners)
    for step in range(widest):
        bins = lowest + step
        above = area_below(start + (bins + 1) * spacing, corners)
        weight = height * (above - below) / spacing
        below = above
        keep = (bins < detector.count) & (weight > SMALLEST * height)
        pixels = torch.nonzero(keep)[:, 0]
        parts.append((bins[pixels], pixels, weight[pixels]))
    bins, pixels, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    return bins, pixels, weights


def area_below(t: Tensor, corners: Tensor) -> Tensor:
    """∫_{−∞}^t of the trapezoid of height one."""
    return ramp_area(t, corners[0], corners[1]) - ramp_area(t, corners[2], corners[3])


def ramp_area(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """∫_{−∞}^t of the ramp that rises from 0 at a to 1 at b ≥ a."""
    inside = torch.minimum(torch.maximum(t, a), b) - a
    return inside.square() / (2 * (b - a).clamp_min(1e-300)) + (t - b).clamp_min(0)


def joseph_parallel(angle: float, n: int, pixel: float, detector: Detector, first_bin: int = 0) -> Entries:
    """Joseph (1982): the ray through each bin's middle, interpolated linearly between pixels on every line it cuts."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    t = detector.centres()[first_bin:]
    bins = torch.arange(first_bin, detector.count)
    along = torch.tensor([-sine, cosine], dtype=torch.float64).expand(len(t), 2)
    return joseph_entries(bins, torch.stack([t * cosine, t * sine], 1), along, n, pixel)


def joseph_fan(
    angle: float, n: int, pixel: float, detector: Detector, source: float, distance: float, first_bin: int = 0
) -> Entries:
    """The same for the rays from the source to the middle of each bin of a flat detector."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    t = detector.centres()[first_bin:, None]
    bins = torch.arange(first_bin, detector.count)
    across, towards = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
    direction = t * across + distance * towards
    return joseph_entries(bins, (-source * towards).expand_as(direction), direction, n, pixel)


def joseph_entries(bins: Tensor, point: Tensor, direction: Tensor, n: int, pixel: float) -> Entries:
    """Entries of the rays {point + s·direction}: steep ones are cut by the pixel rows, flat ones by the columns."""
    steep = direction[:, 1].abs() >= direction[:, 0].abs()
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
    parts = []
    for by_rows, rays in ((True, steep), (False, ~steep)):
        main, other = (1, 0) if by_rows else (0, 1)
        p, d, ray_bins = point[rays], direction[rays], bins[rays]
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
    bins, pixels, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    return bins, pixels, weights
