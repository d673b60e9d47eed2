"""The spectrum of AᵀA in tomography: one over the frequency, blurred by pixels and bins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["ramp_preconditioner"]


def ramp_preconditioner(physics: SymmetricTomography) -> Tensor:
    """The symbol κ sinc²(f₁) sinc²(f₂) / |f| of AᵀA on a doubled grid, shape (2n, n + 1), float64.

    f in cycles per pixel. The pole at 0 is replaced by the mean of 1/|f| over its grid cell, 4 ln(1 + √2) · 2n. κ is
    taken from the operator itself, so that the symbol's mean is (AᵀA)ᵢᵢ at the central pixel: geometry, units and
    weights are in it.
    """
    n = physics.img_size[1]
    f1 = torch.fft.fftfreq(2 * n, dtype=torch.float64)[:, None]
    f2 = torch.fft.rfftfreq(2 * n, dtype=torch.float64)[None, :]
    radius = torch.hypot(f1, f2)
    radius[0, 0] = 1 / (4 * math.log(1 + math.sqrt(2)) * 2 * n)
    symbol = torch.sinc(f1).square() * torch.sinc(f2).square() / radius
    delta = torch.zeros(1, 1, n, n, dtype=physics.unit.dtype, device=physics.unit.device)
    delta[..., n // 2, n // 2] = 1
    centre = float(physics.forward_map(delta).double().square().sum())
    mean = float(torch.fft.irfft2(symbol, s=(2 * n, 2 * n))[0, 0])
    return symbol * (centre / mean)
