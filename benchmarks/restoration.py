"""One reconstruction with one prior, and what a record says of it: quality, convergence, proof, time."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pnp_lip.benchmarks.comparison import Scene
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.images import psnr, ssim
from pnp_lip.solvers import Anderson, Result, denoise_guided, refine

__all__ = ["Limits", "measure_denoising", "measure_restoration", "quality", "timed"]


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a run ends: at the relative residual ``tol`` (``tuning_tol`` while a strength is chosen), after ``max_iter``
    updates, for an uncertified prior after ``uncertified_max_iter`` updates or ``uncertified_seconds`` of processor time, half
    of that while a strength is chosen."""

    tol: float = 1e-5
    tuning_tol: float = 1e-4
    max_iter: int = 10_000
    uncertified_max_iter: int = 300
    uncertified_seconds: float = 20.0


class OutOfTimeError(Exception):
    """Ends a run from within its callback."""


class Watch:
    """A callback that keeps the last iterate and the residuals, and ends the run once its time is used up."""

    def __init__(self, seconds: float | None) -> None:
        self.limit = None if seconds is None else time.process_time() + seconds
        self.x: Tensor | None = None
        self.relative: list[float] = []

    def __call__(self, k: int, x: Tensor, relative: tuple[float, ...]) -> None:
        self.x = x
        self.relative.append(relative[0])
        if self.limit is not None and time.process_time() > self.limit:
            raise OutOfTimeError


def measure_restoration(
    prior: Prior, strength: float, scene: Scene, tuning: bool, limits: Limits
) -> tuple[Tensor, dict[str, Any]]:
    """The solver's reconstruction; certified priors must satisfy their theorem, others run without a proof.

    The box [0, 1] constrains certified priors and proximal maps. It would hide the divergence of any other behind an image
    of zeros and ones, so that these run without; every result is clipped before it is judged.
    """
    denoiser, sigma = prior.at(strength, scene.noise)
    solver = prior.solver(
        denoiser,
        sigma=sigma,
        tol=limits.tuning_tol if tuning else limits.tol,
        max_iter=limits.max_iter if prior.certified else limits.uncertified_max_iter,
        guarantee="require" if prior.certified else "report",
        box=(0, 1) if prior.solver.takes_box and (prior.certified or prior.threshold) else None,
        scheme=Anderson(),
    )
    watch = Watch(None if prior.certified else limits.uncertified_seconds / (2 if tuning else 1))

    def solve() -> tuple[Result, ...]:
        try:
            if prior.before is not None:
                first = dataclasses.replace(solver, sigma=prior.before.at(prior.first_strength, scene.noise)[1])
                return refine(first, scene.y, scene.physics, sigma=sigma, annealer=prior.annealer)
            return (solver.solve(scene.y, scene.physics, callback=watch),)
        except OutOfTimeError:
            return ()

    results, times = timed(solve)
    x = results[-1].x if results else watch.x
    assert x is not None  # the callback has been called at least once
    x_hat = x.clamp(0, 1)
    guarantee = results[-1].guarantee if results else solver.check(scene.y, scene.physics)
    relative = [r for result in results for r in result.history.relative] or watch.relative
    unfinished = [result.status for result in results if result.status != "converged"]
    return x_hat, {
        **quality(x_hat, scene),
        "status": (unfinished or ["converged"])[0] if results else "out of time",
        "iterations": len(relative),
        "residual": relative[-1],
        "proved": guarantee.proved and all(result.guarantee.proved for result in results),
        "existence": guarantee.existence if guarantee.proved else None,
        "failure": guarantee.failure,
        **times,
        "curve": [float(f"{r:.3g}") for r in relative],
    }


def measure_denoising(prior: Prior, strength: float, scene: Scene, tuning: bool) -> tuple[Tensor, dict[str, Any]]:
    """One application of the denoiser to its data, or one more, guided by the first."""
    denoiser, sigma = prior.at(strength, scene.noise)
    work = denoiser if prior.before is None else functools.partial(denoise_guided, denoiser)
    with torch.no_grad():
        x_hat, times = timed(lambda: work(scene.y, sigma))
    return x_hat, {**quality(x_hat, scene), **times}


def timed(work: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """A result, and the seconds it took of the processor and of the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    used, passed = time.process_time() - cpu, time.perf_counter() - wall
    return result, {"cpu_seconds": round(used, 4), "seconds": round(passed, 4)}


def quality(x_hat: Tensor, scene: Scene) -> dict[str, Any]:
    """PSNR and SSIM where the truth is known, and the relative misfit of the data where there is a forward model."""
    figures: dict[str, Any] = {"psnr": None, "ssim": None}
    if scene.x is not None:
        figures = {"psnr": psnr(x_hat, scene.x), "ssim": ssim(x_hat, scene.x)}
    if scene.physics is not None:
        figures["misfit"] = float((scene.physics.A(x_hat) - scene.y).norm() / scene.y.norm())
    return figures
