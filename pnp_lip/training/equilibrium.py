"""Equilibrium training: the denoiser judged by the fixed point that plug-and-play forward-backward reaches with it.

A denoiser that is best at removing noise is not best as a prior. Here it is trained for x* = T x*, the fixed point of
T(x) = D_θ(x − γ Aᵀ(Ax − y)), D_θ = (1 − θ) Id + θ D, on random blurs and scans. Jacobian-free differentiation (Fung et al. 2022):
iterate without gradients, then differentiate through the last few applications of T only. The constraint on the layers is
untouched, so that the certificate survives.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pnp_lip.denoisers import guided
from pnp_lip.operators import (
    Blur,
    ParallelBeamTomography,
    disk_kernel,
    gaussian_kernel,
    motion_kernel,
    shake_kernel,
)
from pnp_lip.operators.tomography_inputs import circle_mask

__all__ = ["Equilibrium", "random_kernel"]

STEP = 1.9  # γ, with ‖A‖ = 1 for a nonnegative kernel of sum one and circular borders, and at most 1 for a scan


@dataclasses.dataclass(frozen=True)
class Equilibrium:
    """How the fixed point is approached: θ, iterations without and with gradients; and of which problems.

    ``blur`` and ``scan`` each hold the range of the data's noise and σ in units of it, for the first solution and for a
    guided one; a scan is parallel-beam tomography from 20 to 180 views. ``scans`` is their share.
    """

    theta: float = 1.0
    free: int = 40
    differentiated: int = 3
    scans: float = 0.4
    blur: tuple[float, float, float, float] = (0.002, 0.04, 0.7, 0.7)
    scan: tuple[float, float, float, float] = (0.002, 0.02, 0.22, 0.66)
    views: tuple[int, int] = (20, 180)

    def __call__(
        self, denoiser: nn.Module, x: Tensor, generator: torch.Generator, *, guidance: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The reconstruction from noisy data of ``x`` (B, C, H, W), differentiable in the denoiser, and what it should be.

        That is x, outside of a scan's circle zero. With ``guidance`` the second reconstruction, by the denoiser that the
        first one guides.
        """
        scanned = x.shape[1] == 1 and float(torch.rand((), generator=generator)) < self.scans
        low, high, strength, guided_strength = self.scan if scanned else self.blur
        physics: Any
        if scanned:
            x = x * circle_mask(x.shape[-1]).to(x)
            physics = self.random_scan(x, generator)
        else:
            physics = Blur(random_kernel(generator), (x.shape[1], x.shape[2], x.shape[3]), device=x.device)
        noise = math.exp(math.log(low) + math.log(high / low) * float(torch.rand((), generator=generator)))
        sigma = strength * noise
        with torch.no_grad(), parametrize.cached():
            y = physics.A(x)
            y = y + noise * torch.randn(y.shape, generator=generator).to(y)
            start = physics.fbp(y) if scanned else y
            x_hat = self.approach(denoiser, physics, y, sigma, start)
            if guidance:
                denoiser, sigma = guided(denoiser, x_hat), guided_strength * noise
                x_hat = self.approach(denoiser, physics, y, sigma, x_hat)
        with parametrize.cached():
            for _ in range(self.differentiated):
                x_hat = self.update(denoiser, physics, x_hat, y, sigma, STEP)
        return x_hat, x

    def random_scan(self, x: Tensor, generator: torch.Generator) -> ParallelBeamTomography:
        """A geometry of norm at most 1 with a random number of views, few as likely as many on a logarithmic scale."""
        low, high = self.views
        views = round(low * (high / low) ** float(torch.rand((), generator=generator)))
        n = x.shape[-1]
        angles = np.arange(views) * 180.0 / views
        physics = ParallelBeamTomography(angles, (1, n, n), n_det=n, mask="circle", normalize=True)
        physics.to(x.device)
        return physics

    def approach(self, denoiser: nn.Module, physics: Any, y: Tensor, sigma: float, start: Tensor) -> Tensor:
        """Close to the fixed point, from ``start``, by Nesterov's momentum at the step that momentum needs, γ = 1 and θ/1.9.

        Nothing is claimed of this iteration: it only saves some two thirds of the plain one's evaluations.
        """
        x = z = start
        for k in range(self.free):
            x, before = self.update(denoiser, physics, z, y, sigma, 1.0), x
            z = x + k / (k + 3) * (x - before)
        return x

    def update(self, denoiser: nn.Module, physics: Any, x: Tensor, y: Tensor, sigma: float, step: float) -> Tensor:
        """T x, with θ proportional to γ so that the balance of data and prior does not depend on the step."""
        z: Tensor = x - step * physics.A_adjoint(physics.A(x) - y)
        d: Tensor = denoiser(z, sigma)
        return z + (self.theta * step / STEP) * (d - z)


def random_kernel(generator: torch.Generator) -> Tensor:
    """A Gaussian, a disk, a straight motion or a camera shake of random size, each with the same probability."""
    kind = int(torch.randint(4, (), generator=generator))
    size, angle = torch.rand(2, generator=generator).tolist()
    if kind == 0:
        return gaussian_kernel(0.7 + 1.8 * size)
    if kind == 1:
        return disk_kernel(1.0 + 3.0 * size)
    if kind == 2:
        return motion_kernel(3.0 + 12.0 * size, 180.0 * angle)
    return shake_kernel(generator, reach=5 + round(6 * size))
