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

    Upper: λI − WᵀW is positive definite for λ a little above the computed largest eigenvalue, the first of a few
    candidates whose factorisation succeeds. Lower: ‖Wv‖/‖v‖ for the computed eigenvector v, which holds for any v, less
    its rounding: γ_n ‖W‖_F per unit of v for the product, γ_m relatively for the two norms. They differ by about 1e-13
    times the rank.
    """
    w = w if w.shape[0] >= w.shape[1] else w.T
    (rows, columns), size = w.shape, sum(w.shape)
    gram = w.T @ w
    values, vectors = torch.linalg.eigh(gram)
    v, estimate, frobenius = vectors[:, -1], float(values[-1]), float(w.norm())
    lower = float((w @ v).norm() / v.norm()) * (1 - 4 * gamma(size)) - 2 * gamma(size) * frobenius
    frobenius *= 1 + 2 * gamma(w.numel())
    for attempt in range(30):
        bound = estimate + gram_slack(rows, columns, frobenius, estimate) * 2**attempt
        if bool(largest_eigenvalue_below(gram, bound)):
            upper = math.sqrt(bound + gram_slack(rows, columns, frobenius, bound)) * (1 + 1e-15)
            return min(upper, max(0.0, lower)), upper
    raise CertificateError(f"no bound could be proved for this {rows} × {columns} matrix; please report its weights.")
