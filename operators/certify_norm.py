"""Certified norms of any linear physics: ours, deepinv's by their structure, and nonnegative ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import deepinv.physics as dp
import torch
from torch import Tensor

from pnp_lip.errors import CertificateError
from pnp_lip.operators.blur import Blur
from pnp_lip.operators.certified_physics import MOST_DENSE_PIXELS, CertifiedPhysics
from pnp_lip.operators.collatz_wielandt import ROOT_SLACK
from pnp_lip.operators.convolution_norm import aliased_maximum
from pnp_lip.operators.foreign import blank_image, dense_norm, nonnegative_norm, rayleigh_lower
from pnp_lip.spectral import Method, NormBound

__all__ = ["certify_norm"]

Size = tuple[int, ...] | None  # of one image, if known

SUM_SLACK = 1e-14  # relative; covers the roundings of a short sum of squares and of its root in float64


def certify_norm(
    physics: dp.LinearPhysics, *, img_size: tuple[int, ...] | None = None, nonnegative: bool = False
) -> NormBound:
    """Proved bounds of ‖A‖ for a linear physics, or a CertificateError that says why there are none.

    - Our operators know their own; deepinv's ``Denoising``, ``Inpainting``, ``Demosaicing``, ``MRI``, ``MultiCoilMRI``,
      ``Decolorize``, ``BlurFFT``, ``Blur``, ``Downsampling``, ``Upsampling`` are bounded by their structure (exact
      types only, as a subclass may compute something else); products by ‖A₁‖‖A₂‖, stacks by √(‖A₁‖² + ‖A₂‖² + …).
    - ``Tomography`` with its exact adjoint, and any physics you declare ``nonnegative`` (every entry ≥ 0), by
      Collatz-Wielandt after a check of the adjoint and of sampled entries.
    - Any other physics on images of at most 1024 pixels in all: its columns A eᵢ, as computed, make a matrix whose
      norm is verified by a Cholesky factorisation.
    - Everything else is refused: a power iteration bounds from below only.

    ``img_size`` = (C, H, W) is needed where the physics does not store it. Bounds are of ‖A‖, not squared.

    >>> import deepinv
    >>> certify_norm(deepinv.physics.Inpainting((1, 4, 4), mask=torch.full((1, 4, 4), 0.5))).upper
    0.5
    """
    if isinstance(physics, CertifiedPhysics):
        return physics.norm_bound()
    if not isinstance(physics, dp.LinearPhysics):
        raise CertificateError(f"{type(physics).__name__} is not a deepinv LinearPhysics, so it has no operator norm.")
    stored = img_size if img_size is not None else getattr(physics, "img_size", None)
    size: Size = None if stored is None else tuple(int(side) for side in stored)
    if nonnegative:
        return nonnegative_norm(physics, blank_image(physics, size))
    rule = RULES.get(type(physics))
    if rule is not None:
        return rule(physics, size)
    if size is not None and math.prod(size) <= MOST_DENSE_PIXELS:
        return dense_norm(physics, blank_image(physics, size))
    raise CertificateError(
        f"{type(physics).__name__} has no structure that this package knows. If every entry of its matrix is "
        "nonnegative, say so with nonnegative=True; if not, give a bound that you can prove."
    )


def diagonal(physics: dp.LinearPhysics, size: Size) -> NormBound:
    """A = U diag(m) Vᵀ with U and V unitary: ‖A‖ = max |m|."""
    if physics.mask is None:
        raise CertificateError(f"{type(physics).__name__} has no mask yet; set it first.")
    largest = float(torch.as_tensor(physics.mask).abs().max())
    return NormBound(largest, largest, Method.CLOSED_FORM)


def decolorize(physics: dp.Decolorize, size: Size) -> NormBound:
    """A = sᵀ in every pixel: ‖A‖ = ‖s‖."""
    norm = float(physics.srf.double().norm())
    return NormBound(norm * (1 + SUM_SLACK), norm * (1 - SUM_SLACK), Method.CLOSED_FORM)


def multi_coil(physics: dp.MultiCoilMRI, size: Size) -> NormBound:
    """A = M F diag(s₁ … s_N): ‖A‖ ≤ max |M| max_pixel √Σ|s_n|²."""
    maps = physics.coil_maps.abs().double().square().sum(1).max().sqrt()
    upper = float(maps) * float(physics.mask.abs().max()) * (1 + SUM_SLACK)
    return NormBound(upper, 0.0, Method.UNITARY)


def convolution(physics: dp.LinearPhysics, size: Size, padding: str) -> NormBound:
    """deepinv's filters as our ``Blur``, the largest over a batch of filters; "constant" is its word for zeros."""
    if physics.filter is None:
        raise CertificateError(f"{type(physics).__name__} has no filter yet; set it first.")
    if physics.filter.ndim != 4:
        raise CertificateError("three-dimensional blurs have no certified norm here.")
    blank = blank_image(physics, size)
    padding = "zeros" if padding == "constant" else padding
    bounds = [as_blur(taps, blank, padding).norm_bound() for taps in physics.filter]
    largest = max(bounds, key=lambda bound: bound.upper)
    return dataclasses.replace(largest, lower=max(bound.lower for bound in bounds))


def as_blur(taps: Tensor, blank: Tensor, padding: str) -> Blur:
    """One filter (c, h, w) on images like ``blank``, repeated filters counted once."""
    taps = taps[:1] if bool((taps == taps[:1]).all()) else taps
    size = (len(taps), blank.shape[-2], blank.shape[-1])
    return Blur(taps.double(), size, padding=padding, dtype=torch.float64)


def downsampling(physics: dp.Downsampling, size: Size) -> NormBound:
    """S C, a convolution of which every s-th sample is kept: exact by aliasing if circular, at most ‖C‖ otherwise."""
    if physics.filter is None:
        return NormBound(1.0, 1.0, Method.CLOSED_FORM)
    blank = blank_image(physics, size if physics.imsize is None else tuple(physics.imsize))
    rows, columns = blank.shape[-2:]
    factor, downwards = int(physics.factor), type(physics) is dp.Downsampling
    if physics.padding == "circular" and rows % factor == columns % factor == 0:
        filters = physics.filter.detach().cpu().double().flatten(0, 1)
        uppers, lowers = zip(*(aliased_maximum(taps, (rows, columns), factor) for taps in filters), strict=True)
        return NormBound(max(uppers), max(lowers), Method.ALIASED_SYMBOL)
    if downwards and bool((physics.filter >= 0).all()):
        return nonnegative_norm(physics, blank)
    whole = convolution(physics, tuple(blank.shape[1:]), physics.padding)  # before downsampling
    blank = blank if downwards else blank[..., : rows // factor, : columns // factor]
    return NormBound(whole.upper, rayleigh_lower(physics, blank), whole.method)


def composed(physics: dp.LinearPhysics, size: Size) -> NormBound:
    """‖A_k … A₁‖ ≤ Π ‖A_i‖; the image size is passed along from factor to factor."""
    size = size if size is not None else getattr(physics.physics_list[0], "img_size", None)
    blank = probe = None if size is None else blank_image(physics, tuple(size))
    upper = 1.0
    for part in physics.physics_list:
        known = None if probe is None else tuple(probe.shape[1:])
        upper *= certify_norm(part, img_size=known).upper * (1 + ROOT_SLACK)
        probe = None if probe is None else part.A(probe)
    lower = 0.0 if blank is None else rayleigh_lower(physics, blank)
    return NormBound(upper, lower, Method.PRODUCT)


def stacked(physics: dp.LinearPhysics, size: Size) -> NormBound:
    """‖(A₁; …; A_k)‖² ≤ Σ ‖A_i‖², and at least the largest of them."""
    bounds = [certify_norm(part, img_size=size) for part in physics.physics_list]
    upper = math.sqrt(math.fsum(bound.upper**2 for bound in bounds)) * (1 + ROOT_SLACK)
    return NormBound(upper, max(bound.lower for bound in bounds), Method.STACK)


def tomography(physics: dp.Tomography, size: Size) -> NormBound:
    """deepinv's rotate-and-sum projector is nonnegative; its adjoint is exact only by automatic differentiation."""
    if not (physics.adjoint_via_backprop or physics.fan_beam):
        raise CertificateError(
            "Tomography(adjoint_via_backprop=False) has an inexact adjoint (off by up to 10 %), so that no bound of "
            "its norm follows from it and no convergence theorem covers it. Build it with adjoint_via_backprop=True."
        )
    channels = 1 if size is None else size[0]
    return nonnegative_norm(physics, blank_image(physics, (channels, physics.img_width, physics.img_width)))


RULES: dict[type, Callable[[dp.LinearPhysics, Size], NormBound]] = {
    dp.Denoising: diagonal,
    dp.Inpainting: diagonal,
    dp.Demosaicing: diagonal,
    dp.MRI: diagonal,
    dp.MultiCoilMRI: multi_coil,
    dp.Decolorize: decolorize,
    dp.BlurFFT: lambda physics, size: convolution(physics, size, "circular"),
    dp.Blur: lambda physics, size: convolution(physics, size, physics.padding),
    dp.Downsampling: downsampling,
    dp.Upsampling: downsampling,
    dp.ComposedLinearPhysics: composed,
    dp.StackedLinearPhysics: stacked,
    dp.Pansharpen: stacked,
    dp.Tomography: tomography,
}
