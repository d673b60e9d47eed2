"""The norm of a matrix: a symmetric eigenvalue proposes it, a Cholesky factorisation proves it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pnp_lip.errors import CertificateError
from pnp_lip.spectral.verified import gamma, gram_slack, largest_eigenvalue_below

__all__ = ["dense_bounds"]


def dense_bounds(w: Tensor) -> tuple[float, float]:
    """lower ≤ ‖W‖₂ ≤ upper for a real float64 matrix with entries in [−1, 1] and ‖W‖_F ≥ 1/2.

    Upper: λI − WᵀW is positive definite for λ a little above the computed largest eigenvalue. Lower: ‖Wv‖/‖v‖ for the
    computed eigenvector v, which holds for any v. Both count their rounding; they differ by about 1e-13 times the rank.
    """
    w = w if w.shape[0] >= w.shape[1] else w.T
    gram = w.T @ w
    values, vectors = torch.linalg.eigh(gram)
    upper = upper_bound(w, gram, float(values[-1]))
    return min(upper, lower_bound(w, vectors[:, -1])), upper


def upper_bound(w: Tensor, gram: Tensor, estimate: float) -> float:
    """√(λ + slack), λ the first of a few candidates whose factorisation succeeds."""
    rows, columns = w.shape
    frobenius = float(w.norm()) * (1 + 2 * gamma(w.numel()))
    slack = gram_slack(rows, columns, frobenius, estimate)
    for attempt in range(30):
        bound = estimate + slack * 2**attempt
        if bool(largest_eigenvalue_below(gram, bound)):
            return math.sqrt(bound + gram_slack(rows, columns, frobenius, bound)) * (1 + 1e-15)
    raise CertificateError(f"no bound could be proved for this {rows} × {columns} matrix; please report its weights.")


def lower_bound(w: Tensor, v: Tensor) -> float:
    """‖Wv‖/‖v‖, less its rounding: γ_n ‖W‖_F per unit of v for the product, γ_m relatively for the two norms."""
    size = sum(w.shape)
    quotient = float((w @ v).norm() / v.norm())
    return max(0.0, quotient * (1 - 4 * gamma(size)) - 2 * gamma(size) * float(w.norm()))
