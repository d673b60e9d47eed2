"""Denoisers around a denoiser: the relaxation (1 − θ) Id + θ D, and D followed by the projection onto a box."""

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma
from pnp_lip.errors import InputError, ShapeError

__all__ = ["ClippedDenoiser", "RelaxedDenoiser", "relax"]


class RelaxedDenoiser(Denoiser):  # type: ignore[misc]
    """x ↦ (1 − θ) x + θ D(x, σ), 0 < θ ≤ 1: θα-averaged when D is α-averaged, θ-averaged when D is nonexpansive.

    It has the fixed points of D. Raises InputError for θ outside (0, 1], ShapeError where D(x, σ) has another shape than x.
    Source: Bauschke & Combettes (2017), Proposition 4.40.
    """

    def __init__(self, denoiser: nn.Module, theta: float) -> None:
        super().__init__()
        if not 0 < theta <= 1:
            raise InputError(f"`theta` must lie in (0, 1]; got {theta}. One half makes a nonexpansive denoiser firm.")
        self.denoiser, self.theta = denoiser, theta

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: object) -> Tensor:
        """(1 − θ) x + θ D(x, σ)."""
        d: Tensor = self.denoiser(x, sigma, **kwargs)
        if d.shape != x.shape:  # it would be broadcast
            raise ShapeError(f"the denoiser must keep the shape of its input {tuple(x.shape)}; it gives {tuple(d.shape)}.")
        return x + self.theta * (d - x)


def relax(denoiser: nn.Module, theta: float) -> RelaxedDenoiser:
    """(1 − θ) Id + θ D as a denoiser; see RelaxedDenoiser."""
    return RelaxedDenoiser(denoiser, theta)


class ClippedDenoiser(Denoiser):  # type: ignore[misc]
    """x ↦ min(max(D(x, σ), lo), hi): 1/(2 − α)-averaged when D is α-averaged, and its range is the box.

    The box is fixed, never taken from the data: a range that depends on x would void nonexpansiveness. A bounded range
    gives forward-backward a fixed point (Browder-Göhde-Kirk), at the price of firmness; an end may be infinite, which gives
    none. Raises InputError unless lo < hi.
    """

    def __init__(self, denoiser: nn.Module, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if not low < high:
            raise InputError(f"the box needs low < high; got [{low}, {high}].")
        self.denoiser, self.box = denoiser, (low, high)

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: object) -> Tensor:
        """The projection of D(x, σ) onto the box."""
        d: Tensor = self.denoiser(x, sigma, **kwargs)
        (low, high), most = self.box, torch.finfo(d.dtype).max  # beyond which no value lies
        return d.clamp(max(low, -most), min(high, most))
