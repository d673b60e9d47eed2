"""Images larger than memory: forward-backward on Zarr arrays, chunk by chunk, with the map and the guarantee of the solver."""

import copy
import dataclasses
import hashlib
import json
import math
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.certificates import certify
from pnp_lip.denoisers.exact_tiling import network_of
from pnp_lip.denoisers.tiling import windows
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.fingerprint import hash_tensor, is_plain
from pnp_lip.images import write_atomically
from pnp_lip.operators import Blur
from pnp_lip.operators.blur_windows import WINDOWED_PADDINGS, ArrayLike, BlurWindows, read
from pnp_lip.progress import Bar
from pnp_lip.solvers import Denoising, ForwardBackward, Guarantee, History, KrasnoselskiiMann, LeastSquares
from pnp_lip.solvers.examiner import examine_code, judge_certificate, judge_denoiser
from pnp_lip.solvers.guarantee import judge
from pnp_lip.solvers.hypothesis import Hypothesis, check_max_iter
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.maps import Box, Maps
from pnp_lip.solvers.solver import BOX, refuse

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["LargeResult", "solve"]

SLACK = 16  # units of rounding of ‖x_k‖ by which a residual may grow

Span = tuple[slice, range]


@dataclasses.dataclass(frozen=True)
class LargeResult:
    """The outcome of ``solve``: the Zarr array's ``path``, the ``history``, what was proved, and the numbers of the map."""

    path: Path
    history: History
    guarantee: Guarantee
    parameters: dict[str, float]

    @property
    def x(self) -> Any:
        """The image as a Zarr array, shaped as the image, read from the disk where it is indexed."""
        return zarr().open_array(str(self.path), mode="r")

    @property
    def status(self) -> str:
        """ "converged", "max_iter" or "diverged"."""
        return self.history.status


@dataclasses.dataclass(frozen=True)
class Job:
    """One update of one chunk: what a worker needs beside the arrays in ``folder``."""

    folder: Path
    denoiser: nn.Module
    sigma: float | Tensor | None
    gamma: float
    box: Box
    blur: BlurWindows | None
    spans: tuple[tuple[Span, Span], ...]

    def array(self, k: int) -> Path:
        """x_k. Each has a name of its own, so that a worker that was given up can no longer write into a later one."""
        return self.folder / f"x-{k}"

    @torch.no_grad()
    def update(self, k: int, i: int) -> tuple[int, float, float]:
        """Write chunk i of x_{k+1} = P_C D(x_k − γ∇f(x_k)); return i, ‖x_{k+1} − x_k‖² and ‖x_k‖² on it."""
        (kept_rows, rows), (kept_columns, columns) = self.spans[i]
        x = zarr().open_array(str(self.array(k)), mode="r")
        if self.blur is None:
            here = z = read(x, rows, columns, False)
        else:
            y = zarr().open_array(str(self.folder / "data"), mode="r")
            here, z = self.blur.step(x, y, rows, columns, self.gamma)
        new = self.denoiser(z[None], self.sigma)[0]
        old, new = (t[..., kept_rows, kept_columns] for t in (here, new if self.box is None else new.clamp(*self.box)))
        target = zarr().open_array(str(self.array(k + 1)), mode="r+")
        place = [slice(r.start, r.stop) for r in (rows[kept_rows], columns[kept_columns])]
        target[(..., place[0], place[1])] = new.numpy().reshape(*x.shape[:-2], *new.shape[-2:])
        return i, float((new - old).double().square().sum()), float(old.double().square().sum())


def solve(
    solver: ForwardBackward | Denoising,
    y: ArrayLike,
    physics: Blur | None = None,
    *,
    out: str | Path,
    max_iter: int = 1000,
    chunk: int | tuple[int, int] = 2048,
    client: "Client | None" = None,
    progress: bool = False,
) -> LargeResult:
    """``solver.solve(y, physics)`` for one image that need not fit into memory.

    x_0 = P_C y, x_{k+1} = P_C D(x_k − γAᵀ(Ax_k − y)) for ``ForwardBackward`` and a ``Blur`` with the padding "zeros", "valid"
    (where y is extended by its edge) or "circular"; x = D(y) for ``Denoising``, without physics. Each chunk is computed from
    a window that shows all it depends on, and the window ends where the image does: the result is that of the map on the whole
    image, for which the certificate of D and ‖A‖ ≤ Σ|k| are proved, for every ``chunk``: to the bit where
    ``GradientFlowDenoiser.tiled`` is. γ = 1.9/(Σ|k|)² by default.

    ``y`` (H, W) or (C, H, W), floating-point: a Zarr, Dask or numpy array. ``out`` a folder on a disk that all workers
    see, which holds the state after each chunk: called again, a killed run goes on where it was and ends with the same bytes,
    and a finished one with a larger ``max_iter`` or smaller ``tol`` goes on. ``chunk`` rows and columns that are computed
    at once, on the ``client``'s workers (``distributed.Client``) or, without one, one after the other in this process.

    Raises what ``Solver.solve`` raises; InputError for what does not run here, and for an ``out`` of another run.
    Source: as ``ForwardBackward``; ‖A‖ ≤ Σ|k| is Young's inequality.
    """
    check_max_iter(max_iter)
    zarr()
    reach = reach_of(solver.denoiser)
    solver = dataclasses.replace(solver, denoiser=copy.deepcopy(cast(nn.Module, solver.denoiser)).cpu().eval())
    shape = check(solver, y, physics, chunk)
    kinds = {} if client is None else client.run(lambda: type(multiprocessing.current_process()).__name__, on_error="ignore")
    if "ForkProcess" in kinds.values():
        raise InputError(
            "the client's workers are forks, and torch waits forever in a fork of a process in which it used several threads; "
            "leave Dask's setting distributed.worker.multiprocessing-method at spawn."
        )
    blur = None if physics is None else BlurWindows.of(physics)
    judged, parameters = judge_large(solver, physics, blur, shape)
    tile = (chunk, chunk) if isinstance(chunk, int) else chunk
    axes = [windows(n, t, reach, False) for n, t in zip(shape[1:], tile, strict=True)]
    spans = tuple((rows, columns) for rows in axes[0] for columns in axes[1])
    job = Job(Path(out).absolute(), cast(nn.Module, solver.denoiser), solver.sigma, parameters["step"], solver.box, blur, spans)
    kept = tuple(len(seen[given]) for given, seen in (axis[0] for axis in axes))
    once = isinstance(solver, Denoising)
    run = Run(job, (*y.shape[:-2], *shape[1:]), kept, str(dtype_of(solver, physics)).removeprefix("torch."))
    run.begin(y, origin_of(job, solver, shape, kept))
    tol = math.inf if once else solver.tol
    run.iterate(tol, 1 if once else max_iter, client, progress)
    return run.result(tol, judged, parameters)


class Run:
    """The state of a run in its folder: which chunks of which x_k are written, and the residuals so far."""

    def __init__(self, job: Job, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str) -> None:
        self.job, self.shape, self.chunk, self.dtype = job, shape, chunk, dtype
        self.file = job.folder / "state.json"
        self.state: dict[str, Any] = {}

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
            self.save()
        if self.state["data"] is None:
            target = self.create(folder / "data", y.shape)
            digest = self.copy(y, target)
            self.copy_start(target)
            self.state["data"] = digest
            self.save()
        elif self.copy(y, None) != self.state["data"]:
            raise InputError(f"{folder} belongs to a run with other data; name another folder or remove it.")

    def load(self) -> dict[str, Any]:
        """The state in the folder."""
        try:
            state = json.loads(self.file.read_text("utf-8"))
            if set(state) == {"origin", "data", "iteration", "done", "residual", "relative"}:
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
        """Update until the relative residual falls to ``tol`` or is not finite, at most ``max_iter`` times."""
        state, job = self.state, self.job
        with Bar("large", progress=progress, tol=tol, most=max_iter, start=state["iteration"]) as bar:
            while state["iteration"] < max_iter and self.running(tol):
                k = state["iteration"]
                self.discard(keep=(k, k + 1))
                if not state["done"]:
                    self.create(job.array(k + 1), self.shape)
                missing = [i for i in range(len(job.spans)) if str(i) not in state["done"]]
                for i, change, size in updates(job, k, missing, client):
                    state["done"][str(i)] = [change, size]
                    self.save()
                change, size = (math.sqrt(math.fsum(sums)) for sums in zip(*state["done"].values(), strict=True))
                state["residual"].append(change)
                state["relative"].append(change / max(size, 1e-300))
                state["iteration"], state["done"] = k + 1, {}
                self.save()
                bar.update(state["relative"][-1])
        self.discard(keep=(state["iteration"], state["iteration"] + 1))  # the latter may be half done

    def running(self, tol: float) -> bool:
        """Whether the last residual is a number above ``tol``."""
        return not self.state["relative"] or tol < self.state["relative"][-1] < math.inf

    def discard(self, keep: tuple[int, ...]) -> None:
        """Remove every x_k but these."""
        names = {self.job.array(k).name for k in keep}
        for path in self.job.folder.glob("x-*"):
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)

    def result(self, tol: float, judged: Guarantee, parameters: dict[str, float]) -> LargeResult:
        """The result; what the residuals contradict is no longer claimed."""
        residual, relative = self.state["residual"], self.state["relative"]
        status = "max_iter"
        if relative and not relative[-1] < math.inf:
            status = "diverged"
        elif relative and relative[-1] <= tol:
            status = "converged"
        rounding = SLACK * torch.finfo(getattr(torch, self.dtype)).eps
        for k in range(1, len(residual)):
            if not residual[k] <= residual[k - 1] + rounding * residual[k] / max(relative[k], 1e-300):
                judged = judged.broken(f"the residual grew in iteration {k}, which no nonexpansive map allows.")
                break
        history = History(status, tuple(residual), tuple(relative), (), (), ())
        return LargeResult(self.job.array(self.state["iteration"]), history, judged, parameters)


def zarr() -> Any:
    """The package zarr. Raises InputError where it is missing."""
    try:
        import zarr as package
    except ImportError as error:
        raise InputError(
            "large images need zarr 3, which is not installed: pip install 'pnp-lip[large]' (Python 3.11 or later)."
        ) from error
    return package


def updates(job: Job, k: int, chunks: list[int], client: "Client | None") -> Iterator[tuple[int, float, float]]:
    """``Job.update`` of these chunks, in the order in which they end; a worker that dies has its chunk computed by another."""
    if client is None:
        yield from (job.update(k, i) for i in chunks)
        return
    from distributed import KilledWorker, as_completed

    futures = client.map(job.update, [k] * len(chunks), chunks, pure=False)
    try:
        for future, found in as_completed(futures, with_results=True):
            future.release()  # what is noted needs no second computation when its worker dies
            yield found
    except KilledWorker as error:
        raise InputError("a chunk ended several workers, probably for lack of memory; a smaller `chunk` needs less.") from error


def check(
    solver: ForwardBackward | Denoising, y: ArrayLike, physics: Blur | None, chunk: int | tuple[int, int]
) -> tuple[int, int, int]:
    """The image's shape (C, H, W). Raises InputError or ShapeError for what does not run here."""
    if type(solver) not in (ForwardBackward, Denoising):
        raise InputError(f"large images are solved by ForwardBackward or Denoising; got {type(solver).__name__}.")
    if (solver.scheme, solver.data_term) != (KrasnoselskiiMann(), LeastSquares()):
        raise InputError("large images are solved by the plain scheme with LeastSquares(); leave out `scheme` and `data_term`.")
    if isinstance(y, Tensor) or not hasattr(y, "dtype"):
        raise ShapeError(f"`y` must be a Zarr, Dask or numpy array; got {type(y).__name__}.")
    sides = (chunk, chunk) if isinstance(chunk, int) else tuple(chunk)
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise InputError(f"`chunk` is a number of rows and columns, or one for both, at least 1; got {chunk!r}.")
    if not np.issubdtype(y.dtype, np.floating):
        raise ShapeError(f"`y` must hold floating-point numbers, images on [0, 1]; got {y.dtype}.")
    if len(y.shape) not in (2, 3) or 0 in y.shape:
        raise ShapeError(f"`y` must have the shape (H, W) or (C, H, W); got {tuple(y.shape)}.")
    channels, height, width = (1, *y.shape)[-3:]
    shape = (channels, height, width)
    if isinstance(solver, Denoising):
        if physics is not None:
            raise InputError("Denoising takes no physics; leave it out.")
    elif type(physics) is not Blur or physics.padding not in WINDOWED_PADDINGS:
        given = f"padding {physics.padding!r}" if type(physics) is Blur else type(physics).__name__
        raise InputError(f"large images need a Blur whose padding is one of {', '.join(WINDOWED_PADDINGS)}; got {given}.")
    elif tuple(physics.data_size) != shape:
        raise ShapeError(f"the data of this blur have the shape {tuple(physics.data_size)}; got {tuple(y.shape)}.")
    else:
        shape = physics.img_size
    with torch.no_grad():  # it refuses other channels, another noise level and another dtype
        solver.denoiser(torch.zeros(1, shape[0], 8, 8, dtype=dtype_of(solver, physics)), solver.sigma)
    return shape


def reach_of(denoiser: object) -> int:
    """How far away a pixel can influence another. Raises InputError for denoisers of which that is not known."""
    network = network_of(denoiser)
    if network.padding_mode != "zeros":
        raise InputError(f"large images need a denoiser with zero padding; got {network.padding_mode} padding.")
    return sum(network.reaches)


def dtype_of(solver: ForwardBackward | Denoising, physics: Blur | None) -> torch.dtype:
    """The dtype of the run: that of the operator, or of the denoiser's weights."""
    denoiser: Any = solver.denoiser
    return next(denoiser.parameters()).dtype if physics is None else physics.psf.dtype


def judge_large(
    solver: ForwardBackward | Denoising, physics: Blur | None, blur: BlurWindows | None, shape: tuple[int, int, int]
) -> tuple[Guarantee, dict[str, float]]:
    """The guarantee of the solver for an image of this shape, with ‖A‖ ≤ Σ|k|, and the numbers of its map.

    Raises CertificateError for a denoiser without a certificate, GuaranteeError where no theorem applies.
    """
    certificate = certify(solver.denoiser)  # type: ignore[arg-type]  # whatever else it is, it refuses
    certificate.require_nonexpansive()
    bound, nonexpansive = judge_denoiser(certificate, "", "require")
    like = torch.zeros(()).expand(1, *shape)  # of the image's shape, without its memory
    norm = 1.0 if blur is None else blur.norm_upper
    if not norm > 0:
        raise InputError("the forward model is zero, so the data say nothing about the image.")
    asked = Hypothesis("‖A‖", norm, "be bounded (by the sum of |k|)" if blur else "be bounded (A is the identity)", True)
    L = solver.data_term.lipschitz_upper(norm)
    code = examine_code(solver, solver.scheme, solver.data_term)
    shared = (nonexpansive, *judge_certificate(certificate, like), asked, *code)
    iteration = solver.bind(Known(bound, Fraction(L), Fraction(0), L, norm, shared))
    maps = Maps(like, physics, solver.denoiser, solver.sigma, solver.data_term, solver.box, shape)  # type: ignore[arg-type]
    judged = judge(
        iteration, solver.scheme, shared, theorem=solver.theorem, equation=solver.equation, box_advice=BOX, maps=maps, x=like
    )
    refuse(solver, judged, "require")
    return judged, dict(iteration.parameters)


def origin_of(job: Job, solver: ForwardBackward | Denoising, shape: tuple[int, ...], chunk: tuple[int, ...]) -> dict[str, str]:
    """What must be the same where a run goes on, by name; the data have a hash of their own."""
    digest = hashlib.sha256()
    for path, part in job.denoiser.named_modules():
        plain = sorted((name, repr(v)) for name, v in vars(part).items() if is_plain(v) or isinstance(v, tuple))
        tensors = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        digest.update(repr((path, type(part).__name__, plain, [(name, hash_tensor(t)) for name, t in tensors])).encode())
    sigma = None if job.sigma is None else torch.as_tensor(job.sigma).tolist()
    blur = job.blur
    return {
        "denoiser": digest.hexdigest(),
        "psf": "none" if blur is None else hash_tensor(blur.psf),
        "padding": "none" if blur is None else repr((blur.shift, blur.data_size, blur.wrap)),
        "settings": repr((type(solver).__name__, sigma, job.gamma, job.box)),
        "shape": repr(shape),
        "chunk": repr(chunk),
    }
