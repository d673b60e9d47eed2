"""The family of Theorem 4.1 and its two layers: depth does the work, the width stays at the input's dimension plus three."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import Activation, GradientFlowLinear
from pnp_lip.theory.projection import SCALARS, Constraints
from pnp_lip.theory.unbounded_width_network import (
    UnboundedWidthNetwork,
    check_input,
    check_network,
    exponential_of_skew,
    isometric_layer,
)

__all__ = ["BlockAffine", "FixedWidthNetwork", "MaxMinLayer", "Network"]


class FixedWidthNetwork(nn.Module):
    """f(x) = V A_L Ψ_L ∘ … ∘ A_1 Ψ_1 (Qx + q) on R^{h+3}, Ψ_ℓ(z) = (max(z₁, z₂), min(z₁, z₂), z₃, Φ_ℓ(z₄:)).

    Measure the state by |z| = max(|z₁|, |z₂|, |z₃|, ‖z₄:‖₂), and a row by the dual norm |r|' = |r₁| + |r₂| + |r₃| + ‖r₄:‖₂.
    Each output is 1-Lipschitz when every factor is nonexpansive for these norms: 0 ≤ τ_ℓ ≤ 2/‖W_ℓ‖² in Φ_ℓ; the three free
    rows of A_ℓ have |r|' ≤ 1 and its lower block is a contraction; the first three rows of Q have length at most 1 and the
    others form a contraction; |v|' ≤ 1 for each row v of V. Several outputs are 1-Lipschitz each, so the whole map is so
    for the maximum norm of its values, not for the Euclidean norm. The class itself enforces no range: ``Projector`` keeps
    it in training, ``seal`` makes it certain at the end, ``certify`` proves it.

    With σ = ReLU, one output and h = d these functions, over all depths, are dense in the scalar 1-Lipschitz functions
    on compact sets of R^d (Theorem 4.1). Another activation of slopes in [0, 1] in the Φ_ℓ keeps f 1-Lipschitz, but the
    theorem is stated for ReLU; it does not apply to h < d either. The sorting always uses ReLU.

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


class MaxMinLayer(nn.Module):
    """Ψ(z) = (max(z₁, z₂), min(z₁, z₂), z₃, Φ(z₄:)) on R^{h+3}, Φ a gradient-flow layer on R^h.

    Sorting the pair is itself such a layer, z − τ wᵀ σ(wz) with w = (−1, 1), τ = 2/‖w‖² = 1 and σ = ReLU:
    max(a, b) = a + σ(b − a), min(a, b) = b − σ(b − a). So Ψ is nonexpansive for the Euclidean norm, and for
    max(|z₁|, |z₂|, |z₃|, ‖z₄:‖₂), when Φ is: 0 ≤ τ ≤ 2/‖W‖².

    Shapes: (..., h + 3) to the same. ``inner`` is Φ, of h ``features``. Raises ShapeError for another number of columns.

    Source: Murari, Furuya & Schönlieb (2025), Theorem 4.1.

    >>> layer = MaxMinLayer(GradientFlowLinear(2))
    >>> layer(torch.tensor([[1.0, 5.0, 3.0, 0.0, 0.0]]))[:, :3]
    tensor([[5., 1., 3.]], grad_fn=<SliceBackward0>)
    """

    def __init__(self, inner: GradientFlowLinear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z: Tensor) -> Tensor:
        """Ψ(z)."""
        check_state(z, self.inner.weight)
        first, second, third = z[..., :SCALARS].split(1, -1)
        pair = torch.maximum(first, second), torch.minimum(first, second)
        return torch.cat([*pair, third, self.inner(z[..., SCALARS:])], -1)


class BlockAffine(nn.Module):
    """A(z) = [R; 0 B] z + b on R^{h+3}: three free rows R read the whole state, the lower block reads only itself.

    A is nonexpansive for the norm max(|z₁|, |z₂|, |z₃|, ‖z₄:‖₂) when ‖B‖ ≤ 1 and each row r of R has
    |r₁| + |r₂| + |r₃| + ‖r₄:‖₂ ≤ 1. It need not be so for the Euclidean norm of the whole state. The layer itself enforces
    no range: ``Projector`` keeps it in training, ``certify`` proves it.

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
        check_state(z, self.lower)
        linear: Tensor = torch.cat([z @ self.rows.mT, z[..., SCALARS:] @ self.lower.mT], -1)
        return linear + self.bias

    def extra_repr(self) -> str:
        return f"width={self.lower.shape[-1]}"


def check_state(z: Tensor, block: Tensor) -> None:
    """Refuse states that do not hold the scalars and the block that ``block`` acts on."""
    columns = block.shape[-1] + SCALARS
    if z.shape[-1] != columns:
        raise ShapeError(f"this layer takes (..., {columns}) tensors; got {tuple(z.shape)}.")


Network = UnboundedWidthNetwork | FixedWidthNetwork
