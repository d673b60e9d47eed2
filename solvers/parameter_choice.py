"""Choosing sigma, the step or RED's weight: by held-out data, by the discrepancy principle, or on a pair with known truth."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.operators import FanBeamTomography, ParallelBeamTomography
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.maps import check_like, starting_point
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.solver import Solver
from pnp_lip.solvers.variational import Variational

__all__ = ["Choice", "choose_by_discrepancy", "choose_by_held_out", "choose_by_reference"]

SETTINGS = {"sigma", "step", "weight", "dual_step"}  # what a search may vary
PATIENCE = 2  # values that predict worse than the best before the search ends: the smallest ones take longest
HELD_OUT = "‖Ax − y‖/‖y‖ of held-out views, to be small"


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
        return fitting[-1] if fitting else smallest(scores)

    return search(
        solver, y, physics, [{parameter: float(value)} for value in sorted(values)], x0, max_iter, "require",
        lambda r: float((physics.A(r.x) - y).double().norm()) / scale, best, "‖Ax − y‖ / (noise √m), to be at most 1",
    )  # fmt: skip


def choose_by_held_out(
    solver: Solver | Variational,
    y: Tensor,
    physics: PhysicsLike,
    *,
    values: Sequence[float],
    parameter: str = "sigma",
    every: int = 6,
    folds: int = 2,
    x0: Tensor | None = None,
    max_iter: int = 1000,
) -> Choice:
    """The value whose reconstructions from a part of the views predict the other views; no noise level is needed.

    In fold k, 0 ≤ k < ``folds``, the views k⌊every/folds⌋ + i·every have weight 0. The score is ‖B(Ax − y)‖/‖By‖, B those
    views of all folds. The chosen value is the largest one whose squared errors exceed those of the smallest score by no more
    than the standard error of this difference, over views; ``result`` is solved from all views. Large values come first, and
    the search ends after two that are worse than the best. ``parameter`` is as in ``choose_by_discrepancy``. A prior that has
    seen the held-out views, such as one guided by a solution of all, is favoured.

    Raises InputError unless A is parallel or fan beam, 2 ≤ ``every`` ≤ the number of views and 1 ≤ ``folds`` ≤ ``every``.
    Source: Stone (1974), cross-validation; Breiman et al. (1984), the rule of one standard error.
    """
    if not isinstance(physics, ParallelBeamTomography | FanBeamTomography):
        raise InputError(f"views can be held out of parallel and fan beam scans only; got {type(physics).__name__}.")
    views = y.shape[-1]
    if not (2 <= every <= views and 1 <= folds <= every):
        raise InputError(f"`every` must lie in [2, {views}] and `folds` in [1, {every}]; got {every} and {folds}.")
    weights = torch.ones_like(y[0, 0]) if physics.root_weights is None else physics.root_weights.square()
    parts = [torch.arange(views, device=y.device) % every == k * (every // folds) for k in range(folds)]
    scans = [physics.with_weights(torch.where(part, 0.0, weights)) for part in parts]
    candidates = [{parameter: float(value)} for value in sorted(values, reverse=True)]
    solvers = with_settings(solver, candidates)
    for varied in solvers:
        varied.require(y, physics)
    runs: list[list[Result]] = []
    errors: list[Tensor] = []  # squared, of each held-out view
    sums: list[float] = []  # of these
    for varied in solvers:
        seen = zip(parts, scans, strict=True)
        runs.append([varied.solve(torch.where(part, 0.0, y), scan, x0=x0, max_iter=max_iter) for part, scan in seen])
        gaps = [(physics.A(r.x) - y)[..., part] for part, r in zip(parts, runs[-1], strict=True)]
        errors.append(torch.cat(gaps, -1).double().square().sum((0, 1, 2)).nan_to_num(math.inf, math.inf))
        x0 = x0 if runs[-1][-1].status == "diverged" else runs[-1][-1].x
        sums.append(float(errors[-1].sum()))
        if len(sums) - smallest(sums) > PATIENCE:
            break
    rises = [e - errors[smallest(sums)] for e in errors]
    within = [float(r.mean()) <= float(r.std(correction=0)) / math.sqrt(max(len(r) - 1, 1)) for r in rises]
    k = within.index(True) if True in within else 0  # all diverged
    statuses = tuple("converged" if all(r.status == "converged" for r in run) else run[0].status for run in runs)
    result = solvers[k].solve(y, physics, x0=runs[k][-1].x, max_iter=max_iter)
    size = sum(float(y[..., part].double().square().sum()) for part in parts)
    scores = tuple(math.sqrt(total / size) for total in sums)
    return Choice(solvers[k], result, candidates[k], tuple(candidates[: len(runs)]), scores, statuses, HELD_OUT)


def smallest(scores: Sequence[float]) -> int:
    """Where the smallest score is."""
    return min(range(len(scores)), key=scores.__getitem__)


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
    solvers = with_settings(solver, candidates)
    for varied in solvers:
        varied.require(y, physics, guarantee=guarantee)
    results: list[Result] = []
    for varied in solvers:
        results.append(varied.solve(y, physics, x0=x0, max_iter=max_iter, guarantee=guarantee))
        x0 = None if results[-1].status == "diverged" else results[-1].x
    scores, statuses = tuple(map(score, results)), tuple(r.status for r in results)
    k = best(scores)
    return Choice(solvers[k], results[k], candidates[k], tuple(candidates), scores, statuses, criterion)


def with_settings(solver: Solver | Variational, candidates: Sequence[dict[str, float]]) -> list[Solver | Variational]:
    """The solver with each of these settings. Raises InputError for none, and for a setting that it does not have."""
    allowed = {f.name for f in dataclasses.fields(solver)} & SETTINGS
    if not candidates:
        raise InputError("the search needs at least one value.")
    unknown = set(candidates[0]) - allowed
    if unknown:
        raise InputError(f"{type(solver).__name__} has no setting {sorted(unknown)}; choose among {sorted(allowed)}.")
    return [dataclasses.replace(solver, **settings) for settings in candidates]  # type: ignore[arg-type]
