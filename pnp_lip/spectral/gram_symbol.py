"""The symbol of a real convolution and its Gram matrix on the torus, with bounds of the rounding in both.

Kernels here are real, float64, (out, in, k₁, k₂), with their largest entry in [1/2, 1]. Frequencies are counted in
turns, ω = 2πp, and are dyadic, so that the phases a p₁ + b p₂ and their reduction are exact.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from pnp_lip.spectral.verified import TABLE_ERROR, gamma, unit_circle

__all__ = ["Symbol"]


class Symbol:
    """K̂(p) = Σ_ab K[:, :, a, b] exp(−2πi(a p₁ + b p₂)), and H = K̂ᴴK̂; transposed to rows ≥ columns.

    H(p) = G_0 + Σ_{k>0} (G_k + G_kᵀ) cos 2πk·p − i(G_k − G_kᵀ) sin 2πk·p, G_k = Σ_a K_aᵀ K_{a+k}, over half of the
    offsets k: to sum these few matrices is cheaper than to multiply K̂ᴴ and K̂ at every p. With P = Σ_ab |K_ab|, T taps
    and N offsets, bounds of the rounding are

    - ``error`` ≥ ‖K̂ − computed‖₂: each component sums T taps with tabulated cosines, (γ_T + ε)P entrywise;
    - ``gram_error`` ≥ ‖H − computed‖₂: (γ_{mT+2} + γ_{2N} + ε)PᵀP entrywise, as Σ_k Σ_a |K_a|ᵀ|K_{a+k}| = PᵀP,

    both with ‖·‖₂ ≤ ‖·‖_F, √2 for the two components, and doubled for what is of higher order. ``frobenius`` ≥ ‖P‖_F
    ≥ ‖K̂‖_F. ``reach`` = ((k₁ − 1)/2, (k₂ − 1)/2) are the degrees of the trigonometric polynomial.
    """

    def __init__(self, kernel: Tensor) -> None:
        if kernel.shape[0] < kernel.shape[1]:
            kernel = kernel.transpose(0, 1)  # K̂ᵀ has the same norm
        self.rows, self.columns, *size = kernel.shape
        self.reach = ((size[0] - 1) / 2, (size[1] - 1) / 2)
        self.taps = kernel.permute(2, 3, 0, 1).reshape(size[0] * size[1], -1)
        self.positions = torch.cartesian_prod(*(torch.arange(k, dtype=torch.float64) for k in size))
        self.frobenius = float(kernel.abs().sum((2, 3)).norm()) * (1 + 1e-9)
        self.error = 2 * math.sqrt(2) * (gamma(len(self.taps)) + TABLE_ERROR) * self.frobenius
        self.offsets, correlations = correlate(kernel)
        self.even = (correlations + correlations.mT).flatten(1)
        self.even[0] /= 2  # G_0 stands alone
        self.odd = (correlations - correlations.mT).flatten(1)
        roundings = gamma(self.rows * len(self.taps) + 2) + gamma(2 * len(self.offsets)) + TABLE_ERROR
        self.gram_error = 2 * math.sqrt(2) * roundings * self.frobenius**2

    def at(self, turns: Tensor) -> Tensor:
        """The matrices at frequencies ``turns``, (n, 2), exact dyadic numbers in [0, 1]; complex (n, rows, columns)."""
        cosine, sine = unit_circle((turns @ self.positions.T).remainder(1))
        return torch.complex(cosine @ self.taps, -sine @ self.taps).reshape(-1, self.rows, self.columns)

    def gram(self, turns: Tensor) -> Tensor:
        """H at each frequency, complex (n, columns, columns)."""
        cosine, sine = unit_circle((turns @ self.offsets.T).remainder(1))
        return torch.complex(cosine @ self.even, -sine @ self.odd).reshape(-1, self.columns, self.columns)

    def sag(self, widths: tuple[float, float]) -> float:
        """½ Σ_k ‖G_k‖(2πk·h)², rounded up: how far λ_max(H) may lie below its maximum at a distance of at most h.

        The offsets k and −k are one row here; ‖G_k‖_F² = ‖even‖_F²/4 + ‖odd‖_F²/4.
        """
        strength = (self.even.square().sum(1) + self.odd.square().sum(1)).sqrt() / 2 + self.gram_error
        angles = 2 * math.pi * (self.offsets.abs() @ torch.tensor(widths, dtype=torch.float64))
        return float((strength * angles**2).sum()) * (1 + 1e-9)

    def lower_bound(self, turns: Tensor, v: Tensor) -> float:
        """‖K̂(p)v‖/‖v‖, less its rounding, at one frequency: a lower bound of the supremum for any v."""
        size = 2 * (self.rows + self.columns)
        quotient = float((self.at(turns)[0] @ v).norm() / v.norm())
        return max(0.0, quotient * (1 - 4 * gamma(size)) - self.error - 3 * gamma(size) * self.frobenius)


def correlate(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The offsets k = 0 and half of the others, and G_k = Σ_a K_aᵀ K_{a+k} for each."""
    height, width = kernel.shape[2:]
    offsets = [(i, j) for i, j in itertools.product(range(height), range(1 - width, width)) if (i, j) >= (0, 0)]
    found = []
    for i, j in offsets:
        early = kernel[:, :, : height - i, max(0, -j) : width - max(0, j)].transpose(0, 1).flatten(1)
        late = kernel[:, :, i:, max(0, j) : width + min(0, j)].transpose(0, 1).flatten(1)
        found.append(early @ late.T)
    return torch.tensor(offsets, dtype=torch.float64), torch.stack(found)
