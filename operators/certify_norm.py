"""Certified norms of any linear physics: ours, deepinv's by their structure, and nonnegative ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import deepinv.physics as dp
import torch
from torch import Tensor

from pnp_lip.errors import CertificateError
from pnp_lip.operators.blur import MOST_DENSE_PIXELS, Blur
from pnp_lip.operators.certified_physics import CertifiedPhysics
from pnp_lip.operators.convolution_norm import aliased_maximum
from pnp_lip.operators.nonnegative_norm import nonnegative_norm, rayleigh_lower
from pnp_lip.spectral import Method, NormBound, norm_bound

__all__ = ["certify_norm"]


def certify_norm(physics: Any, *, img_size: tuple[int, ...] | None = None, nonnegative: bool = False) -> NormBound:
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
    size = img_size if img_size is not None else getattr(physics, "img_size", None)
    size = None if size is None else tuple(int(side) for side in size)
    if nonnegative:
        return nonnegative_norm(physics, required(size, physics), *kind(physics))
    rule = RULES.get(type(physics))
    if rule is None and size is not None and math.prod(size) <= MOST_DENSE_PIXELS:
        return dense(physics, size)
    if rule is None:
        raise CertificateError(
            f"{type(physics).__name__} has no structure that this package knows. If every entry of its matrix is "
            "nonnegative, say so with nonnegative=True; if not, give a bound that you can prove."
        )
    return rule(physics, size)


def required(size: tuple[int, ...] | None, physics: Any) -> tuple[int, ...]:
    """``size``, or a CertificateError if it is unknown."""
    if size is None:
        raise CertificateError(f"{type(physics).__name__} does not store its image size; pass img_size=(C, H, W).")
    return size


def kind(physics: Any) -> tuple[torch.dtype, torch.device]:
    """dtype and device in which a physics computes, read off its floating-point buffers."""
    buffers = [b for n, b in physics.named_buffers() if b.is_floating_point() and not n.endswith("_device_holder")]
    dtype = getattr(physics, "dtype", None) or (buffers[0].dtype if buffers else torch.float32)
    return dtype, buffers[0].device if buffers else torch.device("cpu")


def dense(physics: Any, size: tuple[int, ...]) -> NormBound:
    """The matrix of the columns A eᵢ, verified."""
    dtype, device = kind(physics)
    n = math.prod(size)
    with torch.no_grad():
        columns = physics.A(torch.eye(n, dtype=dtype, device=device).reshape(n, *size))
    parts = [columns] if isinstance(columns, Tensor) else list(columns)
    real = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
    bound = norm_bound(torch.cat([part.flatten(1).cpu() for part in real], 1))
    return dataclasses.replace(bound, method=Method.COLUMNS)


def diagonal(physics: Any, size: tuple[int, ...] | None) -> NormBound:
    """A = U diag(m) Vᵀ with U and V unitary: ‖A‖ = max |m|."""
    if physics.mask is None:
        raise CertificateError(f"{type(physics).__name__} has no mask yet; set it first.")
    largest = float(torch.as_tensor(physics.mask).abs().max())
    return NormBound(largest, largest, Method.CLOSED_FORM)


def decolorize(physics: Any, size: tuple[int, ...] | None) -> NormBound:
    """A = sᵀ in every pixel: ‖A‖ = ‖s‖."""
    norm = float(physics.srf.double().norm())
    return NormBound(norm * (1 + 1e-14), norm * (1 - 1e-14), Method.CLOSED_FORM)


def multi_coil(physics: Any, size: tuple[int, ...] | None) -> NormBound:
    """A = M F diag(s₁ … s_N): ‖A‖ ≤ max |M| max_pixel √Σ|s_n|²."""
    maps = physics.coil_maps.abs().double().square().sum(1).max().sqrt()
    upper = float(maps) * float(physics.mask.abs().max()) * (1 + 1e-14)
    return NormBound(upper, 0.0, Method.UNITARY)


def convolution(physics: Any, size: tuple[int, ...] | None, padding: str) -> NormBound:
    """deepinv's filters as our ``Blur``, the largest over a batch of filters."""
    if physics.filter is None:
        raise CertificateError(f"{type(physics).__name__} has no filter yet; set it first.")
    if physics.filter.ndim != 4:
        raise CertificateError("three-dimensional blurs have no certified norm here.")
    size = required(size, physics)
    padding = "zeros" if padding == "constant" else padding
    bounds = [as_blur(taps, size, padding).norm_bound() for taps in physics.filter]
    largest = max(bounds, key=lambda bound: bound.upper)
    return dataclasses.replace(largest, lower=max(bound.lower for bound in bounds))


def as_blur(taps: Tensor, size: tuple[int, ...], padding: str) -> Blur:
    """One filter (c, h, w) on images of ``size``, repeated filters counted once."""
    taps = taps[:1] if bool((taps == taps[:1]).all()) else taps
    return Blur(taps.double(), (len(taps), size[-2], size[-1]), padding=padding, dtype=torch.float64)


def downsampling(physics: Any, size: tuple[int, ...] | None) -> NormBound:
    """S C, a convolution of which every s-th sample is kept: exact by aliasing if circular, at most ‖C‖ otherwise."""
    if physics.filter is None:
        return NormBound(1.0, 1.0, Method.CLOSED_FORM)
    size = required(size if physics.imsize is None else tuple(physics.imsize), physics)
    factor = int(physics.factor)
    if physics.padding == "circular" and size[-2] % factor == 0 and size[-1] % factor == 0:
        filters = physics.filter.detach().cpu().double().flatten(0, 1).numpy()
        bounds = [aliased_maximum(taps, (size[-2], size[-1]), factor) for taps in filters]
        return NormBound(max(upper for upper, _ in bounds), max(lower for _, lower in bounds), Method.ALIASED_SYMBOL)
    if type(physics) is dp.Downsampling and bool((physics.filter >= 0).all()):
        return nonnegative_norm(physics, size, *kind(physics))
    whole = convolution(physics, size, physics.padding)
    size = size if type(physics) is dp.Downsampling else (size[0], size[1] // factor, size[2] // factor)
    lower = rayleigh_lower(physics, size, *kind(physics))
    return NormBound(whole.upper, lower, whole.method)


def composed(physics: Any, size: tuple[int, ...] | None) -> NormBound:
    """‖A_k … A₁‖ ≤ Π ‖A_i‖; the image size is passed along from factor to factor."""
    size = size if size is not None else getattr(physics.physics_list[0], "img_size", None)
    probe = None if size is None else torch.zeros(1, *size, dtype=kind(physics)[0], device=kind(physics)[1])
    upper = 1.0
    for part in physics.physics_list:
        upper *= certify_norm(part, img_size=None if probe is None else tuple(probe.shape[1:])).upper * (1 + 1e-15)
        probe = None if probe is None else part.A(probe)
    lower = 0.0 if size is None else rayleigh_lower(physics, tuple(size), *kind(physics))
    return NormBound(upper, lower, Method.PRODUCT)


def stacked(physics: Any, size: tuple[int, ...] | None) -> NormBound:
    """‖(A₁; …; A_k)‖² ≤ Σ ‖A_i‖², and at least the largest of them."""
    bounds = [certify_norm(part, img_size=size) for part in physics.physics_list]
    upper = math.sqrt(math.fsum(bound.upper**2 for bound in bounds)) * (1 + 1e-15)
    return NormBound(upper, max(bound.lower for bound in bounds), Method.STACK)


def tomography(physics: Any, size: tuple[int, ...] | None) -> NormBound:
    """deepinv's rotate-and-sum projector is nonnegative; its adjoint is exact only by automatic differentiation."""
    if not (physics.adjoint_via_backprop or physics.fan_beam):
        raise CertificateError(
            "Tomography(adjoint_via_backprop=False) has an inexact adjoint (off by up to 10 %), so that no bound of "
            "its norm follows from it and no convergence theorem covers it. Build it with adjoint_via_backprop=True."
        )
    channels = 1 if size is None else size[0]
    return nonnegative_norm(physics, (channels, physics.img_width, physics.img_width), *kind(physics))


RULES: dict[type, Callable[[Any, tuple[int, ...] | None], NormBound]] = {
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
