"""The ridge potential: a learned objective whose curvature is bounded for every image and every noise level."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma, noise_level
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import RedescendingClip
from pnp_lip.layers.gradient_flow_conv2d import PADDING_MODES

__all__ = ["RidgeAtLevel", "RidgePotential", "potential_from_config"]

LONGEST = 320  # pixels along an axis of a window: longer transforms are slower for each pixel
HELD = 2**19  # responses to all filters that are computed together: of several small images
HELD_BY_FILTERS = 2**18  # those of some filters that are held at once: 1 MB in float32, which a processor's cache keeps


class RidgePotential(nn.Module):
    """R_σ(x) = Σ_c Σ_p κ_c² ψ((w_c ∗ x)(p)/κ_c), so that ∇R_σ(x) = Wᵀ φ_σ(Wx), W one convolution, φ a redescending clip.

    With slopes of φ in [−s, μ] the curvature of R_σ lies in [−ρ, L], ρ = s‖W‖², L = μ‖W‖², for every σ and every image
    size: R_σ + ρ/2‖·‖² is convex and ∇R_σ is max(ρ, L)-Lipschitz. ``pnp_lip.certify`` proves both numbers. A gradient
    step on R_σ is a gradient-flow layer whose slopes may be negative.

    Parameters: ``in_channels`` of the image, ``filters`` their number, ``kernel_size`` odd, ``rising`` and ``falling`` clips
    of φ, whose limits are given at ``knots`` noise levels, ``padding_mode`` "circular" or "zeros", ``default_sigma``.

    Shapes: x (B, in_channels, H, W) on [0, 1]; σ, on the same scale, None, a number, or a tensor of shape (), (1,), (B,) or
    (1, 1). Raises InputError for settings out of their range, ShapeError for a wrong shape.
    Source: Goujon, Neumayer & Unser (2024), "Learning weakly convex regularizers for convergent image-reconstruction algorithms".

    >>> potential = RidgePotential(filters=2, kernel_size=3)
    >>> potential(torch.zeros(1, 1, 8, 8), 0.1)
    tensor([0.], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        filters: int = 48,
        kernel_size: int = 9,
        rising: int = 3,
        falling: int = 2,
        knots: int = 5,
        padding_mode: str = "circular",
        default_sigma: float = 0.05,
    ) -> None:
        super().__init__()
        if in_channels < 1 or filters < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(
                f"expected in_channels >= 1, filters >= 1 and an odd kernel_size; got {in_channels}, {filters}, {kernel_size}."
            )
        if padding_mode not in PADDING_MODES:
            raise InputError(f"`padding_mode` must be one of {PADDING_MODES}; got {padding_mode!r}.")
        noise_level(default_sigma, 1)
        self.padding_mode, self.default_sigma = padding_mode, default_sigma
        weight = torch.randn(filters, in_channels, kernel_size, kernel_size)
        weight = weight - weight.mean((2, 3), keepdim=True)
        self.weight = nn.Parameter(weight / (kernel_size * math.sqrt(filters) + kernel_size * math.sqrt(in_channels)))
        self.activation = RedescendingClip(filters, rising=rising, falling=falling, knots=knots)

    @property
    def in_channels(self) -> int:
        """The image's channels."""
        return self.weight.shape[1]

    @property
    def config(self) -> dict[str, object]:
        """The arguments that build it again."""
        filters, channels, k, _ = self.weight.shape
        clip = self.activation
        return {
            "in_channels": channels, "filters": filters, "kernel_size": k, "rising": len(clip.rise),
            "falling": len(clip.fall), "knots": len(clip.log_scale), "padding_mode": self.padding_mode,
            "default_sigma": self.default_sigma,
        }  # fmt: skip

    def forward(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """R_σ(x), one number per image in float64."""
        return torch.cat([Value.apply(part, level) for level, part in self.levels(x, sigma)])

    def grad(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """∇R_σ(x), of the shape of x; not differentiable."""
        return torch.cat([level.grad(part) for level, part in self.levels(x.detach(), sigma)])

    def hessian_product(self, x: Tensor, v: Tensor, sigma: Sigma = None) -> Tensor:
        """Wᵀ(φ'(Wx) ⊙ Wv), the product of the generalised Hessian at x with v; not differentiable."""
        if v.shape != x.shape:
            raise ShapeError(f"`v` must have the shape of x, {tuple(x.shape)}; got {tuple(v.shape)}.")
        levels = self.levels(x.detach(), sigma)
        parts = torch.split(v.detach(), [len(part) for _, part in levels])
        return torch.cat([level.hessian_product(part, w) for (level, part), w in zip(levels, parts, strict=True)])

    def levels(self, x: Tensor, sigma: Sigma = None) -> list[tuple["RidgeAtLevel", Tensor]]:
        """Pairs, in the order of the batch: R_σ at one noise level, and the images that have this level."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ShapeError(f"this potential takes (B, {self.in_channels}, H, W) images; got {tuple(x.shape)}.")
        given = self.default_sigma if sigma is None else sigma
        noise_level(given, len(x))  # which checks it, and rounds a plain number
        s = torch.as_tensor(given, dtype=torch.float64).reshape(-1)
        parts = [x] if len(s) == 1 else list(torch.split(x, 1))
        return [(RidgeAtLevel(self, level), part) for level, part in zip(s, parts, strict=True)]

    def at(self, sigma: float | Tensor) -> "RidgeAtLevel":
        """R_σ for one noise level, whose kernels are prepared once."""
        return RidgeAtLevel(self, torch.as_tensor(sigma, dtype=torch.float64).reshape(()))


class Axis(NamedTuple):
    """How n pixels are cut: windows of ``length``, each for a ``core`` of pixels and ``margin`` wider than it at both ends."""

    n: int
    core: int
    margin: int
    length: int

    @property
    def starts(self) -> range:
        """Of the windows, in the padded image, which begins at the pixel −margin."""
        return range(0, self.n, self.core)

    @property
    def padded(self) -> int:
        """Pixels of the padded image."""
        return self.starts[-1] + self.length


class RidgeAtLevel:
    """R_σ at one noise level: W/κ and κW by Fourier transforms of windows of the image, and the limits as numbers.

    The time for one pixel depends neither on the size of the filters nor on that of the image.
    """

    def __init__(self, potential: RidgePotential, sigma: Tensor) -> None:
        self.weight, clip = potential.weight.detach(), potential.activation
        self.circular = potential.padding_mode == "circular"
        with torch.no_grad():
            self.scale, rise, fall = clip.at(sigma.to(self.weight.device))
        slopes = [*clip.rise.tolist(), *(-clip.fall.detach()).tolist()]
        self.clips = list(zip(slopes, [*rise.tolist(), *fall.tolist()], strict=True))
        self.kernels: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def value(self, x: Tensor, where: Tensor | None = None) -> Tensor:
        """R_σ(x), one number per image in float64; of the pixels p alone for which ``where`` (1, H, W) is 1 and not 0."""
        found, (rows, columns) = [], self.axes(x)
        if where is not None:
            where = extend(extend(where, rows, -2, self.circular), columns, -1, self.circular)
        for part in self.parts(x):
            total = torch.tensor(0.0)
            for (top, left, filters), t in zip(self.pieces(part), self.responses(part), strict=True):
                if where is not None:
                    t.mul_(where[..., top : top + rows.length, left : left + columns.length])
                total = total + self.potential_of(t, self.scale[filters])
            found.append(total)
        return torch.cat(found)

    def grad(self, x: Tensor) -> Tensor:
        """∇R_σ(x)."""
        return torch.cat([self.gather(part, map(self.clip, self.responses(part))) for part in self.parts(x)])

    def hessian_product(self, x: Tensor, v: Tensor) -> Tensor:
        """Wᵀ(φ'(Wx) ⊙ Wv)."""
        return self.hessian(x)(v)

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """v ↦ Wᵀ(φ'(Wx) ⊙ Wv) for many v: φ'(Wx) is computed once and held, C numbers for each pixel."""
        slopes = [[self.slope(t) for t in self.responses(part)] for part in self.parts(x)]

        def product(v: Tensor) -> Tensor:
            found = []
            for part, held in zip(self.parts(v), slopes, strict=True):
                found.append(self.gather(part, map(torch.mul, held, self.responses(part))))
            return torch.cat(found)

        return product

    def axes(self, x: Tensor) -> tuple[Axis, Axis]:
        """How the rows and the columns are cut."""
        rows, columns = (cut(n, self.weight.shape[-1], self.circular) for n in x.shape[-2:])
        return rows, columns

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """The batch in parts so small that their responses fit into a cache."""
        rows, columns = self.axes(x)
        return torch.split(x, max(1, HELD // (len(self.weight) * rows.length * columns.length)))

    def pieces(self, x: Tensor) -> Iterator[tuple[int, int, slice]]:
        """The windows, by their first row and column, and some filters at a time."""
        rows, columns = self.axes(x)
        step = max(1, HELD_BY_FILTERS // (rows.length * columns.length))
        for top, left, first in itertools.product(rows.starts, columns.starts, range(0, len(self.weight), step)):
            yield top, left, slice(first, first + step)

    def responses(self, x: Tensor) -> Iterator[Tensor]:
        """Wx/κ of each piece, (B, filters, rows, columns) of the window, zero outside of its core."""
        rows, columns = self.axes(x)
        forth, _ = self.spectra(rows, columns)
        padded = extend(extend(x, rows, -2, self.circular), columns, -1, self.circular)
        for top, left, filters in self.pieces(x):
            if filters.start == 0:
                X = torch.fft.rfft2(padded[..., top : top + rows.length, left : left + columns.length])[:, None]
            Y = X[:, :, 0] * forth[filters, 0]
            for channel in range(1, X.shape[2]):
                Y.addcmul_(X[:, :, channel], forth[filters, channel])
            t = torch.fft.irfft2(Y, s=(rows.length, columns.length))
            for axis, start, pixels in ((rows, top, t.movedim(-2, 0)), (columns, left, t.movedim(-1, 0))):
                pixels[: axis.margin], pixels[axis.margin + min(axis.core, axis.n - start) :] = 0, 0
            yield t

    def gather(self, x: Tensor, pieces: Iterable[Tensor]) -> Tensor:
        """The transpose of ``responses``: κWᵀ of the pieces, zero outside of the cores, of the shape of x."""
        rows, columns = self.axes(x)
        _, back = self.spectra(rows, columns)
        total = x.new_zeros(*x.shape[:2], rows.padded, columns.padded)
        X = torch.zeros(())
        for (top, left, filters), z in zip(self.pieces(x), pieces, strict=True):
            Z = torch.fft.rfft2(z)
            part = torch.stack([(Z * back[filters, channel]).sum(1) for channel in range(x.shape[1])], 1)
            X = part if filters.start == 0 else X + part
            if filters.stop >= len(self.weight):
                window = torch.fft.irfft2(X, s=(rows.length, columns.length))
                total[..., top : top + rows.length, left : left + columns.length] += window
        return fold(fold(total, rows, -2, self.circular), columns, -1, self.circular)

    def spectra(self, rows: Axis, columns: Axis) -> tuple[Tensor, Tensor]:
        """The transfer functions of W/κ and of (κW)ᵀ for windows of this size, computed once."""
        size = rows.length, columns.length
        if size not in self.kernels:
            transfer = transfer_function(self.weight, size)
            kappa = self.scale.to(self.weight)[:, None, None, None]
            self.kernels[size] = transfer / kappa, (transfer * kappa).conj_physical()
        return self.kernels[size]

    def clip(self, u: Tensor) -> Tensor:
        """φ(u)."""
        (slope, limit), *others = self.clips
        total, clipped = u.clamp(-limit, limit).mul_(slope), torch.empty_like(u)
        for slope, limit in others:
            total.add_(torch.clamp(u, -limit, limit, out=clipped), alpha=slope)
        return total

    def slope(self, u: Tensor) -> Tensor:
        """φ'(u); at a limit, the slope beyond it."""
        u, total = u.abs(), torch.zeros_like(u)
        for slope, limit in self.clips:
            total.add_(u < limit, alpha=slope)
        return total

    def potential_of(self, u: Tensor, scale: Tensor) -> Tensor:
        """Σ κ² ψ(u), ψ' = φ: the Huber function of limit λ is m(|u| − m/2), m = min(|u|, λ). One number per image."""
        u, total = u.abs(), torch.zeros_like(u)
        m = torch.empty_like(u)
        for slope, limit in self.clips:
            torch.clamp(u, max=limit, out=m)
            total.addcmul_(m, u, value=slope).addcmul_(m, m, value=-slope / 2)
        sums = total.flatten(2).sum(2, dtype=torch.float64)
        return sums @ scale.to(sums).square()


@functools.cache
def cut(n: int, kernel: int, circular: bool) -> Axis:
    """How an axis of n pixels is cut for filters of so many pixels: so that the fewest pixels are transformed.

    A periodic axis needs no margin where one transform of exactly n pixels is fast.
    """
    if circular and kernel <= n <= LONGEST and fast(n) == n:
        return Axis(n, n, 0, n)
    margin = kernel // 2
    choices = [Axis(n, core, margin, fast(core + 2 * margin)) for core in {-(-n // k) for k in range(1, n + 1)}]
    short = [axis for axis in choices if axis.length <= max(LONGEST, fast(4 * margin))]
    return min(short, key=lambda axis: (len(axis.starts) * axis.length, len(axis.starts)))


def fast(n: int) -> int:
    """The next length from n on whose transform is fast: a multiple of 8 without prime factors above 5."""
    return 8 * int(next_fast_len(-(-n // 8), real=True))


def transfer_function(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """ŵ (C, c, H, W/2 + 1): W x is the inverse transform of Σ_c ŵ_c x̂_c on a periodic grid of this size."""
    k = weight.shape[-1]
    centred = F.pad(weight, (0, size[1] - k, 0, size[0] - k)).roll((-(k // 2),) * 2, (-2, -1))
    transfer: Tensor = torch.fft.rfft2(centred).conj()
    return transfer


def extend(x: Tensor, axis: Axis, dim: int, circular: bool) -> Tensor:
    """The padded image: from the pixel −margin on, periodic or zero."""
    if not axis.margin and axis.padded == axis.n:
        return x
    pixels = torch.arange(axis.padded, device=x.device) - axis.margin
    if circular:
        return x.index_select(dim, pixels % axis.n)
    ends = (axis.margin, axis.padded - axis.margin - axis.n)
    return F.pad(x, ends if dim == -1 else (0, 0, *ends))


def fold(total: Tensor, axis: Axis, dim: int, circular: bool) -> Tensor:
    """The transpose of ``extend``."""
    if not axis.margin and axis.padded == axis.n:
        return total
    if not circular:
        return total.narrow(dim, axis.margin, axis.n)
    pixels = (torch.arange(axis.padded, device=total.device) - axis.margin) % axis.n
    shape = list(total.shape)
    shape[dim] = axis.n
    return total.new_zeros(shape).index_add_(dim % total.ndim, pixels, total)


class Value(torch.autograd.Function):
    """R_σ(x) with the derivative ∇R_σ(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: RidgeAtLevel) -> Tensor:
        ctx.save_for_backward(x)
        ctx.level = level
        return level.value(x)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return weights.to(x).reshape(-1, 1, 1, 1) * ctx.level.grad(x), None


def potential_from_config(config: Mapping[str, object]) -> RidgePotential:
    """The potential whose ``config`` this is."""
    return RidgePotential(**config)  # type: ignore[arg-type]
