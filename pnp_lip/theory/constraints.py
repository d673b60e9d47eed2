"""Keeping a network 1-Lipschitz: projected gradient or a parametrisation in training, ``seal`` at the end."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from pnp_lip.errors import InputError
from pnp_lip.layers import constrain
from pnp_lip.layers.constraints import UnitNorm
from pnp_lip.spectral import norm_bound
from pnp_lip.theory.networks import SCALARS, Constraints, FixedWidthNetwork, Network, dual_norm

__all__ = ["Projector", "descend", "parametrise", "plain", "retract", "seal"]

AnyNetwork = TypeVar("AnyNetwork", bound=Network)
SLACK = 1e-6  # relative room left by ``seal``: several roundings of float32, 6e-8 each
START_ITERATIONS = 30  # of the power method before training; later calls improve the same vector
SMALLEST_SQUARE = 1e-12  # of ‖W‖² in training, so that τ stays finite at W = 0
LARGEST_STEP = 1e30  # of τ after ``seal``, so that τ stays finite at W = 0


class Projector:
    """Projected gradient: call it after each step of any torch optimiser.

    - τ ← min(max(τ, 0), 2/ν²), ν = ‖Wv‖ after ``iterations`` power iterations; the next call starts from this v.
    - ``isometric`` first moves W towards orthonormal rows or columns. With τ = 2 the layers then stay isometries almost
      everywhere (dynamical isometry), so gradients do not vanish.
    - Matrices with ‖A‖ ≤ 1 move towards orthonormal rows or columns by one Newton-Schulz step (``retract``).
    - Rows are divided by their norm where it exceeds 1.

    ν ≤ ‖W‖, so training holds the constraint up to the power method's error, which ``seal`` removes at the end. Raises
    InputError when ``iterations`` is below 1. Source: Murari, Furuya & Schönlieb (2025), Section 5.

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
        self.iterations, self.isometric = iterations, isometric
        self.steps = by_shape([w for w, _ in constraints.steps], [tau for _, tau in constraints.steps])
        self.directions: list[Tensor] = []  # v of each group, from a fixed random start
        for weights, _ in self.steps:
            w = torch.stack(weights).detach()
            v = torch.randn(w.shape[-1], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(w)
            self.directions.append(norms_lower(w, v.expand(*w.shape[:-2], -1, -1), START_ITERATIONS)[1])
        self.contractions = by_shape(constraints.contractions)
        self.unit_rows = constraints.unit_rows
        self.mixed_rows = by_shape(constraints.mixed_rows)

    @torch.no_grad()
    def __call__(self) -> None:
        """Project once, in place."""
        for k, (weights, taus) in enumerate(self.steps):
            if self.isometric:
                update(weights, retract)
            norm, self.directions[k] = norms_lower(torch.stack(weights), self.directions[k], self.iterations)
            limit = 2 / norm.square().clamp_min(SMALLEST_SQUARE)
            update(taus, lambda tau, limit=limit: torch.minimum(tau.clamp_min(0), limit))  # type: ignore[misc]
        for (matrices,) in self.contractions:
            update(matrices, retract)
        for rows in self.unit_rows:
            rows.div_(rows.norm(dim=-1, keepdim=True).clamp_min(1))
        for (matrices,) in self.mixed_rows:
            update(matrices, lambda stacked: stacked / dual_norm(stacked).clamp_min(1))


@torch.no_grad()
def seal(network: AnyNetwork) -> AnyNetwork:
    """Make the constraint hold with certainty, in place, by the least scaling of what violates it; return the network.

    Every matrix, row and step is divided by a rigorous upper bound of its norm where that exceeds 1 − 1e-6 (in half
    precision 1 − 8ε, as quotients are rounded). Then ``certify(network)`` proves 1. ``network`` must have no
    parametrisations. Raises InputError for weights that are NaN or infinite.

    >>> from pnp_lip.theory import UnboundedWidthNetwork
    >>> network = UnboundedWidthNetwork(2, width=5, depth=2)
    >>> _ = network.lift.weight.data.mul_(7)
    >>> bool(torch.linalg.matrix_norm(seal(network).lift.weight, 2) <= 1)
    True
    """
    broken = [name for name, value in network.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError(f"`{broken[0]}` holds NaN or infinity; load intact weights, or train with a smaller rate.")
    c = network.constraints()
    slack = max(SLACK, *(8 * torch.finfo(value.dtype).eps for value in network.parameters()))
    for w, tau in c.steps:
        upper = norm_bound(w.detach().cpu()).upper
        tau.clamp_(0, min(2 * (1 - slack) / upper / upper, LARGEST_STEP) if upper > 0 else LARGEST_STEP)
    for a in c.contractions:
        a.div_(max(1.0, norm_bound(a.detach().cpu()).upper * (1 + slack)))
    for rows in c.unit_rows:
        rows.div_((rows.double().norm(dim=-1, keepdim=True) * (1 + slack)).clamp_min(1))
    for rows in c.mixed_rows:
        rows.div_((dual_norm(rows.double()) * (1 + slack)).clamp_min(1))
    return network


def descend(
    parameters: Iterable[Tensor], loss: Callable[[], Tensor], project: Callable[[], None], *, steps: int, rate: float
) -> None:
    """Adam on ``loss()``, its rate annealed to zero along a cosine, with ``project()`` after each step.

    Raises InputError when the loss is NaN or infinite.
    """
    optimiser = torch.optim.Adam(parameters, lr=rate, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        value = loss()
        if not bool(torch.isfinite(value)):
            raise InputError(f"the loss became {float(value)}; use a smaller learning rate.")
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        project()


def retract(a: Tensor) -> Tensor:
    """One Newton-Schulz step to the polar factor: a (3 Id − aᵀa)/2 for (..., m, n), after a scaling that bounds ‖a‖ by 3/2.

    A singular value s ≤ 2 becomes s(3 − s²)/2 ≤ 1. So the result has norm at most 1 for every ``a``, and repeated steps
    converge to orthonormal rows or columns. The largest absolute row sum of aᵀa bounds ‖a‖².
    """
    wide = a.shape[-2] <= a.shape[-1]
    gram = a @ a.mT if wide else a.mT @ a
    squared = gram.abs().sum(-1).amax(-1)[..., None, None] / 1.5**2
    scale = squared.clamp_min(1)
    correction = 1.5 * torch.eye(gram.shape[-1], dtype=a.dtype, device=a.device) - gram / (2 * scale)
    return (correction @ a if wide else a @ correction) / scale.sqrt()


def norms_lower(w: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """‖Wv‖ ≤ ‖W‖ after power iterations from unit vectors v, and the improved v; (..., m, n) and (..., n, 1)."""
    for _ in range(iterations):
        v = nn.functional.normalize(w.mT @ (w @ v), dim=-2)
    return (w @ v).norm(dim=(-2, -1)), v


def by_shape(*columns: Sequence[Tensor]) -> list[list[list[Tensor]]]:
    """The columns, cut into groups whose tensors can be stacked."""
    groups: dict[object, list[tuple[Tensor, ...]]] = {}
    for row in zip(*columns, strict=True):
        groups.setdefault((row[0].shape, row[0].dtype, row[0].device), []).append(row)
    return [[list(column) for column in zip(*rows, strict=True)] for rows in groups.values()]


def update(tensors: list[Tensor], function: Callable[[Tensor], Tensor]) -> None:
    """Replace the tensors, in place, by what the function makes of their stack."""
    torch._foreach_copy_(tensors, list(function(torch.stack(tensors)).unbind(0)))


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


def parametrise(network: AnyNetwork) -> AnyNetwork:
    """Reparametrise every constrained tensor in place: the network is 1-Lipschitz after every optimiser step.

    W/‖W‖ and τ = 2·sigmoid(t) in the residual layers (``pnp_lip.layers.constrain``); lift and readout divided by their
    norms; the lower blocks the exponential of a skew matrix; rows divided by their dual norms. The norms are singular
    values in floating point, differentiated through: this costs more than ``Projector`` and is exact up to rounding.
    ``plain`` turns the result back. Source: Murari, Furuya & Schönlieb (2025), Section 5, for the exponential.

    >>> from pnp_lip.theory import UnboundedWidthNetwork
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


def plain(network: AnyNetwork) -> AnyNetwork:
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
