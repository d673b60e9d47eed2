"""The demonstration's scene: a blurred photograph, and others on which each prior's strength is chosen."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from pnp_lip.benchmarks.photographs import photograph, validation_images
from pnp_lip.operators import Blur, shake_psf

__all__ = ["NOISE", "Scene", "photograph"]

NOISE = 0.01  # standard deviation, for images on [0, 1]
SIDE = 96  # of the photographs on which strengths are chosen, in pixels


@dataclasses.dataclass(frozen=True)
class Scene:
    """Photographs x (B, 1, H, W), their forward model, and noisy data y."""

    x: Tensor
    physics: Blur
    y: Tensor

    @classmethod
    def blurred(cls, x: Tensor, *, seed: int = 0) -> Scene:
        """A camera shake over some fifteen pixels, circular borders, white Gaussian noise."""
        kernel = shake_psf(torch.Generator().manual_seed(3), reach=7)
        physics = Blur(kernel, (x.shape[1], x.shape[2], x.shape[3]), padding="circular")
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        return cls(x, physics, physics.A(x) + NOISE * noise)

    @classmethod
    def validation(cls) -> Scene:
        """Other photographs, under the same blur."""
        return cls.blurred(torch.cat([image.x for image in validation_images(SIDE)]), seed=1)
