"""The demonstration's experiment: a blurred photograph, and each prior's strength chosen by the same small grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pnp_lip.benchmarks.baselines import total_variation
from pnp_lip.benchmarks.photographs import photograph, validation_images
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, shake_psf

__all__ = ["STRENGTHS", "Scene", "choose_strength", "photograph", "total_variation", "validation_images"]

STRENGTHS = tuple(2.0**k for k in range(-3, 3))  # of every prior


@dataclasses.dataclass(frozen=True)
class Scene:
    """A photograph x, its forward model, and noisy data y."""

    x: Tensor
    physics: Blur
    y: Tensor
    noise: float

    @classmethod
    def blurred(cls, x: Tensor, *, noise: float, seed: int = 0) -> Scene:
        """A camera shake over some fifteen pixels, circular borders, white Gaussian noise."""
        kernel = shake_psf(torch.Generator().manual_seed(3), reach=7)
        physics = Blur(kernel, (x.shape[1], x.shape[2], x.shape[3]), padding="circular")
        generator = torch.Generator().manual_seed(seed)
        return cls(x, physics, physics.A(x) + noise * torch.randn(x.shape, generator=generator), noise)


def choose_strength(
    solve: Callable[[float, Scene], Tensor], scenes: Sequence[Scene], strengths: Sequence[float] = STRENGTHS
) -> tuple[float, dict[float, float]]:
    """The strength s for which ``solve(s, scene)`` has the best mean PSNR on ``scenes``, and the curve that was seen.

    Strengths are tried in ascending order; the search ends once the PSNR has fallen by half a decibel.
    """
    curve: dict[float, float] = {}
    for strength in sorted(strengths):
        curve[strength] = sum(psnr(solve(strength, scene), scene.x) for scene in scenes) / len(scenes)
        if curve[strength] < max(curve.values()) - 0.5:
            break
    return max(curve, key=lambda s: curve[s]), curve
