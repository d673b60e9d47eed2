"""The family of Theorem 4.1: depth does the work, the hidden width stays at the input's dimension plus three."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pnp_lip.layers import Activation
from pnp_lip.theory.block_affine import BlockAffine
from pnp_lip.theory.max_min_layer import SCALARS, MaxMinLayer
from pnp_lip.theory.projection import Constraints
from pnp_lip.theory.unbounded_width_network import check_input, check_network, isometric_layer

__all__ = ["FixedWidthNetwork"]


class FixedWidthNetwork(nn.Module):
    """f(x) = V A_L Ψ_L ∘ … ∘ A_1 Ψ_1 (Qx + q) on R^{h+3}, Ψ_ℓ(z) = (max(z₁, z₂), min(z₁, z₂), z₃, Φ_ℓ(z₄:)).

    Measure the state by |z| = max(|z₁|, |z₂|, |z₃|, ‖z₄:‖₂) and write |r|' = |r₁| + |r₂| + |r₃| + ‖r₄:‖₂ for the dual norm
    of a row. Each output is 1-Lipschitz when 0 ≤ τ_ℓ ≤ 2/‖W_ℓ‖² in Φ_ℓ, the three free rows of A_ℓ have |r|' ≤ 1 and its
    lower block is a contraction, the first three rows of Q have length at most 1 and the others form a contraction,
    and |v|' ≤ 1 for each row v of V: every factor is then nonexpansive for these norms. Several outputs are so
    1-Lipschitz each, the whole map for the maximum norm of its values; not jointly for the Euclidean norm. Nothing here
    enforces a range: ``Projector`` keeps it in training, ``seal`` makes it hold with certainty at the end, ``certify``
    proves it.

    With σ = ReLU, one output and h = d these functions, over all depths, are dense in the scalar 1-Lipschitz functions
    on compact sets of R^d (Theorem 4.1). With another activation (slopes in [0, 1]) in the Φ_ℓ the network stays
    1-Lipschitz, but that theorem is stated for ReLU; with h < d it does not apply either. The sorting always uses ReLU.

    Shapes: (..., features) to (..., out_features), any float dtype. ``width`` is h, ``features`` by default. ``lift`` is
    Q, q of h + 3 rows; ``layers`` holds the Ψ_ℓ, ``affines`` the A_ℓ; ``readout`` is V, without a bias. At the start every
    Φ_ℓ has an orthogonal Jacobian and every lower block is orthogonal (dynamical isometry).

    Raises InputError for sizes below 1 (depth below 0), ShapeError for inputs with another number of columns.

    Source: Murari, Furuya & Schönlieb (2025), Theorem 4.1 and Section 5.

    >>> network = FixedWidthNetwork(2, depth=4)
    >>> network(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """

    def __init__(
        self,
        features: int,
        *,
        depth: int,
        width: int | None = None,
        out_features: int = 1,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        h = features if width is None else width
        check_network(features, h, depth, out_features)
        self.lift = nn.Linear(features, h + SCALARS)
        self.layers = nn.ModuleList(MaxMinLayer(isometric_layer(h, activation=activation)) for _ in range(depth))
        self.affines = nn.ModuleList(BlockAffine(h) for _ in range(depth))
        self.readout = nn.Linear(h + SCALARS, out_features, bias=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Unit rows in the lift's scalars, an isometry in its block, rows of dual norm one in the readout."""
        upper, lower = self.lift.weight[:SCALARS], self.lift.weight[SCALARS:]
        upper.copy_(nn.functional.normalize(torch.randn_like(upper)))
        lower.copy_(nn.init.orthogonal_(torch.empty_like(lower)))
        v = nn.functional.normalize(torch.randn_like(self.readout.weight))
        dual = v[:, :SCALARS].abs().sum(1) + v[:, SCALARS:].norm(dim=1)
        self.readout.weight.copy_(v / dual[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        check_input(x, self.lift)
        z = self.lift(x)
        for layer, affine in zip(self.layers, self.affines, strict=True):
            z = affine(layer(z))
        outputs: Tensor = self.readout(z)
        return outputs

    def constraints(self, parameters: Mapping[str, Tensor] | None = None) -> Constraints:
        """What makes each output 1-Lipschitz, on these ``parameters``: the network's own, or stacked ones of the same names."""
        p = dict(self.named_parameters()) if parameters is None else parameters
        depth = range(len(self.layers))
        lift = p["lift.weight"]
        return Constraints(
            steps=[(p[f"layers.{i}.inner.weight"], p[f"layers.{i}.inner.tau"]) for i in depth],
            contractions=[lift[..., SCALARS:, :], *(p[f"affines.{i}.lower"] for i in depth)],
            unit_rows=[lift[..., :SCALARS, :]],
            mixed_rows=[p["readout.weight"], *(p[f"affines.{i}.rows"] for i in depth)],
        )
