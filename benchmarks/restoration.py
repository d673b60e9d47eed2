"""One reconstruction with one prior, and what a record says of it: quality, convergence, proof, time."""

from __future__ import annotations

import dataclasses
import functools
import time

import torch
from torch import Tensor

from pnp_lip.benchmarks.comparison import Observation
from pnp_lip.benchmarks.config import Limits
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Row
from pnp_lip.benchmarks.timing import timed
from pnp_lip.errors import InputError
from pnp_lip.images import psnr, ssim
from pnp_lip.solvers import Anderson, Anneal, Result, Solver, denoise_guided, refine

__all__ = ["measure_denoising", "measure_restoration", "quality"]


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
    prior: Prior, strength: float, observation: Observation, tuning: bool, limits: Limits
) -> tuple[Tensor, Row]:
    """The solver's reconstruction; certified priors must satisfy their theorem, others run without a proof.

    The box [0, 1] constrains certified priors and proximal maps. It would hide the divergence of other priors behind an
    image of zeros and ones, so they run without it. Every result is clipped before it is judged.
    """
    y, physics = observation.y, observation.physics
    if physics is None:
        raise InputError("a restoration needs a forward model.")
    denoiser, sigma = prior.at(strength, observation.noise)
    boxed = prior.solver.takes_box and (prior.certified or prior.strength.acts_as == "threshold")
    tol = limits.tuning_tol if tuning else limits.tol
    solver = prior.solver(denoiser, sigma=sigma, tol=tol, box=(0, 1) if boxed else None, scheme=Anderson())
    watch = Watch(None if prior.certified else limits.uncertified_seconds / (2 if tuning else 1))
    solve = functools.partial(
        Solver.solve,
        max_iter=limits.max_iter if prior.certified else limits.uncertified_max_iter,
        guarantee="require" if prior.certified else "report",
        callback=watch,
    )

    def reconstruct() -> tuple[Result, ...]:
        try:
            if prior.guide is None:
                return (solve(solver, y, physics),)
            first = dataclasses.replace(solver, sigma=prior.guide.prior.at(prior.guide.strength, observation.noise)[1])
            improve = None if prior.guide.annealer is None else Anneal(prior.guide.annealer)
            return refine(first, y, physics, improve=improve, sigma=sigma, solve=solve)
        except OutOfTimeError:
            return ()

    results, times = timed(reconstruct)
    x = results[-1].x if results else watch.x
    assert x is not None  # the callback has been called at least once
    x_hat = x.clamp(0, 1)
    guarantee = results[-1].guarantee if results else solver.check(y, physics)
    unfinished = [result.status for result in results if result.status != "converged"]
    return x_hat, {
        **quality(x_hat, observation),
        "status": (unfinished or ["converged"])[0] if results else "out of time",
        "iterations": len(watch.relative),
        "residual": watch.relative[-1],
        "proved": guarantee.proved and all(result.guarantee.proved for result in results),
        "existence": guarantee.existence if guarantee.proved else None,
        "failure": guarantee.failure,
        **times,
        "curve": [float(f"{r:.3g}") for r in watch.relative],
    }


def measure_denoising(prior: Prior, strength: float, observation: Observation, tuning: bool) -> tuple[Tensor, Row]:
    """One application of the denoiser to its data, or one more, guided by the first."""
    denoiser, sigma = prior.at(strength, observation.noise)
    work = denoiser if prior.guide is None else functools.partial(denoise_guided, denoiser)
    with torch.no_grad():
        x_hat, times = timed(lambda: work(observation.y, sigma))
    return x_hat, {**quality(x_hat, observation), **times}


def quality(x_hat: Tensor, observation: Observation) -> Row:
    """PSNR and SSIM where the truth is known, and the relative misfit of the data where there is a forward model."""
    x, y, physics = observation.x, observation.y, observation.physics
    figures: Row = {"psnr": None, "ssim": None} if x is None else {"psnr": psnr(x_hat, x), "ssim": ssim(x_hat, x)}
    if physics is not None:
        figures["misfit"] = float((physics.A(x_hat) - y).norm() / y.norm())
    return figures
