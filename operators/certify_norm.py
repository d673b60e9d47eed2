"""Certified norms of any linear physics: ours, deepinv's by their structure, and nonnegative ones."""

import dataclasses
import math
from collections.abc import Sequence
from types import FunctionType

import deepinv.physics as dp
import torch
from deepinv.physics.functional import Radon, conv2d, conv2d_fft
from torch import Tensor

from pnp_lip.errors import CertificateError, InputError
from pnp_lip.fingerprint import recognise
from pnp_lip.operators.blur import Blur, joint_bound
from pnp_lip.operators.certified_physics import MOST_DENSE_PIXELS, CertifiedPhysics
from pnp_lip.operators.collatz_wielandt import ROOT_SLACK, collatz_wielandt
from pnp_lip.operators.convolution_norm import aliased_maximum
from pnp_lip.operators.norm_rules import Size, own_norm_rule, rule_of
from pnp_lip.snapshot import lasting
from pnp_lip.spectral import Method, NormBound, norm_bound, norm_lower

__all__ = ["certify_norm"]

SUM_SLACK = 1e-14  # relative; covers the roundings of a short sum of squares and of its root in float64
PROBES = 4  # entries of A that are compared with those of A_adjoint
POWER_STEPS = 30  # of a power iteration for a lower bound

# The rounding, relative and per entry, that a foreign implementation is allowed. Interpolating projectors recompute their
# weights in either direction from coordinates of up to 2¹⁰ pixels, in float32 wrong by 2⁻¹⁴ = 6e-5 of a pixel.
SLACK = {torch.float32: 1e-3, torch.float64: 1e-9}
# Parts of the slack, of the largest quantity compared: for a dot product or a sign (in which many errors average out), for
# one entry, and for what counts as zero.
DOT_PART, ENTRY_PART, ZERO_PART = 0.05, 0.5, 1e-6
MAGNITUDES = (2.0**-20, 1.0, 2.0**20)  # at which A must be linear: powers of two, which a product in floats keeps exactly
SYMBOL_ROUNDINGS = 64  # units of the dtype, of the largest: allowed between a stored spectrum and that of its filter
BYTECODE = (lambda x: x).__code__.co_code
CONVOLUTIONS = (conv2d, conv2d_fft)  # as imported: the two that ``Blur`` may call


def certify_norm(physics: dp.LinearPhysics, *, img_size: tuple[int, ...] | None = None, nonnegative: bool = False) -> NormBound:
    """Proved bounds of ‖A‖ for a linear physics, or a CertificateError that says why there are none.

    - Exact types with a ``norm_rule``: our operators; deepinv's ``Denoising``, ``Inpainting``, ``Demosaicing``, ``MRI``,
      ``MultiCoilMRI``, ``Decolorize``, ``BlurFFT``, ``Blur``, ``Downsampling``, ``Upsampling`` by their structure; products
      by ‖A₁‖‖A₂‖, stacks by √(‖A₁‖² + ‖A₂‖² + …); yours. Patched objects are refused, and settings that no longer
      belong together. Where masks or filters differ from image to image, the largest counts, for batches of that size.
    - ``Tomography`` with its exact adjoint, and any physics you declare ``nonnegative``, by Collatz-Wielandt after checks of
      linearity, adjoint and entries: of all entries for images of at most 1024 pixels, of samples for larger ones. That
      no entry is negative is then your statement: one among millions is not seen.
    - Any other physics on images of at most 1024 pixels in all: the verified norm of the matrix of its columns A eᵢ,
      after a check on samples that A is one fixed linear map.
    - Everything else is refused: a power iteration bounds from below only.

    ``img_size`` = (C, H, W) is needed where the physics does not store it. Bounds are of ‖A‖, not squared.

    >>> import deepinv
    >>> certify_norm(deepinv.physics.Inpainting((1, 4, 4), mask=torch.full((1, 4, 4), 0.5))).upper
    0.5
    """
    if not isinstance(physics, dp.LinearPhysics):
        raise CertificateError(f"{type(physics).__name__} is not a deepinv LinearPhysics, so it has no operator norm.")
    stored = img_size if img_size is not None else getattr(physics, "img_size", None)
    size: Size = None if stored is None else tuple(int(side) for side in stored)
    rule = rule_of(physics)
    if isinstance(physics, CertifiedPhysics) and not (nonnegative and rule is None):
        return CertifiedPhysics.norm_bound(physics)
    if nonnegative:
        return nonnegative_norm(physics, blank_image(physics, size))
    if rule is not None:
        bound = rule(physics, size)
        require(math.isfinite(bound.upper), physics, "has entries that are not finite")
        return bound
    if size is not None and math.prod(size) <= MOST_DENSE_PIXELS:
        return dense_norm(physics, blank_image(physics, size))
    raise CertificateError(
        f"{type(physics).__name__} has no structure that this package knows. If every entry of its matrix is "
        "nonnegative, say so with nonnegative=True; if not, give a bound that you can prove."
    )


def require(sound: bool, physics: dp.LinearPhysics, what: str) -> None:
    """Raise CertificateError unless ``sound``."""
    if not sound:
        raise CertificateError(f"{type(physics).__name__} {what}, so that its norm is not known. Build a new one.")


def largest(physics: dp.LinearPhysics, name: str, shape: tuple[int, ...] | None = None) -> float:
    """max |t| of the tensor ``name``, which must, times images of ``shape``, give images of that shape."""
    if getattr(physics, name) is None:
        raise CertificateError(f"{type(physics).__name__} has no {name} yet; set it first.")
    tensor = torch.as_tensor(getattr(physics, name))
    if tensor.numel() != 1:
        if shape is None:
            raise CertificateError(f"{type(physics).__name__} does not store its image size; pass img_size=(C, H, W).")
        sides = zip(tensor.shape[::-1], shape[::-1], strict=False)  # it may differ from image to image of a batch
        fits = tensor.ndim <= len(shape) + 1 and all(side in (1, whole) for side, whole in sides)
        require(fits, physics, f"has a {name} of shape {tuple(tensor.shape)} for images of shape {shape}")
    return float((tensor.to(torch.complex128) if tensor.is_complex() else tensor).abs().max())


def require_identity(physics: dp.LinearPhysics, *names: str) -> None:
    """Raise CertificateError unless these functions of an instance are deepinv's own ``lambda x: x``."""
    for name in names:
        function = getattr(physics, name)
        own = isinstance(function, FunctionType) and function.__code__.co_code == BYTECODE
        require(own, physics, f"has its own {name}")


@own_norm_rule(dp.Denoising, dp.Inpainting, dp.Demosaicing, dp.MRI)
def diagonal(physics: dp.LinearPhysics, size: Size) -> NormBound:
    """A = U diag(m) Vᵀ with U and V unitary: ‖A‖ = max |m|."""
    require_identity(physics, "_U", *(() if isinstance(physics, dp.MRI) else ("_V_adjoint",)))
    norm, slack = largest(physics, "mask", size), SUM_SLACK * torch.as_tensor(physics.mask).is_complex()
    return NormBound(norm * (1 + slack), norm * (1 - slack), Method.CLOSED_FORM)


@own_norm_rule(dp.Decolorize)
def decolorize(physics: dp.Decolorize, size: Size) -> NormBound:
    """A = μ (s/μ)ᵀ in every pixel, μ the mask: ‖A‖ = ‖s‖."""
    require_identity(physics, "_U")
    scale = float(physics.mask.abs()) if physics.mask.numel() == 1 else math.nan
    require(0 < scale < math.inf and physics.srf.shape == (1, physics.srf.numel(), 1, 1), physics, "has a changed mask or srf")
    norm = float(physics.srf.double().norm())
    return NormBound(norm * (1 + SUM_SLACK), norm * (1 - SUM_SLACK), Method.CLOSED_FORM)


@own_norm_rule(dp.MultiCoilMRI)
def multi_coil(physics: dp.MultiCoilMRI, size: Size) -> NormBound:
    """A = M F diag(s₁ … s_N): ‖A‖ ≤ max |M| max_pixel √Σ|s_n|²."""
    maps, sides = physics.coil_maps, 3 if physics.three_d else 2
    space = tuple(maps.shape[2:])
    fits = maps.ndim == sides + 2 and len(maps) == 1 and (size is None or size[-sides:] == space)
    require(fits, physics, f"has coil maps of shape {tuple(maps.shape)} for images of shape {size}")
    root = maps.to(torch.complex128).abs().square().sum(1).max().sqrt()
    upper = float(root) * largest(physics, "mask", (2, *space)) * (1 + SUM_SLACK)
    return NormBound(upper, 0.0, Method.UNITARY)


@own_norm_rule(dp.BlurFFT)
def blur_fft(physics: dp.BlurFFT, size: Size) -> NormBound:
    """A circular convolution by the stored spectrum, which must be the filter's."""
    bound = convolution(physics, size, "circular")
    fresh = physics.get_filter_parameters(physics.img_size, physics.filter, physics.filter.device)
    should, found = fresh["mask"][..., 0] * fresh["angle"], physics.mask[..., 0] * physics.angle
    slack = SYMBOL_ROUNDINGS * torch.finfo(physics.mask.dtype).eps * float(should.abs().max())
    same = should.shape == found.shape and bool(((should - found).abs() <= slack).all())
    same = same and torch.equal(physics.mask[..., 0], physics.mask[..., 1])
    same = same and size is not None and size[-2:] == tuple(physics.img_size[-2:])
    require(same, physics, "has a spectrum that is not its filter's on such images")
    return bound


@own_norm_rule(dp.Blur)
def blur(physics: dp.Blur, size: Size) -> NormBound:
    """A convolution by one of deepinv's two ways to compute it."""
    require(physics.conv[2] in CONVOLUTIONS, physics, "has its own convolution")
    return convolution(physics, size, physics.padding)


def convolution(physics: dp.LinearPhysics, size: Size, padding: str) -> NormBound:
    """deepinv's filters as our ``Blur``, the largest of those for the images of a batch; "constant" is its word for zeros."""
    if physics.filter is None:
        raise CertificateError(f"{type(physics).__name__} has no filter yet; set it first.")
    if physics.filter.ndim != 4:
        raise CertificateError("three-dimensional blurs have no certified norm here.")
    blank = blank_image(physics, size)
    bounds = []
    for taps in filters_for(physics, blank.shape[1]):
        taps = taps[:1] if bool((taps == taps[:1]).all()) else taps
        shape = (len(taps), blank.shape[-2], blank.shape[-1])
        try:
            ours = Blur(taps.double(), shape, padding="zeros" if padding == "constant" else padding, dtype=torch.float64)
        except InputError as error:
            raise CertificateError(f"{type(physics).__name__} is no convolution of such images: {error}") from error
        bounds.append(ours.norm_bound())
    return joint_bound(bounds)


def filters_for(physics: dp.LinearPhysics, channels: int) -> Tensor:
    """The filters (images, 1 or ``channels``, rows, columns), finite and real; or CertificateError."""
    taps: Tensor = physics.filter
    require(
        taps.shape[1] in (1, channels), physics, f"has filters of shape {tuple(taps.shape)} for images of {channels} channels"
    )
    require(not taps.is_complex() and bool(torch.isfinite(taps).all()), physics, "has a filter that is not real and finite")
    return taps


@own_norm_rule(dp.Downsampling, dp.Upsampling)
def downsampling(physics: dp.Downsampling, size: Size) -> NormBound:
    """S C, a convolution of which every s-th sample is kept: exact by aliasing if circular, at most ‖C‖ otherwise."""
    factor, downwards, whole_size = int(physics.factor), type(physics) is dp.Downsampling, physics.imsize
    if size is not None and whole_size is not None:
        expected = whole_size if downwards else (whole_size[0], *(-(-side // factor) for side in whole_size[1:]))
        require(size == tuple(expected), physics, f"is built for images of shape {tuple(expected)}, not {size}")
    if physics.filter is None:
        return NormBound(1.0, 1.0, Method.CLOSED_FORM)
    blank = blank_image(physics, size if whole_size is None else tuple(whole_size))
    require(len(filters_for(physics, blank.shape[1])) == 1, physics, "has a filter for each image")
    rows, columns = blank.shape[-2:]
    if physics.padding == "circular" and rows % factor == columns % factor == 0:
        filters = physics.filter.detach().cpu().double().flatten(0, 1)
        uppers, lowers = zip(*(aliased_maximum(taps, (rows, columns), factor) for taps in filters), strict=True)
        return NormBound(max(uppers), max(lowers), Method.ALIASED_SYMBOL)
    if downwards and bool((physics.filter >= 0).all()):
        return nonnegative_norm(physics, blank)
    whole = convolution(physics, tuple(blank.shape[1:]), physics.padding)  # before downsampling
    blank = blank if downwards else blank[..., ::factor, ::factor]
    return NormBound(whole.upper, rayleigh_lower(physics, blank), whole.method)


@own_norm_rule(dp.ComposedLinearPhysics)
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


@own_norm_rule(dp.StackedLinearPhysics, dp.Pansharpen)
def stacked(physics: dp.LinearPhysics, size: Size) -> NormBound:
    """‖(A₁; …; A_k)‖² ≤ Σ ‖A_i‖², and at least the largest of them."""
    bounds = [certify_norm(part, img_size=size) for part in physics.physics_list]
    upper = math.sqrt(math.fsum(bound.upper**2 for bound in bounds)) * (1 + ROOT_SLACK)
    return NormBound(upper, max(bound.lower for bound in bounds), Method.STACK)


recognise(Radon)


@own_norm_rule(dp.Tomography)
def tomography(physics: dp.Tomography, size: Size) -> NormBound:
    """deepinv's rotate-and-sum projector is nonnegative; its adjoint is exact only by automatic differentiation."""
    if not (physics.adjoint_via_backprop or physics.fan_beam):
        raise CertificateError(
            "Tomography(adjoint_via_backprop=False) has an inexact adjoint (off by up to 10 %), so that no bound of "
            "its norm follows from it and no convergence theorem covers it. Build it with adjoint_via_backprop=True."
        )
    require(type(physics.radon) is Radon, physics, "has its own projector")
    channels = 1 if size is None else size[0]
    return nonnegative_norm(physics, blank_image(physics, (channels, physics.img_width, physics.img_width)))


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
    columns = rows_of(physics.A(units_like(blank)))
    check_linear(physics, blank, columns)
    return dataclasses.replace(norm_bound(columns), method=Method.COLUMNS)


def units_like(blank: Tensor) -> Tensor:
    """The images that have one pixel 1 and all others 0."""
    return torch.eye(blank.numel(), dtype=blank.dtype, device=blank.device).reshape(-1, *blank.shape[1:])


def rows_of(data: Tensor | Sequence[Tensor]) -> Tensor:
    """What A returns, one image's data in a row of real numbers."""
    parts = [data] if isinstance(data, Tensor) else list(data)
    real = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
    return torch.cat([part.flatten(1).cpu() for part in real], 1)


@torch.no_grad()
def check_linear(physics: dp.LinearPhysics, blank: Tensor, columns: Tensor | None = None) -> None:
    """Raise CertificateError unless samples say that A is one fixed linear map, the one with these ``columns`` if given.

    A map that departs from linearity only elsewhere, for some images or beyond ``MAGNITUDES``, is not seen.
    """
    generator, tolerance = torch.Generator().manual_seed(0), DOT_PART * slack_of(blank)
    x, z = (torch.randn(blank.shape, generator=generator).to(blank) for _ in range(2))
    ax, az = rows_of(physics.A(x)), rows_of(physics.A(z))
    largest_entry = max(float(ax.abs().max()), float(az.abs().max()))

    def agree(found: Tensor, expected: Tensor, what: str, scale: float = 1.0) -> None:
        gap = float((found.double() - expected.double()).abs().max()) if found.shape == expected.shape else math.nan
        if not gap <= tolerance * scale * largest_entry:
            raise CertificateError(f"{type(physics).__name__} is not a fixed linear map: {what}; no bound of ‖A‖ follows.")

    agree(rows_of(physics.A(blank)), 0 * ax, "A(0) is not 0", 0.0)
    agree(rows_of(physics.A(x)), ax, "a second call gives other data")
    agree(rows_of(physics.A(torch.cat([x, z, x - z]))), torch.cat([ax, az, ax - az]), "an image alone and in a batch differ")
    for scale in MAGNITUDES:
        mixed, what = rows_of(physics.A(scale * (x - 3 * z))), f"A(s(x − 3z)) is not s(Ax − 3Az), s = {scale:.3g}"
        agree(mixed, scale * (ax - 3 * az), what, scale)
    if columns is not None:
        agree(x.flatten(1).double().cpu() @ columns.double(), ax, "A x is not the sum of xᵢ A eᵢ")


@lasting()
def nonnegative_norm(physics: dp.LinearPhysics, blank: Tensor) -> NormBound:
    """Collatz-Wielandt bounds of ‖A‖ for a nonnegative operator, after ``check_transpose``."""
    blank = blank.clone()  # no tensor of inference mode
    slack = slack_of(blank)
    check_transpose(physics, blank)

    def gram(v: Tensor) -> Tensor:
        w: Tensor = physics.A_adjoint(physics.A(v))
        # Entries that are zero up to rounding may come out as tiny negative numbers of a fast transform.
        return torch.where(w.abs() < ZERO_PART * slack * w.abs().max(), torch.zeros_like(w), w)

    return collatz_wielandt(gram, torch.ones_like(blank), rounding=slack).bound()


def check_transpose(physics: dp.LinearPhysics, blank: Tensor) -> None:
    """Raise CertificateError unless dot products and samples say that A ≥ 0 is a linear map and A_adjoint = Aᵀ."""
    columns = rows_of(physics.A(units_like(blank))) if blank.numel() <= MOST_DENSE_PIXELS else None
    check_linear(physics, blank, columns)
    slack, generator = slack_of(blank), torch.Generator().manual_seed(0)
    if columns is not None and bool((columns < -DOT_PART * slack * columns.abs().max()).any()):
        raise CertificateError("A has negative entries; the nonnegative route does not apply.")
    x = torch.randn(blank.shape, generator=generator).to(blank)
    ax = physics.A(x)
    y = torch.randn(ax.shape, generator=generator).to(blank)
    z = physics.A_adjoint(y)
    gap = abs(float((ax * y).sum(dtype=torch.float64) - (x * z).sum(dtype=torch.float64)))
    wrong = gap > DOT_PART * slack * float(ax.norm()) * float(y.norm())
    expected = derivative(physics, x, y) if columns is None else (columns @ y.cpu().flatten()).reshape(x.shape).to(x)
    if not wrong and expected is not None:
        gap = float((z - expected).abs().max())
        wrong = not gap <= ENTRY_PART * slack * float(expected.abs().max())
    if wrong:
        raise CertificateError(
            f"Aᵀy, or ⟨Ax, y⟩ and ⟨x, Aᵀy⟩, differ by {gap:.3g}: A_adjoint is not the transpose of A, so that no "
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


def derivative(physics: dp.LinearPhysics, x: Tensor, y: Tensor) -> Tensor | None:
    """Aᵀ y by automatic differentiation, or None where A cannot be differentiated."""
    try:
        with torch.enable_grad():
            variable = x.clone().requires_grad_()
            return torch.autograd.grad(physics.A(variable), variable, y)[0]
    except RuntimeError:
        return None


def rayleigh_lower(physics: dp.LinearPhysics, blank: Tensor) -> float:
    """max ‖Av‖/‖v‖ over a short power iteration, less a slack for rounding; true whatever A_adjoint does."""
    start = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0)).to(blank)
    return norm_lower(physics.A, physics.A_adjoint, start, iterations=POWER_STEPS)[0] * (1 - slack_of(blank))


def slack_of(blank: Tensor) -> float:
    return SLACK.get(blank.dtype, SLACK[torch.float64])
