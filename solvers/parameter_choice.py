"""Choosing sigma, the step or RED's weight: by the discrepancy principle, or on a pair with known truth."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.maps import check_like, starting_point
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.solver import Solver

__all__ = ["Choice", "choose_by_discrepancy", "choose_by_reference"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a search saw: ``candidates`` (settings by name), their ``scores`` and statuses, and the chosen ``best``.

    ``solver`` is the given solver with the chosen settings; ``result`` its reconstruction. ``criterion`` says what a
    score is.
    """

    solver: Solver
    result: Result
    best: dict[str, float]
    candidates: tuple[dict[str, float], ...]
    scores: tuple[float, ...]
    statuses: tuple[str, ...]
    criterion: str


def choose_by_discrepancy(
    solver: Solver,
    y: Tensor,
    physics: PhysicsLike,
    *,
    noise: float,
    values: Sequence[float],
    parameter: str = "sigma",
    x0: Tensor | None = None,
    max_iter: int = 1000,
) -> Choice:
    """The largest value whose reconstruction fits the data to the noise: ‖Ax − y‖ ≤ ``noise``·√m, m data per batch.

    ``noise`` is the standard deviation of white noise in y; ``parameter`` a setting of which more means smoother, "sigma" or
    RED's "weight". The score is ‖Ax − y‖/(noise √m). If no value fits, the one that comes closest. The first run starts at
    ``x0``, each later one at the result before, and ``max_iter`` bounds each. Raises InputError for noise ≤ 0, no values, or
    an unknown parameter.

    Source: Morozov (1966).
    """
    if not 0 < noise < math.inf:
        raise InputError(f"`noise` is a standard deviation and must be positive and finite; got {noise}.")
    scale = noise * math.sqrt(y.numel())
    candidates = [{parameter: float(value)} for value in sorted(values)]
    results = runs(solver, y, physics, candidates, x0=x0, max_iter=max_iter)
    scores = [float((physics.A(r.x) - y).double().norm()) / scale for r in results]
    fitting = [i for i, score in enumerate(scores) if score <= 1]
    best = fitting[-1] if fitting else min(range(len(scores)), key=scores.__getitem__)
    return conclude(solver, results, candidates, scores, best, "‖Ax − y‖ / (noise √m), to be at most 1")


def choose_by_reference(
    solver: Solver,
    y: Tensor,
    physics: PhysicsLike,
    reference: Tensor,
    grid: Mapping[str, Sequence[float]],
    *,
    max_iter: int = 1000,
    guarantee: str = "require",
) -> Choice:
    """The point of a small grid with the highest PSNR against a known image, for later use on images like it.

    ``grid`` maps settings ("sigma", "step", "weight") to values; all combinations are run, each from the result of the one
    before, with ``max_iter`` and ``guarantee`` as in ``Solver.solve``. Raises InputError for an empty grid or an unknown setting.
    """
    candidates = [
        dict(zip(grid, map(float, point), strict=True)) for point in itertools.product(*map(sorted, grid.values()))
    ]
    check_like("reference", reference, starting_point(y, physics))
    results = runs(solver, y, physics, candidates if grid else [], max_iter=max_iter, guarantee=guarantee)
    scores = [psnr(r.x, reference) if r.status != "diverged" else -math.inf for r in results]
    best = max(range(len(scores)), key=scores.__getitem__)
    return conclude(solver, results, candidates, scores, best, "PSNR in dB, to be large")


def runs(
    solver: Solver,
    y: Tensor,
    physics: PhysicsLike,
    candidates: Sequence[dict[str, float]],
    *,
    x0: Tensor | None = None,
    max_iter: int,
    guarantee: str = "require",
) -> list[Result]:
    """The reconstruction for every candidate; none is begun unless ``solve`` would take them all."""
    allowed = {f.name for f in dataclasses.fields(solver)} & {"sigma", "step", "weight", "dual_step"}
    if not candidates:
        raise InputError("the search needs at least one value.")
    unknown = set(candidates[0]) - allowed
    if unknown:
        raise InputError(f"{type(solver).__name__} has no setting {sorted(unknown)}; choose among {sorted(allowed)}.")
    solvers = [dataclasses.replace(solver, **candidate) for candidate in candidates]  # type: ignore[arg-type]
    for varied in solvers:  # all of them before the first long run
        varied.require(y, physics, guarantee=guarantee)
    results: list[Result] = []
    for varied in solvers:
        start = results[-1].x if results and results[-1].status != "diverged" else x0 if not results else None
        results.append(varied.solve(y, physics, x0=start, max_iter=max_iter, guarantee=guarantee))
    return results


def conclude(
    solver: Solver,
    results: list[Result],
    candidates: list[dict[str, float]],
    scores: list[float],
    best: int,
    criterion: str,
) -> Choice:
    """Put the record of a search together."""
    return Choice(
        solver=dataclasses.replace(solver, **candidates[best]),  # type: ignore[arg-type]
        result=results[best],
        best=candidates[best],
        candidates=tuple(candidates),
        scores=tuple(scores),
        statuses=tuple(r.status for r in results),
        criterion=criterion,
    )
