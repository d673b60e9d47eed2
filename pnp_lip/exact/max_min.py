"""The max-min form, in which every scalar piecewise-affine 1-Lipschitz function can be written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.spectral.square_upper import sum_of_squares

__all__ = ["MaxMin", "inside_ball"]

EXCESS = 1e-12  # a norm above 1 by no more than this counts as rounding


@dataclasses.dataclass(frozen=True, eq=False)
class MaxMin:
    """f(x) = ± max_i min_{j ∈ S_i} (a_j · x + b_j), which is 1-Lipschitz because every ‖a_j‖₂ ≤ 1.

    Every continuous piecewise-affine function has this form, with its own affine pieces (Ovchinnikov 2002; Tarela &
    Martínez 1999). With ``sign`` = −1 it is the min-max form of −f, and ``-f`` changes the sign.

    ``slopes`` (n, d) holds the a_j, ``offsets`` (n,) the b_j, ``groups`` the S_i as indices of pieces, of which one may
    be in several groups. All is kept in float64; a row whose norm exceeds 1 by at most 1e-12 is taken for a rounded unit
    vector and shortened by the least amount, so that ‖a_j‖ ≤ 1 holds exactly for the stored numbers.

    Calling f with x of shape (..., d) gives (...).

    Raises ShapeError for shapes that do not fit, InputError for longer rows, numbers that are not finite, empty groups,
    indices out of range and signs other than ±1.

    >>> f = MaxMin(torch.tensor([[1.0], [-1.0]]), torch.tensor([0.0, 0.0]), [[0], [1]])
    >>> f(torch.tensor([[-2.0], [3.0]]))  # |x|
    tensor([2., 3.], dtype=torch.float64)
    """

    slopes: Tensor
    offsets: Tensor
    groups: Sequence[Sequence[int]]
    sign: int = 1

    def __post_init__(self) -> None:
        slopes, offsets = self.slopes.detach().double(), self.offsets.detach().double()
        check(slopes, offsets, self.groups, self.sign)
        object.__setattr__(self, "slopes", inside_ball(slopes))
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "groups", tuple(tuple(int(j) for j in group) for group in self.groups))

    def __call__(self, x: Tensor) -> Tensor:
        """f(x)."""
        if x.shape[-1] != self.dimension:
            raise ShapeError(f"this function takes (..., {self.dimension}) tensors; got {tuple(x.shape)}.")
        pieces = x.to(self.slopes) @ self.slopes.mT + self.offsets
        return self.sign * torch.stack([pieces[..., list(group)].amin(-1) for group in self.groups]).amax(0)

    def __neg__(self) -> MaxMin:
        return dataclasses.replace(self, sign=-self.sign)

    @property
    def dimension(self) -> int:
        """d."""
        return self.slopes.shape[1]

    @property
    def terms(self) -> int:
        """Σ |S_i|, the number of terms in the formula."""
        return sum(len(group) for group in self.groups)


def check(slopes: Tensor, offsets: Tensor, groups: Sequence[Sequence[int]], sign: int) -> None:
    """Refuse what is no max-min form."""
    if slopes.ndim != 2 or 0 in slopes.shape or offsets.shape != slopes.shape[:1]:
        raise ShapeError(
            f"expected slopes (n, d) and offsets (n,), n and d at least 1; got {tuple(slopes.shape)} and "
            f"{tuple(offsets.shape)}."
        )
    if not (torch.isfinite(slopes).all() and torch.isfinite(offsets).all()):
        raise InputError("slopes and offsets must be finite; got NaN or infinity.")
    if not groups or any(len(group) == 0 for group in groups):
        raise InputError("`groups` needs at least one group, and each at least one piece; got an empty one.")
    if any(not 0 <= int(j) < len(slopes) for group in groups for j in group):
        raise InputError(
            f"`groups` holds indices of the {len(slopes)} pieces, 0 to {len(slopes) - 1}; got another one."
        )
    if sign not in (1, -1):
        raise InputError(f"`sign` must be 1 or -1; got {sign}.")
    longest = float(slopes.norm(dim=1).max())
    if longest > 1 + EXCESS:
        raise InputError(
            f"every slope must have norm at most 1 for f to be 1-Lipschitz; got {longest:.15g}. Divide f by that number."
        )


def inside_ball(rows: Tensor) -> Tensor:
    """The rows, those of norm above 1 drawn towards zero in steps of one unit in the last place until ‖row‖ ≤ 1 exactly.

    >>> row = torch.full((1, 3), 3.0, dtype=torch.float64).rsqrt()
    >>> sum_of_squares(inside_ball(row)[0].tolist()) <= 1
    True
    """
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1)
    return torch.tensor([shortened(row) for row in rows.tolist()], dtype=torch.float64)


def shortened(row: list[float]) -> list[float]:
    """One row of ``inside_ball``."""
    while sum_of_squares(row) > 1:
        row = [math.nextafter(value, 0.0) for value in row]
    return row
