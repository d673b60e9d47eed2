"""What is seen of a run: the records of each image, and when an image stops."""

import dataclasses
import math

from torch import Tensor

from pnp_lip.solvers.result import History

__all__ = ["Track", "psnr_of"]

GROWTH = 1e4  # times the larger of first residual and first state: a residual beyond it does not come back
ROUNDING = 64  # units of rounding of the state that a residual may grow by without contradicting a theorem


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


def psnr_of(x: Tensor, reference: Tensor | None) -> list[float] | list[None]:
    """−10 log₁₀ mean((x − reference)²) of each image; None without a reference."""
    if reference is None:
        return [None] * len(x)
    values: list[float] = (-10 * (x - reference).flatten(1).square().mean(1).double().log10()).tolist()
    return values
