"""Convolutions by the fast Fourier transform, for training: their time does not grow with the filters."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["correlate"]


def correlate(x: Tensor, kernel: Tensor) -> Tensor:
    """``conv2d(x, kernel)`` up to rounding; differentiable once. Shapes (B, C, H, W), (M, C, k, k), as there."""
    result: Tensor = Correlate.apply(x, kernel)
    return result


class Correlate(torch.autograd.Function):
    """v_m(p) = Σ_c Σ_t w_mc(t) x_c(p + t): v̂ = x̂ conj(ŵ) on the image's own grid, of which the valid part is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        grid, taps = (x.shape[-2], x.shape[-1]), (kernel.shape[-2], kernel.shape[-1])
        x_hat, w_hat = torch.fft.rfft2(x), torch.fft.rfft2(kernel, s=grid)
        ctx.save_for_backward(x_hat, w_hat)
        ctx.grid, ctx.taps = grid, taps
        v: Tensor = torch.fft.irfft2(contract(x_hat, w_hat.conj()), s=grid)
        return v[..., : grid[0] - taps[0] + 1, : grid[1] - taps[1] + 1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x_hat, w_hat), (rows, columns) = ctx.saved_tensors, ctx.taps
        g_hat = torch.fft.rfft2(g, s=ctx.grid)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = torch.fft.irfft2(contract(g_hat, w_hat.transpose(0, 1)), s=ctx.grid)
        if ctx.needs_input_grad[1]:
            dw_hat = contract(g_hat.conj().transpose(0, 1), x_hat.transpose(0, 1))
            dw = torch.fft.irfft2(dw_hat, s=ctx.grid)[..., :rows, :columns]
        return dx, dw


def contract(a: Tensor, b: Tensor) -> Tensor:
    """Σ_j a_ij b_kj of shape (I, K, frequencies), by as few products of large tensors as there are j or k."""
    if b.shape[0] < b.shape[1]:
        return torch.stack([(a * row).sum(1) for row in b], dim=1)
    total = a[:, 0, None] * b[:, 0]
    for j in range(1, b.shape[1]):
        total = total + a[:, j, None] * b[:, j]
    return total
