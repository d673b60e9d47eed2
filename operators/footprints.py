"""What one pixel leaves on the detector: the nonnegative entries of a projection matrix, view by view."""

import torch
from torch import Tensor

__all__ = ["Entries", "joseph_entries", "pixel_centres", "trapezoid_entries"]

Entries = tuple[Tensor, Tensor, Tensor]
"""Bins, pixels (row-major numbers) and weights of one view's nonzero entries."""

SMALLEST = 1e-6  # entries below this part of a pixel's crossing are rounding of the geometry, not geometry


def pixel_centres(n: int, pixel: float) -> tuple[Tensor, Tensor]:
    """x to the right and y upwards of the pixels' middles, origin in the middle of the image, row by row."""
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
    return line.repeat(n), (-line).repeat_interleave(n)


def trapezoid_entries(corners: Tensor, height: Tensor, start: float, spacing: float, bins: range) -> Entries:
    """Means over ``bins`` of trapezoids with the given corners (4, pixels) and height; bin 0 begins at ``start``."""
    lowest = torch.floor((corners[0] - start) / spacing).clamp_min(bins.start).to(torch.int64)
    widest = int(torch.ceil((corners[3] - corners[0]).max() / spacing)) + 1
    parts = []
    below = area_below(start + lowest * spacing, corners)
    for step in range(widest):
        reached = lowest + step
        above = area_below(start + (reached + 1) * spacing, corners)
        weight = height * (above - below) / spacing
        below = above
        keep = (reached < bins.stop) & (weight > SMALLEST * height)
        pixels = torch.nonzero(keep)[:, 0]
        parts.append((reached[pixels], pixels, weight[pixels]))
    return joined(parts)


def area_below(t: Tensor, corners: Tensor) -> Tensor:
    """∫_{−∞}^t of the trapezoid of height one."""
    return ramp_area(t, corners[0], corners[1]) - ramp_area(t, corners[2], corners[3])


def ramp_area(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """∫_{−∞}^t of the ramp that rises from 0 at a to 1 at b ≥ a."""
    inside = torch.minimum(torch.maximum(t, a), b) - a
    return inside.square() / (2 * (b - a).clamp_min(1e-300)) + (t - b).clamp_min(0)  # 1e-300: no division by 0 at a = b


def joseph_entries(point: Tensor, direction: Tensor, bins: range, n: int, pixel: float) -> Entries:
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
    return joined(parts)


def joined(parts: list[Entries]) -> Entries:
    """One list of entries."""
    bins, pixels, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    return bins, pixels, weights
