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

__all__ = ["Choice", "choose_by_discrepancy", "choose_by_held_out", "choose_by_reference", "climb"]

SETTINGS = {"sigma", "step", "weight", "dual_step"}  # what a search may vary
STRIDE = 4  # values at a time, at first, where nothing is expected
# A search by held-out views alone missed the best image by up to 0.94 dB in 17 made-up scans, the expectation by up to 0.64 dB,
# and their mean with this weight by up to 0.40 dB. There the squared error of the expectation was at most 3 % too large.
TRUST, COMPARABLE = 2 / 3, 0.05
HELD_OUT = "‖Q(Ax − y)‖/‖Qy‖ of held-out views, Q the filter √|ω|, to be small"


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
    start: float | None = None,
    tol: float | None = None,
    x0: Tensor | None = None,
    max_iter: int = 1000,
) -> Choice:
    """The value whose reconstructions from a part of the views predict the other views; no noise level is needed.

    In fold k, 0 ≤ k < ``folds``, the views k⌊every/folds⌋ + i·every have weight 0. The score is ‖QB(Ax − y)‖/‖QBy‖, B those
    views of all folds and Q the filter √|ω| along the detector. For parallel rays ‖QA(x − x*)‖ over all angles is the image's
    error ‖x − x*‖ up to a factor (Fourier slice theorem); without Q smooth errors would count too much. A prior that has seen
    the held-out views is favoured.

    The search walks over ``values`` from the one next to ``start``, or from the largest one, while the score falls. Without a
    ``start`` the value with the smallest score is chosen. ``start`` is an expectation: then the chosen value is two thirds of
    the way (in logarithms) from the vertex of the parabola through the smallest squared scores to ``start``; but it is that
    vertex where the squared score at ``start`` is more than 5 % above the smallest. During the search a solution stops at
    ``tol``, in proportion to the value below the first one, because a run that ends early near a smoother image passes for a
    better one. ``result`` is solved from all views to the solver's own. ``parameter`` is as in ``choose_by_discrepancy``.

    Raises InputError unless A is parallel or fan beam, all values are positive, 2 ≤ ``every`` ≤ the number of views and
    1 ≤ ``folds`` ≤ ``every``.
    Source: Stone (1974), cross-validation.
    """
    if not all(0 < v < math.inf for v in (*values, 1.0 if start is None else start)):
        raise InputError(f"`values` and `start` must be positive and finite; got {list(values)} and {start}.")
    parts, scans = without_views(y, physics, every, folds)
    candidates = [{parameter: float(value)} for value in sorted(values, reverse=True)]
    solvers = with_settings(solver, candidates)
    for varied in solvers:
        varied.require(y, physics)
    levels = [math.log(c[parameter]) for c in candidates]
    first = 0 if start is None else smallest([abs(level - math.log(start)) for level in levels])
    loose = [
        dataclasses.replace(v, tol=max(v.tol, 0.0 if tol is None else tol * min(1.0, math.exp(level - levels[first]))))
        for v, level in zip(solvers, levels, strict=True)
    ]
    tried = Trials(loose, y, physics, parts, scans, x0, max_iter)
    runs, sums = tried.runs, tried.sums
    best = int(climb(tried.score, range(len(levels)), first, stride=STRIDE if start is None else 1)[0])
    chosen = levels[best] if start is None else vertex([(levels[i], sums[i]) for i in (best - 1, best, best + 1) if i in sums])
    if start is not None and sums[first] <= (1 + COMPARABLE) * sums[best]:
        chosen += TRUST * (math.log(start) - chosen)
    found = {parameter: math.exp(chosen)} if start is not None else candidates[best]
    varied = with_settings(solver, [found])[0]
    x = torch.stack([r.x for r in runs[best]]).mean(0)
    result = varied.solve(y, physics, x0=x if bool(x.isfinite().all()) else x0, max_iter=max_iter)
    seen = sorted(runs)
    size = sum(power(y[..., part]) for part in parts)
    scores = tuple(math.sqrt(sums[i] / size) for i in seen)
    statuses = tuple(next((r.status for r in runs[i] if r.status != "converged"), "converged") for i in seen)
    return Choice(varied, result, found, tuple(candidates[i] for i in seen), scores, statuses, HELD_OUT)


@dataclasses.dataclass(frozen=True)
class Trials:
    """Solutions without some views, by solver and fold, and the summed squared errors with which they predict these views."""

    solvers: Sequence[Solver | Variational]
    y: Tensor
    physics: PhysicsLike
    parts: Sequence[Tensor]
    scans: Sequence[PhysicsLike]
    x0: Tensor | None
    max_iter: int
    runs: dict[int, list[Result]] = dataclasses.field(default_factory=dict)
    sums: dict[int, float] = dataclasses.field(default_factory=dict)

    def score(self, i: float) -> float:
        """Less the sum of solver i, whose runs start at the results of the nearest solver before."""
        k = int(i)
        sound = [j for j, run in self.runs.items() if all(r.status != "diverged" for r in run)]
        near = [r.x for r in self.runs[min(sound, key=lambda j: abs(j - k))]] if sound else [self.x0] * len(self.parts)
        cases = zip(self.parts, self.scans, near, strict=True)
        run = [self.solvers[k].solve(torch.where(p, 0.0, self.y), scan, x0=x, max_iter=self.max_iter) for p, scan, x in cases]
        gaps = [power((self.physics.A(r.x) - self.y)[..., part]) for part, r in zip(self.parts, run, strict=True)]
        self.runs[k], self.sums[k] = run, sum(gap if math.isfinite(gap) else math.inf for gap in gaps)
        return -self.sums[k]


def vertex(points: Sequence[tuple[float, float]]) -> float:
    """Where the parabola through three points, the second of which is lowest, is lowest; of fewer points the lowest.

    >>> vertex([(0.0, 4.0), (1.0, 1.0), (3.0, 1.0)])
    2.0
    """
    lowest = min(points, key=lambda point: point[1])[0]
    if len(points) < 3 or not all(math.isfinite(value) for _, value in points):
        return lowest
    (a, u), (b, v), (c, w) = points
    left, right = (v - u) / (b - a), (w - v) / (c - b)
    return lowest if left == right else (a + b) / 2 - left * (c - a) / (2 * (right - left))


def without_views(y: Tensor, physics: PhysicsLike, every: int, folds: int) -> tuple[list[Tensor], list[PhysicsLike]]:
    """The views that each fold leaves out, and the scans in which they have weight 0."""
    if not isinstance(physics, ParallelBeamTomography | FanBeamTomography):
        raise InputError(f"views can be held out of parallel and fan beam scans only; got {type(physics).__name__}.")
    views = y.shape[-1]
    if not (2 <= every <= views and 1 <= folds <= every):
        raise InputError(f"`every` must lie in [2, {views}] and `folds` in [1, {every}]; got {every} and {folds}.")
    parts = [torch.arange(views, device=y.device) % every == k * (every // folds) for k in range(folds)]
    weights = torch.ones_like(y[0, 0]) if physics.root_weights is None else physics.root_weights.square()
    return parts, [physics.with_weights(torch.where(part, 0.0, weights)) for part in parts]


def power(views: Tensor) -> float:
    """‖Q r‖² of views (B, C, detectors, views), Q the filter √|ω| along a detector that is extended by zeros."""
    n = 2 * views.shape[2]
    spectra = torch.fft.rfft(views.double(), n, dim=2).abs().square()
    ramp = torch.fft.rfftfreq(n, dtype=torch.float64, device=views.device).clamp_min(0.25 / n)  # its mean next to ω = 0
    ramp[1:-1] *= 2  # the frequencies −ω
    return float((spectra * ramp[:, None]).sum()) / n


def smallest(scores: Sequence[float]) -> int:
    """Where the smallest score is."""
    return min(range(len(scores)), key=scores.__getitem__)


def climb(
    score: Callable[[float], float], grid: Sequence[float], start: float, *, stride: int = 1
) -> tuple[float, dict[float, float]]:
    """The grid's point with the largest score, and the scores seen, for a score that rises and then falls along the grid.

    Walks from ``start`` to larger points while the score rises, then to smaller ones if no larger one was better; first by
    ``stride`` ≥ 1 points at a time, then from the best one by half as many, down to one. A score of −inf or NaN counts as
    nothing seen yet, and the walk goes on past it.

    >>> climb(lambda s: -abs(s - 4), range(10), start=1, stride=4)
    (4, {1: -3, 3: -1, 4: 0, 5: -1, 6: -2, 7: -3, 9: -5})
    """
    points = sorted(grid)
    curve: dict[float, float] = {}

    def value(i: int) -> float:
        s = points[i]
        if s not in curve:
            curve[s] = score(s)
        return curve[s] if math.isfinite(curve[s]) else -math.inf

    best = points.index(start)
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
