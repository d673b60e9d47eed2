"""Random slices to train tomography on: photographs' texture inside made-up bodies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.training.draws import draw, draw_log

__all__ = ["random_phantoms"]

SAMPLES = 4  # points a pixel, in each direction


def random_phantoms(x: Tensor, generator: torch.Generator) -> Tensor:
    """One made-up slice for each image of ``x`` (B, 1, n, n) on [0, 1], with that image's texture inside.

    An upright oval, seven times in ten with a brighter shell like a skull, holds 4 to 14 ellipses of contrast ±0.02 to
    0.45 and the photograph, less its mean, times 0.05 to 1. So a slice is anything from nearly piecewise constant to
    textured everywhere. Outside the oval it is zero. Shape and range are those of x.
    """
    return torch.stack([random_phantom(image[0], generator) for image in x])[:, None].to(x)


def random_phantom(photograph: Tensor, generator: torch.Generator) -> Tensor:
    """One slice of the photograph's size (n, n)."""
    n = photograph.shape[-1]
    a, b, tilt = draw(0.55, 0.8, generator), draw(0.7, 0.93, generator), draw(-17, 17, generator)
    shell = draw(0.02, 0.1, generator)
    bright = draw(0.2, 0.45, generator) if draw(0, 1, generator) < 0.7 else 0.0
    outer = (draw(0.2, 0.6, generator) + bright, a, b, 0.0, 0.0, tilt)
    inner = (a - shell, b - shell, 0.0, 0.0, tilt)
    body = ellipse_image(n, (outer, (-bright, *inner)), samples=SAMPLES)
    inside = ellipse_image(n, ((1.0, *inner),), samples=SAMPLES)
    details = tuple(random_ellipse(generator) for _ in range(int(draw(4, 15, generator))))
    texture = draw_log(0.05, 1.0, generator) * (photograph - photograph.mean()).cpu().double()
    return (body + inside * (ellipse_image(n, details, samples=SAMPLES) + texture)).clamp(0, 1)


def random_ellipse(generator: torch.Generator) -> tuple[float, float, float, float, float, float]:
    """A detail: value, half axes, centre, degrees."""
    sign = 1 if draw(0, 1, generator) < 0.5 else -1
    radius, direction = draw(0, 0.6, generator), draw(0, 2 * math.pi, generator)
    size = draw(0.02, 0.3, generator)
    return (
        sign * draw_log(0.02, 0.45, generator),
        size,
        size * draw(0.3, 1.6, generator),
        radius * math.cos(direction),
        1.1 * radius * math.sin(direction),
        draw(0, 180, generator),
    )
