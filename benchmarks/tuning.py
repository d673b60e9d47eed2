"""Choosing a strength on a grid by climbing: few evaluations, and the curve that was seen is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pnp_lip.errors import InputError

__all__ = ["climb"]


def climb(
    score: Callable[[float], float], grid: Sequence[float], start: float | None = None, *, stride: int = 1
) -> tuple[float, dict[float, float]]:
    """The grid's point with the largest score, and the scores seen, for a score that rises and then falls along the grid.

    Walks from ``start`` (the middle of the grid by default) to larger points while the score rises, then to smaller ones if
    no larger one was better; first by ``stride`` points at a time, then from the best one by half as many, down to one.
    A score of −inf or NaN counts as nothing seen yet, and the walk goes on past it. Raises InputError for an empty grid, a
    start that is not on it, or a stride below 1.

    >>> climb(lambda s: -abs(s - 4), [1, 2, 4, 8, 16], start=1)
    (4, {1: -3, 2: -2, 4: 0, 8: -4})
    >>> climb(lambda s: -abs(s - 4), range(10), start=1, stride=4)
    (4, {1: -3, 3: -1, 4: 0, 5: -1, 6: -2, 7: -3, 9: -5})
    """
    points = sorted(grid)
    if not points or (start is not None and start not in points) or stride < 1:
        raise InputError(
            f"the search needs a grid with its start on it and a stride of at least 1; got {points}, {start} and {stride}."
        )
    curve: dict[float, float] = {}

    def value(i: int) -> float:
        s = points[i]
        if s not in curve:
            curve[s] = score(s)
        return curve[s] if math.isfinite(curve[s]) else -math.inf

    best = len(points) // 2 if start is None else points.index(start)
    value(best)
    while stride:
        first = best
        for step in (stride, -stride):
            i = first + step
            while 0 <= i < len(points) and (value(i) > value(best) or value(best) == -math.inf):
                best = i if value(i) > value(best) else best
                i += step
            if best != first:
                break
        stride //= 2
    if value(best) == -math.inf:
        best = min(points.index(s) for s in curve)
    return points[best], dict(sorted(curve.items()))
