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
    ParallelBeam,
    ParallelBeamTomography,
    disk_psf,
    gaussian_psf,
    motion_psf,
    shake_psf,
)
from pnp_lip.operators.tomography import circle_mask
from pnp_lip.solvers.annealing import ANNEALING, annealed
from pnp_lip.solvers.data_terms import LeastSquares
from pnp_lip.solvers.problem import residual_image
from pnp_lip.training.draws import draw, draw_log
from pnp_lip.training.phantoms import random_phantoms

__all__ = ["Equilibrium", "ProblemPool", "random_psf"]

STEP = 1.9  # γ, with ‖A‖ = 1 for a nonnegative kernel of sum one and circular borders, and at most 1 for a scan
POOL = 60  # problems that are solved on from where the last visit left them
FEWEST = 12  # of them, before any is visited again
LARGEST_KERNEL = 23  # pixels, of the random blurs
RENEWED = 0.5  # the share of steps that take a new problem

Range = tuple[float, float]  # of a draw with uniform logarithm


@dataclasses.dataclass(frozen=True)
class Ranges:
    """From what the data's noise is drawn, and σ in units of it, of a first solution and of one that it guides.

    A range, not one number, because a user does not know the best strength either; a first solution of a scan that has
    texture everywhere wants a weak prior, and a piecewise constant one a strong one.
    """

    noise: Range
    first: Range
    guided: Range


@dataclasses.dataclass
class Problem:
    """Noisy data y of images x, what the prior is told, its guide where there is one, and how far the solution has come."""

    x: Tensor
    y: Tensor
    physics: Any
    sigma: float
    guide: Tensor | None
    residual: Tensor | None
    x_hat: Tensor
    visited: bool = False


@dataclasses.dataclass(frozen=True)
class Equilibrium:
    """How the fixed point is approached, θ and the iterations at the first visit, at a later one and with gradients; and of
    which problems.

    A scan, whose share is ``scans``, is parallel-beam tomography from n/8 to n views, n the image's side; of those
    ``phantoms`` is the share of made-up slices (``random_phantoms``), the others are photographs in a circle. Of the guides
    the share ``later`` are second solutions, which first ones have guided, as a third round has them; of those of blurs the
    share ``annealed`` is improved by half-quadratic splitting first, with the ``annealer``, as ``refine`` does.
    """

    theta: float = 1.0
    free: int = 40
    again: int = 12
    differentiated: int = 3
    scans: float = 0.4
    phantoms: float = 0.75
    later: float = 0.0
    annealed: float = 0.0
    annealer: Any = None
    blur: Ranges = Ranges(noise=(0.002, 0.04), first=(0.5, 0.9), guided=(0.42, 0.65))
    scan: Ranges = Ranges(noise=(0.002, 0.02), first=(0.15, 0.6), guided=(0.35, 0.9))

    def __call__(
        self, denoiser: nn.Module, x: Tensor, generator: torch.Generator, *, guidance: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The reconstruction from noisy data of ``x`` (B, C, H, W), differentiable in the denoiser, and what it should be.

        That is x, for a scan what of it is in the circle, or a made-up slice with its texture. With ``guidance`` the
        second reconstruction, by the denoiser that the first one guides.
        """
        problem = self.problem(denoiser, x, generator, guidance=guidance)
        return self.solve(denoiser, problem), problem.x

    @torch.no_grad()
    def problem(self, denoiser: nn.Module, x: Tensor, generator: torch.Generator, *, guidance: bool = False) -> Problem:
        """A random problem with these images, and with ``guidance`` its first solution, or its second."""
        scanned = x.shape[1] == 1 and draw(0, 1, generator) < self.scans
        ranges = self.scan if scanned else self.blur
        physics: Any
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
        start = physics.fbp(y) if scanned else y
        if not guidance:
            return Problem(x, y, physics, first, None, None, start)
        with parametrize.cached():
            guide = self.approach(denoiser, physics, y, first, start, self.free)
            if draw(0, 1, generator) < self.later:
                between = draw_log(*ranges.guided, generator) * noise
                prior = guided(denoiser, guide)
                guide = self.approach(prior, physics, y, between, guide, self.free)
            if not scanned and draw(0, 1, generator) < self.annealed:
                guide = annealed(
                    self.annealer, guide, y, physics, sigma=first, step=STEP / self.theta, data_term=LeastSquares(),
                    steps=ANNEALING,
                )  # fmt: skip
        return Problem(x, y, physics, second, guide, residual_image(guide, y, physics), guide)

    def solve(self, denoiser: nn.Module, problem: Problem) -> Tensor:
        """The problem's solution with the denoiser as it is now, from where the last visit left it."""
        physics, y, sigma = problem.physics, problem.y, problem.sigma
        prior = denoiser if problem.guide is None else guided(denoiser, problem.guide)
        with torch.no_grad(), parametrize.cached():
            iterations = self.again if problem.visited else self.free
            x_hat = self.approach(prior, physics, y, sigma, problem.x_hat, iterations)
        problem.x_hat, problem.visited = x_hat, True
        with parametrize.cached():
            for _ in range(self.differentiated):
                x_hat = self.update(prior, physics, x_hat, y, sigma, STEP)
        return x_hat

    def approach(
        self, denoiser: nn.Module, physics: Any, y: Tensor, sigma: float, start: Tensor, iterations: int
    ) -> Tensor:
        """Close to the fixed point, from ``start``, by Nesterov's momentum at the step that momentum needs, γ = 1 and θ/1.9.

        Nothing is claimed of this iteration: it only saves some two thirds of the plain one's evaluations.
        """
        x = z = start
        for k in range(iterations):
            x, before = self.update(denoiser, physics, z, y, sigma, 1.0), x
            z = x + k / (k + 3) * (x - before)
        return x

    def update(self, denoiser: nn.Module, physics: Any, x: Tensor, y: Tensor, sigma: float, step: float) -> Tensor:
        """T x, with θ proportional to γ so that the balance of data and prior does not depend on the step."""
        z: Tensor = x - step * physics.A_adjoint(physics.A(x) - y)
        d: Tensor = denoiser(z, sigma)
        return z + (self.theta * step / STEP) * (d - z)


class ProblemPool:
    """The newest problems, half of the steps one of them: solving it on costs a third of solving a new one.

    A denoiser changes little from step to step, and so do its fixed points.
    """

    def __init__(self, equilibrium: Equilibrium | None = None) -> None:
        self.equilibrium = Equilibrium() if equilibrium is None else equilibrium
        self.problems: list[Problem] = []

    def __call__(
        self, denoiser: nn.Module, x: Tensor, generator: torch.Generator, *, guidance: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As an ``Equilibrium``; a problem that is visited again has images of its own, and ``x`` is left."""
        if len(self.problems) < FEWEST or draw(0, 1, generator) < RENEWED:
            problem = self.equilibrium.problem(denoiser, x, generator, guidance=guidance)
            self.problems = [*self.problems[1 - POOL :], problem]
        else:
            problem = self.problems[int(torch.randint(len(self.problems), (), generator=generator))]
        return self.equilibrium.solve(denoiser, problem), problem.x

    def clear(self) -> None:
        """Forget the problems, as a run does at each checkpoint: a resumed one has none either, and goes on alike."""
        self.problems = []


def random_scan(x: Tensor, generator: torch.Generator) -> ParallelBeamTomography:
    """A geometry of norm at most 1 for images (B, 1, n, n), with n/8 to n views, few as likely as many on a logarithmic scale."""
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
