"""The dense gradient-flow layer."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers.activations import Activation, ReLU

__all__ = ["GradientFlowLinear"]


class GradientFlowLinear(nn.Module):
    """One explicit Euler step of a negative gradient flow.

    Φ(x) = x − τ Wᵀ σ(Wx + b)

    With σ nondecreasing and of slopes in [0, 1]: 0 ≤ τ ≤ 2/‖W‖² makes Φ nonexpansive, 0 ≤ τ < 2/‖W‖² makes it
    τ‖W‖²/2-averaged, τ ≤ 1/‖W‖² firmly nonexpansive. Nothing here enforces the range: ``constrain`` does so during
    training, ``project`` after a step, ``certify`` proves it.

    Shapes: x is (..., features), else ShapeError; W is (hidden_features, features). The rows of the initial W are orthonormal
    where the shape permits (‖W‖ = 1) and τ = 2 × ``step_fraction``; with ``step_fraction=1`` and square W that is the
    initialisation by isometries of Murari, Furuya & Schönlieb (2025).
    Source: Sherry, Celledoni, Ehrhardt, Murari, Owren & Schönlieb (2024), Section 2; Baillon & Haddad (1977).

    >>> layer = GradientFlowLinear(2, 2)
    >>> x, y = torch.randn(2, 1, 2)
    >>> bool((layer(x) - layer(y)).norm() <= (x - y).norm() * (1 + 1e-6))
    True
    """

    def __init__(
        self,
        features: int,
        hidden_features: int | None = None,
        *,
        activation: Activation | None = None,
        bias: bool = True,
        step_fraction: float = 0.95,
    ) -> None:
        super().__init__()
        hidden = features if hidden_features is None else hidden_features
        check_sizes(features, hidden, step_fraction)
        self.activation = ReLU() if activation is None else activation
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden, features)))
        self.bias = nn.Parameter(torch.zeros(hidden).uniform_(-1, 1) / math.sqrt(features)) if bias else None
        self.tau = nn.Parameter(torch.tensor(2.0 * step_fraction))

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Φ(x) for x of shape (..., features)."""
        weight = self.weight
        if x.shape[-1] != weight.shape[1]:
            raise ShapeError(f"this layer takes (B, {weight.shape[1]}) tensors; got {tuple(x.shape)}.")
        t = F.linear(x, weight, self.bias)
        rows = t.reshape(-1, t.shape[-1])  # thresholds of channels would be broadcast along other axes
        s: Tensor = self.activation(rows, sigma)
        if s.shape != rows.shape:
            raise ShapeError(f"one noise level or {len(rows)} are needed, and an activation that keeps the shape of its input.")
        return x - self.tau * (s.reshape(t.shape) @ weight)

    def extra_repr(self) -> str:
        return f"features={self.weight.shape[1]}, hidden_features={self.weight.shape[0]}"


def check_sizes(channels: int, hidden: int, step_fraction: float) -> None:
    """Refuse empty layers and steps outside the nonexpansive range, before anything is allocated."""
    if channels < 1 or hidden < 1:
        raise InputError(f"a layer needs at least one state and one hidden channel; got {channels} and {hidden}.")
    if not 0 <= step_fraction <= 1:
        raise InputError(f"`step_fraction` = τ‖W‖²/2 must lie in [0, 1]; got {step_fraction}.")
