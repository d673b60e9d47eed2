"""A run on the disk: the arrays in its folder, its state after each chunk, and what came of it."""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.large.jobs import Job, Pass, State, zarr
from pnp_lip.operators.blur_windows import ArrayLike
from pnp_lip.progress import Bar
from pnp_lip.solvers import Guarantee, History

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["LargeResult", "Run"]

STATE = {"origin", "data", "iteration", "done", "residual", "relative"}  # what every state has


@dataclasses.dataclass(frozen=True)
class LargeResult:
    """The outcome of ``solve``: the Zarr array's ``path``, the ``history``, what was proved, and the numbers of the map.

    Of ``Variational``: ``stationarity`` ≥ dist(0, ∂J(x))/√n and, where J is strongly convex, ``distance_upper`` ≥
    ‖x − x*‖/√n, x* the minimiser and n the image's numbers. None elsewhere.
    """

    path: Path
    history: History
    guarantee: Guarantee
    parameters: dict[str, float]
    stationarity: float | None = None
    distance_upper: float | None = None

    @property
    def x(self) -> ArrayLike:
        """The image as a Zarr array, shaped as the image, read from the disk where it is indexed."""
        return cast(ArrayLike, zarr().open_array(str(self.path), mode="r"))

    @property
    def status(self) -> str:
        """ "converged", "max_iter", "diverged", or of ``Variational`` "rounding": no smaller gradient can be computed."""
        return self.history.status


class Run:
    """The state of a run in its folder: which chunks of which x_k are written, and the residuals so far."""

    def __init__(self, job: Job, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str) -> None:
        self.job, self.shape, self.chunk, self.dtype = job, shape, chunk, dtype
        self.file = job.folder / "state.json"
        self.state: State = {}

    def begin(self, y: ArrayLike, origin: dict[str, str]) -> None:
        """Copy data and start into the folder, or find them there.

        Raises InputError for a folder that holds anything but a state of this run.
        """
        folder = self.job.folder
        for unfinished in folder.glob(".state.*"):
            unfinished.unlink()
        if folder.exists() and any(folder.iterdir()):
            self.state = self.load()
            other = [name for name, value in self.state["origin"].items() if origin.get(name) != value]
            if other:
                raise InputError(f"{folder} belongs to a run with other {', '.join(other)}; name another folder or remove it.")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.state = {"origin": origin, "data": None, "iteration": 0, "done": {}, "residual": [], "relative": []}
            self.state |= {"objective": [], "epoch": {}}
            self.save()
        if self.state["data"] is None:
            target = self.create(folder / "data", y.shape)
            digest = self.copy(y, target)
            self.copy_start(target)
            self.state["data"] = digest
            self.save()
        elif self.copy(y, None) != self.state["data"]:
            raise InputError(f"{folder} belongs to a run with other data; name another folder or remove it.")

    def load(self) -> State:
        """The state in the folder."""
        try:
            state = json.loads(self.file.read_text("utf-8"))
            if set(state) >= STATE:
                return dict(state)
        except (OSError, ValueError, TypeError):
            pass
        raise InputError(f"{self.job.folder} exists and holds no run of this package; name another folder or remove it.")

    def save(self) -> None:
        """Replace the state's file in one atomic step."""
        with write_atomically(self.file) as temporary:
            temporary.write_text(json.dumps(self.state), "utf-8")

    def create(self, path: Path, shape: Sequence[int]) -> Any:
        """A new Zarr array, uncompressed, as noisy numbers hardly shrink."""
        chunks = (*shape[:-2], *(min(c, n) for c, n in zip(self.chunk, shape[-2:], strict=True)))
        return zarr().create_array(str(path), shape=shape, chunks=chunks, dtype=self.dtype, compressors=None, overwrite=True)

    def copy(self, y: ArrayLike, target: Any) -> str:
        """Copy y to ``target``, if there is one, in bands of rows; the hash of its values. InputError where one is not finite."""
        digest = hashlib.sha256(f"{self.dtype} {y.shape}".encode())
        for start in range(0, y.shape[-2], self.chunk[0]):
            band = np.ascontiguousarray(y[..., start : start + self.chunk[0], :], dtype=self.dtype)
            if not np.isfinite(band).all():
                raise InputError(
                    f"`y` holds NaN or infinite values in rows {start} to {start + band.shape[-2] - 1}; mask them first."
                )
            digest.update(band.data)
            if target is not None:
                target[..., start : start + self.chunk[0], :] = band
        return digest.hexdigest()

    def copy_start(self, y: Any) -> None:
        """x_0 = P_C y, extended by its edge where the data are smaller."""
        x, c = self.create(self.job.array(0), self.shape), self.job.blur
        psf, shift = ((1, 1), (0, 0)) if c is None else (c.psf.shape[1:], c.shift)
        before = [s - h // 2 for s, h in zip(shift, psf, strict=True)]
        rows, columns = (
            np.clip(np.arange(n) - b, 0, m - 1) for n, b, m in zip(self.shape[-2:], before, y.shape[-2:], strict=True)
        )
        for start in range(0, len(rows), self.chunk[0]):
            band = y.oindex[tuple([slice(None)] * (len(self.shape) - 2) + [rows[start : start + self.chunk[0]], columns])]
            x[..., start : start + self.chunk[0], :] = band if self.job.box is None else band.clip(*self.job.box)

    def iterate(self, tol: float, max_iter: int, client: "Client | None", progress: bool) -> None:
        """Update at most ``max_iter`` times, until the job says that the run has ended."""
        state, job = self.state, self.job
        with Bar("large", progress=progress, tol=tol, most=max_iter, start=state["iteration"]) as bar:
            while state["iteration"] < max_iter and job.status(state, tol) == "running":
                k = state["iteration"]
                self.discard()
                if not state["done"]:
                    state["pass"] = job.next(state, last=k + 1 == max_iter)
                    self.create(job.array(k + 1), self.shape)
                p = Pass(*state.get("pass", (k,)))
                missing = [i for i in range(len(job.spans)) if str(i) not in state["done"]]
                for i, found in updates(job, k, missing, p, client):
                    state["done"][str(i)] = found
                    self.save()
                job.note(state, p, tuple(math.fsum(sums) for sums in zip(*state["done"].values(), strict=True)), tol)
                state["iteration"], state["done"] = k + 1, {}
                self.save()
                bar.update(state["relative"][-1])
        self.discard()  # but what may be half done

    def discard(self) -> None:
        """Remove every x_k that is not needed."""
        names = {self.job.array(k).name for k in self.job.needed(self.state)}
        for path in self.job.folder.glob("x-*"):
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)

    def result(self, tol: float, judged: Guarantee, parameters: dict[str, float]) -> LargeResult:
        """The result; what the sums contradict is no longer claimed."""
        state, status = self.state, self.job.status(self.state, tol)
        wrong = self.job.contradicted(state, self.dtype)
        if wrong is not None:
            judged = judged.broken(wrong)
        record = (tuple(state["residual"]), tuple(state["relative"]), (), (), ())
        history = History("max_iter" if status == "running" else status, *record, objective=tuple(state.get("objective", ())))
        found, m = state.get("epoch", {}).get("found"), parameters.get("convexity", 0.0)
        distance = found / m * (1 + 1e-9) if found is not None and judged.proved and m > 0 else None
        return LargeResult(self.job.array(self.job.found(state)), history, judged, parameters, found, distance)


def updates(job: Job, k: int, chunks: list[int], p: Pass, client: "Client | None") -> Iterator[tuple[int, tuple[float, ...]]]:
    """``Job.update`` of these chunks, in the order in which they end; a worker that dies has its chunk computed by another."""
    if client is None:
        yield from (job.update(k, i, p) for i in chunks)
        return
    from distributed import KilledWorker, as_completed

    futures = client.map(job.update, [k] * len(chunks), chunks, p=p, pure=False)
    try:
        for future, found in as_completed(futures, with_results=True):
            future.release()  # what is noted needs no second computation when its worker dies
            yield found
    except KilledWorker as error:
        raise InputError("a chunk ended several workers, probably for lack of memory; a smaller `chunk` needs less.") from error
