"""Convolutions by the fast Fourier transform, for training: their time does not grow with the filters.

Three bilinear maps, each the derivative of another: ``correlate`` a padded image with filters, ``spread`` its adjoint,
and the filters' gradient, the taps of a correlation. Four transforms of the hidden channels are all that a
gradient-flow layer costs, two forwards and two backwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["correlate", "spread"]


def correlate(x: Tensor, kernel: Tensor) -> Tensor:
    """``conv2d(x, kernel)`` up to rounding; differentiable once. Shapes (B, C, H, W), (M, C, k, k), as there.

    >>> x, kernel = torch.rand(1, 1, 9, 8), torch.rand(2, 1, 3, 3)
    >>> torch.allclose(correlate(x, kernel), torch.conv2d(x, kernel), atol=1e-5)
    True
    """
    result: Tensor = Correlate.apply(x, kernel)
    return result


def spread(s: Tensor, kernel: Tensor) -> Tensor:
    """``conv_transpose2d(s, kernel)``, the adjoint of ``correlate``, up to rounding; differentiable once.

    >>> s, kernel = torch.rand(1, 2, 7, 6), torch.rand(2, 1, 3, 3)
    >>> torch.allclose(spread(s, kernel), torch.conv_transpose2d(s, kernel), atol=1e-5)
    True
    """
    result: Tensor = Spread.apply(s, kernel)
    return result


class Correlate(torch.autograd.Function):
    """v(p) = Σ_t w(t) x(p + t), v̂ = x̂ conj(ŵ) on the image's own grid, of which the valid part is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        grid, k = (x.shape[-2], x.shape[-1]), kernel.shape[-2:]
        x_hat, w_hat = torch.fft.rfft2(x), torch.fft.rfft2(kernel, s=grid)
        ctx.save_for_backward(x_hat, w_hat)
        ctx.grid, ctx.taps = grid, k
        return inverse(over_inputs(x_hat, w_hat.conj()), grid)[..., : grid[0] - k[0] + 1, : grid[1] - k[1] + 1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_hat, w_hat = ctx.saved_tensors
        g_hat = torch.fft.rfft2(g, s=ctx.grid)
        dx = inverse(over_outputs(g_hat, w_hat), ctx.grid) if ctx.needs_input_grad[0] else None
        return dx, taps(x_hat, g_hat, ctx.grid, ctx.taps) if ctx.needs_input_grad[1] else None


class Spread(torch.autograd.Function):
    """x(q) = Σ_p w(q − p) s(p), x̂ = ŝ ŵ on the grid that holds all of it."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, kernel: Tensor) -> Tensor:
        k = kernel.shape[-2:]
        grid = (s.shape[-2] + k[0] - 1, s.shape[-1] + k[1] - 1)
        s_hat, w_hat = torch.fft.rfft2(s, s=grid), torch.fft.rfft2(kernel, s=grid)
        ctx.save_for_backward(s_hat, w_hat)
        ctx.grid, ctx.taps, ctx.size = grid, k, s.shape[-2:]
        return inverse(over_outputs(s_hat, w_hat), grid)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        s_hat, w_hat = ctx.saved_tensors
        g_hat = torch.fft.rfft2(g)
        ds = None
        if ctx.needs_input_grad[0]:
            ds = inverse(over_inputs(g_hat, w_hat.conj()), ctx.grid)[..., : ctx.size[0], : ctx.size[1]]
        return ds, taps(g_hat, s_hat, ctx.grid, ctx.taps) if ctx.needs_input_grad[1] else None


def inverse(x_hat: Tensor, grid: tuple[int, int]) -> Tensor:
    """Back to the pixels."""
    x: Tensor = torch.fft.irfft2(x_hat, s=grid)
    return x


def over_inputs(x_hat: Tensor, w_hat: Tensor) -> Tensor:
    """Σ_c x̂_c ŵ_mc, shape (B, M, frequencies)."""
    total: Tensor = x_hat[:, 0, None] * w_hat[:, 0]
    for c in range(1, x_hat.shape[1]):
        total = total + x_hat[:, c, None] * w_hat[:, c]
    return total


def over_outputs(s_hat: Tensor, w_hat: Tensor) -> Tensor:
    """Σ_m ŝ_m ŵ_mc, shape (B, C, frequencies)."""
    return torch.stack([(s_hat * w_hat[:, c]).sum(1) for c in range(w_hat.shape[1])], dim=1)


def taps(x_hat: Tensor, s_hat: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """w_mc(t) = Σ_p s_m(p) x_c(p + t), summed over the batch, for the taps t of a filter."""
    conjugate = s_hat.conj()
    spectra = torch.stack([(conjugate * x_hat[:, c, None]).sum(0) for c in range(x_hat.shape[1])], dim=1)
    return inverse(spectra, grid)[..., : size[0], : size[1]]
