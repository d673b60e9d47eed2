"""A batch of images, minimised one after another, with what is kept of each and its checkpoints."""

import dataclasses
import math
import time
from collections.abc import Hashable, Iterator
from typing import Any

from torch import Tensor

from pnp_lip.solvers import descent
from pnp_lip.solvers.checkpoint import Checkpoint, Origin, require
from pnp_lip.solvers.energy import Energies, Energy
from pnp_lip.solvers.guarantee import Guarantee
from pnp_lip.solvers.loop import MISFIT_EVERY, Track
from pnp_lip.solvers.maps import Maps, Settings
from pnp_lip.solvers.potential_examiner import examine_gradient
from pnp_lip.solvers.witness import Witness

__all__ = ["Problem", "Run", "record"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Variational bound to data: J of each image, its L (None if unknown) and its m ≤ the convexity, and what is claimed.

    ``own`` is the fingerprint of a potential that is smooth because it is ours.
    """

    maps: Maps
    energies: Energies
    L: float | None
    m: float
    goal: float
    guarantee: Guarantee
    x: Tensor
    settings: Settings
    witness: Witness
    own: Hashable | None


@dataclasses.dataclass(frozen=True)
class End:
    """Of one image: J at the ``start``, the stationarity ``found`` at the end, the ``misfit``, and what contradicts a claim."""

    start: float
    found: float
    misfit: float
    broken: str | None


class Run:
    """A batch, one image after another: ``x`` and ``sizes`` of all, the ``states`` of those begun and the ``ends`` of those done.

    Raises InputError for a ``store`` that cannot hold a state of this run.
    """

    def __init__(self, p: Problem, store: Checkpoint | None, origin: Origin | None, started: float) -> None:
        self.p, self.store, self.origin, self.started, self.k = p, store, origin, started, 0
        self.x, self.sizes = [p.x[i : i + 1] for i in range(len(p.x))], [math.inf] * len(p.x)
        self.tracks = [Track() for _ in self.x]
        self.states: list[descent.State] = []
        self.ends: list[End] = []
        self.stored: list[dict[str, Any]] = []
        if store is not None and origin is not None and (stored := store.load(origin)) is not None:
            with store.refusing():
                self.resume(stored)

    @property
    def seconds(self) -> float:
        """Since the run began, over all its parts."""
        return time.perf_counter() - self.started

    def updates(self, i: int, max_iter: int) -> Iterator[tuple[descent.State, Energy]]:
        """Update image i until it stops, and examine it then; a stored state is computed anew where that is possible."""
        e: Energy = self.p.energies[i]
        s = descent.begin(e, self.x[i], self.p.L, self.p.goal)
        start = s.J
        if i < len(self.stored) and self.store is not None:
            with self.store.refusing():
                s = descent.restored(e, s, self.stored[i])
        self.states[i:] = [s]
        while s.status == "running" and len(self.tracks[i].residual) < max_iter:
            descent.advance(e, s)
            self.k += 1
            self.x[i], self.sizes[i] = s.x, s.size
            yield s, e
            if self.store is not None and self.k % self.store.every == 0:
                self.save()
        self.x[i], self.sizes[i] = s.x, s.size
        s.forget(going_on=self.store is not None)
        broken = s.broken or ("it diverged" if s.status == "diverged" else None)
        if self.p.guarantee.proved and self.p.witness.certificate is None and self.p.own is None:
            broken = refuted(e, s) or broken
        self.tracks[i].status = s.status
        self.ends.append(End(start, descent.outcome(e, s), float(e.maps.misfit(s.x)), broken))

    def save(self) -> None:
        """Store the whole state of the run, with what is stored of images that it has not come to yet."""
        if self.store is not None:
            states = [*(vars(s) for s in self.states), *self.stored[len(self.states) :]]
            kept = {"states": states, "tracks": [vars(t) for t in self.tracks]}
            self.store.save({"origin": self.origin, "k": self.k, "seconds": self.seconds, **kept})

    def resume(self, stored: dict[str, Any]) -> None:
        """Go on from a stored run. Any exception says that it cannot be one."""
        k, seconds, tracks = stored["k"], stored["seconds"], [Track(**{**v, "status": "running"}) for v in stored["tracks"]]
        require(type(k) is int and k >= 1 and type(seconds) is float and 0 <= seconds < math.inf, "its count of updates")
        begun = len(stored["states"])
        require(0 < begun <= len(tracks) == len(self.x) and all(t.fits(k, least=0) for t in tracks), "its records")
        require(not any(t.residual for t in tracks[begun:]), "its records")
        self.k, self.tracks, self.stored, self.started = k, tracks, stored["states"], self.started - seconds


def refuted(e: Energy, s: descent.State) -> str | None:
    """What the final x says against a user's potential: its value, its copy in float64, its gradient."""
    if s.status == "diverged":
        return s.broken
    if not abs(e.value(s.x) - s.J) <= descent.VALUE_ROUNDING * e.unit * max(abs(s.J), 1e-30) or not e.agrees(s.x, s.L):
        return "the potential changed during the run"
    gradient = examine_gradient(e, s.x)
    return s.broken or (None if gradient.met else str(gradient))


def record(track: Track, s: descent.State, e: Energy, psnr: float | None) -> None:
    """Append what is seen after an update."""
    track.residual.append(s.residual)
    track.relative.append(s.size)
    track.status = s.status
    track.objective.append(s.J)
    track.psnr += [] if psnr is None else [psnr]
    if len(track.residual) % MISFIT_EVERY == 1:
        track.add_misfit(float(e.maps.misfit(s.x)), len(track.residual) - 1)
