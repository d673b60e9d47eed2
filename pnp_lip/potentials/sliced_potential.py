"""A potential of volumes: the mean over the axes of a potential of images, summed over the slices."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma
from pnp_lip.denoisers.sliced_denoiser import check_slicing, slices_of, volume_of
from pnp_lip.potentials.ridge_potential import RidgePotential

__all__ = ["SlicedPotential"]


class SlicedPotential(nn.Module):
    """R(x) = (1/k) Σ_a Σ_s R_σ(slice s of x across axis a) for volumes x (B, C, D, H, W), k the number of axes.

    The Hessian of each inner sum is block-diagonal with those of R_σ, so that R has the curvature bounds of R_σ, and so has
    the mean. ``certify`` proves both numbers, ``Variational`` takes R as its potential.

    Parameters and errors are those of ``SlicedDenoiser``; ``in_slices`` is R_σ.
    """

    def __init__(self, in_slices: RidgePotential, *, axes: Sequence[int] = (0, 1, 2), at_once: int = 16) -> None:
        super().__init__()
        self.axes, self.at_once = check_slicing(axes, at_once)
        self.in_slices = in_slices

    def forward(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """R(x), one number per volume in float64."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for axis in self.axes:
            values = [self.in_slices(part, s) for part, s in slices_of(x, axis, sigma, self.at_once)]
            total = total + torch.cat(values).reshape(len(x), -1).sum(1)
        return total / len(self.axes)

    def grad(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """∇R(x), of the shape of x; not differentiable."""
        total = torch.zeros_like(x)
        for axis in self.axes:
            pieces = slices_of(x, axis, sigma, self.at_once)
            total += volume_of([self.in_slices.grad(part, s) for part, s in pieces], pieces, x, axis)
        return total / len(self.axes)
