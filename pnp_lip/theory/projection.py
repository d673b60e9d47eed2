"""Keeping a network 1-Lipschitz: projected gradient in training, and the same with certainty at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError
from pnp_lip.spectral import norm_bound
from pnp_lip.theory.max_min_layer import SCALARS

Network = TypeVar("Network", bound=nn.Module)

__all__ = ["Constraints", "Projector", "retract", "seal"]

SLACK = 1e-6  # relative; above the rounding of float32 in the norms and in the division by them


@dataclasses.dataclass(frozen=True)
class Constraints:
    """The tensors of a network that must stay in a range, each perhaps with leading axes (copies trained side by side).

    ``steps``: pairs W (..., m, n) and τ (...) with 0 ≤ τ ≤ 2/‖W‖². ``contractions``: matrices with ‖A‖ ≤ 1, the lift's
    first. ``unit_rows``: matrices whose rows have length at most 1. ``mixed_rows``: |r₁| + |r₂| + |r₃| + ‖r₄:‖₂ ≤ 1 for each row.
    """

    steps: Sequence[tuple[Tensor, Tensor]] = ()
    contractions: Sequence[Tensor] = ()
    unit_rows: Sequence[Tensor] = ()
    mixed_rows: Sequence[Tensor] = ()


class Projector:
    """Projected gradient: call it after each step of any torch optimiser.

    - τ ← min(max(τ, 0), 2/ν²), ν = ‖Wv‖ after ``iterations`` power iterations per call, v kept from call to call;
    - with ``isometric``, first W itself is drawn to orthonormal rows or columns: with τ = 2 the layers then stay isometries
      almost everywhere (dynamical isometry), and f can keep gradients of norm one, as an optimal critic needs;
    - matrices with ‖A‖ ≤ 1 are drawn to the nearest one with orthonormal rows or columns by one Newton-Schulz step
      (``retract``), which has norm at most one and keeps gradients from vanishing;
    - rows are divided by their norm where it exceeds 1.

    ν is a lower bound of ‖W‖, so the constraint holds in training up to the power method's error; ``seal`` removes that
    error when training is over. Tensors of the same shape are handled as one batch, so the cost of a call hardly grows
    with depth until the matrices are large.

    Raises InputError when ``iterations`` is below 1. Source: Murari, Furuya & Schönlieb (2025), Section 5.

    >>> from pnp_lip.theory import UnboundedWidthNetwork
    >>> network = UnboundedWidthNetwork(2, width=5, depth=2)
    >>> optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    >>> project = Projector(network.constraints())
    >>> for _ in range(3):
    ...     optimiser.zero_grad()
    ...     network(torch.randn(16, 2)).square().mean().neg().backward()
    ...     optimiser.step()
    ...     project()
    >>> bool(torch.linalg.matrix_norm(network.lift.weight, 2) <= 1 + 1e-6)
    True
    """

    def __init__(self, constraints: Constraints, *, iterations: int = 1, isometric: bool = False) -> None:
        if iterations < 1:
            raise InputError(f"`iterations` must be at least 1; got {iterations}.")
        self.constraints, self.iterations, self.isometric = constraints, iterations, isometric
        self.groups = by_shape([w for w, _ in constraints.steps])
        self.directions = [start_direction(constraints.steps, group) for group in self.groups]
        self.contractions = by_shape(constraints.contractions)
        self.mixed = by_shape(constraints.mixed_rows)

    @torch.no_grad()
    def __call__(self) -> None:
        """Project once, in place."""
        self.shorten_steps()
        c = self.constraints
        for group in self.contractions:
            scatter([c.contractions[i] for i in group], retract(torch.stack([c.contractions[i] for i in group])))
        for rows in c.unit_rows:
            rows.div_(rows.norm(dim=-1, keepdim=True).clamp_min(1))
        for group in self.mixed:
            stacked = torch.stack([c.mixed_rows[i] for i in group])
            scatter([c.mixed_rows[i] for i in group], stacked / dual_norm(stacked).clamp_min(1))

    def shorten_steps(self) -> None:
        """τ ← min(max(τ, 0), 2/ν²) with the power method's ν."""
        steps = self.constraints.steps
        for k, group in enumerate(self.groups):
            weights, taus = [steps[i][0] for i in group], [steps[i][1] for i in group]
            w = torch.stack(weights)
            if self.isometric:
                w = retract(w)
                scatter(weights, w)
            norm, self.directions[k] = power_method(w, self.directions[k], self.iterations)
            tau = torch.stack(taus)
            scatter(taus, torch.minimum(tau.clamp_min(0), 2 / norm.square().clamp_min(1e-12)))


@torch.no_grad()
def seal(network: Network) -> Network:
    """Make the constraint hold with certainty, in place, by the least scaling of what violates it, and return the network.

    Every matrix, row and step is divided by a rigorous upper bound of its norm where that exceeds 1 − 1e-6, so that
    ``certify(network)`` proves 1: for a trained network this moves the weights by the power method's error.

    ``network`` is an ``UnboundedWidthNetwork`` or a ``FixedWidthNetwork``, without parametrisations. Raises InputError
    for weights that are NaN or infinite.

    >>> from pnp_lip.theory import UnboundedWidthNetwork
    >>> network = UnboundedWidthNetwork(2, width=5, depth=2)
    >>> _ = network.lift.weight.data.mul_(7)
    >>> bool(torch.linalg.matrix_norm(seal(network).lift.weight, 2) <= 1)
    True
    """
    broken = [name for name, value in network.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError(f"`{broken[0]}` holds NaN or infinity; load intact weights, or train with a smaller rate.")
    c: Constraints = network.constraints()  # type: ignore[operator]
    for w, tau in c.steps:
        upper = norm_bound(w.detach().cpu()).upper
        tau.clamp_(0, min(2 * (1 - SLACK) / upper**2, 1e30) if upper > 0 else 1e30)
    for a in c.contractions:
        a.div_(max(1.0, norm_bound(a.detach().cpu()).upper * (1 + SLACK)))
    for rows in c.unit_rows:
        rows.div_((rows.double().norm(dim=-1, keepdim=True) * (1 + SLACK)).clamp_min(1))
    for rows in c.mixed_rows:
        rows.div_((dual_norm(rows.double()) * (1 + SLACK)).clamp_min(1))
    return network


def retract(a: Tensor) -> Tensor:
    """One Newton-Schulz step to the polar factor: a (3 Id − aᵀa)/2 for (..., m, n), after a scaling that bounds ‖a‖ by 3/2.

    A singular value s ≤ 2 becomes s(3 − s²)/2 ≤ 1, so the result has norm at most 1 whatever ``a`` was, and orthonormal
    rows or columns in the limit of repeated steps. ‖a‖² is bounded by the largest absolute row sum of aᵀa.
    """
    wide = a.shape[-2] <= a.shape[-1]
    gram = a @ a.mT if wide else a.mT @ a
    squared = gram.abs().sum(-1).amax(-1)[..., None, None] / 2.25
    scale = squared.clamp_min(1)
    correction = 1.5 * torch.eye(gram.shape[-1], dtype=a.dtype, device=a.device) - gram / (2 * scale)
    return (correction @ a if wide else a @ correction) / scale.sqrt()


def dual_norm(rows: Tensor) -> Tensor:
    """|r₁| + |r₂| + |r₃| + ‖r₄:‖₂ of each row, (..., m, n) to (..., m, 1)."""
    scalars, block = rows[..., :SCALARS], rows[..., SCALARS:]
    norm: Tensor = scalars.abs().sum(-1, keepdim=True) + block.norm(dim=-1, keepdim=True)
    return norm


def power_method(w: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """‖Wv‖ ≤ ‖W‖ for unit v and the improved v, (..., m, n) and (..., n, 1)."""
    for _ in range(iterations):
        v = nn.functional.normalize(w.mT @ (w @ v), dim=-2)
    return (w @ v).norm(dim=(-2, -1)), v


@torch.no_grad()
def start_direction(steps: Sequence[tuple[Tensor, Tensor]], group: Sequence[int]) -> Tensor:
    """Unit vectors after 30 power iterations from a fixed random start."""
    w = torch.stack([steps[i][0].detach() for i in group])
    v = torch.randn(w.shape[-1], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(w)
    return power_method(w, v.expand(*w.shape[:-2], -1, -1), 30)[1]


def by_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The positions of tensors that can be stacked."""
    groups: dict[object, list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault((tensor.shape, tensor.dtype, tensor.device), []).append(i)
    return list(groups.values())


def scatter(tensors: Sequence[Tensor], values: Tensor) -> None:
    """Write the slices of ``values`` back."""
    torch._foreach_copy_(list(tensors), list(values.unbind(0)))
