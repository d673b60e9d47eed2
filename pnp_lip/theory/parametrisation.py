"""The other way of keeping a network 1-Lipschitz: free variables that every optimiser step may move anywhere."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from pnp_lip.layers import constrain
from pnp_lip.layers.constraints import UnitNorm
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.projection import SCALARS, dual_norm
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["parametrise", "plain"]

Network = TypeVar("Network", bound=UnboundedWidthNetwork | FixedWidthNetwork)


class MixedRows(nn.Module):
    """Divide each row by max(1, |r₁| + |r₂| + |r₃| + ‖r₄:‖₂)."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows / dual_norm(rows).clamp_min(1)


class LiftRows(nn.Module):
    """Divide the first three rows by their lengths where these exceed 1, and the block below by its norm."""

    def forward(self, weight: Tensor) -> Tensor:
        upper, lower = weight[:SCALARS], weight[SCALARS:]
        upper = upper / upper.norm(dim=1, keepdim=True).clamp_min(1)
        return torch.cat([upper, lower / torch.linalg.matrix_norm(lower, 2)])


def parametrise(network: Network) -> Network:
    """Reparametrise every constrained tensor in place: the network is 1-Lipschitz after every optimiser step.

    W/‖W‖ and τ = 2·sigmoid(t) in the residual layers (``pnp_lip.layers.constrain``); lift and readout divided by their
    norms; the lower blocks the exponential of a skew matrix, as in the code that accompanies the paper; rows divided by
    their dual norms. The norms are singular values of the whole matrix in floating point, differentiated through: this
    costs more than ``Projector`` and is exact up to rounding. ``plain`` turns the result back into plain weights.

    Source: Murari, Furuya & Schönlieb (2025), Section 5, for the exponential.

    >>> network = parametrise(UnboundedWidthNetwork(2, width=4, depth=2))
    >>> bool((torch.linalg.matrix_norm(network.lift.weight, 2) - 1).abs() < 1e-5)
    True
    """
    constrain(network, limit=1.0)
    fixed = isinstance(network, FixedWidthNetwork)
    parametrize.register_parametrization(network.lift, "weight", LiftRows() if fixed else UnitNorm())
    parametrize.register_parametrization(network.readout, "weight", MixedRows() if fixed else UnitNorm())
    for affine in network.affines if isinstance(network, FixedWidthNetwork) else ():
        parametrize.register_parametrization(affine, "rows", MixedRows())
        parametrizations.orthogonal(affine, "lower", orthogonal_map="matrix_exp")
    return network


def plain(network: Network) -> Network:
    """Undo ``parametrise`` in place, keeping the constrained values.

    >>> network = plain(parametrise(FixedWidthNetwork(2, depth=2)))
    >>> sorted(name for name, _ in network.affines[0].named_parameters())
    ['bias', 'lower', 'rows']
    """
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return network
