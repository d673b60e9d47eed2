"""Convolutions by the fast Fourier transform, for training: their time does not grow with the filters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["correlate"]


def correlate(x: Tensor, kernel: Tensor) -> Tensor:
    """``conv2d(x, kernel)`` up to rounding; differentiable once. Shapes (B, C, H, W), (M, C, k, k), as there.

    >>> x, kernel = torch.rand(1, 1, 9, 8), torch.rand(2, 1, 3, 3)
    >>> torch.allclose(correlate(x, kernel), torch.conv2d(x, kernel), atol=1e-5)
    True
    """
    result: Tensor = Correlate.apply(x, kernel)
    return result


class Context(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, bool]
    grid: tuple[int, int]
    taps: tuple[int, int]


class Correlate(torch.autograd.Function):
    """v(p) = Σ_t w(t) x(p + t): v̂ = x̂ conj(ŵ) on the image's own grid, of which the valid part is kept."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, kernel: Tensor) -> Tensor:
        grid, taps = (x.shape[-2], x.shape[-1]), (kernel.shape[-2], kernel.shape[-1])
        x_hat, w_hat = torch.fft.rfft2(x), torch.fft.rfft2(kernel, s=grid)
        ctx.save_for_backward(x_hat, w_hat)
        ctx.grid, ctx.taps = grid, taps
        return inverse(over_inputs(x_hat, w_hat.conj()), grid)[..., : grid[0] - taps[0] + 1, : grid[1] - taps[1] + 1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x_hat, w_hat), (rows, columns) = ctx.saved_tensors, ctx.taps
        g_hat = torch.fft.rfft2(g, s=ctx.grid)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = inverse(over_outputs(g_hat, w_hat), ctx.grid)
        if ctx.needs_input_grad[1]:
            dw = inverse(over_images(g_hat.conj(), x_hat), ctx.grid)[..., :rows, :columns]
        return dx, dw


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


def over_outputs(v_hat: Tensor, w_hat: Tensor) -> Tensor:
    """Σ_m v̂_m ŵ_mc, shape (B, C, frequencies)."""
    return torch.stack([(v_hat * w_hat[:, c]).sum(1) for c in range(w_hat.shape[1])], dim=1)


def over_images(v_hat: Tensor, x_hat: Tensor) -> Tensor:
    """Σ_b v̂_bm x̂_bc, shape (M, C, frequencies)."""
    return torch.stack([(v_hat * x_hat[:, c, None]).sum(0) for c in range(x_hat.shape[1])], dim=1)
