"""The family of Theorem 3.1: residual layers between a lift and a readout, width and depth unbounded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import Activation, GradientFlowLinear
from pnp_lip.theory.projection import Constraints

__all__ = ["UnboundedWidthNetwork", "exponential_of_skew", "isometric_layer"]


class UnboundedWidthNetwork(nn.Module):
    """f(x) = V Φ_L ∘ … ∘ Φ_1 (Qx + q), Φ_ℓ(z) = z − τ_ℓ W_ℓᵀ σ(W_ℓ z + b_ℓ) on R^h.

    f is 1-Lipschitz for the Euclidean norms when ‖V‖ ≤ 1, ‖Q‖ ≤ 1 and 0 ≤ τ_ℓ ≤ 2/‖W_ℓ‖². Training keeps these ranges.
    A lift of a larger norm is allowed; f is then 1-Lipschitz if an argument by coordinates proves it (an exact
    construction stacks n unit rows, ‖Q‖ ≤ √n). The class itself enforces no range: ``Projector`` keeps it in training,
    ``seal`` makes it certain at the end, ``certify`` proves it.

    With σ = ReLU and one output, these functions, over all widths h and depths L, are dense in the scalar 1-Lipschitz
    functions on compact sets (Theorem 3.1). Another activation of slopes in [0, 1] keeps f 1-Lipschitz. That theorem and
    the exact representation of piecewise affine functions (Theorem 3.2) then no longer apply; ``Identity`` leaves only
    affine maps.

    Shapes: (..., features) to (..., out_features), any float dtype; flatten images first. ``lift`` is Q, q; ``layers``
    holds the Φ_ℓ, each with ``hidden_features`` rows in W (h by default); ``readout`` is V, without a bias. At the start
    Q and V are isometries where the shapes permit, a square W_ℓ is the exponential of a random skew matrix, and
    τ_ℓ = 2 = 2/‖W_ℓ‖². So every Jacobian is orthogonal (dynamical isometry).

    Raises InputError for sizes below 1 (depth below 0), ShapeError for inputs with another number of columns.

    Source: Murari, Furuya & Schönlieb (2025), Theorem 3.1 and Section 5.

    >>> network = UnboundedWidthNetwork(2, width=5, depth=4)
    >>> network(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """

    def __init__(
        self,
        features: int,
        *,
        width: int,
        depth: int,
        out_features: int = 1,
        hidden_features: int | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        check_network(features, width, depth, out_features)
        self.lift = nn.Linear(features, width)
        self.layers = nn.ModuleList(isometric_layer(width, hidden_features, activation) for _ in range(depth))
        self.readout = nn.Linear(width, out_features, bias=False)
        nn.init.orthogonal_(self.lift.weight)
        nn.init.orthogonal_(self.readout.weight)

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        check_input(x, self.lift)
        z = self.lift(x)
        for layer in self.layers:
            z = layer(z)
        outputs: Tensor = self.readout(z)
        return outputs

    def constraints(self, parameters: Mapping[str, Tensor] | None = None) -> Constraints:
        """What makes f 1-Lipschitz, on these ``parameters``: the network's own, or stacked ones of the same names."""
        p = dict(self.named_parameters()) if parameters is None else parameters
        return Constraints(
            steps=[(p[f"layers.{i}.weight"], p[f"layers.{i}.tau"]) for i in range(len(self.layers))],
            contractions=[p["lift.weight"], p["readout.weight"]],
        )


def isometric_layer(width: int, hidden: int | None = None, activation: Activation | None = None) -> GradientFlowLinear:
    """A gradient-flow layer at the limit τ = 2/‖W‖²; a square W is the exponential of a skew matrix."""
    layer = GradientFlowLinear(width, hidden, activation=activation, step_fraction=1.0)
    if layer.weight.shape[0] == width:
        layer.weight.data.copy_(exponential_of_skew(width))
    return layer


def exponential_of_skew(size: int) -> Tensor:
    """exp(½(G − Gᵀ)), an orthogonal matrix, G of independent standard normal entries."""
    g = torch.randn(size, size, dtype=torch.float64)
    orthogonal: Tensor = torch.linalg.matrix_exp((g - g.mT) / 2)
    return orthogonal.to(torch.get_default_dtype())


def check_network(features: int, width: int, depth: int, out_features: int) -> None:
    """Refuse empty networks."""
    if min(features, width, out_features) < 1 or depth < 0:
        raise InputError(
            "a network needs features, width and out_features of at least 1 and depth of at least 0; "
            f"got {features}, {width}, {out_features} and {depth}."
        )


def check_input(x: Tensor, lift: nn.Linear) -> None:
    """Refuse inputs with another number of columns."""
    columns = lift.weight.shape[-1]
    if x.shape[-1] != columns or not torch.is_floating_point(x):
        raise ShapeError(
            f"this network takes floating-point (..., {columns}) tensors; got {tuple(x.shape)} {x.dtype}. Flatten images first."
        )
