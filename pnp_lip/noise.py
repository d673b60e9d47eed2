"""The noise level of an image, estimated from the image alone."""

import math

import numpy as np
import scipy.fft
import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.images import to_grey, weight_of_grey

__all__ = ["estimate_noise", "shows_jpeg_blocks"]

SIDE = 8  # of a patch, in pixels
MOST = 100_000  # patches at most, which is enough for 2 % (tests/test_noise.py); a larger image gives every second or third one
# JPEG rounds blocks of 8 × 8 pixels in the cosine basis, its fine terms to zero. Their mean size where the blocks lie, over the
# median of all 64 places: 0.87 and more in pictures of 64² that were never compressed (0.93 at 128²), blurred or not, with noise
# of 0 to 0.04. Blurred ones of quality 95 and less have at most 0.85, as long as the rounding hides noise.
FINE, BLOCKED, BLOCKS_FROM = 4, 0.85, 64
MOST_SIDE = 1024  # pixels of its middle that are looked at
FEWEST = 4  # patches at least, for each number in a patch: their covariance needs more patches than numbers


@torch.no_grad()
def estimate_noise(y: Tensor, *, compressed: bool = False, blurred: bool = False) -> Tensor:
    """An estimate σ̂ of each image's noise level, the standard deviation of white Gaussian noise. It is not a bound.

    σ̂² = mean(λ₁, …, λₘ), m the largest at which that is at most the median of λ₁, …, λₘ

    λ₁ ≤ λ₂ ≤ … are the eigenvalues of the covariance of the image's patches of 8 × 8 pixels, all channels together. The
    picture occupies few of these directions, and the others hold only noise. Blurred images and colour images leave more
    directions free. In a sharp grey image fine texture counts as noise if the noise is weak. Equal channels count once, constant
    channels do not count.
    Patches with more than half of their pixels at the image's darkest or brightest value do not count either, because a
    saturated sensor shows no noise.

    Compression, demosaicking and resampling take away fine noise, above all that of colours, and leave the rest: σ̂ is then too
    low, up to 15 times. ``compressed=True`` returns the larger one of σ̂ and the estimate from luma, for a ``blurred`` picture
    also that from luma at half the size, each divided by what white noise of level 1 has there.

    Shapes: y is (B, C, H, W) of any range, σ̂ (B,) in its units and dtype. Raises ShapeError for other shapes, InputError
    for integers, for numbers that are not finite, and if fewer than 4 · 64 C patches are left.

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
    found = torch.stack([noise_of(image) for image in y])
    if not compressed:
        return found.to(y)
    luma = y[:, :1] if bool((y == y[:, :1]).all()) else to_grey(y) / weight_of_grey(y.shape[1])
    views = [luma, 2 * F.avg_pool2d(luma, 2)] if blurred and enough(y.shape[-2] // 2, y.shape[-1] // 2) else [luma]
    return torch.stack([found, *(torch.stack([noise_of(image) for image in view]) for view in views)]).amax(0).to(y)


@torch.no_grad()
def shows_jpeg_blocks(y: Tensor) -> bool:
    """Whether the first image (B, C, H, W) was a JPEG: its fine cosine terms are small where the blocks of 8 × 8 lie.

    Seen from quality 95 downwards as long as nothing has resampled the picture; a crop does not matter. False below 64 pixels.
    """
    top, left = (max(n - MOST_SIDE, 0) // 2 for n in y.shape[-2:])
    middle = y[:1, :, top : top + MOST_SIDE, left : left + MOST_SIDE]
    if min(middle.shape[-2:]) < BLOCKS_FROM:
        return False
    luma = to_grey(middle) if y.shape[1] == 3 else middle[:, :1]
    basis = torch.from_numpy(scipy.fft.dct(np.eye(SIDE), norm="ortho", axis=0)[FINE:]).to(luma)
    terms = F.conv2d(luma, torch.einsum("ai,bj->abij", basis, basis).reshape(-1, 1, SIDE, SIDE)).abs()
    h, w = (n // SIDE for n in terms.shape[-2:])
    places = terms[..., : h * SIDE, : w * SIDE].reshape(-1, h, SIDE, w, SIDE).mean((0, 1, 3)).flatten()
    return float(places.min()) < BLOCKED * float(places.median())


def enough(h: int, w: int) -> bool:
    """Whether a grey image of this size has the patches that an estimate takes."""
    return max(h - SIDE + 1, 0) * max(w - SIDE + 1, 0) >= FEWEST * SIDE**2


def noise_of(image: Tensor) -> Tensor:
    """σ̂ of one image (C, H, W)."""
    if not image.isfinite().all():
        raise InputError("the image holds NaN or infinite values; repair them first.")
    image = torch.unique(image, dim=0)  # a grey picture stored in colour has its noise once
    varied = image.flatten(1).amin(1) < image.flatten(1).amax(1)
    image = image[varied] if varied.any() else image
    channels, h, w = image.shape
    stride = max(1, math.ceil(math.sqrt(h * w / MOST)))
    size = channels * SIDE**2
    patches = F.unfold(image.double()[None], SIDE, stride=stride)[0] if min(h, w) >= SIDE else image.new_zeros(size, 0)
    saturated = ((patches == image.min()) | (patches == image.max())).sum(0) > size / 2
    patches = patches[:, ~saturated]
    if patches.shape[1] < FEWEST * size:
        raise InputError(
            f"estimating the noise level takes {FEWEST * size} patches of {SIDE} x {SIDE} pixels that are not saturated; "
            f"{h} x {w} pixels have {patches.shape[1]}. State the noise level instead."
        )
    patches = patches - patches.mean(1, keepdim=True)
    eigenvalues: Tensor = torch.linalg.eigvalsh(patches @ patches.T / patches.shape[1])
    m = len(eigenvalues)
    while eigenvalues[:m].mean() > eigenvalues[:m].quantile(0.5):  # a single one is its own mean and median
        m -= 1
    return eigenvalues[:m].mean().clamp_min(0).sqrt()
