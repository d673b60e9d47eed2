"""The spectrum of AᵀA in tomography, modelled (one over the frequency, blurred by pixels and bins) or measured."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["measured_spectrum", "ramp_spectrum"]


def ramp_spectrum(n: int, centre: float) -> Tensor:
    """The symbol κ sinc²(f₁) sinc²(f₂) / |f| of AᵀA on a doubled grid, shape (2n, n + 1), float64.

    f in cycles per pixel. The pole at 0 is replaced by the mean of 1/|f| over its grid cell, 4 ln(1 + √2) · 2n. κ makes
    the symbol's mean equal ``centre``, which is (AᵀA)ᵢᵢ at the central pixel: geometry, units and weights are in it.
    """
    f1 = torch.fft.fftfreq(2 * n, dtype=torch.float64)[:, None]
    f2 = torch.fft.rfftfreq(2 * n, dtype=torch.float64)[None, :]
    radius = torch.hypot(f1, f2)
    radius[0, 0] = 1 / (4 * math.log(1 + math.sqrt(2)) * 2 * n)
    symbol = torch.sinc(f1).square() * torch.sinc(f2).square() / radius
    mean = float(torch.fft.irfft2(symbol, s=(2 * n, 2 * n))[0, 0])
    return symbol * (centre / mean)


def measured_spectrum(spread: Tensor) -> Tensor:
    """The transform of ``spread`` = AᵀA δ, δ the pixel (n//2, n//2), on a doubled grid, (2n, n + 1); negative parts cut off.

    With few views AᵀA has a spectrum of spokes that no ramp describes.
    """
    n = len(spread)
    placed = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    placed[:n, :n] = spread
    placed = placed.roll((-(n // 2), -(n // 2)), (0, 1))
    spectrum: Tensor = torch.fft.rfft2(placed).real.clamp_min(0)
    return spectrum
