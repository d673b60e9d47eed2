"""The loop that every solver runs in: iterate, monitor, stop each image on its own, keep what was seen."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_lip.solvers.acceleration import Memory, per_image
from pnp_lip.solvers.checkpoint import Checkpoint, fingerprint
from pnp_lip.solvers.guarantee import Guarantee
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.result import ADVICE, History, Result

if TYPE_CHECKING:
    from pnp_lip.solvers.solver import Solver

__all__ = ["Callback", "Run", "run"]

Callback = Callable[[int, Tensor, tuple[float, ...]], None]
MISFIT_EVERY = 10  # the misfit costs an application of A, so it is looked at now and then
GROWTH = 1e4  # a residual this many times the first one, or the first state, will not come back
ROUNDING = 64  # units of rounding of the state that a residual may grow by without contradicting a theorem


@dataclasses.dataclass
class Run:
    """The state of a run, all that a checkpoint has to hold.

    ``v`` the fixed-point variable, ``x`` the image, ``memory`` the scheme's; ``status[i]`` "running" until image i stops;
    ``scale[i]`` the larger of its first residual and its first state's norm, against which growth is judged.
    """

    v: Tensor
    x: Tensor
    memory: Memory
    k: int
    status: list[str]
    residual: list[list[float]]
    relative: list[list[float]]
    psnr: list[list[float]]
    misfit: list[list[float]]
    misfit_at: list[list[int]]
    scale: list[float]
    seconds: float = 0.0
    broken: str | None = None

    @classmethod
    def begin(cls, v: Tensor, x: Tensor, memory: Memory) -> Run:
        """The state before the first update."""
        r, relative, psnr, misfit = ([list[float]() for _ in x] for _ in range(4))
        return cls(v, x, memory, 0, ["running"] * len(x), r, relative, psnr, misfit, [list[int]() for _ in x], [])

    @property
    def running(self) -> list[int]:
        """The images that have not stopped."""
        return [i for i, status in enumerate(self.status) if status == "running"]


def run(
    solver: Solver,
    p: Problem,
    x: Tensor,
    guarantee: Guarantee,
    settings: dict[str, Any],
    reference: Tensor | None,
    progress: bool,
    callback: Callback | None,
    store: Checkpoint | None,
) -> Result:
    """Iterate until every image has converged, diverged or used up ``max_iter`` updates."""
    v = solver.initial(p, x)
    state = Run.begin(v, x, solver.acceleration.start(v))
    mark = fingerprint(settings, (p.y, x), p.denoiser) if store else ""
    if store and (stored := store.load(mark)):
        state = Run(**{k: value for k, value in stored.items() if k != "fingerprint"})
        state.status = ["running" if s == "max_iter" else s for s in state.status]
        if reopen(state, solver.tol):  # the memory went on without these images; a scheme may start anywhere
            state.memory = solver.acceleration.start(state.v)
    watch = guarantee.proved and solver.watched and solver.acceleration.monotone
    started = time.perf_counter() - state.seconds
    with bar(progress, solver, state.k) as shown:
        while state.running and state.k < solver.max_iter:
            advance(solver, p, state, reference, watch)
            state.seconds = time.perf_counter() - started
            last = tuple(r[-1] for r in state.relative)
            shown.update(last)
            if callback is not None:
                callback(state.k, state.x, last)
            if store and (state.k % store.every == 0 or not state.running):
                store.save({"fingerprint": mark, **shallow(state)})
    finish(solver, p, state)
    if store:
        store.save({"fingerprint": mark, **shallow(state)})
    return conclude(state, guarantee, settings)


def advance(solver: Solver, p: Problem, s: Run, reference: Tensor | None, watch: bool) -> None:
    """One update of every image; those that have stopped keep what they had."""
    image, x = solver.update(p, s.v)
    residual, size = solver.norm(p, s.v - image), solver.norm(p, s.v)
    finite = torch.isfinite(residual) & torch.isfinite(x.flatten(1).sum(1))
    moving = torch.tensor([status == "running" for status in s.status], device=x.device)
    s.x = select(moving & finite, x, s.x)
    record(s, residual.tolist(), size.tolist(), psnr_of(s.x, reference), watch, torch.finfo(x.dtype).eps, solver.tol)
    if s.k % MISFIT_EVERY == 0:
        note_misfit(s, p, s.running)
    s.k += 1
    following, s.memory = solver.acceleration.next(s.memory, s.v, image, s.k - 1)
    intact = torch.tensor([status != "diverged" for status in s.status], device=x.device)
    s.v = select(moving & intact, following, s.v)


def select(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new images where chosen, the old ones elsewhere; without a copy when all are."""
    return new if bool(chosen.all()) else torch.where(per_image(chosen, new).bool(), new, old)


def record(
    s: Run, residual: list[float], size: list[float], psnr: list[float], watch: bool, eps: float, tol: float
) -> None:
    """Append what was measured of each running image and decide whether it stops."""
    for i in s.running:
        r = residual[i]
        if watch and s.residual[i] and r > s.residual[i][-1] + ROUNDING * eps * size[i] and s.broken is None:
            s.broken = (
                f"the residual of image {i} grew from {s.residual[i][-1]:.6g} to {r:.6g} at iteration {s.k}, which the "
                "theorem forbids: the denoiser, the operator or the arithmetic is not what the hypotheses say"
            )
        s.residual[i].append(r)
        s.relative[i].append(r / max(size[i], 1e-300) if r > 0 else r)
        if psnr:
            s.psnr[i].append(psnr[i])
        if s.k == 0:
            s.scale.append(max(r, size[i]))
        if not (math.isfinite(r) and math.isfinite(size[i])) or r > GROWTH * s.scale[i]:
            s.status[i] = "diverged"
        elif s.relative[i][-1] <= tol:
            s.status[i] = "converged"


def reopen(s: Run, tol: float) -> bool:
    """A converged image of a stored run goes on when ``tol`` has been lowered since; whether there was one."""
    again = [i for i, status in enumerate(s.status) if status == "converged" and s.relative[i][-1] > tol]
    for i in again:
        s.status[i] = "running"
    return bool(again)


def note_misfit(s: Run, p: Problem, images: list[int]) -> None:
    """f(x) of the given images at this iteration."""
    if images:
        values = p.misfit(s.x).tolist()
        for i in images:
            s.misfit[i].append(values[i])
            s.misfit_at[i].append(s.k)


def psnr_of(x: Tensor, reference: Tensor | None) -> list[float]:
    """−10 log₁₀ mean((x − reference)²) of each image; empty without a reference."""
    if reference is None:
        return []
    values: list[float] = (-10 * (x - reference).flatten(1).square().mean(1).double().log10()).tolist()
    return values


def finish(solver: Solver, p: Problem, s: Run) -> None:
    """Close the records: the images that are still running have used up their iterations."""
    values = p.misfit(s.x).tolist()
    for i, status in enumerate(s.status):
        if status == "running":
            s.status[i] = "max_iter"
        last = len(s.residual[i]) - 1
        if not s.misfit_at[i] or s.misfit_at[i][-1] != last:
            s.misfit[i].append(values[i])
            s.misfit_at[i].append(last)


def conclude(s: Run, guarantee: Guarantee, settings: dict[str, Any]) -> Result:
    """The result of a finished run."""
    worst = next((kind for kind in ("diverged", "max_iter") if kind in s.status), "converged")
    columns = zip(s.status, s.residual, s.relative, s.misfit, s.misfit_at, s.psnr, strict=True)
    histories = tuple(
        History(status, tuple(residual), tuple(relative), tuple(misfit), tuple(at), tuple(psnr))
        for status, residual, relative, misfit, at, psnr in columns
    )
    return Result(
        x=s.x,
        status=worst,
        advice=ADVICE[worst],
        iterations=max(len(r) for r in s.residual),
        histories=histories,
        guarantee=guarantee if s.broken is None else guarantee.broken(s.broken),
        settings=settings,
        seconds=s.seconds,
    )


def shallow(s: Run) -> dict[str, Any]:
    """The fields of the state, tensors included, without copying them."""
    return {f.name: getattr(s, f.name) for f in dataclasses.fields(s)}


class bar:  # noqa: N801 (used as a function)
    """A progress bar when wanted, nothing otherwise."""

    def __init__(self, wanted: bool, solver: Solver, k: int) -> None:
        self.tqdm: Any = None
        if wanted:
            from tqdm import tqdm

            self.tqdm = tqdm(total=solver.max_iter, initial=k, desc=type(solver).__name__, unit="it")

    def __enter__(self) -> bar:
        return self

    def update(self, relative: tuple[float, ...]) -> None:
        """One iteration more, with the largest relative residual."""
        if self.tqdm is not None:
            self.tqdm.set_postfix_str(f"residual {max(relative):.2e}", refresh=False)
            self.tqdm.update(1)

    def __exit__(self, *error: object) -> None:
        if self.tqdm is not None:
            self.tqdm.close()
