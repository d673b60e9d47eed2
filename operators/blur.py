"""Blur: convolution with any point-spread function and any border rule, as one Fourier product between exact transposes."""

import dataclasses
import functools
import math

import numpy as np
import torch
from deepinv.physics import NoiseModel
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.fingerprint import trace
from pnp_lip.operators.certified_physics import MOST_DENSE_PIXELS, TIGHT, CertifiedPhysics, as_gamma, own_bound
from pnp_lip.operators.collatz_wielandt import ROOT_SLACK, collatz_wielandt, leading_vectors
from pnp_lip.operators.conjugate_gradient import Map, NormalEquations, ProxResult
from pnp_lip.operators.convolution_norm import PADDINGS, extension_index, fold, repeats, symbol_maximum
from pnp_lip.operators.norm_rules import kept, own_norm_rule
from pnp_lip.spectral import Method, NormBound

__all__ = ["Blur", "joint_bound"]

MOST_POWER_WORK = 2e6  # pixels times steps of a Collatz-Wielandt bound, some tenths of a second
MOST_STEPS = 300  # of it, for small images
TRUSTED = 0.05  # of max |k̂|², added to |k̂|² in the preconditioner: see there


class Blur(CertifiedPhysics):
    """Convolution y[i] = Σ_a k[a] x[i + c − a], c = (h//2, w//2), with a rule for the samples beyond the border.

    A true convolution, equal to ``deepinv.physics.Blur`` and, for circular padding, ``BlurFFT``. ``psf``, the
    point-spread function k: (h, w), or one for each channel (C, h, w); deepinv's (1, 1, h, w) and (1, C, h, w) too; any
    signs, odd or even, no larger than the image. ``padding``: "circular", "zeros", "replicate", "reflect" (without
    repeating the edge) or "valid" (data of size H − h + 1, W − w + 1).

    A = R C_N E P with P the extension by the border rule, E the embedding into a grid of N samples, C_N a circular
    convolution there and R the restriction to the data.

    ``norm_bound``: circular, the largest |k̂| on the image's grid (tight). Otherwise the smaller of ‖P‖ max |k̂| on the
    grid N and Collatz-Wielandt for |k| (tight when k ≥ 0: within 4e-4 of the norm); if these are loose, a verified dense
    factorisation for images of at most 1024 pixels. PSFs of both signs with replicate or reflect on larger images stay loose
    (up to twice the norm): read ``norm_bound().gap``. A PSF of sum 1 does *not* give ‖A‖ ≤ 1 with replicate or reflect;
    ``normalize`` divides the PSF by the certified bound.

    Raises InputError for a PSF that is zero, not finite or too large for the image, ShapeError for wrong shapes.

    >>> physics = Blur(torch.ones(3, 3) / 9, (1, 8, 8))
    >>> round(physics.norm_upper, 6), physics(torch.ones(1, 1, 8, 8)).shape
    (1.0, torch.Size([1, 1, 8, 8]))
    """

    psf: Tensor
    rows_index: Tensor | None
    columns_index: Tensor | None

    def __init__(
        self,
        psf: Tensor | np.ndarray,
        img_size: tuple[int, int, int],
        *,
        padding: str = "circular",
        normalize: bool = False,
        noise_model: NoiseModel | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(img_size, noise_model=noise_model, dtype=dtype, device=device)
        if padding not in PADDINGS:
            raise InputError(f"`padding` must be one of {', '.join(PADDINGS)}; got {padding!r}.")
        self.padding = padding
        self.register_buffer("psf", as_psf(psf, self.img_size, dtype).to(device))
        rows, columns = (geometry(*axis, padding) for axis in zip(self.img_size[1:], self.psf.shape[1:], strict=True))
        self.grid, self.shift = (rows[0], columns[0]), (rows[1], columns[1])
        self.data_size = (self.img_size[0], rows[2], columns[2])
        self.register_buffer("rows_index", rows[3], persistent=False)
        self.register_buffer("columns_index", columns[3], persistent=False)
        if normalize:  # by a few roundings more than the bound, so that the stored PSF has norm at most 1
            original, scale = self.psf, 1.0 / self.bound_norm().upper
            for _ in range(8):
                self.psf = original * scale
                if self.bound_norm().upper <= 1:
                    break
                scale *= 1 - 2 * torch.finfo(original.dtype).eps

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The PSF and, where the border is extended, the samples that it repeats."""
        return tuple(t for t in (self.psf, self.rows_index, self.columns_index) if t is not None)

    def starting_image(self, y: Tensor) -> Tensor:
        """The data as an image, over Σk, their border repeated where "valid" padding has none: where solvers start.

        That is nearer to x than Aᵀy, which is blurred twice and dark at an unknown border. A PSF of little or negative sum
        gives Aᵀy.
        """
        total, size = self.psf.sum((-2, -1)), self.psf.abs().sum((-2, -1))
        if not bool((total > 0.5 * size).all()):
            return self.A_adjoint(y)
        rows, columns = (n - m for n, m in zip(self.img_size[1:], self.data_size[1:], strict=True))
        border = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return F.pad(y / total.to(y).reshape(-1, 1, 1), border, mode="replicate")

    @property
    def closed_form_prox(self) -> bool:
        """Whether ``prox_l2`` is a formula and not an iteration: A is a circular convolution on the image's own grid."""
        sizes = self.img_size[1:], self.data_size[1:], self.grid
        return self.rows_index is self.columns_index is None and all(tuple(size) == self.grid for size in sizes)

    @property
    def product_rounding(self) -> float:
        """8 u per stage of three transforms (k̂, forward, inverse) relative to ‖A‖, after Higham 2002, Theorem 24.2."""
        return 3 * 8 * float(np.log2(self.grid[0] * self.grid[1]) + 1) * 2.0**-53

    def forward_map(self, x: Tensor) -> Tensor:
        """R C_N E P x."""
        if self.rows_index is not None and self.columns_index is not None:
            x = x.index_select(-2, self.rows_index).index_select(-1, self.columns_index)
        return self.on_grid(x, self.transfer(x.dtype, self.grid, self.shift), self.data_size[1:])

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Pᵀ Eᵀ C_Nᵀ Rᵀ y."""
        transfer = self.transfer(y.dtype, self.grid, self.shift).conj()
        rows, columns = self.rows_index, self.columns_index
        if rows is None or columns is None:
            return self.on_grid(y, transfer, self.img_size[1:])
        return fold(self.on_grid(y, transfer, (len(rows), len(columns))), rows, columns, self.img_size[1:])

    def differentiable(self, v: Tensor, transpose: bool) -> Tensor:
        """Fourier transforms need no node of their own, whose overhead would be a tenth of a product at 256²."""
        return self.adjoint_map(v) if transpose else self.forward_map(v)

    def on_grid(self, x: Tensor, transfer: Tensor, size: tuple[int, ...]) -> Tensor:
        """Embed into the grid by zeros, multiply in Fourier space, keep the first ``size`` samples."""
        result: Tensor = torch.fft.irfft2(torch.fft.rfft2(x, s=self.grid).mul_(transfer), s=self.grid)
        return result[..., : size[0], : size[1]]

    @kept
    def transfer(self, dtype: torch.dtype, grid: tuple[int, int], shift: tuple[int, int]) -> Tensor:
        """k̂ on the grid, tap 0 at −shift; shape (1 or C, N₁, N₂//2 + 1)."""
        return fourier(self.psf.to(dtype), grid, shift)

    def preconditioner(self, gamma: Tensor) -> Map:
        """(1 + γ (|k̂|² + ε))⁻¹ on the image's own grid, ε = 0.05 max |k̂|².

        The border leaks a little of every frequency: without ε the steps needed at γ = 1000 (Gaussian, 256², reflect)
        were 178 instead of 90; with no preconditioner, 151.
        """
        size, (height, width) = self.img_size[1:], self.psf.shape[-2:]
        power = fourier(self.psf.to(gamma.dtype), size, (height // 2, width // 2)).abs().square()
        symbol = 1 / (1 + gamma * (power + TRUSTED * power.max()))
        return lambda r: torch.fft.irfft2(torch.fft.rfft2(r) * symbol.to(r.dtype), s=size)

    def solve_system(self, system: NormalEquations, x0: Tensor, tol: float, max_iter: int) -> ProxResult:
        if not self.closed_form_prox:
            return super().solve_system(system, x0, tol, max_iter)
        x = self.closed_form(system.z.double(), system.y.double(), system.gamma.double())
        return system.result(x, x0.dtype, tol)

    def closed_form(self, z: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
        """x̂ = (ẑ + γ k̂* ŷ) / (1 + γ|k̂|²), the prox of circular padding, in the dtype of its arguments."""
        transfer = self.transfer(z.dtype, self.grid, self.shift)
        numerator = torch.fft.rfft2(z) + gamma * transfer.conj() * torch.fft.rfft2(y)
        x: Tensor = torch.fft.irfft2(numerator / (1 + gamma * transfer.abs().square()), s=self.grid)
        return x

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: object) -> Tensor:
        """argmin γ/2 ‖Ax − y‖² + ½ ‖x − z‖²: circular in closed form, computed in float64 since errors grow like √γ."""
        if not self.closed_form_prox:
            return super().prox_l2(z, y, gamma, **kwargs)  # type: ignore[arg-type]
        z = self.as_image(z, y)
        self.check(y, self.data_size, "data")
        self.check(z, self.img_size, "image")
        return self.closed_form(z.double(), y.double(), as_gamma(gamma, z).double()).to(y.dtype)

    @kept
    def bound_norm(self) -> NormBound:
        """The largest of the channels' norms: channels do not mix."""
        self.require_consistent()
        return joint_bound([self.bound_channel(psf) for psf in self.psf.detach().cpu().double()])

    def require_consistent(self) -> None:
        """Raise CertificateError unless A reads what a new blur with this PSF, size and padding would."""
        read = ("psf", "grid", "shift", "data_size", "rows_index", "columns_index")
        try:
            fresh = Blur(self.psf, self.img_size, padding=self.padding, dtype=self.psf.dtype)
        except InputError as error:
            raise CertificateError(f"this is no blur: {error}") from error
        for name in read:
            if trace(getattr(self, name)) != trace(getattr(fresh, name)):
                raise CertificateError(f"`{name}` does not belong to this PSF, size and padding; build a new Blur.")

    def bound_channel(self, psf: Tensor) -> NormBound:
        """One channel: the symbol bound, sharpened by Collatz-Wielandt where that is not already tight."""
        if not bool(psf.any()):  # of a PSF with channels that are not zero
            return NormBound(0.0, 0.0, Method.CLOSED_FORM)
        upper, lower, omega = symbol_maximum(psf, self.grid)
        if self.padding == "circular":
            return NormBound(upper, lower, Method.SYMBOL, witness=omega)
        size, signed, single = self.img_size[1:], bool((psf < 0).any()), self.single_channel(psf)
        extensions = (extension_index(*axis, self.padding) for axis in zip(size, psf.shape, strict=True))
        copies = math.prod(repeats(n, index) for n, index in zip(size, extensions, strict=True))
        absolute = symbol_maximum(psf.abs(), self.grid)[0] * math.sqrt(copies) * (1 + ROOT_SLACK)
        upper *= math.sqrt(copies) * (1 + ROOT_SLACK) if copies > 1 else 1
        found = self.absolute_bound(psf.abs(), absolute)
        lower, method = found.lower, Method.PADDED_SYMBOL
        if found.upper < upper:
            upper, method = found.upper, Method.COLLATZ_WIELANDT_ABSOLUTE if signed else found.method
        lower = single.power_lower() if signed else lower
        if upper > TIGHT * lower and math.prod(size) <= MOST_DENSE_PIXELS:
            # The fast transforms may be wrong in every column.
            sharp = single.dense_bound().upper + math.sqrt(math.prod(size)) * single.product_rounding * upper
            upper, method = (sharp, Method.COLUMNS) if sharp < upper else (upper, method)
        return NormBound(upper, lower, method)

    def absolute_bound(self, psf: Tensor, norm_upper: float) -> NormBound:
        """Collatz-Wielandt bounds for k ≥ 0, of whose norm an upper bound is known, by fast transforms with their error.

        The taps are brought near 1 by a power of two, so that no product of them vanishes.
        """
        scale = 2.0 ** min(-math.frexp(float(psf.max()))[1], 1000)
        single, pixels = self.single_channel(psf * scale), math.prod(self.img_size[1:])
        bounds = functools.partial(
            collatz_wielandt,
            lambda v: single.adjoint_map(single.forward_map(v[None, None]))[0, 0],
            error=3 * single.product_rounding * (norm_upper * scale) ** 2,
            tol=7e-4,  # a little more than ``leading_vectors`` aims at
        )
        *first, last = self.starts(psf * scale)
        lower_sq = max((bounds(phi, max_iter=1).lower_sq for phi in first), default=0.0)
        steps = min(max(int(MOST_POWER_WORK / pixels), 2), MOST_STEPS)
        found = bounds(last, lower_sq=lower_sq, max_iter=steps).bound()
        return dataclasses.replace(found, upper=found.upper / scale, lower=found.lower / scale)

    def starts(self, psf: Tensor) -> list[Tensor]:
        """Starts for Collatz-Wielandt: half a wave where the border takes something away, else those of a smaller image.

        A border that adds something has its leading vector near the border, which a smaller image has too: its middle row
        and column are repeated.
        """
        size = self.img_size[1:]
        if self.padding in ("zeros", "valid"):
            return [torch.outer(*(half_wave(n, psf.sum(axis)) for n, axis in zip(size, (1, 0), strict=True)))]
        rows, columns = (min(n, max(96, 4 * taps, min(20 * taps, 320))) for n, taps in zip(size, psf.shape, strict=True))
        inner = Blur(psf, (1, rows, columns), padding=self.padding, dtype=torch.float64)
        found = leading_vectors(lambda v: inner.adjoint_map(inner.forward_map(v[None, None]))[0, 0], (rows, columns))
        for dim, n in enumerate(size):
            held = found[0].shape[dim]
            places = torch.arange(n).clamp_max(held // 2) + (torch.arange(n) - (n - held)).sub(held // 2).clamp_min(0)
            found = [v.index_select(dim, places) for v in found]
        return found

    def single_channel(self, psf: Tensor) -> "Blur":
        return Blur(psf, (1, *self.img_size[1:]), padding=self.padding, dtype=torch.float64)


own_norm_rule(Blur)(own_bound)


def joint_bound(bounds: list[NormBound]) -> NormBound:
    """The norm of a block-diagonal operator is the largest of its blocks' norms."""
    return dataclasses.replace(max(bounds, key=lambda b: b.upper), lower=max(b.lower for b in bounds))


def half_wave(size: int, taps: Tensor) -> Tensor:
    """sin over half a period, which ends one standard deviation of these taps ≥ 0 beyond either end of an axis."""
    place = torch.arange(len(taps), dtype=torch.float64)
    mean = float((taps * place).sum() / taps.sum())
    beyond = math.sqrt(float((taps * (place - mean).square()).sum() / taps.sum()))
    return torch.sin(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5 + beyond) / (size + 2 * beyond))


def geometry(size: int, taps: int, padding: str) -> tuple[int, int, int, Tensor | None]:
    """Length of the grid, tap at the grid's origin, length of the data, extension or None: of one axis.

    The grid is long enough that what wraps around falls outside the samples that are kept.
    """
    centre = taps // 2
    if padding == "circular":
        return size, centre, size, None
    if padding == "zeros":
        return next_fast_len(size + max(centre, taps - 1 - centre), real=True), centre, size, None
    if padding == "valid":
        return next_fast_len(size, real=True), taps - 1, size - taps + 1, None
    return next_fast_len(size + taps - 1, real=True), taps - 1, size, extension_index(size, taps, padding)


def fourier(psf: Tensor, grid: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """The transform of the PSF placed on a grid with its tap ``shift`` at the origin."""
    placed = psf.new_zeros(len(psf), *grid)
    placed[:, : psf.shape[-2], : psf.shape[-1]] = psf
    transform: Tensor = torch.fft.rfft2(placed.roll((-shift[0], -shift[1]), (-2, -1)))
    return transform


def as_psf(psf: Tensor | np.ndarray, img_size: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """A checked copy of shape (1 or C, h, w)."""
    given, (channels, height, width) = torch.as_tensor(psf).detach(), img_size
    if given.is_complex() or given.dtype == torch.bool:
        raise ShapeError(f"a PSF holds real numbers; got {given.dtype}.")
    taps = given[0] if given.ndim == 4 and given.shape[0] == 1 else given
    taps = taps[None] if taps.ndim == 2 else taps
    shape = tuple(given.shape)
    if taps.ndim != 3 or taps.shape[0] not in (1, channels) or 0 in taps.shape:
        raise ShapeError(f"a PSF has shape (h, w) or, for {channels} channels, ({channels}, h, w); got {shape}.")
    if taps.shape[1] > height or taps.shape[2] > width:
        raise InputError(f"the PSF {shape} is larger than the image ({height}, {width}); crop it.")
    taps = taps.to(dtype, copy=True).contiguous()
    if not bool(torch.isfinite(taps).all()):
        raise InputError(f"the PSF holds NaN or infinite values (in {dtype}).")
    if not bool((taps != 0).any()):
        raise InputError("the PSF is zero everywhere.")
    return taps
