"""What other people's objects must offer to be used here."""

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = [
    "ClosedFormProx",
    "DenoiserLike",
    "DistanceLike",
    "FidelityLike",
    "PhysicsLike",
    "ProxAnswer",
    "Starting",
]


@runtime_checkable
class DenoiserLike(Protocol):
    """D(x, σ): an image (B, C, H, W) on [0, 1] and a noise level, on the same scale, to an image of the same shape."""

    def __call__(self, x: Tensor, sigma: float | Tensor | None, /) -> Tensor:
        """D(x, σ)."""


@runtime_checkable
class PhysicsLike(Protocol):
    """A linear forward model, as deepinv's ``LinearPhysics``."""

    def A(self, x: Tensor, /) -> Tensor:
        """A x, from images (B, C, H, W) to data (B, ...)."""

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Aᵀ y."""


@runtime_checkable
class Starting(Protocol):
    """A physics that knows a better start than Aᵀy."""

    def starting_image(self, y: Tensor, /) -> Tensor:
        """An image near those whose data are y."""


class ProxAnswer(Protocol):
    """A prox that was computed, and a bound of its error."""

    @property
    def x(self) -> Tensor:
        """argmin_x γ f(x) + ½‖x − z‖², nearly."""

    @property
    def error_bound(self) -> Tensor:
        """How far each image may be off, (B,)."""


class ClosedFormProx(Protocol):
    """A physics whose ``prox_l2`` is exact."""

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float, /) -> Tensor:
        """argmin_x γ/2 ‖Ax − y‖² + ½‖x − z‖²."""


class DistanceLike(Protocol):
    """deepinv's ``Distance``: d(u, y) in the space of the data."""

    def grad(self, u: Tensor, y: Tensor, /) -> Tensor:
        """∇_u d(u, y)."""


class FidelityLike(Protocol):
    """deepinv's ``DataFidelity``: d(Ax, y)."""

    @property
    def d(self) -> DistanceLike:
        """The distance in the space of the data."""

    def fn(self, x: Tensor, y: Tensor, physics: PhysicsLike, /) -> Tensor:
        """d(Ax, y), one number per image."""

    def prox_d_conjugate(self, u: Tensor, y: Tensor, /, *, gamma: float) -> Tensor:
        """The prox of γ d*."""
