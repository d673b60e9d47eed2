"""Proved bounds of the norms of matrices and convolutions: an upper bound, a lower one with its witness, and the method."""

import dataclasses
import enum
import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.spectral.polyphase import Pair, dilate, pair, polyphase, trim
from pnp_lip.spectral.torus import Symbol, prove_below
from pnp_lip.spectral.verified import dense_bounds, exact_float64, scale_to_unit, unscale

__all__ = ["Method", "NormBound", "PaddingMode", "border_norm_bound", "norm_bound", "square_upper", "sum_of_squares"]

PaddingMode = Literal["zeros", "circular", "replicate", "reflect"]
Found = tuple[float, float, tuple[float, ...], int]  # upper, lower, witness, cells


class Method(enum.Enum):
    """The argument that proves an upper bound: its name stands in files, its value describes it to people."""

    CHOLESKY = "Cholesky factorisation of λI − WᵀW with Rump's rounding bound"
    BRANCH_AND_BOUND = "branch and bound over the torus, cells discarded by verified Cholesky factorisations"
    EXTENSION = "the kernel's bound times the norm of the extension of the border"
    SCHUR = "Schur test on the norms of the kernel's taps, repeated pixels counted"
    CLOSED_FORM = "largest singular value in closed form"
    COLUMNS = "Cholesky factorisation of the matrix of the columns as computed"
    SYMBOL = "largest symbol on the image's grid"
    PADDED_SYMBOL = "largest symbol on the padded grid times the norm of the padding"
    ALIASED_SYMBOL = "largest symbol of the aliased frequencies"
    COLLATZ_WIELANDT = "Collatz-Wielandt for nonnegative entries"
    COLLATZ_WIELANDT_ABSOLUTE = "Collatz-Wielandt on the entries' absolute values"
    UNITARY = "unitary transform between a mask and the coil maps"
    PRODUCT = "product of the factors' bounds"
    STACK = "root of the sum of the blocks' squares"


@dataclasses.dataclass(frozen=True)
class NormBound:
    """lower ≤ ‖A‖ ≤ upper, where both hold in real arithmetic for the stored weights, rounding accounted for.

    ``method`` proves ``upper``. For a convolution, both bounds speak of images under ``padding_mode`` with at least
    ``smallest_image`` rows and columns, whose numbers ``divisible_by`` divides; ``padding_mode`` is None for matrices and
    for operators that know their padding. ``witness`` locates the lower bound (the frequency ω of a convolution's symbol;
    empty elsewhere); ``cells`` counts the pieces that the proof examined.
    """

    upper: float
    lower: float
    method: Method
    _: dataclasses.KW_ONLY
    padding_mode: PaddingMode | None = None
    smallest_image: Pair = (1, 1)
    divisible_by: Pair = (1, 1)
    witness: tuple[float, ...] = ()
    cells: int = 1

    @property
    def gap(self) -> float:
        """upper/lower − 1, how much the bound may overstate the norm; infinite when nothing is known from below."""
        if self.upper == self.lower:
            return 0.0
        return self.upper / self.lower - 1 if self.lower > 0 else float("inf")

    @property
    def scope(self) -> str:
        """For which inputs the bound holds, in words."""
        if self.padding_mode is None:
            return "any input"
        (rows, columns), (m, n) = self.smallest_image, self.divisible_by
        size = "any image size" if self.smallest_image == (1, 1) else f"images of at least {rows} x {columns} pixels"
        divisible = "" if self.divisible_by == (1, 1) else f", sides divisible by {m} and {n}"
        return f"{size}{divisible}, {self.padding_mode} padding"


@torch.no_grad()
def norm_bound(
    weight: Tensor,
    *,
    padding_mode: str = "zeros",
    rtol: float = 1e-3,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> NormBound:
    """Both bounds of ‖W‖₂, W dense or a convolution, with upper ≤ (1 + rtol)·lower, true in real arithmetic.

    ‖W‖ = sup ‖Wx‖/‖x‖; for a convolution, over images of all sizes, sup_ω ‖Σ_ab K[:, :, a, b] exp(−i(a ω₁ + b ω₂))‖₂

    A matrix (2-D) is bounded by a verified Cholesky factorisation, within about 1e-12 whatever ``rtol``. A convolution
    (4-D, as torch stores it) is bounded for every image size, for padding by "zeros" of any amount or "circular" padding,
    with the same number; the transposed convolution has the same norm. With a stride the symbol is that of the polyphase
    components, and circular images must have sides divisible by the stride. A dilation leaves the norm as it is. Several
    groups have the largest of the groups' norms. For "reflect" and "replicate" see ``border_norm_bound``.

    Parameters: ``padding_mode`` "zeros" or "circular", of no effect for a matrix; 1e-9 ≤ ``rtol`` ≤ 1. Any floating dtype;
    the bound is of the stored numbers. Kernels need some 10² to 10⁴ cells of frequencies, at worst about 1.3·(r₁ +
    r₂)²/rtol, r = (k − 1)/2, where the symbol's norm is nearly constant but its taps correlate; CertificateError is raised
    after 10⁶ of them. Raises InputError for NaN, infinity, another padding or ``rtol`` out of range, ShapeError for other
    shapes.

    Source: Rump (2006) for matrices; Duffin & Schaeffer (1938) for the cells; docs/certificates.md for the proof.

    >>> norm_bound(torch.diag(torch.tensor([3.0, 4.0]))).gap < 1e-12
    True
    >>> bound = norm_bound(torch.full((1, 1, 3, 3), 1 / 9))
    >>> bound.lower <= 1.0000000745 and 1 <= bound.upper < 1.0011
    True
    """
    w = exact_float64(weight)
    check(w, padding_mode, rtol, groups)
    steps = pair(stride)
    if w.ndim == 4:
        w = trim(w)
        if steps != (1, 1):
            w = trim(polyphase(dilate(w, pair(dilation)), steps))
    scaled, exponent = scale_to_unit(w)
    # The context costs more than the proof, so it is entered only where torch's default is another device.
    with nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"):
        if w.ndim == 4 and w.shape[-2:] != (1, 1):
            method = Method.BRANCH_AND_BOUND
            upper, lower, witness, cells = convolution_bounds(scaled.chunk(groups), rtol)
        else:
            method = Method.CHOLESKY
            upper, lower, witness, cells = matrix_bounds(scaled.flatten(1).chunk(groups))
    up, down = unscale(upper, exponent, math.inf), unscale(lower, exponent, -math.inf)
    if math.isinf(up):
        raise CertificateError("the norm exceeds the range of float64; scale the weight down.")
    mode: PaddingMode | None = None if weight.ndim == 2 else "circular" if padding_mode == "circular" else "zeros"
    divisor = steps if mode == "circular" else (1, 1)
    return NormBound(up, down, method, padding_mode=mode, divisible_by=divisor, witness=witness, cells=cells)


def matrix_bounds(blocks: Sequence[Tensor]) -> Found:
    """The norm of a block-diagonal matrix, largest Frobenius norms first so that most blocks need no proof."""
    upper = lower = 0.0
    for block in sorted(blocks, key=lambda block: -float(block.norm())):
        if float(block.norm()) * (1 + 1e-9) > upper:
            below, bound = dense_bounds(block)
            upper, lower = max(upper, bound), max(lower, below)
    return upper, lower, (), len(blocks)


def convolution_bounds(kernels: Sequence[Tensor], rtol: float) -> Found:
    """The largest norm of the groups' convolutions, none proved better than the bound that another needs anyway."""
    upper = lower = 0.0
    cells, witness = 0, torch.zeros(2, dtype=torch.float64)
    for symbol in sorted((Symbol(kernel) for kernel in kernels), key=lambda symbol: -symbol.frobenius):
        if symbol.frobenius > upper:
            bound, below, where, count = prove_below(symbol, rtol * (1 - 1e-6), floor=upper)
            upper, cells = max(upper, bound), cells + count
            if below > lower:
                lower, witness = below, where
    return upper, lower, tuple(2 * math.pi * abs(p) for p in witness.tolist()), cells


def check(w: Tensor, padding_mode: str, rtol: float, groups: int) -> None:
    """Refuse what the theorems do not speak of."""
    if padding_mode not in ("zeros", "circular"):
        raise InputError(f"`padding_mode` must be 'zeros' or 'circular' here; got {padding_mode!r}.")
    if w.ndim not in (2, 4):
        raise ShapeError(f"expected a matrix (out, in) or a kernel (out, in, k1, k2); got the shape {tuple(w.shape)}.")
    if not 1e-9 <= rtol <= 1:
        raise InputError(f"`rtol` must lie in [1e-9, 1]; got {rtol}.")
    if groups < 1 or w.shape[0] % groups:
        raise InputError(f"`groups` must divide the {w.shape[0]} output channels; got {groups}.")


@torch.no_grad()
def border_norm_bound(
    weight: Tensor,
    padding_mode: str,
    padding: Sequence[int],
    *,
    rtol: float = 1e-3,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> NormBound:
    """Bounds of a convolution with "replicate" or "reflect" padding: x ↦ KEx, E the extension of the image.

    ‖KE‖ ≤ min(‖K‖‖E‖, √(Σ_t‖K_t‖ · max_i Σ_t‖K_t‖ m_t(i)))

    First, ‖E‖² is the product over the axes of the largest multiplicity of a pixel, 1 + max(padding) for "replicate", 2 for
    "reflect"; for wavy kernels this may be too large by ‖E‖. Second, the Schur test with the taps' spectral norms, m_t(i)
    the number of outputs that tap t makes of pixel i, often smaller for blurs; it may be a few tens of per cent too large.
    The lower bound is that of ‖K‖, which large images approach.

    Parameters: ``padding`` at the (top, bottom, left, right); the others as in ``norm_bound``. Images have at least 2 pixels
    per axis for "replicate", at least 2 more than the padding of both sides for "reflect". Raises InputError for another
    mode or a negative padding, ShapeError for a weight that is no kernel.
    Source: Horn & Johnson (2013), Section 5.6, for ‖A‖₂² ≤ ‖A‖₁‖A‖_∞, in blocks.

    >>> box = torch.full((1, 1, 1, 3), 1 / 3)
    >>> round(border_norm_bound(box, "replicate", (0, 0, 1, 1)).upper, 6)
    1.0
    """
    if weight.ndim != 4:
        raise ShapeError(f"expected a kernel (out, in, k1, k2); got the shape {tuple(weight.shape)}.")
    if padding_mode not in ("replicate", "reflect"):
        raise InputError(f"`padding_mode` must be 'replicate' or 'reflect' here; got {padding_mode!r}.")
    if len(padding) != 4 or min(padding) < 0:
        raise InputError(f"`padding` is four numbers that are not negative; got {padding}.")
    replicate, sides = padding_mode == "replicate", ((padding[0], padding[1]), (padding[2], padding[3]))
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
        math.fsum(norm * rows[t[0]] * cols[t[1]] for t, norm in norms.items()) for rows, cols in itertools.product(*counts)
    )
    return math.sqrt(math.fsum(norms.values())) * math.sqrt(columns) * (1 + 1e-12)


def square_upper(weight: Tensor, norm: float | None = None) -> Fraction:
    """A bound of ‖W‖²: the exact largest squared row when no two rows share a column, or by columns; else ``norm``².

    ``norm`` ≥ ‖W‖ is found by ``norm_bound`` where it is needed and not given.

    >>> square_upper(torch.tensor([[1.0, -1.0]]))
    Fraction(2, 1)
    """
    if weight.ndim == 2:
        support = weight != 0
        for lines, crossing in ((weight, support.sum(0)), (weight.T, support.sum(1))):
            if int(crossing.max()) <= 1:
                return max(sum_of_squares(line[line != 0].tolist()) for line in lines)
    return Fraction(norm_bound(weight).upper if norm is None else norm) ** 2


def sum_of_squares(values: Sequence[float]) -> Fraction:
    """Σ v² without rounding, over one common denominator because adding fractions one by one is slow."""
    ratios = [float(value).as_integer_ratio() for value in values]
    scale = max((denominator for _, denominator in ratios), default=1)
    return Fraction(sum((n * (scale // d)) ** 2 for n, d in ratios), scale**2)
