"""Two-sided bounds of the norm of an entrywise nonnegative operator."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from pnp_lip.errors import CertificateError
from pnp_lip.spectral import Method, NormBound

__all__ = ["ROOT_SLACK", "CollatzWielandt", "collatz_wielandt", "gamma_factor", "leading_vectors"]

ROOT_SLACK = 1e-15  # relative; covers the few roundings of a root or a product in float64, 1.1e-16 each
# Relative; covers two sums of numbers ≥ 0 in float64: up to 4·10⁵ of them in any order, far more pairwise, as torch sums.
SUM_SLACK = 1e-10
SMALLEST = 1e-6  # entry of v beside the largest, where products have an error that does not shrink with the entry
SHARPNESS = 6e-4  # (λ − ρ)/ρ at which ``leading_vectors`` aims
MOST_PRODUCTS = 100  # of its conjugate gradients, which need 1 to 30
# Powers of the ratios w/v by which v is corrected, where a product has not halved the gap between the bounds. A mode of AᵀA with
# the eigenvalue (1 − μ)‖A‖² is damped by (1 − μ)²(1 − 2μ)(1 − 9μ): for small μ as by 13 products, for μ in [0.1, 1] to a third.
FASTER = (2, 9, 1, 1)
FARTHEST = 2.0  # factor from ‖A‖² to which ratios are corrected faster: powers of larger ones would overflow
UNDERFLOW_TEST = {torch.float32: 2.0**60, torch.float64: 2.0**500}  # factors that lift what vanished by half the range


@dataclasses.dataclass(frozen=True)
class CollatzWielandt:
    """lower_sq ≤ ‖A‖² ≤ upper_sq with the positive vector ``v`` that proves it."""

    upper_sq: float
    lower_sq: float
    v: Tensor

    def bound(self, method: Method = Method.COLLATZ_WIELANDT) -> NormBound:
        """The bounds of ‖A‖ itself."""
        upper, lower = math.sqrt(self.upper_sq) * (1 + ROOT_SLACK), math.sqrt(self.lower_sq) * (1 - ROOT_SLACK)
        return NormBound(upper, lower, method)


def gamma_factor(operations: int, dtype: torch.dtype) -> float:
    """γ_k = k u / (1 − k u), the relative rounding error of k operations on numbers ≥ 0 (Higham 2002, Lemma 3.1).

    >>> gamma_factor(4, torch.float64) < 1e-15
    True
    """
    u = torch.finfo(dtype).eps / 2
    if operations * u >= 0.5:
        raise CertificateError(f"{operations} roundings in {dtype} leave no digit; certify in float64.")
    return operations * u / (1 - operations * u)


def collatz_wielandt(
    gram: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    rounding: float = 0.0,
    error: float = 0.0,
    tol: float = 1e-3,
    max_iter: int = 300,
    lower_sq: float = 0.0,
) -> CollatzWielandt:
    """Bounds of ‖A‖² = ρ(AᵀA) for A ≥ 0 entrywise, from an accelerated power iteration started at ``start`` > 0.

    min-max:  vᵀAᵀA v / vᵀv  ≤  ‖A‖²  ≤  max_i (AᵀA v)_i / v_i   for every v > 0.
    Step:     v_i ← v_i ((AᵀA v)_i / v_i)^p, p = 1 (the power iteration) or, where that is slow, in turn those of ``FASTER``.

    ``gram`` computes AᵀA v with a relative error of at most ``rounding`` < 1/2 in every entry, as sums of numbers ≥ 0 do,
    or with an error of at most ``error``·‖v‖ (the 2-norm), as fast transforms do; both bounds are widened by it. Zero columns
    of A drop out. Stops when upper/lower − 1 ≤ ``tol`` (for ‖A‖², beyond rounding) or after ``max_iter`` products; stopping
    early costs sharpness, never truth. ``lower_sq`` ≤ ‖A‖² is known. Raises CertificateError if a product is negative beyond
    its error or not finite, or if entries of A are so small that their products vanish.

    Source: Collatz (1942), Wielandt (1950); for AᵀA it is Schur's test (1911).

    >>> A = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    >>> found = collatz_wielandt(lambda v: A.T @ (A @ v), torch.ones(2, dtype=torch.float64), rounding=1e-15, tol=1e-9)
    >>> abs(found.upper_sq - (3 + 8**0.5)) < 1e-8
    True
    """
    v, support, upper_sq, best = start, None, float("inf"), start
    powers, before = list[int](), math.inf
    for _ in range(max_iter):
        w, length = gram(v), float(v.double().norm()) * (1 + SUM_SLACK)
        slack = error * length
        if not bool(torch.isfinite(w).all()) or bool((w < -slack).any()):
            raise CertificateError("AᵀAv holds negative or non-finite entries, so the operator is not nonnegative.")
        w = w.clamp_min(0) + slack  # at least AᵀA v, up to ``rounding``
        if support is None:
            support = w > 0
            if rounding > 0:
                require_visible(gram, v, w, rounding)
            if not bool(support.any()):
                return CollatzWielandt(0.0, 0.0, v)
        ratio = float((w[support].double() / v[support].double()).max())
        rayleigh = float((v.double() * w.double())[support].sum() / v.double()[support].square().sum())
        # w is too large by up to twice the slack, of which ⟨v, 1⟩ ≤ √n ‖v‖ counts the sum.
        surplus = 2 * error * math.sqrt(v.numel())
        lower_sq = max(lower_sq, (rayleigh - surplus) * (1 - 2 * rounding - SUM_SLACK))
        if ratio * (1 + 2 * rounding + ROOT_SLACK) < upper_sq:
            upper_sq, best = ratio * (1 + 2 * rounding + ROOT_SLACK), v
        if upper_sq <= lower_sq * (1 + tol + 4 * rounding):
            break
        # Any positive vector is admissible: keep v away from underflow on the support.
        floor = torch.finfo(w.dtype).tiny ** 0.5 if error == 0 else SMALLEST
        gap = upper_sq / lower_sq - 1 if lower_sq > 0 else math.inf
        powers = powers or (list(FASTER) if gap > before / 2 else [1])
        before, p = gap, powers.pop(0)
        if p > 1:
            w = w * (w / torch.where(support, v, 1.0) / rayleigh).clamp_(1 / FARTHEST, FARTHEST).pow_(p - 1)
        v = torch.where(support, (w / w.max()).clamp_min(floor), torch.zeros_like(w))
    return CollatzWielandt(upper_sq, lower_sq, best)


def leading_vectors(gram: Callable[[Tensor], Tensor], size: tuple[int, ...]) -> list[Tensor]:
    """Two starts > 0 of ``collatz_wielandt`` for B = AᵀA ≥ 0: for the lower bound φ, Bφ ≈ ρφ, for the upper (λ − B)⁻¹ 1.

    λ lies a little above ρ. A v with (λ − B) v = 1 − r has Bv = λv − 1 + r ≤ λv as soon as |r| ≤ 1 in every entry: a few
    steps of conjugate gradients, from the multiple of φ that they would take longest to find, prove the bound λ. Nothing
    depends on their success but the sharpness of the bounds.
    """
    ones, n = torch.ones(size, dtype=torch.float64), math.prod(size)

    def product(v: np.ndarray) -> np.ndarray:
        return gram(torch.from_numpy(v).reshape(size)).flatten().numpy()

    if n < MOST_PRODUCTS:  # power iteration is as fast
        return [ones]
    try:
        operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
        values, vectors = eigsh(operator, k=1, which="LA", tol=SHARPNESS / 2, v0=np.ones(n), maxiter=10)
    except ArpackNoConvergence:
        return [ones]
    rho, phi = float(values[0]), torch.from_numpy(vectors[:, 0]).abs().reshape(size)
    lambda_ = rho * (1 + SHARPNESS)
    v = phi * (phi.sum() / (lambda_ - rho))
    p = r = ones - (lambda_ * v - gram(v))
    for _ in range(MOST_PRODUCTS):
        q = lambda_ * p - gram(p)
        curvature = float((p * q).sum())
        if curvature <= 0 or (float(r.abs().max()) < 1 and float(v.min()) > 0):
            break
        a = float(r.square().sum()) / curvature
        v, before, r = v + a * p, r, r - a * q
        p = r + p * (r.square().sum() / before.square().sum())
    return [w.clamp_min(0) / w.max() + SMALLEST for w in (phi, v)]


def require_visible(gram: Callable[[Tensor], Tensor], v: Tensor, w: Tensor, rounding: float) -> None:
    """Raise CertificateError where w = AᵀA v lost digits below the smallest numbers: those of a multiple of v are intact."""
    factor = UNDERFLOW_TEST[v.dtype]
    intact = gram(v * factor).double()
    lost = (intact - w.double() * factor).abs() > (4 * rounding + 8 * torch.finfo(v.dtype).eps) * intact
    if bool((lost & torch.isfinite(intact)).any()):
        raise CertificateError(f"products of the operator's entries vanish in {v.dtype}; state it in larger numbers.")
