"""Choosing sigma, the step or RED's weight: by the discrepancy principle, or on a pair with known truth."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.maps import check_like, starting_point
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.solver import Solver
from pnp_lip.solvers.variational import Variational

__all__ = ["Choice", "choose_by_discrepancy", "choose_by_reference"]

SETTINGS = {"sigma", "step", "weight", "dual_step"}  # what a search may vary


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a search saw: ``candidates`` (settings by name), their ``scores`` and statuses, and the chosen ``best``.

    ``solver`` is the given solver with the chosen settings; ``result`` its reconstruction. ``criterion`` says what a
    score is.
    """

    solver: Solver | Variational
    result: Result
    best: dict[str, float]
    candidates: tuple[dict[str, float], ...]
    scores: tuple[float, ...]
    statuses: tuple[str, ...]
    criterion: str


def choose_by_discrepancy(
    solver: Solver | Variational,
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
    the "weight" of RED or Variational. The score is ‖Ax − y‖/(noise √m). If no value fits, the one that comes closest. The
    first run starts at ``x0``, each later one at the result before, and ``max_iter`` bounds each. Raises InputError for
    noise ≤ 0, no values, or an unknown parameter.

    Source: Morozov (1966).
    """
    if not 0 < noise < math.inf:
        raise InputError(f"`noise` is a standard deviation and must be positive and finite; got {noise}.")
    scale = noise * math.sqrt(y.numel())

    def best(scores: Sequence[float]) -> int:
        fitting = [i for i, score in enumerate(scores) if score <= 1]
        return fitting[-1] if fitting else min(range(len(scores)), key=scores.__getitem__)

    return search(
        solver, y, physics, [{parameter: float(value)} for value in sorted(values)], x0, max_iter, "require",
        lambda r: float((physics.A(r.x) - y).double().norm()) / scale, best, "‖Ax − y‖ / (noise √m), to be at most 1",
    )  # fmt: skip


def choose_by_reference(
    solver: Solver | Variational,
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
    before, with ``max_iter`` and ``guarantee`` as in ``Solver.solve``. Raises InputError for an empty grid or an unknown
    setting.
    """
    points = itertools.product(*(sorted(values) for values in grid.values())) if grid else ()
    candidates = [dict(zip(grid, map(float, point), strict=True)) for point in points]
    check_like("reference", reference, starting_point(y, physics))
    return search(
        solver, y, physics, candidates, None, max_iter, guarantee,
        lambda r: psnr(r.x, reference) if r.status != "diverged" else -math.inf,
        lambda scores: max(range(len(scores)), key=scores.__getitem__), "PSNR in dB, to be large",
    )  # fmt: skip


def search(
    solver: Solver | Variational,
    y: Tensor,
    physics: PhysicsLike,
    candidates: Sequence[dict[str, float]],
    x0: Tensor | None,
    max_iter: int,
    guarantee: str,
    score: Callable[[Result], float],
    best: Callable[[Sequence[float]], int],
    criterion: str,
) -> Choice:
    """Solve with every candidate, each from the result before; none is begun unless ``solve`` would take them all."""
    allowed = {f.name for f in dataclasses.fields(solver)} & SETTINGS
    if not candidates:
        raise InputError("the search needs at least one value.")
    unknown = set(candidates[0]) - allowed
    if unknown:
        raise InputError(f"{type(solver).__name__} has no setting {sorted(unknown)}; choose among {sorted(allowed)}.")
    solvers = [dataclasses.replace(solver, **settings) for settings in candidates]  # type: ignore[arg-type]
    for varied in solvers:
        varied.require(y, physics, guarantee=guarantee)
    results: list[Result] = []
    for varied in solvers:
        results.append(varied.solve(y, physics, x0=x0, max_iter=max_iter, guarantee=guarantee))
        x0 = None if results[-1].status == "diverged" else results[-1].x
    scores, statuses = tuple(map(score, results)), tuple(r.status for r in results)
    k = best(scores)
    return Choice(solvers[k], results[k], candidates[k], tuple(candidates), scores, statuses, criterion)
