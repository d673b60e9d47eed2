"""The two universal families: residual layers between a lift and a readout, and the ranges that make them 1-Lipschitz."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import Activation, GradientFlowLinear

__all__ = ["BlockAffine", "Constraints", "FixedWidthNetwork", "MaxMinLayer", "Network", "UnboundedWidthNetwork"]

SCALARS = 3  # coordinates of the fixed-width state before its block: a maximum, a minimum, a term that waits


@dataclasses.dataclass(frozen=True)
class Constraints:
    """The tensors of a network that must stay in a range. Leading axes hold copies that are trained side by side.

    ``steps``: pairs W (..., m, n) and τ (...) with 0 ≤ τ ≤ 2/‖W‖². ``contractions``: matrices with ‖A‖ ≤ 1, the lift's
    first. ``unit_rows``: matrices whose rows have length at most 1. ``mixed_rows``: |r₁| + |r₂| + |r₃| + ‖r₄:‖₂ ≤ 1 for
    each row.
    """

    steps: Sequence[tuple[Tensor, Tensor]] = ()
    contractions: Sequence[Tensor] = ()
    unit_rows: Sequence[Tensor] = ()
    mixed_rows: Sequence[Tensor] = ()


class UnboundedWidthNetwork(nn.Module):
    """f(x) = V Φ_L ∘ … ∘ Φ_1 (Qx + q), Φ_ℓ(z) = z − τ_ℓ W_ℓᵀ σ(W_ℓ z + b_ℓ) on R^h.

    f is 1-Lipschitz for the Euclidean norms when ‖V‖ ≤ 1, ‖Q‖ ≤ 1 and 0 ≤ τ_ℓ ≤ 2/‖W_ℓ‖². The class enforces no range:
    ``Projector`` keeps it in training, ``seal`` makes it certain, ``certify`` proves it. Exact constructions have a lift
    of a larger norm (n unit rows, ‖Q‖ ≤ √n).

    With σ = ReLU and one output, these functions, over all widths h and depths L, are dense in the scalar 1-Lipschitz
    functions on compact sets (Theorem 3.1). Another activation of slopes in [0, 1] keeps f 1-Lipschitz, but that theorem
    and the exact representation of piecewise affine functions (Theorem 3.2) then no longer apply.

    Shapes: (..., features) to (..., out_features), any float dtype. ``lift`` is Q, q; ``layers`` holds the Φ_ℓ, each with
    ``hidden_features`` rows in W (h by default); ``readout`` is V, without a bias. At the start Q and V are isometries
    where the shapes permit, a square W_ℓ is the exponential of a random skew matrix, and τ_ℓ = 2 = 2/‖W_ℓ‖², so every
    Jacobian is orthogonal (dynamical isometry).

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
        check_columns(x, self.lift.in_features)
        for module in (self.lift, *self.layers, self.readout):
            x = module(x)
        return x

    def constraints(self, parameters: Mapping[str, Tensor] | None = None) -> Constraints:
        """What makes f 1-Lipschitz, on these ``parameters``: the network's own, or stacked ones of the same names."""
        p = dict(self.named_parameters()) if parameters is None else parameters
        return Constraints(
            steps=[(p[f"layers.{i}.weight"], p[f"layers.{i}.tau"]) for i in range(len(self.layers))],
            contractions=[p["lift.weight"], p["readout.weight"]],
        )


class FixedWidthNetwork(nn.Module):
    """f(x) = V A_L Ψ_L ∘ … ∘ A_1 Ψ_1 (Qx + q) on R^{h+3}, Ψ_ℓ(z) = (max(z₁, z₂), min(z₁, z₂), z₃, Φ_ℓ(z₄:)).

    Measure the state by |z| = max(|z₁|, |z₂|, |z₃|, ‖z₄:‖₂), and a row by the dual norm |r|' = |r₁| + |r₂| + |r₃| + ‖r₄:‖₂.
    Each output is 1-Lipschitz when every factor is nonexpansive for these norms: 0 ≤ τ_ℓ ≤ 2/‖W_ℓ‖² in Φ_ℓ; the three free
    rows of A_ℓ have |r|' ≤ 1 and its lower block is a contraction; the first three rows of Q have length at most 1 and the
    others form a contraction; |v|' ≤ 1 for each row v of V. Several outputs are 1-Lipschitz each, so the whole map is so
    for the maximum norm of its values, not for the Euclidean norm. The class enforces no range, as the other family.

    With σ = ReLU, one output and h = d these functions, over all depths, are dense in the scalar 1-Lipschitz functions
    on compact sets of R^d (Theorem 4.1). The theorem applies neither to other activations in the Φ_ℓ, which keep f
    1-Lipschitz when their slopes lie in [0, 1], nor to h < d.

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
        upper, lower = self.lift.weight.data[:SCALARS], self.lift.weight.data[SCALARS:]
        upper.copy_(nn.functional.normalize(torch.randn_like(upper)))
        lower.copy_(nn.init.orthogonal_(torch.empty_like(lower)))
        v = nn.functional.normalize(torch.randn_like(self.readout.weight.data))
        self.readout.weight.data = v / dual_norm(v)

    def forward(self, x: Tensor) -> Tensor:
        check_columns(x, self.lift.in_features)
        x = self.lift(x)
        for layer, affine in zip(self.layers, self.affines, strict=True):
            x = affine(layer(x))
        x = self.readout(x)
        return x

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
        check_columns(z, self.inner.weight.shape[1] + SCALARS)
        first, second = z[..., :1], z[..., 1:2]
        pair = torch.maximum(first, second), torch.minimum(first, second)
        return torch.cat([*pair, z[..., 2:SCALARS], self.inner(z[..., SCALARS:])], -1)


class BlockAffine(nn.Module):
    """A(z) = [R; 0 B] z + b on R^{h+3}: three free rows R read the whole state, the lower block reads only itself.

    A is nonexpansive for the norm max(|z₁|, |z₂|, |z₃|, ‖z₄:‖₂) when ‖B‖ ≤ 1 and each row r of R has
    |r₁| + |r₂| + |r₃| + ‖r₄:‖₂ ≤ 1. It need not be so for the Euclidean norm of the whole state. The layer enforces no range.

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
        check_columns(z, len(self.bias))
        linear: Tensor = torch.cat([z @ self.rows.mT, z[..., SCALARS:] @ self.lower.mT], -1)
        return linear + self.bias


Network = UnboundedWidthNetwork | FixedWidthNetwork


def dual_norm(rows: Tensor) -> Tensor:
    """|r₁| + |r₂| + |r₃| + ‖r₄:‖₂ of each row, (..., m, n) to (..., m, 1)."""
    scalars, block = rows[..., :SCALARS], rows[..., SCALARS:]
    norm: Tensor = scalars.abs().sum(-1, keepdim=True) + block.norm(dim=-1, keepdim=True)
    return norm


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
    if min(features, width, out_features) < 1 or depth < 0:
        sizes = features, width, out_features, depth
        raise InputError(f"features, width and out_features must be at least 1, depth at least 0; got {sizes}.")


def check_columns(x: Tensor, columns: int) -> None:
    if x.shape[-1] != columns or not torch.is_floating_point(x):
        found = f"{tuple(x.shape)} {x.dtype}"
        raise ShapeError(f"this takes floating-point (..., {columns}) tensors; got {found}. Flatten images first.")
