"""Certified norms of any linear physics: ours, deepinv's by their structure, and nonnegative ones."""

import dataclasses
import math
from collections.abc import Callable

import deepinv.physics as dp
import torch
from torch import Tensor

from pnp_lip.errors import CertificateError
from pnp_lip.operators.blur import Blur, joint_bound
from pnp_lip.operators.certified_physics import MOST_DENSE_PIXELS, CertifiedPhysics
from pnp_lip.operators.collatz_wielandt import ROOT_SLACK, collatz_wielandt
from pnp_lip.operators.convolution_norm import aliased_maximum
from pnp_lip.spectral import Method, NormBound, norm_bound, norm_lower

__all__ = ["certify_norm"]

Size = tuple[int, ...] | None  # of one image, if known

SUM_SLACK = 1e-14  # relative; covers the roundings of a short sum of squares and of its root in float64
PROBES = 4  # entries of A that are compared with those of A_adjoint
POWER_STEPS = 30  # of a power iteration for a lower bound

# The rounding, relative and per entry, that a foreign implementation is allowed. Interpolating projectors recompute their
# weights in either direction from coordinates of up to 2¹⁰ pixels, in float32 wrong by 2⁻¹⁴ = 6e-5 of a pixel.
SLACK = {torch.float32: 1e-3, torch.float64: 1e-9}
# Parts of the slack, of the largest quantity compared: for a dot product or a sign (in which many errors average out), for
# one entry, and for what counts as zero.
DOT_PART, ENTRY_PART, ZERO_PART = 0.05, 0.5, 1e-6


def certify_norm(physics: dp.LinearPhysics, *, img_size: tuple[int, ...] | None = None, nonnegative: bool = False) -> NormBound:
    """Proved bounds of ‖A‖ for a linear physics, or a CertificateError that says why there are none.

    - Our operators know their own; deepinv's ``Denoising``, ``Inpainting``, ``Demosaicing``, ``MRI``, ``MultiCoilMRI``,
      ``Decolorize``, ``BlurFFT``, ``Blur``, ``Downsampling``, ``Upsampling`` are bounded by their structure (exact
      types only, as a subclass may compute something else); products by ‖A₁‖‖A₂‖, stacks by √(‖A₁‖² + ‖A₂‖² + …).
    - ``Tomography`` with its exact adjoint, and any physics you declare ``nonnegative`` (every entry ≥ 0), by
      Collatz-Wielandt after a check of the adjoint and of sampled entries.
    - Any other physics on images of at most 1024 pixels in all: the verified norm of the matrix of its columns A eᵢ.
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
    bounds = []
    for taps in physics.filter:  # (channels, rows, columns)
        taps = taps[:1] if bool((taps == taps[:1]).all()) else taps
        size = (len(taps), blank.shape[-2], blank.shape[-1])
        bounds.append(Blur(taps.double(), size, padding=padding, dtype=torch.float64).norm_bound())
    return joint_bound(bounds)


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


def blank_image(physics: dp.LinearPhysics, img_size: tuple[int, ...] | None) -> Tensor:
    """Zeros (1, C, H, W) of the dtype and on the device in which the physics computes, read off its buffers."""
    if img_size is None:
        raise CertificateError(f"{type(physics).__name__} does not store its image size; pass img_size=(C, H, W).")
    named = physics.named_buffers()
    buffers = [b for n, b in named if b.is_floating_point() and not n.endswith("_device_holder")]
    dtype = getattr(physics, "dtype", None) or (buffers[0].dtype if buffers else torch.float32)
    return torch.zeros(1, *img_size, dtype=dtype, device=buffers[0].device if buffers else "cpu")


@torch.no_grad()
def dense_norm(physics: dp.LinearPhysics, blank: Tensor) -> NormBound:
    """The verified norm of the matrix of the columns A eᵢ, as computed, for images like ``blank``."""
    columns = physics.A(torch.eye(blank.numel(), dtype=blank.dtype, device=blank.device).reshape(-1, *blank.shape[1:]))
    parts = [columns] if isinstance(columns, Tensor) else list(columns)
    real = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
    bound = norm_bound(torch.cat([part.flatten(1).cpu() for part in real], 1))
    return dataclasses.replace(bound, method=Method.COLUMNS)


@torch.no_grad()
def nonnegative_norm(physics: dp.LinearPhysics, blank: Tensor) -> NormBound:
    """Collatz-Wielandt bounds of ‖A‖ for a nonnegative operator, after ``check_transpose``."""
    slack = slack_of(blank)
    check_transpose(physics, blank)

    def gram(v: Tensor) -> Tensor:
        w: Tensor = physics.A_adjoint(physics.A(v))
        # Entries that are zero up to rounding may come out as tiny negative numbers of a fast transform.
        return torch.where(w.abs() < ZERO_PART * slack * w.abs().max(), torch.zeros_like(w), w)

    return collatz_wielandt(gram, torch.ones_like(blank), rounding=slack).bound()


def check_transpose(physics: dp.LinearPhysics, blank: Tensor) -> None:
    """Raise CertificateError unless dot products and sampled columns and rows say that A ≥ 0 and A_adjoint = Aᵀ."""
    slack, generator = slack_of(blank), torch.Generator().manual_seed(0)
    x = torch.randn(blank.shape, generator=generator).to(blank)
    ax = physics.A(x)
    y = torch.randn(ax.shape, generator=generator).to(blank)
    difference = abs(float((ax * y).sum(dtype=torch.float64) - (x * physics.A_adjoint(y)).sum(dtype=torch.float64)))
    if difference > DOT_PART * slack * float(ax.norm()) * float(y.norm()):
        raise CertificateError(
            f"⟨Ax, y⟩ and ⟨x, Aᵀy⟩ differ by {difference:.3g}: A_adjoint is not the transpose of A, so that no "
            "bound of ‖A‖ follows from it. Use an operator with an exact adjoint (adjoint_via_backprop=True, say)."
        )
    for pixel in torch.randint(blank.numel(), (PROBES,), generator=generator).tolist():
        unit = torch.zeros_like(x)
        unit.view(-1)[pixel] = 1
        column = physics.A(unit).flatten()
        largest = float(column.abs().max())
        if float(column.min()) < -DOT_PART * slack * largest:
            raise CertificateError("A has negative entries; the nonnegative route does not apply.")
        row = torch.zeros_like(ax).flatten()
        row[int(column.argmax())] = 1
        entry = float(physics.A_adjoint(row.reshape(ax.shape)).flatten()[pixel])
        if abs(entry - largest) > ENTRY_PART * slack * largest:
            raise CertificateError(
                f"an entry of A is {largest:.6g} but {entry:.6g} in A_adjoint: not its transpose, no bound follows."
            )


def rayleigh_lower(physics: dp.LinearPhysics, blank: Tensor) -> float:
    """max ‖Av‖/‖v‖ over a short power iteration, less a slack for rounding; true whatever A_adjoint does."""
    start = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0)).to(blank)
    return norm_lower(physics.A, physics.A_adjoint, start, iterations=POWER_STEPS)[0] * (1 - slack_of(blank))


def slack_of(blank: Tensor) -> float:
    return SLACK.get(blank.dtype, SLACK[torch.float64])
