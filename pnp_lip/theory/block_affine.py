"""The affine map between the layers of the fixed-width family."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.theory.max_min_layer import SCALARS

__all__ = ["BlockAffine", "exponential_of_skew"]


class BlockAffine(nn.Module):
    """A(z) = [R; 0 B] z + b on R^{h+3}: three free rows R read the whole state, the lower block sees only itself.

    A is nonexpansive for the norm max(|z₁|, |z₂|, |z₃|, ‖z₄:‖₂) when ‖B‖ ≤ 1 and each row r of R has
    |r₁| + |r₂| + |r₃| + ‖r₄:‖₂ ≤ 1. It need not be so for the Euclidean norm of the whole state, and nothing here
    enforces the range: ``Projector`` keeps it in training, ``certify`` proves it.

    Shapes: (..., h + 3) to the same; ``rows`` (3, h + 3), ``lower`` (h, h), ``bias`` (h + 3). At the start R keeps the
    three scalars and B is orthogonal, the exponential of a random skew matrix. Raises InputError for ``width`` h < 1.

    Source: Murari, Furuya & Schönlieb (2025), Theorem 4.1.

    >>> BlockAffine(2)(torch.zeros(1, 5)).shape
    torch.Size([1, 5])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"`width` must be at least 1; got {width}.")
        self.rows = nn.Parameter(torch.eye(SCALARS, width + SCALARS))
        self.lower = nn.Parameter(exponential_of_skew(width))
        self.bias = nn.Parameter(torch.zeros(width + SCALARS).uniform_(-1, 1) / (width + SCALARS) ** 0.5)

    def forward(self, z: Tensor) -> Tensor:
        """A(z)."""
        width = self.lower.shape[-1]
        if z.shape[-1] != width + SCALARS:
            raise ShapeError(f"this map takes (..., {width + SCALARS}) tensors; got {tuple(z.shape)}.")
        linear: Tensor = torch.cat([z @ self.rows.mT, z[..., SCALARS:] @ self.lower.mT], -1)
        return linear + self.bias

    def extra_repr(self) -> str:
        return f"width={self.lower.shape[-1]}"


def exponential_of_skew(size: int) -> Tensor:
    """exp(½(G − Gᵀ)), an orthogonal matrix, G of independent standard normal entries."""
    g = torch.randn(size, size, dtype=torch.float64)
    orthogonal: Tensor = torch.linalg.matrix_exp((g - g.mT) / 2)
    return orthogonal.to(torch.get_default_dtype())
