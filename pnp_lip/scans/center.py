"""Where the axis of rotation falls on the detector."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators.filtered_back_projection import bridged
from pnp_lip.scans.scan import needs

__all__ = ["det_offset_of", "find_center", "find_common_center", "spread_over"]

HALF_TURN = 170.0  # degrees that the search needs: over 150 it was 0.15 bins off, over 170 at most 0.05
STEPS = (0.5, 0.25, 0.05)  # bins
SMOOTH = 2.0  # bins; along the views a filter would mix lines and displace the axis of objects beside it

SLICES = 5  # in which a common axis is searched
AIR = 0.1  # of the mean integral of the slice with most in it: a slice below it says nothing of the axis


def det_offset_of(center: float, bins: int, spacing: float = 1.0) -> float:
    """``det_offset`` of a scanner whose axis falls on bin ``center``, counted from 0: ((bins − 1)/2 − center) spacing.

    >>> det_offset_of(99.0, 200)
    0.5
    """
    return ((bins - 1) / 2 - center) * spacing


def find_center(sinogram: NDArray[np.floating], theta: NDArray[np.float64], width: float = 0.25) -> float:
    """The bin, counted from 0, on which the axis of a parallel-beam scan falls, searched over ``width`` of the detector.

    ``sinogram`` (bins, views) holds line integrals without gaps, ``theta`` degrees in equal steps, ascending or descending.
    Of more than half a turn the first half is taken. The result is a multiple of about 0.05 bins: the sinogram and its mirror
    image together cover a full turn, whose spectrum vanishes outside a double wedge only if the axis is right.

    Raises InputError for less than 170°, steps that are not equal, and without algotom.

    Source: Vo et al. (2014), Reliable method for calculating the center of rotation in parallel-beam tomography.
    """
    try:
        from algotom.prep.calculation import find_center_vo, fine_search_cor
    except ImportError as error:
        raise needs("ct") from error
    from scipy.ndimage import gaussian_filter

    steps = np.diff(theta)
    step = float(np.median(np.abs(steps))) if len(steps) else 0.0
    if step == 0 or not np.allclose(steps, steps[0], rtol=0, atol=0.1 * step):
        raise InputError("the search for the axis needs views in equal steps, in the order of their angles; state the axis.")
    views = min(len(theta), math.floor(180 / step + 1e-6))  # the view at 180° repeats the first
    if views * step < HALF_TURN:
        raise InputError(
            f"the search for the axis needs views over half a turn; these cover {views * step:.0f}°. State the axis."
        )
    half = np.ascontiguousarray(sinogram[:, :views].T, dtype=np.float64)
    bins, reach = half.shape[1], width * half.shape[1]
    middle = (bins - 1) / 2
    center = find_center_vo(half, start=max(middle - reach, 0), stop=min(middle + reach, bins - 1), step=STEPS[0], ncore=1)
    smooth = gaussian_filter(half, (0, SMOOTH))
    for radius, fine in itertools.pairwise(STEPS):
        center = fine_search_cor(smooth, center, 1.5 * radius, fine, 1.0, denoise=False, ncore=1)
    return float(center)


def spread_over(rows: Sequence[int]) -> list[int]:
    """Up to five of the ``rows``, evenly spread.

    >>> spread_over(range(100)), spread_over(range(7, 9))
    ([10, 30, 50, 70, 90], [7, 8])
    """
    count = min(SLICES, len(rows))
    return [rows[(2 * k + 1) * len(rows) // (2 * count)] for k in range(count)]


def find_common_center(y: Tensor, weights: Tensor, theta: NDArray[np.float64]) -> tuple[float, list[float]]:
    """The median of what ``find_center`` finds in each slice, and all that it found; slices of air are left out.

    ``y`` (slices, 1, bins, views) line integrals, ``weights`` (slices, bins, views), 0 where nothing was measured.
    """
    whole = [bridged(integrals[0], w > 0).double().numpy() for integrals, w in zip(y, weights, strict=True)]
    content = [abs(float(sinogram.mean())) for sinogram in whole]
    found = [find_center(s, theta) for s, mean in zip(whole, content, strict=True) if mean >= AIR * max(content)]
    return float(np.median(found)), found
