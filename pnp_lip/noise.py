"""The noise level of an image whose noise nobody has measured."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError, ShapeError

__all__ = ["estimate_noise"]

SIDE = 8  # of a patch
MOST = 100_000  # patches; a large image is known by every second one of each row and column, or every third
FEWEST = 4  # patches for each of their numbers


@torch.no_grad()
def estimate_noise(y: Tensor) -> Tensor:
    """σ̂ of each image, the standard deviation of its noise if that is white and Gaussian: an estimate, not a bound.

    σ̂² = mean(λ₁, …, λₘ), m the largest at which that is at most the median of λ₁, …, λₘ

    λ₁ ≤ λ₂ ≤ … are the eigenvalues of the covariance of the image's patches of 8 × 8 pixels, all channels together. A
    picture leaves most of them to the noise; the texture of a grey one counts as noise where that is weak, and what
    compression, demosaicking or resampling has made of noise reads too low. Channels that are equal count once, empty ones
    not at all. Patches of which more than half has the image's darkest or brightest value are left out as saturated.

    Shapes: y is (B, C, H, W) of any range, σ̂ (B,) in its units and dtype. Raises ShapeError for other shapes and InputError
    for integers, for numbers that are not finite and where fewer than 4 · 64 C patches are left.

    Source: Chen, Zhu & Heng (2015), algorithm 1.

    >>> x = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    >>> y = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    >>> round(float(estimate_noise(y)), 2)
    0.05
    """
    if y.ndim != 4 or 0 in y.shape:
        raise ShapeError(f"expected images of shape (B, C, H, W); got {tuple(y.shape)}.")
    if not y.is_floating_point():
        raise InputError(f"expected floating-point numbers; got {y.dtype}. Convert 8-bit levels: y.float() / 255.")
    return torch.stack([noise_of(image) for image in y]).to(y)


def noise_of(image: Tensor) -> Tensor:
    """σ̂ of one image (C, H, W)."""
    if not image.isfinite().all():
        raise InputError("the image holds NaN or infinite values; repair them first.")
    image = torch.unique(image, dim=0)  # a grey picture stored in colour has its noise once
    varied = image.flatten(1).amin(1) < image.flatten(1).amax(1)
    image = image[varied] if varied.any() else image
    channels, h, w = image.shape
    size = channels * SIDE**2
    stride = max(1, math.ceil(math.sqrt(h * w / MOST)))
    patches = F.unfold(image.double()[None], SIDE, stride=stride)[0] if min(h, w) >= SIDE else image.new_zeros(size, 0)
    saturated = ((patches == image.min()) | (patches == image.max())).sum(0) > size / 2
    patches = patches[:, ~saturated]
    if patches.shape[1] < FEWEST * size:
        raise InputError(
            f"the noise level is estimated from at least {FEWEST * size} patches of {SIDE} x {SIDE} pixels that are not "
            f"saturated; {h} x {w} pixels have {patches.shape[1]}. State the noise level instead."
        )
    patches = patches - patches.mean(1, keepdim=True)
    eigenvalues: Tensor = torch.linalg.eigvalsh(patches @ patches.T / patches.shape[1])
    m = len(eigenvalues)
    while eigenvalues[:m].mean() > eigenvalues[:m].quantile(0.5):  # a single one is its own mean and median
        m -= 1
    return eigenvalues[:m].mean().clamp_min(0).sqrt()
