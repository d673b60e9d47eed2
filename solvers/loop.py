"""The loop that every fixed-point map runs in: iterate, stop each image on its own, keep what was seen."""

import dataclasses
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pnp_lip.progress import Bar
from pnp_lip.solvers.checkpoint import Checkpoint, Origin, require
from pnp_lip.solvers.guarantee import Guarantee
from pnp_lip.solvers.iteration import Iteration, euclidean
from pnp_lip.solvers.maps import Maps, Settings
from pnp_lip.solvers.result import History, Result
from pnp_lip.solvers.scheme import Memory, Scheme, per_image
from pnp_lip.solvers.watch import Watch

__all__ = ["Callback", "Monitor", "iterate"]

Callback = Callable[[int, Tensor, tuple[float, ...]], None]
MOST_RUNNING = 0.75  # a batch is divided when no more than this share of it still runs, so that this happens seldom
MISFIT_EVERY = 10  # updates: the misfit costs an application of A
GROWTH = 1e4  # times the larger of first residual and first state: a residual beyond it does not come back
PROX_BUDGET = 1e-2  # the largest sum of relative errors of the prox that still passes for the summable one of the theorems
SAME = 16  # units of rounding of a state by which a stored run may differ from what this machine computes
SUSPECTS = "the denoiser, the operator or the arithmetic is not what the hypotheses say"
STATUSES = ("running", "converged", "diverged")


@dataclasses.dataclass(frozen=True)
class Monitor:
    """What is looked at during a run, and when it ends.

    ``watch``: a theorem bounds T's Lipschitz constant, and the run is held against it. ``bar`` is the name on the
    progress bar, None for no bar; ``store`` receives the state, and ``origin`` tells whether a stored one belongs to this run.
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

    ``status`` is "running" until the image stops; ``error`` bounds that of the last prox, ``prox_error`` the sum of all,
    each relative to its image.
    """

    status: str = "running"
    residual: list[float] = dataclasses.field(default_factory=list)
    relative: list[float] = dataclasses.field(default_factory=list)
    misfit: list[float] = dataclasses.field(default_factory=list)
    misfit_at: list[int] = dataclasses.field(default_factory=list)
    psnr: list[float] = dataclasses.field(default_factory=list)
    objective: list[float] = dataclasses.field(default_factory=list)
    scale: float = 0.0
    error: float = 0.0
    prox_error: float = 0.0

    def add(self, residual: float, size: float, errors: tuple[float, float], psnr: float | None, tol: float) -> None:
        """Append ‖v − T v‖, ‖v‖, the prox's errors and the PSNR of one update, and decide whether the image stops."""
        if not self.residual:
            self.scale = max(residual, size)
        self.residual.append(residual)
        self.relative.append(quotient(residual, size))
        self.error, self.prox_error = errors[0], self.prox_error + errors[1]
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
        self.add_misfit(misfit, max(len(self.residual) - 1, 0))
        return History(
            self.status, tuple(self.residual), tuple(self.relative), tuple(self.misfit), tuple(self.misfit_at),
            tuple(self.psnr), self.prox_error, tuple(self.objective),
        )  # fmt: skip

    def fits(self, k: int, least: int = 1) -> bool:
        """Whether a stored record can be one after k updates, ``least`` of them of this image."""
        lists = (self.residual, self.relative, self.misfit, self.psnr, self.objective)
        columns = (*lists, [self.scale, self.error, self.prox_error])
        if not all(type(c) is list and all(type(number) is float for number in c) for c in columns):
            return False
        positive = all(0 <= number < math.inf for number in (*self.residual, *self.relative, *columns[-1]))
        lengths = least <= len(self.residual) == len(self.relative) <= k
        lengths = lengths and max(len(self.psnr), len(self.objective)) <= len(self.residual)
        places = len(self.misfit_at) == len(self.misfit) and all(type(i) is int and 0 <= i < k for i in self.misfit_at)
        return self.status in STATUSES and lengths and places and (positive or self.status == "diverged")


@dataclasses.dataclass
class State:
    """The state of a run, all that a checkpoint has to hold.

    ``v`` the fixed-point variable, ``x`` the image; ``before`` = (v_{k−1}, T v_{k−1}), whose image is x; ``batch`` lists
    the images that are still updated, ``memory`` is the scheme's for these; ``divisible`` says whether images may leave the
    batch; ``broken`` what contradicted the theorem.
    """

    v: Tensor
    x: Tensor
    memory: Memory
    tracks: list[Track]
    batch: list[int]
    k: int = 0
    before: tuple[Tensor, Tensor] = ()  # type: ignore[assignment]
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
        """The result of a finished run; what its images contradict is no longer claimed."""
        histories = tuple(track.close(f) for track, f in zip(self.tracks, maps.misfit(self.x).tolist(), strict=True))
        failures = [self.broken, *(failure for i, h in enumerate(histories) if (failure := failure_of(i, h)))]
        failure = next((f for f in failures if f is not None), None)
        judged = guarantee if failure is None or not guarantee.proved else guarantee.broken(failure)
        return Result(self.x, histories, judged, settings, iteration.parameters, maps, self.seconds)


def iterate(iteration: Iteration, maps: Maps, scheme: Scheme, x: Tensor, monitor: Monitor) -> State:
    """Iterate from the image x until every image has converged, diverged or used up ``max_iter`` updates."""
    state = begin_or_resume(iteration, maps, scheme, x, monitor)
    watch = Watch.over(iteration, maps, state.v) if monitor.watch else None
    store, part = monitor.store, maps.part(state.batch)
    started = time.perf_counter() - state.seconds
    with Bar(
        monitor.bar or "solve", progress=monitor.bar is not None, tol=monitor.tol, most=monitor.max_iter, start=state.k
    ) as shown:
        while state.running and state.k < monitor.max_iter:
            part = narrowed(iteration, maps, part, state)
            advance(iteration, part, scheme, state, monitor, watch)
            state.seconds = time.perf_counter() - started
            last = tuple(track.relative[-1] for track in state.tracks)
            shown.update(max(last))
            if monitor.callback is not None:
                monitor.callback(state.k, state.x.clone(), last)  # a copy, as x may share its memory with v
            if store and state.k % store.every == 0:
                store.save({"origin": monitor.origin, **state.plain()})
    if store:
        store.save({"origin": monitor.origin, **state.plain()})
    if watch is not None and state.broken is None:
        state.broken = changed(iteration, maps, state, watch)
    return state


def changed(iteration: Iteration, maps: Maps, s: State, watch: Watch) -> str | None:
    """What T now makes of the last states, where that is not what it made of them in the run."""
    image, _, taken = evaluate(iteration, maps, s.before[0])
    errors = torch.tensor([track.error for track in s.tracks]).to(watch.data) + (0.0 if taken is None else taken[0])
    found = watch.violation(maps, s.before[0], image, s.before, errors, list(range(len(s.x))))
    failed = next((i for i, words in enumerate(found) if words and s.tracks[i].status != "diverged"), None)
    return None if failed is None else f"image {failed}: T v is no longer what it was in the run: {SUSPECTS}"


def begin_or_resume(iteration: Iteration, maps: Maps, scheme: Scheme, x: Tensor, monitor: Monitor) -> State:
    """The stored state when there is one, otherwise the state before the first update.

    Raises InputError for a stored state that cannot be one of this run.
    """
    v = iteration.start(maps, x).clone()
    state = State(v, x, scheme.start(v), [Track() for _ in x], list(range(len(x))), before=(v, v))
    stored = None if monitor.store is None or monitor.origin is None else monitor.store.load(monitor.origin)
    if stored is None or monitor.store is None:
        return state
    with monitor.store.refusing():
        state = restored(stored, state, scheme)
        require(whole(iteration, maps, state), "what its state holds twice")
    changed = [track for track in verified(iteration, maps, state, monitor) if track.status == "converged"]
    for track in changed:
        track.status = "running"
    if changed:  # the memory went on without these images; a scheme may start anywhere
        state.batch = list(range(len(state.x)))
        state.memory = scheme.start(state.v)
    return state


def restored(stored: dict[str, object], fresh: State, scheme: Scheme) -> State:
    """The stored state, if it can be one of the run that starts at ``fresh``; any exception says that it cannot."""
    tracks = [Track(**track) for track in stored.pop("tracks")]  # type: ignore[attr-defined]
    s = State(**{name: value for name, value in stored.items() if name != "origin"}, tracks=tracks)  # type: ignore[arg-type]
    require(type(s.k) is int and s.k >= 1, "its count of updates")
    require(len(tracks) == len(fresh.x) and all(track.fits(s.k) for track in tracks), "its records")
    require(type(s.seconds) is float and 0 <= s.seconds < math.inf and type(s.divisible) is bool, "its seconds")
    require(s.broken is None or type(s.broken) is str, "its failure")
    alive = [i for i, track in enumerate(tracks) if track.status != "diverged"]
    for mine, new in zip((s.x, s.v, *s.before), (fresh.x, fresh.v, *fresh.before), strict=True):
        require(mine.shape == new.shape and mine.dtype == new.dtype and bool(mine[alive].isfinite().all()), "its images")
    running = {i for i, track in enumerate(tracks) if track.status == "running"}
    images = sorted(set(range(len(tracks))) & set(s.batch))
    require(s.batch == images and running <= set(images) and all(type(i) is int for i in s.batch), "its batch")
    rows, like = [r for r, i in enumerate(s.batch) if i in running], scheme.start(fresh.v[s.batch])
    require(s.memory.keys() == like.keys(), "its scheme")
    for name, new in like.items():
        mine = s.memory[name]
        require(mine.shape == new.shape and mine.dtype == new.dtype and not bool(mine[rows].isnan().any()), f"its {name}")
    require(scheme.fits({name: value[rows] for name, value in s.memory.items()}, s.k), "the numbers of its scheme")
    return s


def whole(iteration: Iteration, maps: Maps, s: State) -> bool:
    """Whether the state's parts fit each other, and those of all states that the scheme remembers, to half of the digits."""
    part, computed = maps.part(s.batch), iteration.norm.whole
    if computed is None:
        return True
    rings = [t.reshape(len(t), -1, s.v.shape[1]) for t in s.memory.values() if t.ndim > 1 and t.shape[-1] == s.v.shape[1]]
    states = [(maps, s.v), (maps, s.before[0]), *((part, t) for ring in rings for t in ring.unbind(1))]
    limit = math.sqrt(torch.finfo(s.v.dtype).eps)
    for m, v in states:
        sizes = euclidean(m, v) + euclidean(m, s.v if m is maps else s.v[s.batch])
        if bool((euclidean(m, computed(m, v) - v) > limit * sizes).any()):
            return False
    return True


def verified(iteration: Iteration, maps: Maps, s: State, monitor: Monitor) -> list[Track]:
    """The records of images that have not converged by what T gives now, whatever a stored state says.

    Of images that differ by more than rounding from T of the stored state, the new values are taken.
    """
    unit, v = SAME * torch.finfo(s.v.dtype).eps, s.before[0]
    image, x, _ = evaluate(iteration, maps, v)
    norm, size = iteration.norm, iteration.norm.size
    residual, length = norm(maps, v - image), norm(maps, v)
    gaps = norm(maps, image - s.before[1]), euclidean(maps, x - s.x)
    limits = unit * (size(maps, v) + size(maps, image)), unit * (euclidean(maps, x) + euclidean(maps, v))
    rows = torch.stack([residual, length, *gaps, *limits]).tolist()
    same, failed = [], []
    for track, r, n, a, b, most, most_x in zip(s.tracks, *rows, strict=True):
        agree = track.status == "diverged" or (
            a <= most and b <= most_x and max(abs(r - track.residual[-1]), abs(r - track.relative[-1] * n)) <= most
        )
        same.append(agree)
        if not agree:
            track.residual[-1], track.relative[-1] = r, quotient(r, n)
        if not min(track.relative[-1], quotient(r, n)) <= monitor.tol:
            failed.append(track)
    s.x, s.before = select(same, s.x, x), (v, select(same, s.before[1], image))
    return failed


def evaluate(iteration: Iteration, m: Maps, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """T v and its image, copied, as a denoiser may write its next result over this one; the errors of the prox in them."""
    m.take_errors()  # those of other calls
    image, x = iteration.T(m, v)
    copy = image.clone()
    return copy, copy if x is image else x.clone(), m.take_errors()


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
    together = evaluate(iteration, part, v)[0][keep]
    try:
        alone = evaluate(iteration, smaller, v[keep])[0]
    except (RuntimeError, ValueError, IndexError):  # sizes that do not fit
        return False
    if alone.shape != together.shape:
        return False
    gap, limit = iteration.norm(smaller, alone - together), math.sqrt(torch.finfo(v.dtype).eps)
    return bool((gap <= limit * iteration.norm(smaller, together)).all())


def advance(iteration: Iteration, part: Maps, scheme: Scheme, s: State, monitor: Monitor, watch: Watch | None = None) -> None:
    """One update of the images in the batch; those of them that have stopped keep what they had."""
    whole = len(s.batch) == len(s.x)

    def put(all_images: Tensor, new: Tensor) -> Tensor:
        return new if whole else all_images.index_copy(0, torch.tensor(s.batch, device=new.device), new)

    tracks = [s.tracks[i] for i in s.batch]
    v, old, *before = (t if whole else t[s.batch] for t in (s.v, s.x, *s.before))
    image, x, taken = evaluate(iteration, part, v)
    residual, size = iteration.norm(part, v - image), iteration.norm(part, v)
    error, relative = torch.zeros_like(torch.stack([residual, size])) if taken is None else taken.to(residual)
    moving = [track.status == "running" for track in tracks]
    if watch is not None and s.k > 0 and s.broken is None:
        errors = error + torch.tensor([track.error for track in tracks]).to(error)
        found = watch.violation(part, v, image, before, errors, s.batch)
        failed = next(((i, words) for i, words, m in zip(s.batch, found, moving, strict=True) if words and m), None)
        s.broken = None if failed is None else f"image {failed[0]} at iteration {s.k}: {failed[1]}: {SUSPECTS}"
    finite = (residual + x.flatten(1).sum(1)).isfinite().tolist()
    x = select([m and f for m, f in zip(moving, finite, strict=True)], x, old)
    s.x = put(s.x, x)
    reference = monitor.reference
    truth = reference if reference is None or whole else reference[s.batch]
    numbers = torch.stack([residual, size, error, relative]).tolist()
    for track, r, norm, e, share, psnr, goes in zip(tracks, *numbers, psnr_of(x, truth), moving, strict=True):
        if goes:
            track.add(r, norm, (e, share), psnr, monitor.tol)
    if s.k % MISFIT_EVERY == 0:
        for track, value in zip(tracks, part.misfit(x).tolist(), strict=True):
            if track.status == "running":
                track.add_misfit(value, len(track.residual) - 1)
    following, s.memory = scheme.next(s.memory, v, image, s.k)
    goes_on = [m and track.status != "diverged" for m, track in zip(moving, tracks, strict=True)]
    s.before = (put(s.before[0], select(goes_on, v, before[0])), put(s.before[1], select(goes_on, image, before[1])))
    s.v = put(s.v, select(goes_on, following, v))
    s.k += 1


def quotient(part: float, whole: float) -> float:
    """part/whole, where 0/0 is 0."""
    return part / max(whole, 1e-300) if part > 0 else part


def failure_of(i: int, history: History) -> str | None:
    """What the record of image i contradicts: a theorem of convergence, or one that asks for summable errors."""
    if history.status == "diverged":
        return f"image {i} diverged, its last residual being {history.residual[-1]:.6g}: {SUSPECTS}"
    if not history.prox_error <= PROX_BUDGET:
        total = f"the errors of prox_γf add up to {history.prox_error:.3g} of the image"
        return f"image {i}: {total}, and at most {PROX_BUDGET:g} of it is allowed"
    return None


def select(chosen: list[bool], new: Tensor, old: Tensor) -> Tensor:
    """The new images where chosen, the old ones elsewhere; without a copy when all are."""
    return new if all(chosen) else torch.where(per_image(torch.tensor(chosen, device=new.device), new).bool(), new, old)


def psnr_of(x: Tensor, reference: Tensor | None) -> list[float] | list[None]:
    """−10 log₁₀ mean((x − reference)²) of each image; None without a reference."""
    if reference is None:
        return [None] * len(x)
    values: list[float] = (-10 * (x - reference).flatten(1).square().mean(1).double().log10()).tolist()
    return values
