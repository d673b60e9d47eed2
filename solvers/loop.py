"""The loop that every solver runs in: iterate, monitor, stop each image on its own, keep what was seen."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_lip.solvers.checkpoint import Checkpoint, Origin
from pnp_lip.solvers.guarantee import Guarantee
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.result import ADVICE, History, Result
from pnp_lip.solvers.scheme import Memory, per_image

if TYPE_CHECKING:
    from pnp_lip.solvers.solver import Solver

__all__ = ["Callback", "Run", "run"]

Callback = Callable[[int, Tensor, tuple[float, ...]], None]
MOST_RUNNING = 0.75  # a batch is divided when no more than this part of it still runs, so that this happens seldom
MISFIT_EVERY = 10  # the misfit costs an application of A, so it is looked at now and then
GROWTH = 1e4  # a residual this many times the first one, or the first state, will not come back
ROUNDING = 64  # units of rounding of the state that a residual may grow by without contradicting a theorem


@dataclasses.dataclass
class Run:
    """The state of a run, all that a checkpoint has to hold.

    ``v`` the fixed-point variable, ``x`` the image; ``status[i]`` "running" until image i stops; ``scale[i]`` the larger of
    its first residual and its first state's norm, against which growth is judged. ``batch`` lists the images that are still
    updated, ``memory`` is the scheme's for these; ``divisible`` says whether images may leave the batch.
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
    batch: list[int]
    divisible: bool = True
    seconds: float = 0.0
    broken: str | None = None

    @classmethod
    def begin(cls, v: Tensor, x: Tensor, memory: Memory) -> Run:
        """The state before the first update."""
        r, relative, psnr, misfit = ([list[float]() for _ in x] for _ in range(4))
        at, images = [list[int]() for _ in x], list(range(len(x)))
        return cls(v, x, memory, 0, ["running"] * len(x), r, relative, psnr, misfit, at, [], images)

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
    origin: Origin,
) -> Result:
    """Iterate until every image has converged, diverged or used up ``max_iter`` updates."""
    state = begin_or_resume(solver, p, x, store, origin)
    part = p.part(state.batch)
    watch = guarantee.proved and solver.watched and solver.scheme.monotone
    started = time.perf_counter() - state.seconds
    with bar(progress, solver, state.k) as shown:
        while state.running and state.k < solver.max_iter:
            part = narrowed(solver, part, state, p)
            advance(solver, part, state, reference, watch)
            state.seconds = time.perf_counter() - started
            last = tuple(r[-1] for r in state.relative)
            shown.update(last)
            if callback is not None:
                callback(state.k, state.x, last)
            if store and (state.k % store.every == 0 or not state.running):
                store.save({"origin": origin, **shallow(state)})
    finish(p, state)
    if store:
        store.save({"origin": origin, **shallow(state)})
    return conclude(state, guarantee, settings)


def begin_or_resume(solver: Solver, p: Problem, x: Tensor, store: Checkpoint | None, origin: Origin) -> Run:
    """The stored state when there is one, otherwise the state before the first update."""
    stored = None if store is None else store.load(origin)
    if stored is None:
        v = solver.initial(p, x)
        return Run.begin(v, x, solver.scheme.start(v))
    state = Run(**{k: value for k, value in stored.items() if k != "origin"})
    state.status = ["running" if s == "max_iter" else s for s in state.status]
    if reopen(state, solver.tol):  # the memory went on without these images; a scheme may start anywhere
        state.batch = list(range(len(state.x)))
        state.memory = solver.scheme.start(state.v)
    return state


def narrowed(solver: Solver, part: Problem, s: Run, p: Problem) -> Problem:
    """The problem of the images to be updated: those that have stopped leave once they are a quarter of the batch.

    They stay where T does not act on each image alone, for instance in a physics with parameters for every image of the
    batch: where the smaller batch's update differs from the larger one's by more than half of the digits.
    """
    keep = [row for row, i in enumerate(s.batch) if s.status[i] == "running"]
    if not s.divisible or len(keep) > MOST_RUNNING * len(s.batch):
        return part
    images = [s.batch[row] for row in keep]
    smaller = p.part(images)
    s.divisible = acts_alike(solver, part, s.v[s.batch], smaller, keep)
    if not s.divisible:
        return part
    s.batch, s.memory = images, {name: value[keep] for name, value in s.memory.items()}
    return smaller


def acts_alike(solver: Solver, part: Problem, v: Tensor, smaller: Problem, keep: list[int]) -> bool:
    """Whether T of the kept images is the same without the others."""
    together = solver.update(part, v)[0][keep]
    try:
        alone = solver.update(smaller, v[keep])[0]
    except (RuntimeError, ValueError, IndexError):  # sizes that do not fit
        return False
    if alone.shape != together.shape:
        return False
    gap, limit = solver.norm(smaller, alone - together), math.sqrt(torch.finfo(v.dtype).eps)
    return bool((gap <= limit * solver.norm(smaller, together)).all())


def advance(solver: Solver, p: Problem, s: Run, reference: Tensor | None, watch: bool) -> None:
    """One update of the images in the batch; those of them that have stopped keep what they had."""
    whole = len(s.batch) == len(s.x)
    v, old = (s.v, s.x) if whole else (s.v[s.batch], s.x[s.batch])
    image, x = solver.update(p, v)
    residual, size = solver.norm(p, v - image), solver.norm(p, v)
    finite = (residual + x.flatten(1).sum(1)).isfinite().tolist()
    moving = [s.status[i] == "running" for i in s.batch]
    x = select([m and f for m, f in zip(moving, finite, strict=True)], x, old)
    s.x = x if whole else s.x.index_copy(0, torch.tensor(s.batch, device=x.device), x)
    truth = reference if reference is None or whole else reference[s.batch]
    measured = zip(s.batch, residual.tolist(), size.tolist(), psnr_of(x, truth), moving, strict=True)
    for i, r, norm, psnr, goes in measured:
        if goes:
            record(s, i, r, norm, psnr, watch, torch.finfo(x.dtype).eps, solver.tol)
    if s.k % MISFIT_EVERY == 0:
        note_misfit(s, p.misfit(x).tolist())
    s.k += 1
    following, s.memory = solver.scheme.next(s.memory, v, image, s.k - 1)
    following = select([m and s.status[i] != "diverged" for m, i in zip(moving, s.batch, strict=True)], following, v)
    s.v = following if whole else s.v.index_copy(0, torch.tensor(s.batch, device=x.device), following)


def select(chosen: list[bool], new: Tensor, old: Tensor) -> Tensor:
    """The new images where chosen, the old ones elsewhere; without a copy when all are."""
    return new if all(chosen) else torch.where(per_image(torch.tensor(chosen, device=new.device), new).bool(), new, old)


def record(s: Run, i: int, r: float, size: float, psnr: float | None, watch: bool, eps: float, tol: float) -> None:
    """Append what was measured of image i and decide whether it stops."""
    if watch and s.residual[i] and r > s.residual[i][-1] + ROUNDING * eps * size and s.broken is None:
        s.broken = (
            f"the residual of image {i} grew from {s.residual[i][-1]:.6g} to {r:.6g} at iteration {s.k}, which the "
            "theorem forbids: the denoiser, the operator or the arithmetic is not what the hypotheses say"
        )
    s.residual[i].append(r)
    s.relative[i].append(r / max(size, 1e-300) if r > 0 else r)
    if psnr is not None:
        s.psnr[i].append(psnr)
    if s.k == 0:
        s.scale.append(max(r, size))
    if not (math.isfinite(r) and math.isfinite(size)) or r > GROWTH * s.scale[i]:
        s.status[i] = "diverged"
    elif s.relative[i][-1] <= tol:
        s.status[i] = "converged"


def reopen(s: Run, tol: float) -> bool:
    """A converged image of a stored run goes on when ``tol`` has been lowered since; whether there was one."""
    again = [i for i, status in enumerate(s.status) if status == "converged" and s.relative[i][-1] > tol]
    for i in again:
        s.status[i] = "running"
    return bool(again)


def note_misfit(s: Run, values: list[float]) -> None:
    """f(x) of the images in the batch that are still running, at this iteration."""
    for i, value in zip(s.batch, values, strict=True):
        if s.status[i] == "running":
            s.misfit[i].append(value)
            s.misfit_at[i].append(s.k)


def psnr_of(x: Tensor, reference: Tensor | None) -> list[float] | list[None]:
    """−10 log₁₀ mean((x − reference)²) of each image; None without a reference."""
    if reference is None:
        return [None] * len(x)
    values: list[float] = (-10 * (x - reference).flatten(1).square().mean(1).double().log10()).tolist()
    return values


def finish(p: Problem, s: Run) -> None:
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
