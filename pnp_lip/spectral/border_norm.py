"""Convolutions whose border repeats pixels: replicate, reflect and symmetric padding have a norm above one of their own."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.spectral.norm_bound import NormBound, norm_bound
from pnp_lip.spectral.polyphase import pair

__all__ = ["border_norm_bound", "mirror_closed"]

REPEATING_MODES = ("replicate", "reflect", "symmetric")
MIRRORED_SCOPE = "any image size, symmetric padding"


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
    """Bounds of a convolution with "replicate", "reflect" or "symmetric" padding: x ↦ KEx, E the extension of the image.

    ‖KE‖ ≤ min(‖K‖‖E‖, √(Σ_t‖K_t‖ · max_i Σ_t‖K_t‖ m_t(i)))

    The first term counts how often E repeats a pixel: ‖E‖² is the product over the axes of the largest multiplicity, 1 +
    max(padding) for "replicate", 2 for the others. The second is the Schur test with the taps' spectral norms, m_t(i)
    the number of outputs that tap t makes of pixel i: often the smaller for blurs, of which both are loose by up to a
    few tens of per cent; for wavy kernels the first may be loose by ‖E‖. The lower bound is that of ‖K‖, which large
    images approach, whatever their border.

    Parameters: ``padding`` per axis (rows, columns), or per side (top, bottom, left, right); ``rtol``, ``stride``,
    ``dilation``, ``groups`` as in ``norm_bound``. Images have at least 2 pixels per axis for "replicate", at least 2
    more than the padding of both sides for "reflect", at least as many as that for "symmetric" where filters are not
    closed. Raises InputError for another mode or a negative padding, ShapeError for a weight that is no kernel.
    Source: Horn & Johnson (2013), Section 5.6, for ‖A‖₂² ≤ ‖A‖₁‖A‖_∞, in blocks.

    >>> box = torch.full((1, 1, 1, 3), 1 / 3)
    >>> round(border_norm_bound(box, "replicate", (0, 1)).upper, 6)
    1.0
    """
    if weight.ndim != 4:
        raise ShapeError(f"expected a kernel (out, in, k1, k2); got the shape {tuple(weight.shape)}.")
    sides = per_side(padding)
    if padding_mode not in REPEATING_MODES:
        raise InputError(f"`padding_mode` must be one of {REPEATING_MODES}; got {padding_mode!r}.")
    found = norm_bound(weight, rtol=rtol, stride=stride, dilation=dilation, groups=groups)
    if padding_mode == "symmetric" and pair(stride) == (1, 1) and groups == 1:
        reaches = [d * (k - 1) / 2 for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
        if sides == tuple((r, r) for r in reaches) and mirror_closed(weight):
            return dataclasses.replace(
                found, method=f"{found.method}; filters closed under mirroring", scope=MIRRORED_SCOPE
            )
    extension = math.sqrt(math.prod(repeats(padding_mode, side) for side in sides)) * (1 + 1e-15)
    schur = schur_bound(weight, padding_mode, sides, pair(dilation), groups)
    upper = math.nextafter(min(found.upper * extension, schur), math.inf)
    reason = "times the norm of the extension" if found.upper * extension <= schur else "the Schur test at the border"
    scope = f"{padding_mode} padding, images of at least {least(padding_mode, sides)} pixels"
    return dataclasses.replace(found, upper=upper, method=f"{found.method}; {reason}", scope=scope)


def mirror_closed(weight: Tensor) -> bool:
    """Whether mirroring rows, and mirroring columns, gives the same filters up to order and signs, to the bit.

    Then Σ_m w_m w_mᵀ is the same for the bank and its mirror images, which is what section 2 of docs/certificates.md needs.

    >>> mirror_closed(torch.tensor([[[[1.0, 2.0, 3.0]]], [[[3.0, 2.0, 1.0]]]])), mirror_closed(torch.ones(1, 1, 3, 3).tril())
    (True, False)
    """
    bank = signed_rows(weight)
    return all(torch.equal(bank, signed_rows(weight.flip(axis))) for axis in (-2, -1))


def signed_rows(weight: Tensor) -> Tensor:
    """The filters as rows in lexicographic order, each with the sign that makes its first nonzero entry positive."""
    rows = weight.detach().cpu().double().flatten(1)
    first = rows.gather(1, (rows != 0).int().argmax(1, keepdim=True))
    rows = rows * torch.where(first < 0, -1.0, 1.0) + 0.0  # and no negative zeros
    return torch.tensor(sorted(rows.tolist()), dtype=torch.float64)


def per_side(padding: int | Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right))."""
    values = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
    values = tuple(v for v in values for _ in range(2)) if len(values) == 2 else values
    if len(values) != 4 or min(values) < 0:
        raise InputError(f"`padding` is one, two or four numbers that are not negative; got {padding}.")
    return (values[0], values[1]), (values[2], values[3])


def repeats(padding_mode: str, side: tuple[int, int]) -> int:
    """How often the most repeated pixel of an axis occurs in its extension."""
    if padding_mode == "replicate":
        return 1 + max(side)
    return 2 if max(side) else 1


def least(padding_mode: str, sides: Sequence[tuple[int, int]]) -> str:
    """The smallest image for which no pixel is repeated from both ends."""
    sizes = [{"replicate": 2, "reflect": 2 + sum(side), "symmetric": max(1, sum(side))}[padding_mode] for side in sides]
    return f"{sizes[0]} x {sizes[1]}"


def schur_bound(
    weight: Tensor, padding_mode: str, sides: Sequence[tuple[int, int]], dilation: tuple[int, int], groups: int
) -> float:
    """√(largest row sum × largest column sum) of the matrix of the taps' spectral norms."""
    taps = weight.shape[2:]
    norms = {t: norm_bound(weight[:, :, t[0], t[1]], groups=groups).upper for t in itertools.product(*map(range, taps))}
    counts = [
        [tap_counts(padding_mode, taps[axis], dilation[axis], side, where) for where in (-1, 0, 1)]
        for axis, side in enumerate(sides)
    ]
    columns = max(
        math.fsum(norm * rows[t[0]] * cols[t[1]] for t, norm in norms.items())
        for rows, cols in itertools.product(*counts)
    )
    return math.sqrt(math.fsum(norms.values())) * math.sqrt(columns) * (1 + 1e-12)


def tap_counts(padding_mode: str, taps: int, dilation: int, side: tuple[int, int], where: int) -> list[int]:
    """How many outputs each tap makes, at most, of a pixel at the first border (−1), the last (1) or inside (0).

    Tap t reads from ``before`` = side[0] − t·dilation positions ahead of the first pixel to ``after`` = side[1] − (taps − 1
    − t)·dilation behind the last. All those are copies of the border pixel, or mirror images of one pixel each.
    """
    counts = []
    for t in range(taps):
        reach = (side[1] - (taps - 1 - t) * dilation) if where > 0 else (side[0] - t * dilation)
        border = max(0, 1 + reach) if padding_mode == "replicate" else 1 + min(1, max(0, reach))
        counts.append(border if where else 1)
    return counts
