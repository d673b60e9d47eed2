"""What the tables say of a trained classifier: accuracy, proof, the largest gradient found, certified robustness."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.radius import certified_radius
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["accuracy", "gradient_norms", "largest_gradient_norm", "robust_accuracy"]

Network = UnboundedWidthNetwork | FixedWidthNetwork


@torch.no_grad()
def correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether each input is classified as y: the sign of one output, the largest of several."""
    outputs: Tensor = network(x)
    predicted = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
    return predicted == y


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of inputs classified correctly."""
    return float(correct(network, x, y).double().mean())


def robust_accuracy(network: Network, x: Tensor, y: Tensor, radii: Sequence[float]) -> list[float]:
    """The share of inputs classified correctly, with proof for all inputs nearer than each radius (Euclidean)."""
    radius = certified_radius(network, x)
    right = correct(copy.deepcopy(network).double(), x.double(), y)
    return [float((right & (radius >= r)).double().mean()) for r in radii]


def gradient_norms(network: nn.Module, x: Tensor) -> Tensor:
    """max_k ‖∇f_k‖₂ at each input, (N, d) to (N,)."""
    z = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = network(z)
        gradients = [torch.autograd.grad(outputs[:, k].sum(), z, retain_graph=True)[0] for k in range(outputs.shape[1])]
    return torch.stack([g.norm(dim=1) for g in gradients]).amax(0)


def largest_gradient_norm(network: nn.Module, x: Tensor, *, rounds: int = 8, keep: int = 16, seed: int = 0) -> float:
    """The largest ‖∇f_k‖₂ that a random search in float64 finds: a lower bound of the outputs' Lipschitz constants.

    A gradient of a piecewise affine function is constant near almost every point, so it cannot be ascended; the search
    spreads around the best points so far, at distances that halve from round to round.
    """
    model = copy.deepcopy(network).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    points = x.double()
    spread = float(points.std())
    best = torch.zeros(())
    for k in range(rounds + 1):
        norms = gradient_norms(model, points)
        best = torch.maximum(best, norms.amax())
        centres = points[norms.topk(min(keep, len(points))).indices]
        noise = torch.randn(32, *centres.shape, generator=generator, dtype=torch.float64)
        points = torch.cat([centres, (centres + spread * 2.0**-k * noise).flatten(0, 1)])
    return float(best)
