"""The Wasserstein-1 distance of two point clouds, from below, by a certified critic."""

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.theory.constraints import Projector, descend, seal
from pnp_lip.theory.networks import UnboundedWidthNetwork

__all__ = ["Wasserstein1", "wasserstein1"]


RATES = (5e-2, 1e-2)  # Adam's: large ones suit potentials of one piece, small ones those of many


@dataclasses.dataclass(frozen=True)
class Wasserstein1:
    """``lower`` ≤ W₁(P, Q); the ``critic`` attains it: ``lower`` = scale · (mean f over P − mean f over Q).

    f is evaluated at (x − ``centre``)/``scale``; ``certify(critic)`` proves that it is 1-Lipschitz.
    """

    lower: float
    critic: UnboundedWidthNetwork
    centre: Tensor
    scale: float


def wasserstein1(
    p: Tensor, q: Tensor, *, width: int = 32, depth: int = 8, steps: int = 1500, learning_rates: Sequence[float] = RATES
) -> Wasserstein1:
    """A lower bound of W₁(P, Q), P and Q uniform on the rows of ``p`` (n, d) and ``q`` (m, d), Euclidean distances.

    W₁(P, Q) = sup { E_P f − E_Q f : f 1-Lipschitz } (Kantorovich & Rubinstein), so any 1-Lipschitz f gives a lower bound.
    f is an ``UnboundedWidthNetwork`` trained to raise it (Adam, all points in each step), its layers isometries almost
    everywhere. ``seal`` makes the constraint certain before the value is taken, in float64. Training decides how near the
    bound comes: one critic is trained with each of ``learning_rates``, and the best is returned.

    Raises ShapeError for clouds that are not (n, d) and (m, d), InputError for points that are not finite or all equal
    and settings out of range. Source: Arjovsky, Chintala & Bottou (2017) for the critic; their constraint is not exact.

    >>> p = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> 1.9 < wasserstein1(p, p + torch.tensor([0.0, 2.0]), steps=200).lower <= 2.0
    True
    """
    if p.ndim != 2 or q.ndim != 2 or p.shape[1] != q.shape[1] or 0 in (*p.shape, *q.shape):
        raise ShapeError(f"expected point clouds (n, d) and (m, d); got {tuple(p.shape)} and {tuple(q.shape)}.")
    if steps < 1 or not learning_rates or not min(learning_rates) > 0:
        wrong = f"{steps} and {list(learning_rates)}"
        raise InputError(f"`steps` must be at least 1 and `learning_rates` positive; got {wrong}.")
    both = torch.cat([p, q]).detach().double()
    if not torch.isfinite(both).all():
        raise InputError("the points must be finite; got NaN or infinity.")
    centre = both.mean(0)
    scale = float((both - centre).square().mean().sqrt())
    if not scale > 0:
        raise InputError("all points are equal: the distance is zero.")
    x = (both - centre) / scale
    weights = torch.cat([x.new_full((len(p),), 1 / len(p)), x.new_full((len(q),), -1 / len(q))])
    found = []
    for rate in learning_rates:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            critic = UnboundedWidthNetwork(x.shape[1], width=max(width, x.shape[1]), depth=depth)
        project = Projector(critic.constraints(), isometric=True)
        loss = functools.partial(total, critic, x.float(), -weights.float())
        descend(critic.parameters(), loss, project, steps=steps, rate=rate)
        lower = scale * float(total(seal(critic).double(), x, weights).detach())
        found.append(Wasserstein1(lower, critic, centre, scale))
    return max(found, key=lambda bound: bound.lower)


def total(critic: UnboundedWidthNetwork, x: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i f(x_i)."""
    value: Tensor = weights @ critic(x)[:, 0]
    return value
