"""What a run returns: the image, how it ended, what was proved of it, and what was seen on the way."""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.solvers.guarantee import Guarantee
from pnp_lip.solvers.maps import Maps, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["History", "Result"]

ADVICE = {
    "converged": "",
    "max_iter": "the residual is still above tol: raise max_iter or loosen tol; scheme=Anderson() is the fastest.",
    "diverged": "the iteration left every bound; x is its last finite iterate. Use a certified denoiser and step=None.",
}
ADVICE_FOR_OBJECTIVES = {
    "converged": "",
    "max_iter": "the stationarity is still above tol: raise max_iter or loosen tol; float32 may end above it: use float64.",
    "diverged": "the objective overflowed; x is its last finite iterate. Start from an image on the scale of the data.",
    "rounding": "rounding of {dtype} hides gradients below about {found:.2g} per pixel, and tol is smaller: {remedy}loosen tol.",
}
REMEDY = "pass data, x0 and operator of float64, or "


@dataclasses.dataclass(frozen=True)
class History:
    """What was seen of one image.

    ``residual[k]`` = ‖v_k − T v_k‖ in the norm of the theorem, in which T is nonexpansive: for ``PrimalDual``
    √(‖x‖²/γ − 2⟨Ax, u⟩ + ‖u‖²/s) of v = (x, u), for all other solvers the Euclidean norm; ``relative[k]`` =
    residual[k]/‖v_k‖, which is compared with tol; ``misfit`` = f(x_k) at the iterations ``misfit_at``; ``psnr[k]`` in dB,
    empty without a reference; ``prox_error`` bounds the sum of all errors of prox_γf, each relative to its image, 0 where
    none is used. Of ``Variational``, ``residual[k]`` = dist(0, ∂J(z_k)) of the candidate z_k, in the dtype of the data,
    ``relative[k]`` the same per pixel (root mean square), which tells when to test x, and ``objective[k]`` = J(x_k).
    """

    status: str
    residual: tuple[float, ...]
    relative: tuple[float, ...]
    misfit: tuple[float, ...]
    misfit_at: tuple[int, ...]
    psnr: tuple[float, ...]
    prox_error: float = 0.0
    objective: tuple[float, ...] = ()

    @property
    def iterations(self) -> int:
        """Updates computed for this image."""
        return len(self.residual)


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of ``Solver.solve``.

    ``x`` the reconstruction, shape (B, C, H, W); ``histories`` one record per image and ``history`` the first of them;
    ``guarantee`` what was proved; ``settings`` everything that the run depended on, in plain data, and ``parameters`` the
    numbers of its map, given or derived; ``maps`` the denoiser, forward model and data term that were used.

    Of ``Variational``, for each image: ``objective`` J(x), ``stationarity`` ≥ dist(0, ∂J(x))/√n and, where J is strongly
    convex, ``distance_upper`` ≥ ‖x − x*‖/√n, x* the minimiser and n the numbers of an image. None elsewhere.
    """

    x: Tensor
    histories: tuple[History, ...]
    guarantee: Guarantee
    settings: Settings
    parameters: Mapping[str, float]
    maps: Maps
    seconds: float = 0.0
    objective: tuple[float, ...] | None = None
    stationarity: tuple[float, ...] | None = None
    distance_upper: tuple[float, ...] | None = None

    @property
    def history(self) -> History:
        """The record of the first image."""
        return self.histories[0]

    @property
    def status(self) -> str:
        """ "converged" (every image's relative residual fell to tol), "max_iter", "diverged" (some image's iteration became
        non-finite or left every bound), or of ``Variational`` "rounding": no smaller gradient can be computed."""
        statuses = {history.status for history in self.histories}
        return next((kind for kind in ("diverged", "max_iter", "rounding") if kind in statuses), "converged")

    @property
    def advice(self) -> str:
        """What to do when it did not converge."""
        text, dtype = (ADVICE if self.objective is None else ADVICE_FOR_OBJECTIVES)[self.status], self.settings["dtype"]
        remedy = "" if dtype == "float64" else REMEDY
        return text.format(dtype=dtype, found=max(self.stationarity or (math.nan,)), remedy=remedy)

    @property
    def iterations(self) -> int:
        """Updates, the largest number over the batch."""
        return max(history.iterations for history in self.histories)

    def to_json(self) -> str:
        """Everything but the image, as JSON text; non-finite numbers become null."""
        record = {
            "status": self.status,
            "advice": self.advice,
            "iterations": self.iterations,
            "seconds": self.seconds,
            "objective": self.objective,
            "stationarity": self.stationarity,
            "distance_upper": self.distance_upper,
            "guarantee": dataclasses.asdict(self.guarantee),
            "settings": dict(self.settings),
            "histories": [dataclasses.asdict(h) for h in self.histories],
        }
        return json.dumps(finite(record), indent=1)

    def save(self, directory: str | Path) -> None:
        """Write ``x.npy`` (float32 or float64 as computed) and ``result.json`` into a new directory, in one atomic step.

        Raises InputError when the directory exists already.
        """
        directory = Path(directory)
        if directory.exists():
            raise InputError(f"{directory} exists already; choose a new directory.")
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}.part")
        temporary.mkdir(parents=True)
        try:
            np.save(temporary / "x.npy", self.x.detach().cpu().numpy())
            (temporary / "result.json").write_text(self.to_json() + "\n")
            os.replace(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """The residual, the data misfit and (with a reference) the PSNR against the iterations; returns the figure.

        Written to ``path`` when one is given.
        """
        from matplotlib.figure import Figure

        panels: dict[str, list[tuple[Sequence[int], Sequence[float]]]] = {
            "relative residual": [(range(h.iterations), h.relative) for h in self.histories],
            "objective": [(range(len(h.objective)), h.objective) for h in self.histories if h.objective],
            "data misfit": [(h.misfit_at, h.misfit) for h in self.histories],
            "PSNR (dB)": [(range(len(h.psnr)), h.psnr) for h in self.histories if h.psnr],
        }
        panels = {name: lines for name, lines in panels.items() if lines}
        figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
        for axis, (name, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for at, values in lines:
                axis.plot(list(at), values)
            axis.set(xlabel="iteration", ylabel=name, yscale="linear" if name == "PSNR (dB)" else "log")
            axis.grid(alpha=0.3)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def __str__(self) -> str:
        last = self.history.relative[-1] if self.history.relative else math.nan
        head = f"{self.status} after {self.iterations} iterations, relative residual {last:.3g}"
        if self.objective is not None and self.stationarity is not None:
            head = f"{self.status} after {self.iterations} iterations, J = {max(self.objective):.6g}, "
            head += f"stationary to {max(self.stationarity):.2g}"
            head += "" if self.distance_upper is None else f", within {max(self.distance_upper):.2g} of the minimiser (rms)"
        return "\n".join([head, str(self.guarantee)] + ([f"advice: {self.advice}"] if self.advice else []))


def finite(record: object) -> object:
    """Replace non-finite numbers by None, which JSON can hold."""
    if isinstance(record, dict):
        return {key: finite(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [finite(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record
