"""Equilibrium training: the denoiser judged by the fixed point that plug-and-play forward-backward reaches with it.

A denoiser that is best at removing noise is not best as a prior. Here it is trained for x* = T x*, the fixed point of
T(x) = D(x − γ Aᵀ(Ax − y)), on random blurs and scans. Jacobian-free differentiation (Fung et al. 2022): iterate without
gradients, then differentiate through the last few applications of T only. The constraint on the layers is untouched, so
that the certificate survives.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pnp_lip.denoisers import GUIDE_SIGMA_FACTOR, guided
from pnp_lip.operators import (
    Blur,
    ParallelBeam,
    ParallelBeamTomography,
    disk_psf,
    gaussian_psf,
    motion_psf,
    shake_psf,
)
from pnp_lip.operators.tomography import circle_mask
from pnp_lip.protocols import DenoiserLike, PhysicsLike
from pnp_lip.solvers import annealed
from pnp_lip.training.draws import draw, draw_log
from pnp_lip.training.phantoms import random_phantoms

__all__ = ["Equilibrium", "ProblemPool", "TrainingProblem", "noisy_guide", "random_psf"]

STEP = 1.9  # γ, with ‖A‖ = 1 for a nonnegative kernel of sum one and circular borders, and at most 1 for a scan
POOL = 60  # problems that are solved on from where the last visit left them
FEWEST = 12  # of them, before any is visited again
RENEWED = 0.5  # the share of steps that take a new problem
GUIDES_RENEWED = (
    0.12  # the same where a guide network learns: a new problem costs ten times as much as to learn from it
)
LARGEST_GUIDE_NOISE = 3.0  # of guides of noisy images, in units of the images' noise

Range = tuple[float, float]  # of a draw with uniform logarithm


@dataclasses.dataclass(frozen=True)
class Ranges:
    """From what the data's noise is drawn, and σ in units of it, of a first solution and of one that it guides.

    A range, not one number, because a user does not know the best strength either.
    """

    noise: Range
    first: Range
    guided: Range


BLURS = Ranges(noise=(0.002, 0.04), first=(0.5, 0.9), guided=(0.42, 0.65))
# A first solution of a scan that has texture everywhere wants a weak prior, and a piecewise constant one a strong one.
SCANS = Ranges(noise=(0.002, 0.02), first=(0.15, 0.6), guided=(0.35, 0.9))


@dataclasses.dataclass
class TrainingProblem:
    """Noisy data y of images x, the σ that the prior assumes, its guide if it has one, and the solution so far."""

    x: Tensor
    y: Tensor
    physics: PhysicsLike
    sigma: float
    guide: Tensor | None
    x_hat: Tensor
    visited: bool = False


@dataclasses.dataclass(frozen=True)
class Equilibrium:
    """Which problems are solved, and how.

    With ``guidance`` a problem is solved twice, the second time by the denoiser that the first solution guides. The share
    ``scans`` of grey images is parallel-beam tomography from n/8 to n views, n the image's side; of those ``phantoms`` is
    the share of made-up slices, the others are photographs in a circle. The share ``annealed`` of the guides of blurs is
    improved first by ``pnp_lip.solvers.annealed`` with the ``annealer``. ``free``, ``again`` and ``differentiated`` count
    the iterations of the first visit, of a later one, and those with gradients.
    """

    guidance: bool = False
    scans: float = 0.4
    phantoms: float = 0.75
    annealed: float = 0.0
    annealer: DenoiserLike | None = None
    free: int = 40
    again: int = 12
    differentiated: int = 3

    @torch.no_grad()
    def problem(self, denoiser: nn.Module, x: Tensor, generator: torch.Generator) -> TrainingProblem:
        """A random problem with these images (B, C, H, W); of a scan, with what of them is in the circle."""
        scanned = x.shape[1] == 1 and draw(0, 1, generator) < self.scans
        ranges = SCANS if scanned else BLURS
        physics: Blur | ParallelBeamTomography
        if scanned:
            if draw(0, 1, generator) < self.phantoms:
                x = random_phantoms(x, generator)
            x = x * circle_mask(x.shape[-1]).to(x)
            physics = random_scan(x, generator)
        else:
            physics = Blur(random_psf(generator), (x.shape[1], x.shape[2], x.shape[3]), device=x.device)
        noise = draw_log(*ranges.noise, generator)
        first, second = (draw_log(*bounds, generator) * noise for bounds in (ranges.first, ranges.guided))
        y = physics.A(x)
        y = y + noise * torch.randn(y.shape, generator=generator).to(y)
        start = physics.fbp(y) if isinstance(physics, ParallelBeamTomography) else y
        if not self.guidance:
            return TrainingProblem(x, y, physics, first, None, start)
        with parametrize.cached():
            guide = approach(denoiser, physics, y, first, start, self.free)
        if self.annealer is not None and not scanned and draw(0, 1, generator) < self.annealed:
            guide = annealed(self.annealer, guide, y, physics, sigma=first, step=STEP)
        return TrainingProblem(x, y, physics, second, guide, guide)

    def solve(self, denoiser: nn.Module, problem: TrainingProblem) -> Tensor:
        """The problem's solution with the denoiser as it is now, from where the last visit left it; differentiable."""
        physics, y, sigma = problem.physics, problem.y, problem.sigma
        prior = denoiser if problem.guide is None else guided(denoiser, problem.guide)
        with torch.no_grad(), parametrize.cached():
            iterations = self.again if problem.visited else self.free
            x_hat = approach(prior, physics, y, sigma, problem.x_hat, iterations)
        problem.x_hat, problem.visited = x_hat, True
        with parametrize.cached():
            for _ in range(self.differentiated):
                x_hat = update(prior, physics, x_hat, y, sigma, STEP)
        return x_hat


def approach(
    denoiser: nn.Module, physics: PhysicsLike, y: Tensor, sigma: float, start: Tensor, iterations: int
) -> Tensor:
    """Close to the fixed point, from ``start``, by Nesterov's momentum at the step that momentum needs, γ = 1.

    Nothing is claimed of this iteration: it only saves some two thirds of the plain one's evaluations.
    """
    x = z = start
    for k in range(iterations):
        x, before = update(denoiser, physics, z, y, sigma, 1.0), x
        z = x + k / (k + 3) * (x - before)
    return x


def update(denoiser: nn.Module, physics: PhysicsLike, x: Tensor, y: Tensor, sigma: float, step: float) -> Tensor:
    """T x, D relaxed to step/STEP so that the balance of data and prior does not depend on the step."""
    z: Tensor = x - step * physics.A_adjoint(physics.A(x) - y)
    d: Tensor = denoiser(z, sigma)
    return z + step / STEP * (d - z)


class ProblemPool:
    """The newest problems: a step takes one of them again, or a new one.

    A denoiser changes little from step to step, and so do its fixed points: solving on costs a third of solving anew. For a
    guide network problems are ``remembered`` longer: it learns from guides as they are.
    """

    def __init__(self, equilibrium: Equilibrium, *, remembered: bool = False) -> None:
        self.equilibrium = equilibrium
        self.renewed = GUIDES_RENEWED if remembered else RENEWED
        self.problems: list[TrainingProblem] = []

    def __call__(self, denoiser: nn.Module, x: Tensor, generator: torch.Generator) -> TrainingProblem:
        """A new problem with the images ``x``, or an earlier one with images of its own."""
        if len(self.problems) < FEWEST or draw(0, 1, generator) < self.renewed:
            problem = self.equilibrium.problem(denoiser, x, generator)
            self.problems = [*self.problems[1 - POOL :], problem]
            return problem
        return self.problems[int(torch.randint(len(self.problems), (), generator=generator))]


@torch.no_grad()
def noisy_guide(denoiser: nn.Module, y: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """D(z, 1.1 ρσ), z being y with noise added up to ρ ≥ 1 times its own, 1 half of the time.

    So it is as uncertain as the guides of harder problems are.
    """
    ratio = max(1.0, LARGEST_GUIDE_NOISE ** draw(-1, 1, generator))
    noisy = y + sigma * math.sqrt(ratio**2 - 1) * torch.randn(y.shape, generator=generator).to(y)
    guide: Tensor = denoiser(noisy, GUIDE_SIGMA_FACTOR * ratio * sigma)
    return guide


def random_scan(x: Tensor, generator: torch.Generator) -> ParallelBeamTomography:
    """A geometry of norm at most 1 for images (B, 1, n, n), with n/8 to n views, of uniform logarithm."""
    n = x.shape[-1]
    views = round(draw_log(n / 8, n, generator))
    geometry = ParallelBeam(np.arange(views) * 180.0 / views, n_det=math.ceil(1.05 * n))
    physics = ParallelBeamTomography(geometry, (1, n, n), mask="circle", normalize=True)
    physics.to(x.device)
    return physics


def random_psf(generator: torch.Generator) -> Tensor:
    """A Gaussian, a disk, a straight motion or a camera shake of random size, each with the same probability."""
    kind = int(torch.randint(4, (), generator=generator))
    size, angle = torch.rand(2, generator=generator).tolist()
    if kind == 0:
        return gaussian_psf(0.7 + 1.8 * size)
    if kind == 1:
        return disk_psf(1.0 + 3.0 * size)
    if kind == 2:
        return motion_psf(3.0 + 12.0 * size, 180.0 * angle)
    return shake_psf(generator, reach=5 + round(6 * size))
