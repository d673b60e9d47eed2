"""Lower bounds of an operator's norm by the power method: what stands beside a proved upper bound, and never replaces it."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["norm_lower"]

Data = TypeVar("Data", bound=Tensor | Sequence[Tensor])  # what A returns: one tensor or several, real or complex


@torch.no_grad()
def norm_lower(
    apply: Callable[[Tensor], Data],
    apply_adjoint: Callable[[Data], Tensor],
    start: Tensor,
    *,
    iterations: int = 100,
) -> tuple[float, Tensor]:
    """The largest ‖A v_k‖ over unit vectors v_{k+1} = AᵀA v_k/‖AᵀA v_k‖ from v_0 ∝ ``start``, and the last v_k.

    It certifies nothing: a lower bound of ‖A‖, up to the rounding of its own evaluation, whatever ``apply_adjoint`` does.
    With the adjoint the values grow towards ‖A‖, unless ``start`` is orthogonal to the leading singular vectors.

    At most ``iterations`` products with A. Lengths are taken in float64. Gives 0 for a ``start`` that vanishes, or that A
    maps to zero. Source: Golub & Van Loan (2013), Section 8.2.

    >>> A = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    >>> bound, v = norm_lower(lambda x: A @ x, lambda y: A.T @ y, torch.ones(2, dtype=torch.float64), iterations=20)
    >>> 3 * (1 - 1e-12) < bound <= 3 * (1 + 1e-15), v.round(decimals=6).tolist()
    (True, [1.0, 0.0])
    """
    v, lower = start, 0.0
    for k in range(iterations):
        size = length(v)
        if not 0 < size < math.inf:
            break
        v = v / size
        image = apply(v)
        lower = max(lower, length(image) / length(v))
        if k < iterations - 1:
            v = apply_adjoint(image)
    return lower, v


def length(data: Tensor | Sequence[Tensor]) -> float:
    """‖data‖₂ in float64."""
    parts = [data] if isinstance(data, Tensor) else data
    return math.sqrt(math.fsum(float(part.abs().double().square().sum()) for part in parts))
