"""The symmetry of the square and of the rectangle: eight or four images of one image stand for the views of as many angles."""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["SymmetryPlan", "pick", "pixel_order", "plan_views", "symmetric_pixels"]

Group = tuple[tuple[int, bool], ...]

TILE = 8  # side of the squares of pixels that lie together in memory
DIGITS = 9  # angles are rounded to 1e-9 degrees before anything is built, so that equal classes are equal numbers


@dataclasses.dataclass(frozen=True)
class SymmetryPlan:
    """How all (bin, view) data follow from a few base views of at most eight symmetric images.

    ``base_angles`` (degrees) are the views to be built, of which ``rows`` are needed from ``first_row`` on. ``group``
    lists the symmetries (quarter turns, transposed) in use. Datum (bin, view) is the sum over p of the entries
    ``index[p, bin, view]`` of the base product, an array (base view, row − first_row, symmetry) laid out flat.
    """

    base_angles: NDArray[np.float64]
    first_row: int
    rows: int
    group: Group
    index: NDArray[np.int32]

    @property
    def listed(self) -> int:
        """How many symmetries, the first ones, tell of all: half of them if the others are those after half a turn.

        Half a turn reverses the order of the pixels, so that the others show pixel i where these show N − 1 − i.
        """
        half = len(self.group) // 2
        turned = tuple((turns + 2, transposed) for turns, transposed in self.group[:half])
        return half if half and turned == self.group[half:] else len(self.group)


def plan_views(
    angles: NDArray[np.float64],
    members: NDArray[np.int64],
    rows: int,
    *,
    quarters: int,
    turns: bool,
    flips: bool,
    halves: bool,
) -> SymmetryPlan:
    """Reduce views to base angles in [0°, 45°], or [0°, 90°) without ``flips``; bins are sums of ``members`` (parts, bins).

    That is for a square, which goes into itself by ``quarters`` = 1 turn of 90°. A rectangle does by 2: [0°, 90°], [0°, 180°).

    With x ∘ Q the image turned by a quarter and p_θ(t; x) the projection: p_{θ+90°}(t; x) = p_θ(t; x ∘ Q) (``turns``),
    and, if the ``rows`` are symmetric about the axis (``flips``), p_{90°−θ}(t; x) = p_θ(−t; xᵀ), which makes
    p_{180°−θ}(t; x) = p_θ(−t; (x ∘ Q)ᵀ) for the rectangle. For parallel rays (``halves``) also p_θ(−t; x) =
    p_θ(t; x ∘ Q²), so that the upper half of the rows is enough.

    >>> plan = plan_views(np.arange(0, 180, 15.0), np.arange(8)[None], 8, quarters=1, turns=True, flips=True, halves=True)
    >>> plan.base_angles.tolist(), plan.first_row, plan.rows, len(plan.group)
    ([0.0, 15.0, 30.0, 45.0], 4, 4, 8)
    """
    turned = np.mod(np.round(angles, DIGITS), 360.0)
    period = 90.0 * quarters
    quarter = np.floor(turned / period).astype(np.int64) * quarters if turns else np.zeros(len(turned), dtype=np.int64)
    base = np.round(turned - 90.0 * quarter, DIGITS)
    mirrored = (base > period / 2) & flips
    base = np.where(mirrored, np.round(period - base, DIGITS), base)
    quarter += mirrored * (quarters - 1)
    base_angles, which = np.unique(base, return_inverse=True)
    row = np.where(mirrored, rows - 1 - members[..., None], members[..., None])
    opposite = (row < rows // 2) & halves
    row = np.where(opposite, rows - 1 - row, row)
    first, needed = int(row.min()), int(np.ptp(row)) + 1
    used, element = np.unique(2 * ((quarter + 2 * opposite) % 4) + mirrored, return_inverse=True)
    group = tuple((int(code) // 2, bool(code % 2)) for code in used)
    index = (which * needed + row - first) * len(group) + element.reshape(row.shape)
    return SymmetryPlan(base_angles, first, needed, group, index.astype(np.int32))


def pixel_order(size: tuple[int, int]) -> NDArray[np.int64]:
    """The pixels (row-major numbers) tile by tile, columns first: a ray then meets neighbours in memory.

    In row-major order the pixels of nearly vertical rays fall into a few sets of the cache: a fifth slower.

    >>> pixel_order((2, 2)).tolist()
    [0, 2, 1, 3]
    """
    row, column = np.divmod(np.arange(size[0] * size[1]), size[1])
    return np.lexsort((row % TILE, column % TILE, row // TILE, column // TILE))


def symmetric_pixels(
    order: NDArray[np.int64], size: tuple[int, int], group: Group
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Entry [p, g] of the first: the pixel that the image under symmetry g shows at position p of ``order``.

    Entry [g, pixel] of the second: where in the flattened first one symmetry g shows that pixel. A turn by one quarter is
    numpy's rot90 by −1; a transposition comes after the turns.

    >>> pixels, places = symmetric_pixels(np.arange(4), (2, 2), ((0, False), (1, False)))
    >>> pixels.tolist(), places.tolist()
    ([[0, 2], [1, 0], [2, 3], [3, 1]], [[0, 2, 4, 6], [3, 7, 1, 5]])
    """
    count = size[0] * size[1]
    grid = np.arange(count, dtype=np.int32).reshape(size)
    images = [np.rot90(grid, -turns) for turns, _ in group]
    images = [image.T if transposed else image for image, (_, transposed) in zip(images, group, strict=True)]
    pixels = np.stack([image.reshape(-1)[order] for image in images], axis=1)
    places = np.empty(pixels.shape[::-1], dtype=np.int32)
    for element in range(len(group)):
        places[element, pixels[:, element]] = np.arange(count, dtype=np.int32) * len(group) + element
    return pixels, places


def pick(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[:, index]``, row by row: torch gathers from one row five times faster than along the second axis."""
    picked = [row.index_select(0, index) for row in rows]
    return picked[0][None] if len(picked) == 1 else torch.stack(picked)
