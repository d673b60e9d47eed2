"""What other people's objects must offer to be used here."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["DenoiserLike", "PhysicsLike"]


@runtime_checkable
class DenoiserLike(Protocol):
    """D(x, σ): an image (B, C, H, W) on [0, 1] and a noise level, on the same scale, to an image of the same shape."""

    def __call__(self, x: Tensor, sigma: float | Tensor | None, /) -> Tensor:
        """D(x, σ)."""


@runtime_checkable
class PhysicsLike(Protocol):
    """A linear forward model, as deepinv's ``LinearPhysics``."""

    def A(self, x: Tensor, /) -> Tensor:  # noqa: N802 (deepinv's name)
        """A x, from images (B, C, H, W) to data (B, ...)."""

    def A_adjoint(self, y: Tensor, /) -> Tensor:  # noqa: N802
        """Aᵀ y."""
