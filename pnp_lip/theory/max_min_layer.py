"""The residual layer of the fixed-width family: two scalars are sorted, a third waits, a block flows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pnp_lip.errors import ShapeError
from pnp_lip.layers import GradientFlowLinear

__all__ = ["SCALARS", "MaxMinLayer"]

SCALARS = 3  # the coordinates of the state that carry a maximum, a minimum and a term in waiting


class MaxMinLayer(nn.Module):
    """Ψ(z) = (max(z₁, z₂), min(z₁, z₂), z₃, Φ(z₄:)) on R^{h+3}, Φ a gradient-flow layer on R^h.

    Sorting the pair is itself such a layer, z − τ wᵀ σ(wz) with w = (−1, 1), τ = 2/‖w‖² = 1 and σ = ReLU:
    max(a, b) = a + σ(b − a), min(a, b) = b − σ(b − a). So Ψ is nonexpansive for the Euclidean norm, and for
    max(|z₁|, |z₂|, |z₃|, ‖z₄:‖₂), when Φ is: 0 ≤ τ ≤ 2/‖W‖².

    Shapes: (..., h + 3) to the same. ``inner`` is Φ, of h ``features``. Raises ShapeError for another number of columns.

    Source: Murari, Furuya & Schönlieb (2025), Theorem 4.1.

    >>> layer = MaxMinLayer(GradientFlowLinear(2))
    >>> layer(torch.tensor([[1.0, 5.0, 3.0, 0.0, 0.0]]))[:, :3]
    tensor([[5., 1., 3.]], grad_fn=<SliceBackward0>)
    """

    def __init__(self, inner: GradientFlowLinear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z: Tensor) -> Tensor:
        """Ψ(z)."""
        width = self.inner.weight.shape[-1]
        if z.shape[-1] != width + SCALARS:
            raise ShapeError(f"this layer takes (..., {width + SCALARS}) tensors; got {tuple(z.shape)}.")
        first, second = z[..., :1], z[..., 1:2]
        return torch.cat(
            [torch.maximum(first, second), torch.minimum(first, second), z[..., 2:3], self.inner(z[..., SCALARS:])], -1
        )
