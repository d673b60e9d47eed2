"""Run every prior on every case: strengths chosen on the validation cases, failures kept in their rows."""

import dataclasses
import functools
import json
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pnp_lip.benchmarks.config import Limits
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Record, Row, attempted, timed
from pnp_lip.errors import InputError
from pnp_lip.images import psnr, ssim
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers import Anneal, Result, Solver, Variational, denoise_guided, refine
from pnp_lip.solvers.parameter_choice import climb

__all__ = ["Case", "Comparison", "Measure", "Observation", "denoise", "quality", "restore", "seeded"]

STRIDE = 2  # points of the grid in the search's first steps, so factors of 2


@dataclasses.dataclass(frozen=True)
class Observation:
    """Data ``y`` of an image ``x``, their forward model (None for denoising), and the noise's standard deviation.

    That deviation is the unit of strengths.
    """

    x: Tensor
    y: Tensor
    noise: float
    physics: PhysicsLike | None = None


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
    """Fills ``record``; ``validation`` holds the cases for choosing strengths, ``measure`` makes the figures."""

    record: Record
    validation: Sequence[Case]
    measure: Measure

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
        """What is measured of one prior on one case, at the strength that is chosen for it."""
        if prior.guide is not None:
            first = self.strength(prior.guide.prior, case.group)
            prior = dataclasses.replace(prior, guide=dataclasses.replace(prior.guide, strength=first))
        strength = self.strength(prior, case.group)
        return {"strength": strength, **self.measure(prior, strength, observe(), False)}

    def strength(self, prior: Prior, group: str) -> float:
        """The strength with the best mean PSNR on the validation cases, from the record if it was chosen before."""
        key = {"prior": prior.name, "group": group}
        entry = self.record.find("tuning", key)
        if entry is None:
            cases = [case for case in self.validation if case.group == group]
            grid, start = prior.strength.grid, prior.strength.start
            observations = [case.make() for case in cases]

            def score(strength: float) -> float:
                found = [self.measure(prior, strength, observation, True) for observation in observations]
                diverged = any(figures.get("status") == "diverged" for figures in found)
                return -math.inf if diverged else sum(float(figures["psnr"]) for figures in found) / len(found)

            best, curve = climb(score, grid, start if start in grid else grid[0], stride=STRIDE)
            seen = {f"{s:g}": round(v, 3) for s, v in curve.items()}
            entry = self.record.add("tuning", key, {"strength": best, "psnr": seen, "on": [dict(c.key) for c in cases]})
        return float(entry["strength"])


def in_a_line(row: Row, case: Case) -> str:
    what = ", ".join([*map(str, case.key.values()), row["prior"]])
    if "error" in row:
        return f"{what}: failed: {row['error']}"
    ending = [row["status"]] if "status" in row else []
    return f"{what}: " + ", ".join([f"{row['psnr'] or math.nan:.2f} dB", *ending, f"{row['cpu_seconds']:.1f} s"])


def denoise(prior: Prior, strength: float, observation: Observation, tuning: bool) -> Row:
    """Figures of one application of the denoiser to its data, or of one more, guided by the first."""
    denoiser, sigma = prior.at(strength, observation.noise)
    work = denoiser if prior.guide is None else functools.partial(denoise_guided, denoiser)
    with torch.no_grad():
        x_hat, times = timed(lambda: work(observation.y, sigma))
    proved = {} if prior.kind is None else {"kind": prior.kind}
    return {**quality(x_hat, observation), **proved, **times}


class OutOfTimeError(Exception):
    """Ends a run from within its callback."""


class Watch:
    """A callback that keeps the last iterate and its residual, and ends the run once its ``seconds`` are used up."""

    def __init__(self, seconds: float) -> None:
        self.end, self.iterations, self.residual = time.process_time() + seconds, 0, math.nan

    def __call__(self, k: int, x: Tensor, relative: tuple[float, ...]) -> None:
        self.x, self.residual, self.iterations = x, relative[0], self.iterations + 1
        if time.process_time() > self.end:
            raise OutOfTimeError


def restore(prior: Prior, strength: float, observation: Observation, tuning: bool, limits: Limits) -> Row:
    """Figures of the solver's reconstruction; certified priors must satisfy their theorem, others run without a proof.

    Every result is clipped before it is judged.
    """
    y, physics = observation.y, observation.physics
    if physics is None:
        raise InputError("a restoration needs a forward model.")
    solver = prior.solver_at(strength, observation.noise, limits.tuning_tol if tuning else limits.tol)
    watch = Watch(math.inf if prior.certified else limits.uncertified_seconds / (2 if tuning else 1))
    solve = functools.partial(
        type(solver).solve,
        max_iter=limits.max_iter if prior.certified else limits.uncertified_max_iter,
        guarantee="require" if prior.certified else "report",
        callback=watch,
    )

    def reconstruct() -> tuple[Result, ...]:
        try:
            if prior.guide is None or not isinstance(solver, Solver):
                return (solve(solver, y, physics),)
            first = dataclasses.replace(solver, sigma=prior.guide.prior.at(prior.guide.strength, observation.noise)[1])
            improve = None if prior.guide.annealer is None else Anneal(prior.guide.annealer)
            return refine(first, y, physics, improve=improve, sigma=solver.sigma, solve=solve)
        except OutOfTimeError:
            return ()

    results, times = timed(reconstruct)
    guarantee = results[-1].guarantee if results else solver.check(y, physics)
    more = minimum(solver, results[-1], observation, solve) if isinstance(solver, Variational) and results and not tuning else {}
    unfinished = [result.status for result in results if result.status != "converged"]
    return {
        **quality((results[-1].x if results else watch.x).clamp(0, 1), observation),
        "status": (unfinished or ["converged"])[0] if results else "out of time",
        "iterations": watch.iterations,
        "residual": watch.residual,
        "proved": guarantee.proved and all(result.guarantee.proved for result in results),
        "kind": guarantee.kind if guarantee.proved else None,
        "existence": guarantee.existence if guarantee.proved else None,
        "failure": guarantee.failure,
        **times,
        **more,
    }


def minimum(solver: Variational, result: Result, observation: Observation, solve: Callable[..., Result]) -> Row:
    """The objective's value, how stationary it is, how far at most the minimiser is, and the PSNR at a tenth of ``tol``."""
    finer = dataclasses.replace(solver, tol=solver.tol / 10)
    x_hat = solve(finer, observation.y, observation.physics, x0=result.x, callback=None).x
    found = {"objective": result.objective, "stationarity": result.stationarity, "distance": result.distance_upper}
    return {
        **{name: None if values is None else values[0] for name, values in found.items()},
        "psnr_tol10": psnr(x_hat.clamp(0, 1), observation.x),
    }


def quality(x_hat: Tensor, observation: Observation) -> Row:
    """PSNR and SSIM, and the relative misfit of the data where there is a forward model."""
    figures = {"psnr": psnr(x_hat, observation.x), "ssim": ssim(x_hat, observation.x)}
    if observation.physics is not None:
        figures["misfit"] = float((observation.physics.A(x_hat) - observation.y).norm() / observation.y.norm())
    return figures
