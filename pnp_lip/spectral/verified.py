"""Floating-point linear algebra whose rounding is accounted for: the few lemmas on which every norm bound rests.

Model: IEEE double precision, rounding to nearest, unit roundoff u = 2⁻⁵³; matrix products and Cholesky factors
computed by the conventional formulas in any order of summation, with or without fused operations (BLAS and LAPACK do
so; Strassen-like products and reduced-precision modes, neither of which double precision on a CPU offers, are
excluded). γ_n = nu/(1 − nu). Underflow plays no part: operands are scaled to entries of at most 1 and ‖·‖_F ≥ 1/2, so
that all underflows together change a result by less than 2⁻⁹⁰⁰, which the doubled slacks below cover.
"""

import math

import torch
from torch import Tensor

from pnp_lip.errors import CertificateError, InputError, ShapeError

__all__ = [
    "TABLE_ERROR",
    "cholesky_slack",
    "dense_bounds",
    "exact_float64",
    "gamma",
    "largest_eigenvalue_below",
    "scale_to_unit",
    "unit_circle",
    "unscale",
]

UNIT_ROUNDOFF = 2.0**-53
TABLE_ERROR = 2.0**-47  # bound of the error of each component that unit_circle returns
COSINE = [(-1) ** k / math.factorial(2 * k) for k in range(9)]
SINE = [(-1) ** k / math.factorial(2 * k + 1) for k in range(9)]


def gamma(n: int, u: float = UNIT_ROUNDOFF) -> float:
    """γ_n = nu/(1 − nu), the relative error of n operations; infinite for nu ≥ 1/4. Source: Higham (2002), Lemma 3.1."""
    return n * u / (1 - n * u) if n * u < 0.25 else math.inf


def exact_float64(weight: Tensor) -> Tensor:
    """The same numbers in float64 on the CPU. Refuses integers, complex numbers, empty tensors, NaN and infinity.

    Raises CertificateError while torch.set_flush_denormal(True) holds, under which stored numbers read as zero.
    """
    if not float(torch.tensor(2.0**-1060, dtype=torch.float64, device="cpu").mul(2.0**100)):
        raise CertificateError("denormal numbers are flushed to zero; call torch.set_flush_denormal(False) first.")
    if not weight.is_floating_point():
        raise ShapeError(f"expected a real floating-point weight; got {weight.dtype}.")
    if weight.numel() == 0:
        raise ShapeError(f"expected a weight with at least one entry; got the shape {tuple(weight.shape)}.")
    w = weight.detach().to("cpu", torch.float64)
    bad = int((~torch.isfinite(w)).sum())
    if bad:
        raise InputError(f"expected finite entries; got {bad} of {w.numel()} that are NaN or infinite.")
    return w


def scale_to_unit(w: Tensor) -> tuple[Tensor, int]:
    """w·2⁻ᵉ with largest entry in [1/2, 1), and e (0 for w = 0). Exact, but for entries 2⁻¹⁰²² times the largest."""
    top = float(w.abs().max())
    exponent = math.frexp(top)[1] if top > 0 else 0
    half = exponent // 2  # in two steps: neither factor overflows, also for denormal entries
    return w * 2.0**-half * 2.0 ** (half - exponent), exponent


def unscale(value: float, exponent: int, towards: float) -> float:
    """value·2ᵉ rounded towards inf or −inf, never across it; infinite when that exceeds the range of float64 upwards."""
    try:
        result = math.ldexp(value, exponent)
    except OverflowError:
        return math.inf if towards > 0 else math.nextafter(math.inf, 0)
    back = math.ldexp(result, -exponent)
    crossed = value != 0 and (back < value if towards > 0 else back > value)
    return math.nextafter(result, max(towards, 0.0)) if crossed else result


def unit_circle(turns: Tensor) -> tuple[Tensor, Tensor]:
    """cos(2πf) and sin(2πf), each within TABLE_ERROR of the exact value, without trust in a mathematical library.

    ``turns`` = f ≥ 0 in float64, exact up to 3u. Reduction to g = f − q/4, |g| ≤ 1/8, is exact (Sterbenz). θ = 2πg
    carries an error below (3·2π + 2)u < 21u; the Taylor polynomials of degree 16 and 17 leave out less than u;
    Horner's rule with 8 steps on rounded coefficients and a rounded θ² adds less than (16 + 8 + 2)u·cosh(π/4) < 35u.
    Together below 64u = 2⁻⁴⁷.

    >>> unit_circle(torch.tensor([0.25], dtype=torch.float64))[1]
    tensor([1.], dtype=torch.float64)
    """
    quarter = torch.round(4 * turns)
    theta = (turns - quarter / 4) * (2 * math.pi)
    square = theta * theta
    cosine, sine = horner(COSINE, square), theta * horner(SINE, square)
    q = quarter.remainder(4)
    swap = (q == 1) | (q == 3)
    cosine, sine = torch.where(swap, sine, cosine), torch.where(swap, cosine, sine)
    return torch.where((q == 1) | (q == 2), -cosine, cosine), torch.where(q >= 2, -sine, sine)


def horner(coefficients: list[float], x: Tensor) -> Tensor:
    """Σ c_k xᵏ."""
    result = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def cholesky_slack(columns: int, bound: float) -> float:
    """How far λ_max(Ĝ) may exceed λ = ``bound`` when the factorisation of ``largest_eigenvalue_below`` succeeds.

    Ĝ is Hermitian, n × n, n = ``columns``. Twice the sum of
    - u λ, the rounding of the subtraction on the diagonal;
    - 2 γ_{2n+8} n λ: a Cholesky factorisation of A that runs to completion has a backward error of at most √2γ/(1 −
      √2γ)·√(a_ii a_jj) in entry (i, j), γ = γ_{2n+8}; hence λ_min(A) ≥ −√2γ/(1 − √2γ)·tr A, where tr A ≤ nλ, as
      ``largest_eigenvalue_below`` lets no diagonal entry of A exceed λ > 0.
    The factor of two covers the rounding of this very formula. Operations are counted in real arithmetic, so that
    complex matrices need no embedding. Source: Demmel (1989); Rump (2006); Higham (2002), Theorem 10.3.
    """
    return 2 * (UNIT_ROUNDOFF + 2 * gamma(2 * columns + 8) * columns) * bound


def largest_eigenvalue_below(gram: Tensor, bound: float) -> Tensor:
    """Whether the Cholesky factorisation of λI − Ĝ, λ = ``bound``, runs to completion: one boolean per matrix.

    True proves λ_max(Ĝ) ≤ λ + cholesky_slack(n, λ); False proves nothing. The lower triangle of ``gram`` = Ĝ is read.
    Diagonal entries that rounding made negative count as zero, which only raises λ_max(Ĝ); then no a_ii exceeds λ.
    """
    shifted = -gram
    shifted.diagonal(dim1=-2, dim2=-1).add_(bound)
    shifted.diagonal(dim1=-2, dim2=-1).real.clamp_max_(bound)
    factor, info = torch.linalg.cholesky_ex(shifted)
    pivots = factor.diagonal(dim1=-2, dim2=-1).real
    proved: Tensor = (info == 0) & (torch.isfinite(pivots) & (pivots > 0)).all(-1)
    return proved


def dense_bounds(w: Tensor) -> tuple[float, float]:
    """lower ≤ ‖W‖₂ ≤ upper for a real float64 matrix with entries in [−1, 1] and ‖W‖_F ≥ 1/2.

    Upper: λI − WᵀW is positive definite for λ a little above the computed largest eigenvalue, the first of a few
    candidates whose factorisation succeeds. Lower: ‖Wv‖/‖v‖ for the computed eigenvector v, which holds for any v, less
    its rounding: γ_n ‖W‖_F per unit of v for the product, γ_m relatively for the two norms. The computed WᵀW errs by at
    most γ_rows ‖W‖_F², counted twice. The bounds differ by about 1e-13 times the rank.
    """
    w = w if w.shape[0] >= w.shape[1] else w.T
    (rows, columns), size = w.shape, sum(w.shape)
    gram = w.T @ w
    values, vectors = torch.linalg.eigh(gram)
    v, estimate, frobenius = vectors[:, -1], float(values[-1]), float(w.norm())
    lower = float((w @ v).norm() / v.norm()) * (1 - 4 * gamma(size)) - 2 * gamma(size) * frobenius
    product = 2 * gamma(rows) * (frobenius * (1 + 2 * gamma(w.numel()))) ** 2
    for attempt in range(30):
        bound = estimate + (product + cholesky_slack(columns, estimate)) * 2**attempt
        if bool(largest_eigenvalue_below(gram, bound)):
            upper = math.sqrt(bound + (product + cholesky_slack(columns, bound))) * (1 + 1e-15)
            return min(upper, max(0.0, lower)), upper
    raise CertificateError(f"no bound could be proved for this {rows} × {columns} matrix; please report its weights.")
