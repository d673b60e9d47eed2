"""The strength of a ridge potential in tomography: what the noise leads to expect, unless held-out views disagree."""

import math

from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.noise import estimate_noise
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.parameter_choice import Choice, choose_by_held_out
from pnp_lip.solvers.solver import Solver
from pnp_lip.solvers.variational import Variational

__all__ = ["SCAN_TOL", "SCAN_WEIGHT", "choose_for_scan", "levels_for_scan", "noise_of_scan"]

# λ of `ridge` where ‖A‖ = 1. σ√λ decides how much it smooths. As long as that is the same, λ from 0.15 to 0.0075 gave the same
# PSNR to 0.3 dB on most made-up scans. At 0.15 up to half of a contrast of 26 HU was lost, and solutions took four times longer.
SCAN_WEIGHT = 0.015
# Gradient (rms) at the solution. A tenth of it changes the PSNR of 15 of 16 head scans by at most 0.013 dB, of one by 0.028.
SCAN_TOL = 3e-7
EXPECTED = 0.75  # σ√λ in units of the noise of the data: within 0.3 dB of the best value in most scans of held_out.csv
FACTORS = tuple(2 ** (k / 2) for k in range(-8, 9))  # of the expected σ that a search may try
LEAST, MOST = 1e-3, 0.5  # of the expected σ
LOOSE = 2e-3  # gradient (rms) at which a solution stops during the search, in units of the noise


def noise_of_scan(y: Tensor, residual: Tensor | None = None) -> float:
    """The noise level of a sinogram, estimated from it; where it is too small, the root mean square of a fit's ``residual``.

    >>> import torch
    >>> y = torch.randn(1, 1, 96, 60, generator=torch.Generator().manual_seed(0))
    >>> 0.9 < noise_of_scan(y) < 1.1
    True
    """
    try:
        return float(estimate_noise(y))
    except InputError:
        if residual is None:
            raise
        return float(residual.double().square().mean().sqrt())


def expected_level(noise: float) -> float:
    """σ = 0.75·noise/√λ, λ = ``SCAN_WEIGHT``, not below 0.001 nor above 0.5.

    >>> round(expected_level(0.005), 4)
    0.0306
    """
    return min(max(EXPECTED * noise / math.sqrt(SCAN_WEIGHT), LEAST), MOST)


def levels_for_scan(noise: float) -> tuple[float, ...]:
    """Levels σ of the potential around the expected one, a factor of √2 apart, none above 1."""
    levels = (expected_level(noise) * factor for factor in FACTORS)
    return tuple(level for level in levels if level <= 1)


def choose_for_scan(
    solver: Solver | Variational, y: Tensor, physics: PhysicsLike, *, noise: float, max_iter: int = 1000
) -> Choice:
    """``choose_by_held_out`` among ``levels_for_scan(noise)``, where ``expected_level(noise)`` is expected.

    Solutions during the search are as exact as the ``noise`` allows them to matter. ``physics`` has the norm 1.
    """
    return choose_by_held_out(
        solver, y, physics, values=levels_for_scan(noise), start=expected_level(noise), tol=LOOSE * noise, max_iter=max_iter
    )
