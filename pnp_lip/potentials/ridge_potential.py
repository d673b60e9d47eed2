"""The ridge potential: a learned objective whose curvature is bounded for every image and every noise level."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma, noise_level
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import RedescendingClip
from pnp_lip.layers.gradient_flow_conv2d import PADDING_MODES

__all__ = ["RidgeAtLevel", "RidgePotential", "potential_from_config"]

# Rows and columns of the blocks of pixels that become channels: convolutions to and from one channel are ten times slower, and
# blocks of 4 x 4 a quarter.
BLOCK = (4, 2)
LEAST_ROWS = 4  # of blocks in a strip, as the rows around it are computed twice
STRIP = 2**19  # numbers of Wx that are held at once: 2 MB in float32, which a processor's cache keeps


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


class RidgeAtLevel:
    """R_σ at one noise level: W/κ and κW as convolutions of blocks of pixels, and the limits as numbers."""

    def __init__(self, potential: RidgePotential, sigma: Tensor) -> None:
        weight, clip = potential.weight.detach(), potential.activation
        self.reach, self.mode = weight.shape[-1] // 2, potential.padding_mode
        with torch.no_grad():
            self.scale, rise, fall = clip.at(sigma.to(weight.device))
        kappa = self.scale.to(weight)[:, None, None, None]
        self.forth = blocks(weight / kappa)
        self.back = blocks(weight * kappa)  # transposed by conv_transpose2d: in float64 thrice as fast as conv2d
        self.margin = (self.forth.shape[2] - 1, self.forth.shape[3] - 1)
        slopes = [*clip.rise.tolist(), *(-clip.fall.detach()).tolist()]
        self.clips = list(zip(slopes, [*rise.tolist(), *fall.tolist()], strict=True))

    def value(self, x: Tensor) -> Tensor:
        """R_σ(x), one number per image in float64."""
        return torch.cat([sum_of(self.potential_of(t) for _, t in self.strips(part)) for part in self.parts(x)])

    def grad(self, x: Tensor) -> Tensor:
        """∇R_σ(x)."""
        return torch.cat([self.gather(part, ((top, self.clip(t)) for top, t in self.strips(part))) for part in self.parts(x)])

    def hessian_product(self, x: Tensor, v: Tensor) -> Tensor:
        """Wᵀ(φ'(Wx) ⊙ Wv)."""
        return self.hessian(x)(v)

    def hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """v ↦ Wᵀ(φ'(Wx) ⊙ Wv) for many v: φ'(Wx) is computed once and held, C numbers for each pixel."""
        slopes = [[self.slope(t) for _, t in self.strips(part)] for part in self.parts(x)]

        def product(v: Tensor) -> Tensor:
            found = []
            for part, held in zip(self.parts(v), slopes, strict=True):
                pairs = zip(held, self.strips(part), strict=True)
                found.append(self.gather(part, ((top, t.mul_(slope)) for slope, (top, t) in pairs)))
            return torch.cat(found)

        return product

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """The batch in parts so small that their responses fit into the cache."""
        return torch.split(x, max(1, STRIP // (len(self.scale) * x[0, 0].numel())))

    def strips(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Wx/κ in strips: the first row of blocks, and (B, 8 C, rows, columns), zero at pixels outside of the image."""
        (by, bx), (h, w) = BLOCK, x.shape[-2:]
        rows, columns = self.places(x)
        if self.mode == "circular":
            x = x[..., rows[:, None] % h, columns % w]
        else:
            x = F.pad(x, (self.reach, len(columns) - w - self.reach, self.reach, len(rows) - h - self.reach))
        x = torch.unflatten(torch.unflatten(x, 3, (-1, bx)), 2, (-1, by)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        count, across = x.shape[-2] - self.margin[0], x.shape[-1] - self.margin[1]
        step = max(LEAST_ROWS, STRIP // (len(x) * len(self.forth) * across))
        for top in range(0, count, step):
            t = F.conv2d(x[..., top : top + step + self.margin[0], :], self.forth)
            pixels = torch.unflatten(t, 1, (-1, by, bx))
            if w % bx:
                pixels[..., w % bx :, :, -1] = 0
            if h % by and top + step >= count:
                pixels[:, :, h % by :, :, -1] = 0
            yield top, t

    def gather(self, x: Tensor, strips: Iterable[tuple[int, Tensor]]) -> Tensor:
        """The transpose of ``strips``: κWᵀ of the strips, of the shape of x."""
        (by, bx), (h, w) = BLOCK, x.shape[-2:]
        rows, columns = self.places(x)
        total = x.new_zeros(len(x), by * bx * x.shape[1], len(rows) // by, len(columns) // bx)
        for top, z in strips:
            total[..., top : top + z.shape[-2] + self.margin[0], :] += F.conv_transpose2d(z, self.back)
        total = torch.unflatten(total, 1, (-1, by, bx)).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        if self.mode != "circular":
            return total[..., self.reach : self.reach + h, self.reach : self.reach + w].contiguous()
        total = total.new_zeros(*total.shape[:2], h, total.shape[-1]).index_add_(2, rows % h, total)
        return total.new_zeros(x.shape).index_add_(3, columns % w, total)

    def places(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rows −r, ... and the columns of all pixels that the blocks read."""
        ends = zip(BLOCK, x.shape[-2:], self.margin, strict=True)
        rows, columns = (torch.arange(b * (-(-n // b) + m), device=x.device) - self.reach for b, n, m in ends)
        return rows, columns

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

    def potential_of(self, u: Tensor) -> Tensor:
        """Σ κ² ψ(u), ψ' = φ: the Huber function of limit λ is m(|u| − m/2), m = min(|u|, λ). One number per image."""
        u, total = u.abs(), torch.zeros_like(u)
        m = torch.empty_like(u)
        for slope, limit in self.clips:
            torch.clamp(u, max=limit, out=m)
            total.addcmul_(m, u, value=slope).addcmul_(m, m, value=-slope / 2)
        sums = torch.unflatten(total, 1, (len(self.scale), -1)).flatten(2).sum(2, dtype=torch.float64)
        return sums @ self.scale.to(sums).square()


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Their sum; there is one at least."""
    first, *others = terms
    return sum(others, first)


def blocks(weight: Tensor) -> Tensor:
    """The convolution (C, c, k, k) of pixels as one of blocks of them, (8 C, 8 c, my, mx): a copy for each pixel of a block."""
    filters, channels, k, _ = weight.shape
    (by, bx), (my, mx) = BLOCK, (-(-(b + k - 1) // b) for b in BLOCK)
    spread = weight.new_zeros(filters, by, bx, channels, by * my, bx * mx)
    for i in range(by):
        for j in range(bx):
            spread[:, i, j, :, i : i + k, j : j + k] = weight
    taps = torch.unflatten(torch.unflatten(spread, 5, (mx, bx)), 4, (my, by)).permute(0, 1, 2, 3, 5, 7, 4, 6)
    return taps.reshape(by * bx * filters, by * bx * channels, my, mx)


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
