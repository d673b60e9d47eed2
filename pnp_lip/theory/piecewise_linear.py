"""One-dimensional piecewise-linear functions in max-min form, from their breakpoints."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.theory.max_min import EXCESS, MaxMin

__all__ = ["piecewise_linear"]


def piecewise_linear(knots: Tensor, values: Tensor) -> MaxMin:
    """The function through (t_k, y_k), linear between the knots and continued linearly beyond the first and the last one.

    f is cut at its convex kinks, where the slope grows, into runs R_i = [s_i, e_i] on which it is concave, the minimum of
    its pieces; lines of slope ±1 through the ends keep each run below f elsewhere, because f is 1-Lipschitz:

        f(t) = max_i min(f(s_i) + (t − s_i), f(e_i) − (t − e_i), y_k + m_k (t − t_k) for the pieces k of run i),

    without the first line for the first run and the second for the last one. That makes n + 2(r − 1) terms for n pieces
    and r runs, where the general formula needs up to n².

    ``knots`` and ``values`` have shape (n + 1,), n ≥ 1, knots increasing; slopes |m_k| ≤ 1, where an excess of 1e-12 counts
    as rounding. Raises ShapeError and InputError otherwise.

    >>> f = piecewise_linear(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> f(torch.tensor([[-1.0], [0.5], [1.5], [2.0], [4.0]])).tolist()
    [-1.0, 0.5, 0.5, 0.0, 2.0]
    """
    t, y = knots.detach().double(), values.detach().double()
    m = check(t, y)
    pieces = [(float(m[k]), float(y[k] - m[k] * t[k])) for k in range(len(m))]
    cuts = [0, *(k for k in range(1, len(m)) if m[k] > m[k - 1]), len(m)]
    lines: list[tuple[float, float]] = []
    groups: list[range] = []
    for start, end in itertools.pairwise(cuts):
        run = pieces[start:end]
        if start > 0:
            run.append((1.0, float(y[start] - t[start])))
        if end < len(m):
            run.append((-1.0, float(y[end] + t[end])))
        groups.append(range(len(lines), len(lines) + len(run)))
        lines += run
    table = torch.tensor(lines, dtype=torch.float64)
    return MaxMin(table[:, :1], table[:, 1], groups)


def check(t: Tensor, y: Tensor) -> Tensor:
    """The slopes, or an error."""
    if t.ndim != 1 or t.shape != y.shape or len(t) < 2:
        raise ShapeError(
            f"expected knots and values of one shape (n + 1,), n >= 1; got {tuple(t.shape)}, {tuple(y.shape)}."
        )
    if not (torch.isfinite(t).all() and torch.isfinite(y).all() and (t.diff() > 0).all()):
        raise InputError(
            "knots must be finite and strictly increasing, values finite; sort the knots and drop repeated ones."
        )
    m = y.diff() / t.diff()
    steepest = float(m.abs().max())
    if steepest > 1 + EXCESS:
        raise InputError(
            f"every slope must lie in [-1, 1]; got {steepest:.15g} in size. Divide the values by that number."
        )
    return m.clamp(-1, 1)
