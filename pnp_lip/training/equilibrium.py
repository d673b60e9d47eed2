"""Equilibrium training: the denoiser judged by the fixed point that plug-and-play forward-backward reaches with it.

A denoiser that is best at removing noise is not best as a prior. Here it is trained for x* = T x*, the fixed point of
T(x) = D_θ(x − γ Aᵀ(Ax − y)), D_θ = (1 − θ) Id + θ D, on random blurs. Jacobian-free differentiation (Fung et al. 2022):
iterate without gradients, then differentiate through the last few applications of T only. The constraint on the layers is
untouched, so that the certificate survives.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pnp_lip.denoisers import guided
from pnp_lip.operators import Blur, disk_kernel, gaussian_kernel, motion_kernel, shake_kernel

__all__ = ["Equilibrium", "random_kernel"]

STEP = 1.9  # γ, with ‖A‖ = 1 for a nonnegative kernel of sum one and circular borders


@dataclasses.dataclass(frozen=True)
class Equilibrium:
    """How the fixed point is approached: θ, σ in units of the data's noise, iterations without and with gradients."""

    theta: float = 1.0
    strength: float = 0.7
    free: int = 40
    differentiated: int = 3
    noise_range: tuple[float, float] = (0.002, 0.04)

    def __call__(self, denoiser: nn.Module, x: Tensor, generator: torch.Generator, *, guidance: bool = False) -> Tensor:
        """The reconstruction from blurred, noisy versions of ``x`` (B, C, H, W), differentiable in the denoiser.

        With ``guidance`` the second one, by the denoiser that the first one guides.
        """
        physics = Blur(random_kernel(generator), (x.shape[1], x.shape[2], x.shape[3]), device=x.device)
        low, high = (math.log(bound) for bound in self.noise_range)
        noise = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
        with torch.no_grad(), parametrize.cached():
            y = physics.A(x) + noise * torch.randn(x.shape, generator=generator).to(x.device)
            x_hat = self.approach(denoiser, physics, y, noise)
            if guidance:
                denoiser = guided(denoiser, x_hat)
                x_hat = self.approach(denoiser, physics, y, noise, start=x_hat)
        with parametrize.cached():
            for _ in range(self.differentiated):
                x_hat = self.update(denoiser, physics, x_hat, y, noise, STEP)
        return x_hat

    def approach(
        self, denoiser: nn.Module, physics: Blur, y: Tensor, noise: float, *, start: Tensor | None = None
    ) -> Tensor:
        """Close to the fixed point, from ``start`` or y, by Nesterov's momentum at the step that momentum needs, γ = 1 and θ/1.9.

        Nothing is claimed of this iteration: it only saves some two thirds of the plain one's evaluations.
        """
        x = z = y if start is None else start
        for k in range(self.free):
            x, before = self.update(denoiser, physics, z, y, noise, 1.0), x
            z = x + k / (k + 3) * (x - before)
        return x

    def update(self, denoiser: nn.Module, physics: Blur, x: Tensor, y: Tensor, noise: float, step: float) -> Tensor:
        """T x, with θ proportional to γ so that the balance of data and prior does not depend on the step."""
        z = x - step * physics.A_adjoint(physics.A(x) - y)
        d: Tensor = denoiser(z, self.strength * noise)
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
