"""Random slices to train tomography on: photographs' texture inside made-up bodies."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.training.draws import draw, draw_log

__all__ = ["random_phantoms"]

SAMPLES = 4  # points a pixel, in each direction
BEND = 0.05  # largest displacement of a body's points along each axis, of half the image's side


def random_phantoms(x: Tensor, generator: torch.Generator) -> Tensor:
    """One made-up slice for each image of ``x`` (B, 1, n, n) on [0, 1], with that image's texture inside.

    An upright oval, bent at random, seven times in ten with a brighter shell like a skull, holds the photograph, less its
    mean, times 0.02 to 1, and details of contrast ±0.01 to 0.6: as often 4 to 14 ellipses as tissue, regions, walls and
    cavities between the levels of smooth random fields. So a slice is anything from nearly piecewise constant to textured
    everywhere. Outside the oval it is zero. Shape and range are those of x.
    """
    return torch.stack([random_phantom(image[0], generator) for image in x])[:, None].to(x)


def random_phantom(photograph: Tensor, generator: torch.Generator) -> Tensor:
    """One slice of the photograph's size (n, n)."""
    n = photograph.shape[-1]
    fine = n * SAMPLES
    a, b, tilt = draw(0.55, 0.8, generator), draw(0.7, 0.93, generator), draw(-17, 17, generator)
    shell = draw(0.02, 0.1, generator)
    bright = draw(0.2, 0.45, generator) if draw(0, 1, generator) < 0.7 else 0.0
    outer = (draw(0.2, 0.6, generator) + bright, a, b, 0.0, 0.0, tilt)
    inner = (a - shell, b - shell, 0.0, 0.0, tilt)
    body = ellipse_image(fine, (outer, (-bright, *inner)), samples=1)
    inside = ellipse_image(fine, ((1.0, *inner),), samples=1)
    if draw(0, 1, generator) < 0.5:
        details = tuple(random_ellipse(generator) for _ in range(int(draw(4, 15, generator))))
        body += inside * ellipse_image(fine, details, samples=1)
    else:
        body += inside * random_tissue(fine, generator)
        body, inside = torch.stack([body, inside]) * random_cavities(fine, generator)
    body, inside = F.avg_pool2d(bent(torch.stack([body, inside]), generator), SAMPLES)
    texture = draw_log(0.02, 1.0, generator) * (photograph - photograph.mean()).cpu().double()
    image: Tensor = body + inside * texture
    return image.clamp(0, 1)


def random_ellipse(generator: torch.Generator) -> tuple[float, float, float, float, float, float]:
    """A detail: value, half axes, centre, degrees."""
    radius, direction = draw(0, 0.6, generator), draw(0, 2 * math.pi, generator)
    size = draw(0.02, 0.3, generator)
    return (
        random_contrast(generator),
        size,
        size * draw(0.3, 1.6, generator),
        radius * math.cos(direction),
        1.1 * radius * math.sin(direction),
        draw(0, 180, generator),
    )


def random_tissue(n: int, generator: torch.Generator) -> Tensor:
    """Regions between levels of one smooth field, and bright walls along a level of another, as bones are; (n, n)."""
    field = random_field(n, draw_log(0.04, 0.4, generator), generator)
    image = torch.zeros_like(field)
    for _ in range(int(draw(1, 6, generator))):
        image += random_contrast(generator) * (field > draw(-1.5, 1.5, generator))
    walls = random_field(n, draw_log(0.1, 0.5, generator), generator)
    return image + draw_log(0.05, 0.6, generator) * ((walls - draw(0, 2, generator)).abs() < draw(0, 0.2, generator))


def random_cavities(n: int, generator: torch.Generator) -> Tensor:
    """0 where a smooth field is low, often nowhere, and 1 elsewhere; (n, n)."""
    field = random_field(n, draw_log(0.05, 0.4, generator), generator)
    return (field > -draw(1.3, 3.5, generator)).double()


def random_contrast(generator: torch.Generator) -> float:
    """±0.01 to 0.45, small ones as likely as large ones on a logarithmic scale."""
    sign = 1 if draw(0, 1, generator) < 0.5 else -1
    return sign * draw_log(0.01, 0.45, generator)


def random_field(n: int, width: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise blurred to details of ``width``, of half the side n, scaled to mean 0 and variance 1; (n, n)."""
    frequency = torch.fft.fftfreq(n, dtype=torch.float64)
    decay = torch.exp(-(frequency * width * n).square())
    noise = torch.fft.fft2(torch.randn(n, n, generator=generator).double())
    field = torch.fft.ifft2(noise * decay[:, None] * decay[None, :]).real
    field = field - field.mean()
    unit: Tensor = field / field.std()
    return unit


def bent(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, n, n) with their points displaced smoothly, by at most ``BEND`` along each axis, without interpolation."""
    n = images.shape[-1]
    size = draw(0, BEND, generator)
    shift = torch.stack(
        [size * torch.tanh(random_field(n, draw(0.2, 0.6, generator), generator)) for _ in range(2)], -1
    )
    line = (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1) + shift
    return F.grid_sample(images[None], grid[None], mode="nearest", padding_mode="zeros", align_corners=False)[0]
