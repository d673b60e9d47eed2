"""Random blurs and scans, from whose reconstructions potentials learn, and the pool of those that are solved on."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators import Blur, ParallelBeam, ParallelBeamTomography, disk_psf, gaussian_psf, motion_psf, shake_psf
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.operators.tomography import circle_mask
from pnp_lip.protocols import PhysicsLike

__all__ = ["LARGEST_PSF", "ProblemSettings", "TrainingProblem", "draw", "random_phantoms", "random_psf",
           "random_reconstruction", "taken"]  # fmt: skip

POOL = 60  # problems that are solved on from where the last visit left them
FEWEST = 12  # of them, before any is visited again
RENEWED = 0.5  # the share of steps that take a new problem
LARGEST_PSF = 23  # pixels a side, of the random blurs
PHANTOMS = 0.75  # the share of made-up slices among scans
SAMPLES = 4  # points a pixel of a made-up slice, in each direction

# From what, with uniform logarithm, the data's noise is drawn.
NOISE_OF_BLURS = (0.002, 0.04)
NOISE_OF_SCANS = (0.002, 0.02)


@dataclasses.dataclass(frozen=True)
class ProblemSettings:
    """How many of a potential's steps learn from reconstructions, and of what.

    Of all steps the share ``equilibrium`` does; of its problems the share ``scans`` are scans, the others blurs. Raises
    InputError for a share outside [0, 1].
    """

    equilibrium: float = 0.0
    scans: float = 0.4

    def __post_init__(self) -> None:
        for name, share in dataclasses.asdict(self).items():
            if not 0 <= share <= 1:
                raise InputError(f"`{name}` is a share, from 0 to 1; got {share}.")


@dataclasses.dataclass
class TrainingProblem:
    """Noisy data y of images x, the σ that the prior assumes, the solution so far, the potential's weight λ."""

    x: Tensor
    y: Tensor
    physics: PhysicsLike
    sigma: float
    x_hat: Tensor
    visited: bool = False
    weight: float = 1.0


def taken(pool: list[TrainingProblem], new: Callable[[], TrainingProblem], generator: torch.Generator) -> TrainingProblem:
    """A new problem, which joins the pool, with probability one half or while there are few; else one of the pool."""
    if len(pool) < FEWEST or draw(0, 1, generator) < RENEWED:
        pool.append(new())
        del pool[:-POOL]
        return pool[-1]
    return pool[int(torch.randint(len(pool), (), generator=generator))]


def random_reconstruction(x: Tensor, generator: torch.Generator, scans: float, unknown: float = 0.0) -> TrainingProblem:
    """Noisy data of a random blur or, of grey images, scan, σ that of the noise; of a scan x is what of it is in the circle.

    Of the blurs the share ``unknown`` has an unknown border, as photographs do; the others are circular.
    """
    scanned = x.shape[1] == 1 and draw(0, 1, generator) < scans
    physics: Blur | ParallelBeamTomography
    if scanned:
        if draw(0, 1, generator) < PHANTOMS:
            x = random_phantoms(x, generator)
        x = x * circle_mask(x.shape[-1]).to(x)
        n = x.shape[-1]
        views = round(draw_log(n / 8, n, generator))
        geometry = ParallelBeam(np.arange(views) * 180.0 / views, n_det=math.ceil(1.05 * n))
        physics = ParallelBeamTomography(geometry, (1, n, n), mask="circle", normalize=True)
        physics.to(x.device)
    else:
        padding = "valid" if unknown and draw(0, 1, generator) < unknown else "circular"
        physics = Blur(random_psf(generator), (x.shape[1], x.shape[2], x.shape[3]), padding=padding, device=x.device)
    noise = draw_log(*(NOISE_OF_SCANS if scanned else NOISE_OF_BLURS), generator)
    y = physics.A(x)
    y = y + noise * torch.randn(y.shape, generator=generator).to(y)
    start = physics.fbp(y) if isinstance(physics, ParallelBeamTomography) else physics.starting_image(y)
    return TrainingProblem(x, y, physics, noise, start)


def draw(low: float, high: float, generator: torch.Generator) -> float:
    """Uniform from ``low`` to ``high``."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def draw_log(low: float, high: float, generator: torch.Generator) -> float:
    """With uniform logarithm from ``low`` to ``high``, both above 0."""
    return math.exp(draw(math.log(low), math.log(high), generator))


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


def random_phantoms(x: Tensor, generator: torch.Generator) -> Tensor:
    """One made-up slice for each image of ``x`` (B, 1, n, n) on [0, 1], with that image's texture inside.

    An upright oval, seven times in ten with a brighter shell like a skull, holds 4 to 14 ellipses of contrast ±0.02 to
    0.45 and the photograph, less its mean, times 0.05 to 1. So a slice is anything from nearly piecewise constant to
    textured everywhere. Outside the oval it is zero. Shape and range are those of x.
    """
    n, slices = x.shape[-1], []
    for photograph in x[:, 0]:
        a, b, tilt = draw(0.55, 0.8, generator), draw(0.7, 0.93, generator), draw(-17, 17, generator)
        shell = draw(0.02, 0.1, generator)
        bright = draw(0.2, 0.45, generator) if draw(0, 1, generator) < 0.7 else 0.0
        outer = (draw(0.2, 0.6, generator) + bright, a, b, 0.0, 0.0, tilt)
        inner = (a - shell, b - shell, 0.0, 0.0, tilt)
        body = ellipse_image(n, (outer, (-bright, *inner)), samples=SAMPLES)
        inside = ellipse_image(n, ((1.0, *inner),), samples=SAMPLES)
        count = int(draw(4, 15, generator))
        details = ellipse_image(n, tuple(random_ellipse(generator) for _ in range(count)), samples=SAMPLES)
        texture = draw_log(0.05, 1.0, generator) * (photograph - photograph.mean()).cpu().double()
        slices.append((body + inside * (details + texture)).clamp(0, 1))
    return torch.stack(slices)[:, None].to(x)


def random_ellipse(generator: torch.Generator) -> tuple[float, float, float, float, float, float]:
    """A detail: value, half axes, centre, degrees."""
    sign = 1 if draw(0, 1, generator) < 0.5 else -1
    radius, direction = draw(0, 0.6, generator), draw(0, 2 * math.pi, generator)
    a = draw(0.02, 0.3, generator)
    value = sign * draw_log(0.02, 0.45, generator)
    b = a * draw(0.3, 1.6, generator)
    return (value, a, b, radius * math.cos(direction), 1.1 * radius * math.sin(direction), draw(0, 180, generator))
