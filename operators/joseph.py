"""Joseph's projector: rays that cut the lines of pixels, interpolated between two neighbours; stored or matrix-free."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Crossings", "Sides", "Size", "crossings", "joseph_entries", "joseph_product"]

Size = tuple[int, int]  # rows and columns of an image
Sides = tuple[float, float]  # height and width of a pixel
# Positions are rounded to 2⁻³⁶ pixels (what float64 resolves at this number), so that rounding leaves no entries near 1e-16.
ROUNDING = 2.0**16


@dataclasses.dataclass(frozen=True)
class Crossings:
    """Where some rays cut the rows of pixels, or the columns, of an image with a border of one pixel.

    ``place`` (rays, lines) is the first neighbour's number in the bordered image, row by row, the second stands ``stride``
    further; ``part`` is the weight of the second, 1 − ``part`` that of the first. ``chord`` (rays,) is the length of a ray
    from line to line.
    """

    rays: Tensor
    place: Tensor
    part: Tensor
    chord: Tensor
    stride: int


def crossings(point: Tensor, direction: Tensor, size: Size, sides: Sides) -> Iterator[Crossings]:
    """Joseph (1982): rays {point + s·direction} that step by more rows than columns are cut by the rows, others by the columns.

    x to the right and y upwards, origin in the middle of the image; rows count downwards.
    """
    scaled = direction / torch.tensor([sides[1], -sides[0]], dtype=direction.dtype)  # in columns and rows
    start = point / torch.tensor([sides[1], -sides[0]], dtype=direction.dtype)
    start = start + (torch.tensor([size[1], size[0]], dtype=direction.dtype) - 1) / 2
    steep = scaled[:, 1].abs() >= scaled[:, 0].abs()
    width = size[1] + 2
    for main, rays in ((1, torch.nonzero(steep)[:, 0]), (0, torch.nonzero(~steep)[:, 0])):
        if not len(rays):
            continue
        other, lines, most = 1 - main, size[1 - main], size[main]
        step = (scaled[rays, other] / scaled[rays, main])[:, None]
        first = start[rays, other, None] - start[rays, main, None] * step
        number = torch.arange(lines, dtype=step.dtype)
        position = torch.addcmul(first, step, number).add_(ROUNDING).sub_(ROUNDING).clamp_(-1, most)
        left = position.floor().clamp_max_(most - 1)
        strides = (width, 1) if main else (1, width)  # from line to line, and along it
        ends = ((number + 1) * strides[0] + strides[1]).to(torch.int32)
        place = left.to(torch.int32).mul_(strides[1]).add_(ends)
        chord = direction[rays].norm(dim=1) / scaled[rays, main].abs()
        yield Crossings(rays, place, position.sub_(left), chord, strides[1])


def joseph_entries(point: Tensor, direction: Tensor, size: Size, sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of ray and pixel and the weight of every entry."""
    pixels = F.pad(torch.arange(size[0] * size[1]).reshape(size), (1, 1, 1, 1), value=-1).flatten()
    found = []
    for cut in crossings(point, direction, size, sides):
        for place, weight in ((cut.place, 1 - cut.part), (cut.place + cut.stride, cut.part)):
            pixel = pixels[place.long()]
            keep = (pixel >= 0) & (weight > 0)
            ray, _ = torch.nonzero(keep, as_tuple=True)
            found.append((cut.rays[ray], pixel[keep], weight[keep] * cut.chord[ray]))
    rays, numbers, weights = (torch.cat(column) for column in zip(*found, strict=True))
    return rays, numbers, weights


def joseph_product(x: Tensor, cut: Crossings, unit: Tensor, size: Size, transpose: bool) -> Tensor:
    """P x of images (pixels, k) for the rays of ``cut``, (rays, k); or Pᵀ x, with the same weights, to (pixels, k).

    ``unit`` scales P and has the dtype to which weights are rounded before they get that of x.
    """
    scale = (cut.chord.to(unit) * unit).to(x)[:, None]
    part, place, columns, (height, width) = cut.part.to(unit), cut.place.to(x.device), x.shape[1], size
    first, second = (1 - part).to(x), part.to(x)
    if not transpose:
        bordered = F.pad(x.reshape(height, width, columns), (0, 0, 1, 1, 1, 1)).reshape(-1, columns)
        total = F.embedding_bag(place, bordered, mode="sum", per_sample_weights=first)
        return total.add_(F.embedding_bag(place, bordered[cut.stride :], mode="sum", per_sample_weights=second)).mul_(scale)
    data, pixels = x * scale, (height + 2) * (width + 2)
    parts = [scattered(data, place, weight, pixels) for weight in (first, second)]
    parts[0][cut.stride :] += parts[1][: -cut.stride]
    return parts[0].reshape(height + 2, width + 2, columns)[1:-1, 1:-1].reshape(-1, columns)


def scattered(data: Tensor, place: Tensor, weight: Tensor, pixels: int) -> Tensor:
    """Row ``place[r, l]`` of the result is the sum of weight[r, l] · data[r]; (pixels, k)."""
    rays, lines = place.shape
    if data.device.type != "cpu":
        added = (data[:, None, :] * weight[:, :, None]).flatten(0, 1)
        return data.new_zeros(pixels, data.shape[1]).index_add_(0, place.flatten().long(), added)
    # Of the products on a CPU only scipy's scatters as fast as it gathers: torch's index_add_ took ten times as long.
    starts = np.arange(rays + 1, dtype=np.int32) * np.int32(lines)
    entries = (weight.numpy().reshape(-1), place.numpy().reshape(-1), starts)
    return torch.from_numpy(scipy.sparse.csc_array(entries, shape=(pixels, rays)) @ data.contiguous().numpy())
