"""What is computed of one chunk, and what follows from the sums over all chunks: an averaged map, or descent on an objective."""

import abc
import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError
from pnp_lip.operators.blur_windows import ArrayLike, BlurWindows, read
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers.descent import DECREASE, FLOOR, RELATIVE, VALUE_ROUNDING, stationary_part
from pnp_lip.solvers.energy import PRECISE, doubled
from pnp_lip.solvers.maps import Box

__all__ = ["Averaged", "Descent", "Job", "Pass", "zarr"]

EPOCH = 100  # updates between two tests: with 20, 50, 100 and 200 four deblurring problems took 3 to 1 times as many updates

SLACK = 16  # units of rounding of ‖x_k‖ by which a residual may grow

Span = tuple[slice, range]
State = dict[str, Any]


class Pass(NamedTuple):
    """Over all chunks: from z = P_C(x_k + share·(x_k − x_before)), k the ``source``, or ``exact``, in float64, from x_k."""

    source: int
    before: int = 0
    share: float = 0.0
    exact: bool = False


@dataclasses.dataclass(frozen=True)
class Extrapolated:
    """P_C(x + share·(x − before)) of two arrays, or x for a share of 0, as numbers of ``dtype``, read where it is indexed."""

    x: ArrayLike
    before: ArrayLike
    share: float
    box: Box
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That of x."""
        return tuple(self.x.shape)

    @property
    def oindex(self) -> "Extrapolated":
        """Indexed by one list of positions for each axis."""
        return dataclasses.replace(self, x=self.x.oindex, before=self.before.oindex)  # type: ignore[attr-defined]

    def __getitem__(self, key: Any) -> Any:
        block, kind = np.asarray(self.x[key]), str(self.dtype).removeprefix("torch.")
        block = block.astype(kind, copy=False)
        if not self.share:
            return block
        block = block + self.share * (block - np.asarray(self.before[key]).astype(kind, copy=False))
        return block if self.box is None else block.clip(*self.box)


class Objective(NamedTuple):
    """J = f + λR of an image of so many ``numbers``: λ, ∇f + λ∇R L-Lipschitz, J at least m-convex, ‖A‖ ≤ ``norm``."""

    weight: float
    L: float
    m: float
    norm: float
    numbers: int


@dataclasses.dataclass(frozen=True)
class Job(abc.ABC):
    """What a worker needs beside the arrays in ``folder``, which are named x-0, x-1, ... and data."""

    folder: Path
    prior: nn.Module
    sigma: float | Tensor | None
    gamma: float
    box: Box
    blur: BlurWindows | None
    spans: tuple[tuple[Span, Span], ...]

    kind: ClassVar[str]  # of the prior

    @property
    def others(self) -> tuple[float, ...]:
        """What else the run depends on."""
        return ()

    def array(self, k: int) -> Path:
        """x_k. Each has a name of its own, so that a worker that was given up can no longer write into a later one."""
        return self.folder / f"x-{k}"

    def open(self, k: int) -> ArrayLike:
        """x_k, to read."""
        return cast(ArrayLike, zarr().open_array(str(self.array(k)), mode="r"))

    @property
    def data(self) -> ArrayLike:
        """The data, to read."""
        return cast(ArrayLike, zarr().open_array(str(self.folder / "data"), mode="r"))

    def write(self, k: int, rows: range, columns: range, new: Tensor) -> None:
        """Put pixels into x_k."""
        target = zarr().open_array(str(self.array(k)), mode="r+")
        block = new.numpy().astype(target.dtype, copy=False).reshape(*target.shape[:-2], *new.shape[-2:])
        target[..., rows.start : rows.stop, columns.start : columns.stop] = block

    @abc.abstractmethod
    def update(self, k: int, i: int, p: Pass) -> tuple[int, tuple[float, ...]]:
        """Write chunk i of x_{k+1}; return i and the sums over it that ``note`` reads."""

    @abc.abstractmethod
    def next(self, state: State, *, last: bool) -> Pass:
        """The pass that computes the next x; ``last``: no other will follow."""

    @abc.abstractmethod
    def note(self, state: State, p: Pass, sums: tuple[float, ...], tol: float) -> None:
        """Add to ``state`` what the sums over all chunks say."""

    @abc.abstractmethod
    def status(self, state: State, tol: float) -> str:
        """ "running", "converged", or how else the run has ended."""

    def contradicted(self, state: State, dtype: str) -> str | None:
        """What the sums of this run, whose numbers have this ``dtype``, say against its guarantee."""
        return None

    def needed(self, state: State) -> set[int]:
        """Of which arrays a later pass or the result may need the numbers."""
        return {state["iteration"], state["iteration"] + 1}

    def found(self, state: State) -> int:
        """Which array is the result."""
        return int(state["iteration"])


class Averaged(Job):
    """x_{k+1} = P_C D(x_k − γ∇f(x_k))."""

    kind = "denoiser"

    @torch.no_grad()
    def update(self, k: int, i: int, p: Pass) -> tuple[int, tuple[float, ...]]:
        """The sums are ‖x_{k+1} − x_k‖² and ‖x_k‖²."""
        (kept_rows, rows), (kept_columns, columns) = self.spans[i]
        x = self.open(p.source)
        here = z = read(x, rows, columns)
        if self.blur is not None:
            z = here - self.gamma * self.blur.gradient(x, self.data, rows, columns)
        new = self.prior(z[None], self.sigma)[0]
        old, new = (t[..., kept_rows, kept_columns] for t in (here, new if self.box is None else new.clamp(*self.box)))
        self.write(k + 1, rows[kept_rows], columns[kept_columns], new)
        return i, (square(new - old), square(old))

    def next(self, state: State, *, last: bool) -> Pass:
        """From x_k."""
        return Pass(state["iteration"])

    def note(self, state: State, p: Pass, sums: tuple[float, ...], tol: float) -> None:
        """The residual and the relative one."""
        change, size = map(math.sqrt, sums)
        state["residual"].append(change)
        state["relative"].append(change / max(size, 1e-300))

    def status(self, state: State, tol: float) -> str:
        """By the last relative residual."""
        last = state["relative"][-1] if state["relative"] else math.inf
        if state["relative"] and not last < math.inf:
            return "diverged"
        return "converged" if state["relative"] and last <= tol else "running"

    def contradicted(self, state: State, dtype: str) -> str | None:
        """A residual that grew."""
        residual, relative, rounding = state["residual"], state["relative"], SLACK * torch.finfo(getattr(torch, dtype)).eps
        for k in range(1, len(residual)):
            if not residual[k] <= residual[k - 1] + rounding * residual[k] / max(relative[k], 1e-300):
                return f"the residual grew in iteration {k}, which no nonexpansive map allows."
        return None


@dataclasses.dataclass(frozen=True)
class Descent(Job):
    """x_{k+1} = P_C(z − γ∇g(z)), g = f + λR, z = P_C(x_k + β(x_k − x_{k−1})), and a test of x after each epoch.

    An epoch begins at an x with a plain step, for which J(x), ∇g(x) and the distance to the last accepted x̄ are computed
    in float64. x is accepted iff J(x) ≤ J(x̄) − a‖x − x̄‖² and dist(0, ∂J(x)) ≤ b‖x − x̄‖; otherwise x̄ makes a plain step, an
    epoch of its own. The accepted x are those of theorem V of ``Variational``. β = j/(j + 3) in update j of an epoch, at most
    (1 − √q)/(1 + √q), q = γm, where J is m-strongly convex.
    """

    J: Objective

    kind = "potential"

    @property
    def others(self) -> tuple[float, ...]:
        """λ, and what the steps are made of."""
        return self.J.weight, self.J.L, self.J.m

    @torch.no_grad()
    def update(self, k: int, i: int, p: Pass) -> tuple[int, tuple[float, ...]]:
        """The sums are ‖∇g(z) + N_C(z)‖² and, of an exact pass, f, λR, ‖x − x̄‖² and ‖x‖²."""
        (kept_rows, rows), (kept_columns, columns) = self.spans[i]
        inner, potential = (rows[kept_rows], columns[kept_columns]), cast(RidgePotential, self.prior)
        if p.exact:
            potential = doubled(potential)
        level = potential.at(potential.default_sigma if self.sigma is None else self.sigma)
        x = Extrapolated(self.open(p.source), self.open(p.before), p.share, self.box, potential.weight.dtype)
        z = read(x, rows, columns, level.circular)
        here, y = z[..., kept_rows, kept_columns], self.data
        g = level.grad(z[None])[0, ..., kept_rows, kept_columns].mul_(self.J.weight)
        g += here - read(y, *inner) if self.blur is None else self.blur.gradient(x, y, *inner)
        new = here - self.gamma * g
        self.write(k + 1, *inner, new if self.box is None else new.clamp(*self.box))
        sharp = square(stationary_part(g, here, self.box))
        if not p.exact:
            return i, (sharp, 0.0, 0.0, 0.0, 0.0)
        residual = here - read(y, *inner) if self.blur is None else self.blur.residual(x, y, *inner)
        kept = torch.zeros_like(z[:1])
        kept[..., kept_rows, kept_columns] = 1
        value = self.J.weight * float(level.value(z[None], kept))
        return i, (sharp, square(residual) / 2, value, square(here - read(self.open(p.before), *inner)), square(here))

    def next(self, state: State, *, last: bool) -> Pass:
        """The first pass of an epoch is exact, and so is the last of the run."""
        k, e = state["iteration"], state["epoch"]
        if not e:
            e |= {"begin": 0, "source": 0, "length": EPOCH, "most": EPOCH, "plain": False, "trigger": 1.0}
            e |= {"accepted": None, "J": math.inf, "found": math.inf, "status": "running"}
        if last and e["begin"] < k:
            self.begin(e, k, k, e["most"])
        j = k - e["begin"]
        if j == 0:
            return Pass(e["source"], e["source"] if e["accepted"] is None else e["accepted"], exact=True)
        share, q = j / (j + 3), math.sqrt(self.gamma * max(self.J.m, 0.0))
        return Pass(k, k - 1 if j > 1 else e["source"], min(share, (1 - q) / (1 + q)))

    def begin(self, e: State, k: int, source: int, length: int) -> None:
        """An epoch of at most so many updates, which begins with update k at x of the ``source``."""
        e |= {"plain": k - e["begin"] == 1 and source == k, "begin": k, "source": source, "length": length}

    def note(self, state: State, p: Pass, sums: tuple[float, ...], tol: float) -> None:
        """The residuals, the test of an exact pass, and whether the epoch ends."""
        k, e, size = state["iteration"], state["epoch"], math.sqrt(sums[0] / self.J.numbers)
        state["residual"].append(math.sqrt(sums[0]))
        state["relative"].append(size)
        if not math.isfinite(math.fsum(sums)):
            e["status"] = "diverged"
        elif p.exact:
            self.test(state, p, sums, tol)
        state["objective"].append(e["J"])
        ended = k + 1 - e["begin"] >= e["length"] or (not p.exact and size <= e["trigger"] * tol)
        if e["begin"] <= k and ended:
            self.begin(e, k + 1, k + 1, e["most"])

    def test(self, state: State, p: Pass, sums: tuple[float, ...], tol: float) -> None:
        """Whether x of the ``source`` is accepted. A plain step that fails shows rounding, or a wrong L or gradient."""
        sharp, moved, size = (math.sqrt(sums[n]) for n in (0, 3, 4))
        e, J = state["epoch"], sums[1] + sums[2]
        first = e["accepted"] is None
        decreased = first or e["J"] - DECREASE * self.J.L * moved**2 >= J
        if p.source == e["accepted"] or (decreased and (first or sharp <= RELATIVE * self.J.L * moved)):
            rounding = PRECISE * (self.J.norm * (math.sqrt(2 * sums[1]) + self.J.norm * size) + self.J.L * size)
            e |= {"accepted": p.source, "J": J, "found": (sharp + rounding) / math.sqrt(self.J.numbers)}
            if len(state["relative"]) > 1 and state["relative"][-2] <= e["trigger"] * tol < e["found"]:
                e["trigger"] *= 0.5
        elif not e["plain"]:
            e["most"] = max(1, e["most"] // 2)
            self.begin(e, state["iteration"] + 1, e["accepted"], 1)
        else:
            fine, coarse = (torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32))  # of J, and of a stored x
            slack = VALUE_ROUNDING * fine * abs(J) + FLOOR * coarse * size * (sharp + self.J.L * moved)
            e["status"] = "rounding" if e["J"] + slack >= J else "diverged"

    def status(self, state: State, tol: float) -> str:
        """By the stationarity of the accepted x, in float64."""
        e = state["epoch"]
        return "converged" if e and e["found"] <= tol else e["status"] if e else "running"

    def contradicted(self, state: State, dtype: str) -> str | None:
        """A plain step that raised J or made it infinite."""
        if state["epoch"].get("status") != "diverged":
            return None
        return "a gradient step raised the objective, which no plain step with this L does, or made it infinite."

    def needed(self, state: State) -> set[int]:
        """Also the accepted x, and those from which the next z is made."""
        k, e = state["iteration"], state["epoch"]
        return {k - 1, k, k + 1, *((e["source"], self.found(state)) if e else ())}

    def found(self, state: State) -> int:
        """The accepted x."""
        return int(state["epoch"].get("accepted") or 0)


def square(t: Tensor) -> float:
    """‖t‖²."""
    return float(t.double().square().sum())


def zarr() -> Any:
    """The package zarr. Raises InputError where it is missing."""
    try:
        import zarr as package
    except ImportError as error:
        raise InputError(
            "large images need zarr 3, which is not installed: pip install 'pnp-lip[large]' (Python 3.11 or later)."
        ) from error
    return package
