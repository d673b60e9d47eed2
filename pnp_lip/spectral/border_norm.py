"""Convolutions whose border repeats pixels: replicate and reflect padding have a norm above one of their own."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.spectral.norm_bound import Method, NormBound, norm_bound
from pnp_lip.spectral.polyphase import Pair, pair

__all__ = ["border_norm_bound"]


@torch.no_grad()
def border_norm_bound(
    weight: Tensor,
    padding_mode: str,
    padding: int | Sequence[int],
    *,
    rtol: float = 1e-3,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> NormBound:
    """Bounds of a convolution with "replicate" or "reflect" padding: x ↦ KEx, E the extension of the image.

    ‖KE‖ ≤ min(‖K‖‖E‖, √(Σ_t‖K_t‖ · max_i Σ_t‖K_t‖ m_t(i)))

    The first term counts how often E repeats a pixel: ‖E‖² is the product over the axes of the largest multiplicity, 1 +
    max(padding) for "replicate", 2 for "reflect". The second is the Schur test with the taps' spectral norms, m_t(i)
    the number of outputs that tap t makes of pixel i. For blurs it is often the smaller; both may be a few tens of per
    cent too large there. For wavy kernels the first may be too large by ‖E‖. The lower bound is that of ‖K‖, which large
    images approach.

    Parameters: ``padding`` per axis (rows, columns), or per side (top, bottom, left, right); ``rtol``, ``stride``,
    ``dilation``, ``groups`` as in ``norm_bound``. Images have at least 2 pixels per axis for "replicate", at least 2
    more than the padding of both sides for "reflect". Raises InputError for another mode or a negative padding,
    ShapeError for a weight that is no kernel.
    Source: Horn & Johnson (2013), Section 5.6, for ‖A‖₂² ≤ ‖A‖₁‖A‖_∞, in blocks.

    >>> box = torch.full((1, 1, 1, 3), 1 / 3)
    >>> round(border_norm_bound(box, "replicate", (0, 1)).upper, 6)
    1.0
    """
    if weight.ndim != 4:
        raise ShapeError(f"expected a kernel (out, in, k1, k2); got the shape {tuple(weight.shape)}.")
    if padding_mode not in ("replicate", "reflect"):
        raise InputError(f"`padding_mode` must be 'replicate' or 'reflect' here; got {padding_mode!r}.")
    replicate, sides = padding_mode == "replicate", per_side(padding)
    found = norm_bound(weight, rtol=rtol, stride=stride, dilation=dilation, groups=groups)
    repeats = [1 + max(side) if replicate else 1 + min(1, max(side)) for side in sides]  # of a pixel along each axis
    extended = found.upper * (math.sqrt(math.prod(repeats)) * (1 + 1e-15))
    schur = schur_bound(weight, replicate, sides, pair(dilation), groups)
    rows, columns = (2 if replicate else 2 + sum(side) for side in sides)  # then no pixel is repeated from both ends
    return dataclasses.replace(
        found,
        upper=math.nextafter(min(extended, schur), math.inf),
        method=Method.EXTENSION if extended <= schur else Method.SCHUR,
        padding_mode="replicate" if replicate else "reflect",
        smallest_image=(rows, columns),
    )


def per_side(padding: int | Sequence[int]) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right))."""
    values = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
    values = tuple(v for v in values for _ in range(2)) if len(values) == 2 else values
    if len(values) != 4 or min(values) < 0:
        raise InputError(f"`padding` is one, two or four numbers that are not negative; got {padding}.")
    return (values[0], values[1]), (values[2], values[3])


def schur_bound(weight: Tensor, replicate: bool, sides: Sequence[Pair], dilation: Pair, groups: int) -> float:
    """√(largest row sum × largest column sum) of the matrix of the taps' spectral norms.

    Tap t reads from ``before`` = side[0] − t·dilation positions ahead of the first pixel to ``after`` = side[1] − (taps − 1
    − t)·dilation behind the last. All those are copies of the border pixel, or mirror images of one pixel each.
    """
    taps = weight.shape[2:]
    norms = {t: norm_bound(weight[:, :, t[0], t[1]], groups=groups).upper for t in itertools.product(*map(range, taps))}
    counts = []  # per axis, for a pixel inside, at the first border and at the last: the outputs that each tap makes of it
    for k, step, side in zip(taps, dilation, sides, strict=True):
        reaches = [[side[0] - t * step for t in range(k)], [side[1] - (k - 1 - t) * step for t in range(k)]]
        borders = [[max(0, 1 + r) if replicate else 1 + min(1, max(0, r)) for r in reach] for reach in reaches]
        counts.append([[1] * k, *borders])
    columns = max(
        math.fsum(norm * rows[t[0]] * cols[t[1]] for t, norm in norms.items())
        for rows, cols in itertools.product(*counts)
    )
    return math.sqrt(math.fsum(norms.values())) * math.sqrt(columns) * (1 + 1e-12)
