"""A denoiser followed by the projection onto a box."""

from __future__ import annotations

from deepinv.models import Denoiser
from torch import Tensor, nn

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma
from pnp_lip.denoisers.guided_denoiser import guided
from pnp_lip.errors import InputError

__all__ = ["ClippedDenoiser"]


class ClippedDenoiser(Denoiser):  # type: ignore[misc]
    """x ↦ min(max(D(x, σ), lo), hi): 1/(2 − α)-averaged when D is α-averaged, and its range is the box.

    The box is fixed, never taken from the data: a range that depends on x would void nonexpansiveness. A bounded range
    gives forward-backward a fixed point (Browder-Göhde-Kirk), at the price of firmness. Raises InputError unless lo < hi.
    """

    def __init__(self, denoiser: nn.Module, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if not low < high:
            raise InputError(f"the box needs low < high; got [{low}, {high}].")
        self.denoiser, self.box = denoiser, (low, high)

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: object) -> Tensor:
        """The projection of D(x, σ) onto the box."""
        d: Tensor = self.denoiser(x, sigma, **kwargs)
        return d.clamp(*self.box)

    def with_guide(self, guide: Tensor) -> ClippedDenoiser:
        """The same projection of the guided denoiser."""
        return ClippedDenoiser(guided(self.denoiser, guide), *self.box)

    def extra_repr(self) -> str:
        return f"box={self.box!r}"
