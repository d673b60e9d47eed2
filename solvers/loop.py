"""The loop that every fixed-point map runs in: iterate, stop each image on its own, keep what was seen."""

import dataclasses
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pnp_lip.solvers.checkpoint import Checkpoint, Origin
from pnp_lip.solvers.guarantee import Guarantee
from pnp_lip.solvers.iteration import Iteration
from pnp_lip.solvers.maps import Maps, Settings
from pnp_lip.solvers.result import History, Result
from pnp_lip.solvers.scheme import Memory, Scheme, per_image

__all__ = ["Callback", "Monitor", "iterate"]

Callback = Callable[[int, Tensor, tuple[float, ...]], None]
MOST_RUNNING = 0.75  # a batch is divided when no more than this share of it still runs, so that this happens seldom
MISFIT_EVERY = 10  # updates: the misfit costs an application of A
GROWTH = 1e4  # times the larger of first residual and first state: a residual beyond it does not come back
ROUNDING = 64  # units of rounding of the state that a residual may grow by without contradicting a theorem


@dataclasses.dataclass(frozen=True)
class Monitor:
    """What is looked at during a run, and when it ends.

    ``watch``: a theorem says that no residual grows. ``bar`` is the name on the progress bar, None for no bar; ``store``
    receives the state, and ``origin`` tells whether a stored one belongs to this run.
    """

    tol: float
    max_iter: int
    watch: bool
    reference: Tensor | None
    bar: str | None
    callback: Callback | None
    store: Checkpoint | None
    origin: Origin | None


@dataclasses.dataclass
class Track:
    """The record of one image: what ``History`` holds, as lists, with the ``scale`` against which growth is judged.

    ``status`` is "running" until the image stops.
    """

    status: str = "running"
    residual: list[float] = dataclasses.field(default_factory=list)
    relative: list[float] = dataclasses.field(default_factory=list)
    misfit: list[float] = dataclasses.field(default_factory=list)
    misfit_at: list[int] = dataclasses.field(default_factory=list)
    psnr: list[float] = dataclasses.field(default_factory=list)
    scale: float = 0.0

    def grew(self, residual: float, size: float, eps: float) -> bool:
        """Whether the residual grew by more than rounding, which a nonexpansive T forbids."""
        return bool(self.residual) and residual > self.residual[-1] + ROUNDING * eps * size

    def add(self, residual: float, size: float, psnr: float | None, tol: float) -> None:
        """Append ‖v − T v‖, ‖v‖ and the PSNR of one update, and decide whether the image stops."""
        if not self.residual:
            self.scale = max(residual, size)
        self.residual.append(residual)
        self.relative.append(residual / max(size, 1e-300) if residual > 0 else residual)
        if psnr is not None:
            self.psnr.append(psnr)
        if not (math.isfinite(residual) and math.isfinite(size)) or residual > GROWTH * self.scale:
            self.status = "diverged"
        elif self.relative[-1] <= tol:
            self.status = "converged"

    def add_misfit(self, value: float, k: int) -> None:
        """Append f(x_k), once for each k."""
        if not self.misfit_at or self.misfit_at[-1] != k:
            self.misfit.append(value)
            self.misfit_at.append(k)

    def close(self, misfit: float) -> History:
        """The finished record; an image that is still running has used up its iterations."""
        if self.status == "running":
            self.status = "max_iter"
        self.add_misfit(misfit, len(self.residual) - 1)
        columns = (self.residual, self.relative, self.misfit, self.misfit_at, self.psnr)
        return History(self.status, *map(tuple, columns))  # type: ignore[arg-type]


@dataclasses.dataclass
class State:
    """The state of a run, all that a checkpoint has to hold.

    ``v`` the fixed-point variable, ``x`` the image; ``batch`` lists the images that are still updated, ``memory`` is the
    scheme's for these; ``divisible`` says whether images may leave the batch; ``broken`` what contradicted the theorem.
    """

    v: Tensor
    x: Tensor
    memory: Memory
    tracks: list[Track]
    batch: list[int]
    k: int = 0
    divisible: bool = True
    seconds: float = 0.0
    broken: str | None = None

    @property
    def running(self) -> bool:
        """Whether some image has not stopped."""
        return any(track.status == "running" for track in self.tracks)

    def plain(self) -> dict[str, object]:
        """The fields, tensors included and not copied, for a checkpoint."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "tracks": [vars(track) for track in self.tracks]}

    def result(self, guarantee: Guarantee, settings: Settings, iteration: Iteration, maps: Maps) -> Result:
        """The result of a finished run."""
        misfits = maps.misfit(self.x).tolist()
        histories = tuple(track.close(misfit) for track, misfit in zip(self.tracks, misfits, strict=True))
        judged = guarantee if self.broken is None else guarantee.broken(self.broken)
        return Result(self.x, histories, judged, settings, iteration.parameters, maps, self.seconds)


def iterate(iteration: Iteration, maps: Maps, scheme: Scheme, x: Tensor, monitor: Monitor) -> State:
    """Iterate from the image x until every image has converged, diverged or used up ``max_iter`` updates."""
    from tqdm import tqdm

    state = begin_or_resume(iteration, maps, scheme, x, monitor)
    store, part = monitor.store, maps.part(state.batch)
    started = time.perf_counter() - state.seconds
    with tqdm(total=monitor.max_iter, initial=state.k, desc=monitor.bar, unit="it", disable=monitor.bar is None) as shown:
        while state.running and state.k < monitor.max_iter:
            part = narrowed(iteration, maps, part, state)
            advance(iteration, part, scheme, state, monitor)
            state.seconds = time.perf_counter() - started
            last = tuple(track.relative[-1] for track in state.tracks)
            shown.set_postfix_str(f"residual {max(last):.2e}", refresh=False)
            shown.update(1)
            if monitor.callback is not None:
                monitor.callback(state.k, state.x, last)
            if store and state.k % store.every == 0:
                store.save({"origin": monitor.origin, **state.plain()})
    if store:
        store.save({"origin": monitor.origin, **state.plain()})
    return state


def begin_or_resume(iteration: Iteration, maps: Maps, scheme: Scheme, x: Tensor, monitor: Monitor) -> State:
    """The stored state when there is one, otherwise the state before the first update.

    A converged image of a stored run goes on when ``tol`` has been lowered since.
    """
    stored = None if monitor.store is None or monitor.origin is None else monitor.store.load(monitor.origin)
    if stored is None:
        v = iteration.start(maps, x)
        return State(v, x, scheme.start(v), [Track() for _ in x], list(range(len(x))))
    tracks = [Track(**track) for track in stored.pop("tracks")]
    state = State(**{k: value for k, value in stored.items() if k != "origin"}, tracks=tracks)
    again = [t for t in tracks if t.status == "converged" and t.relative[-1] > monitor.tol]
    for track in (*again, *(t for t in tracks if t.status == "max_iter")):
        track.status = "running"
    if again:  # the memory went on without these images; a scheme may start anywhere
        state.batch = list(range(len(state.x)))
        state.memory = scheme.start(state.v)
    return state


def narrowed(iteration: Iteration, maps: Maps, part: Maps, s: State) -> Maps:
    """The maps of the images to be updated: those that have stopped leave once they are a quarter of the batch.

    They stay where T does not act on each image alone, for instance in a physics with parameters for every image of the
    batch: where the smaller batch's update differs from the larger one's by more than half of the digits.
    """
    keep = [row for row, i in enumerate(s.batch) if s.tracks[i].status == "running"]
    if not s.divisible or len(keep) > MOST_RUNNING * len(s.batch):
        return part
    images = [s.batch[row] for row in keep]
    smaller = maps.part(images)
    s.divisible = acts_alike(iteration, part, s.v[s.batch], smaller, keep)
    if not s.divisible:
        return part
    s.batch, s.memory = images, {name: value[keep] for name, value in s.memory.items()}
    return smaller


def acts_alike(iteration: Iteration, part: Maps, v: Tensor, smaller: Maps, keep: list[int]) -> bool:
    """Whether T of the kept images is the same without the others."""
    together = iteration.T(part, v)[0][keep]
    try:
        alone = iteration.T(smaller, v[keep])[0]
    except (RuntimeError, ValueError, IndexError):  # sizes that do not fit
        return False
    if alone.shape != together.shape:
        return False
    gap, limit = iteration.norm(smaller, alone - together), math.sqrt(torch.finfo(v.dtype).eps)
    return bool((gap <= limit * iteration.norm(smaller, together)).all())


def advance(iteration: Iteration, part: Maps, scheme: Scheme, s: State, monitor: Monitor) -> None:
    """One update of the images in the batch; those of them that have stopped keep what they had."""
    whole = len(s.batch) == len(s.x)
    tracks = [s.tracks[i] for i in s.batch]
    v, old = (s.v, s.x) if whole else (s.v[s.batch], s.x[s.batch])
    image, x = iteration.T(part, v)
    residual, size = iteration.norm(part, v - image), iteration.norm(part, v)
    finite = (residual + x.flatten(1).sum(1)).isfinite().tolist()
    moving = [track.status == "running" for track in tracks]
    x = select([m and f for m, f in zip(moving, finite, strict=True)], x, old)
    s.x = x if whole else s.x.index_copy(0, torch.tensor(s.batch, device=x.device), x)
    reference = monitor.reference
    truth = reference if reference is None or whole else reference[s.batch]
    eps = torch.finfo(x.dtype).eps
    rows = zip(s.batch, tracks, residual.tolist(), size.tolist(), psnr_of(x, truth), moving, strict=True)
    for i, track, r, norm, psnr, goes in rows:
        if not goes:
            continue
        if monitor.watch and s.broken is None and track.grew(r, norm, eps):
            s.broken = (
                f"the residual of image {i} grew from {track.residual[-1]:.6g} to {r:.6g} at iteration {s.k}, which the "
                "theorem forbids: the denoiser, the operator or the arithmetic is not what the hypotheses say"
            )
        track.add(r, norm, psnr, monitor.tol)
    if s.k % MISFIT_EVERY == 0:
        for track, value in zip(tracks, part.misfit(x).tolist(), strict=True):
            if track.status == "running":
                track.add_misfit(value, s.k)
    following, s.memory = scheme.next(s.memory, v, image, s.k)
    goes_on = [m and track.status != "diverged" for m, track in zip(moving, tracks, strict=True)]
    following = select(goes_on, following, v)
    s.v = following if whole else s.v.index_copy(0, torch.tensor(s.batch, device=x.device), following)
    s.k += 1


def select(chosen: list[bool], new: Tensor, old: Tensor) -> Tensor:
    """The new images where chosen, the old ones elsewhere; without a copy when all are."""
    return new if all(chosen) else torch.where(per_image(torch.tensor(chosen, device=new.device), new).bool(), new, old)


def psnr_of(x: Tensor, reference: Tensor | None) -> list[float] | list[None]:
    """−10 log₁₀ mean((x − reference)²) of each image; None without a reference."""
    if reference is None:
        return [None] * len(x)
    values: list[float] = (-10 * (x - reference).flatten(1).square().mean(1).double().log10()).tolist()
    return values
