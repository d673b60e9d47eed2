"""Conjugate gradients for (Id + H) x = b, per image, to rounding accuracy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["solve_shifted"]


def solve_shifted(
    h: Callable[[Tensor], Tensor], b: Tensor, x: Tensor, *, rtol: float | None = None, max_iter: int = 500
) -> Tensor:
    """Solve (Id + H) x = b for H symmetric and positive semidefinite, starting at ``x``.

    Each image of the batch stops on its own, once ‖b − (Id + H) x‖ ≤ rtol ‖b‖; an image that has stopped is not moved
    again, so that the result does not depend on its neighbours. As Id + H ≥ Id, the error obeys ‖x − x*‖ ≤ rtol ‖b‖.
    The default ``rtol`` is 4 units of rounding; below that the recursion only stirs rounding errors, so an image also
    stops when its residual has not halved in 30 steps. Unlike deepinv's conjugate gradients no constant is added to the
    denominators, which would set an error floor.

    Source: Hestenes & Stiefel (1952).

    >>> solve_shifted(lambda x: 3 * x, torch.ones(1, 2), torch.zeros(1, 2))
    tensor([[0.2500, 0.2500]])
    """
    rtol = 4 * torch.finfo(b.dtype).eps if rtol is None else rtol
    r = b - x - h(x)
    p = r
    rr, target = dot(r, r), dot(b, b) * rtol**2
    best, age = rr.clone(), torch.zeros_like(rr)
    active = ~(rr <= target)  # NaN stays active, so that it reaches the result instead of hiding behind the guess
    for _ in range(max_iter):
        if not bool(active.any()):
            break
        hp = p + h(p)
        step = torch.where(active, rr / dot(p, hp), torch.zeros_like(rr))
        x = x + spread(step, x) * p
        r = r - spread(step, r) * hp
        new = dot(r, r)
        p = r + spread(torch.where(active, new / rr, torch.zeros_like(rr)), p) * p
        rr = torch.where(active, new, rr)
        halved = rr < 0.25 * best
        best, age = torch.where(halved, rr, best), torch.where(halved, torch.zeros_like(age), age + 1)
        active = active & ~(rr <= target) & (age < 30)
    return x


def dot(a: Tensor, b: Tensor) -> Tensor:
    """One inner product per image."""
    return (a * b).flatten(1).sum(1)


def spread(value: Tensor, like: Tensor) -> Tensor:
    """View one number per image so that it broadcasts against ``like``."""
    return value.reshape(-1, *([1] * (like.ndim - 1)))
