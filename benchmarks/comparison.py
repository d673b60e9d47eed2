"""Run every prior on every case: strengths chosen on the validation cases, failures kept in their rows."""

import dataclasses
import functools
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pnp_lip.benchmarks.config import Limits
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.problem import Budget, Observation, Outcome, OutOfTimeError, Way
from pnp_lip.benchmarks.record import Record, Row, attempted, timed
from pnp_lip.images import psnr, ssim
from pnp_lip.solvers.parameter_choice import climb

__all__ = ["Case", "Comparison", "Measure", "denoise", "largest_of_the_best", "quality", "restore", "seeded"]

STRIDE = 2  # points of the grid in the search's first steps, so factors of 2
SLACK = 0.05  # dB: among strengths whose validation differs by less, the largest is taken, which is the safest where noise is
SETTLED = 0.02  # dB: a solution changes by less at a tenth of its tolerance


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem: the fields that name it, the group that shares its strengths, and the function that makes it."""

    key: Mapping[str, object]
    group: str
    make: Callable[[], Observation]


Measure = Callable[[Prior, float, Observation, bool], Row]  # the flag: whether a strength is chosen


def seeded(seed: int, key: Mapping[str, object]) -> torch.Generator:
    """A generator of its own for each case, so that a case's noise does not depend on which others are run."""
    return torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(json.dumps(dict(key), sort_keys=True).encode()))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Fills ``record``; ``validation`` holds the cases for choosing strengths, ``measure`` makes the figures.

    With ``oracle`` a row also holds the PSNR at the strength that is best for its own case, which shows what choosing cost.
    """

    record: Record
    validation: Sequence[Case]
    measure: Measure
    oracle: bool = False

    def run(self, cases: Sequence[Case], priors: Sequence[Prior]) -> Row:
        """The record's content with a row for each prior and case; a prior that raises does not stop the others."""
        record = self.record
        for prior in priors:
            record.register(prior.name, prior.describe())
        todo = [(c, [p for p in priors if not record.find("rows", {"prior": p.name, **c.key})]) for c in cases]
        total, left, done = len(cases) * len(priors), sum(len(missing) for _, missing in todo), 0
        if left < total:
            record.tell(f"{total - left} of {total} results are in {record.path} already")
        for case, missing in todo:
            observe = functools.cache(case.make)
            for prior in missing:
                figures = attempted(functools.partial(self.figures, case, prior, observe))
                row = record.add("rows", {"prior": prior.name, **case.key}, figures)
                done += 1
                record.tell(f"[{done}/{left}] {in_a_line(row, case)}")
        return record.content

    def figures(self, case: Case, prior: Prior, observe: Callable[[], Observation]) -> Row:
        """What is measured of one prior on one case, at the strength that is chosen for it; and the case's best strength."""
        strength = self.strength(prior, case.group)
        found = self.measure(prior, strength, observe(), False)
        if not self.oracle or len(prior.strength.grid) == 1:
            return {"strength": strength, **found}
        score = self.score(prior, [observe()])
        best, curve = climb(score, prior.strength.grid, strength)
        return {"strength": strength, **found, "oracle": max(found["psnr"], curve[best]), "best_strength": best}

    def strength(self, prior: Prior, group: str) -> float:
        """The strength that the validation cases choose, from the record if it was chosen before."""
        key = {"prior": prior.name, "group": group}
        entry = self.record.find("tuning", key)
        if entry is None:
            cases = [case for case in self.validation if case.group == group]
            grid, start = prior.strength.grid, prior.strength.start
            score = self.score(prior, [case.make() for case in cases] if len(grid) > 1 else [])
            first = start if start in grid else grid[0]
            chosen, curve = largest_of_the_best(score, grid, first) if len(grid) > 1 else (first, {})
            seen = {f"{s:g}": round(v, 3) for s, v in curve.items()}
            entry = self.record.add("tuning", key, {"strength": chosen, "psnr": seen, "on": [dict(c.key) for c in cases]})
        return float(entry["strength"])

    def score(self, prior: Prior, observations: Sequence[Observation]) -> Callable[[float], float]:
        """The mean PSNR at a strength; −∞ where a run diverged."""

        def mean(strength: float) -> float:
            found = [self.measure(prior, strength, observation, True) for observation in observations]
            diverged = any(figures.get("status") == "diverged" for figures in found)
            return -math.inf if diverged else sum(float(figures["psnr"]) for figures in found) / len(found)

        return mean


def largest_of_the_best(score: Callable[[float], float], grid: Sequence[float], start: float) -> tuple[float, dict[float, float]]:
    """The largest strength whose score is at most ``SLACK`` below the best one, up to the first that is not; all scores seen.

    >>> largest_of_the_best(lambda s: -0.01 * (s - 2) ** 2, [1, 2, 3, 4, 5, 6], start=1)[0]
    4
    """
    best, curve = climb(score, grid, start, stride=STRIDE)
    chosen = best
    for strength in sorted(s for s in grid if s > best):
        if strength not in curve:
            curve[strength] = score(strength)
        if not curve[strength] >= curve[best] - SLACK:
            break
        chosen = strength
    return chosen, dict(sorted(curve.items()))


def in_a_line(row: Row, case: Case) -> str:
    what = ", ".join([*map(str, case.key.values()), row["prior"]])
    if "error" in row:
        return f"{what}: failed: {row['error']}"
    ending = [row["status"]] if "status" in row else []
    return f"{what}: " + ", ".join([f"{row['psnr'] or math.nan:.2f} dB", *ending, f"{row['cpu_seconds']:.1f} s"])


def denoise(prior: Prior, strength: float, seen: Observation, tuning: bool, limits: Limits) -> Row:
    """Figures of one pass of the denoiser, or of a denoising problem solved."""
    if isinstance(prior.solver, Way) and prior.solver.solves_denoising:
        return restore(prior, strength, seen, tuning, limits)
    outcome, costs = timed(lambda: prior.denoise(strength, seen))
    return {**quality(outcome.x, seen), "guarantee": outcome.guarantee, **costs}


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a run found at a tolerance, and what it cost."""

    tol: float
    outcome: Outcome
    psnr: float
    costs: Row


def restore(prior: Prior, strength: float, seen: Observation, tuning: bool, limits: Limits) -> Row:
    """Figures of a reconstruction, clipped to [0, 1]: of a solution, or of what the budget allowed.

    Where a run reaches its tolerance it goes on to a tenth of it, and so on until that changes the PSNR by less than
    ``SETTLED``. Then the status is "converged"; the figures are those before the last round, and ``psnr_tol10`` is after it.
    """
    budget = Budget(limits.max_iter, limits.seconds)
    stages: list[Stage] = []
    while not stages or (stages[-1].outcome.status == "converged" and not tuning and not settled(stages)):
        stages.append(stage(prior, strength, seen, stages, budget, limits))
    done = settled(stages)
    taken = stages[-2 if done else -1]
    outcome = taken.outcome
    spent = [s.costs for s in stages[: stages.index(taken) + 1]]
    known = {name: value for name in ("objective", "distance") if (value := getattr(outcome, name)) is not None}
    return {
        **quality(outcome.x.clamp(0, 1), seen),
        "status": outcome.status,
        "guarantee": outcome.guarantee,
        "failure": outcome.failure,
        "iterations": outcome.iterations,
        **({"tol": taken.tol, "psnr_tol10": stages[-1].psnr} if done else {}),
        **known,
        **{name: max(c[name] for c in spent) if name == "memory" else sum(c[name] for c in spent) for name in spent[0]},
    }


def settled(stages: Sequence[Stage]) -> bool:
    """Whether the last tenth of the tolerance, reached or found to be below rounding, changed the PSNR by little."""
    return (
        len(stages) > 1
        and stages[-1].outcome.status in ("converged", "rounding")
        and abs(stages[-1].psnr - stages[-2].psnr) < SETTLED
    )


def stage(prior: Prior, strength: float, seen: Observation, before: Sequence[Stage], budget: Budget, limits: Limits) -> Stage:
    """The next tolerance; where the time is used up, the last image seen."""
    tol = before[-1].tol / 10 if before else limits.tol

    def work() -> Outcome:
        try:
            return prior.restore(strength, seen, tol, budget, before[-1].outcome if before else None)
        except OutOfTimeError:
            return Outcome(budget.x, "out of time", budget.iterations, "none")

    outcome, costs = timed(work)
    return Stage(tol, outcome, psnr(outcome.x.clamp(0, 1), seen.x), costs)


def quality(x_hat: Tensor, observation: Observation) -> Row:
    """PSNR and SSIM, and the relative misfit of the data where there is a forward model."""
    figures = {"psnr": psnr(x_hat, observation.x), "ssim": ssim(x_hat, observation.x)}
    if observation.physics is not None:
        figures["misfit"] = float((observation.physics.A(x_hat) - observation.y).norm() / observation.y.norm())
    return figures
