"""Better guides: a few steps of a splitting method at falling noise levels, with any denoiser."""

import dataclasses

import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.progress import counted
from pnp_lip.protocols import DenoiserLike, PhysicsLike
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares, require_prox
from pnp_lip.solvers.maps import Box
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.solver import Solver

__all__ = ["Anneal", "annealed"]

STEPS = 8  # four gain four fifths as much, sixteen hardly more (deblurring, held-out photographs)
STRONGER = 2**0.5  # the last noise level in units of the solution's: below it annealing took noise for structure
LEAST = 2**-1.5  # the least σ in units of √γ times the misfit, which shows the noise (same photographs)
HIGHEST = 15 / 255  # the first noise level, on the scale of images: a solution is not noisier


@dataclasses.dataclass(frozen=True)
class Anneal:
    """Improves a result by ``annealed`` with any ``denoiser`` D(x, σ): an ``improve`` of ``refine``.

    Data and prior are balanced as in the solver: at a fixed point with a relaxed denoiser, (1 − θ) Id + θ D, the prior weighs
    as at a step of γ/θ; at a zero of ∇f + λ(Id − D) as at a step of 1/λ. With least squares σ is at least
    ½ √(γ/2) ‖y − Ax‖/√m, m numbers y: the noise level as the misfit shows it, however weak the prior was (of the noisiest
    image of the batch where one σ serves all).

    ``steps`` ≥ 0 are counted beforehand. Raises InputError for a denoiser that cannot be called as D(x, σ).
    """

    denoiser: DenoiserLike
    steps: int = STEPS

    def __post_init__(self) -> None:
        if not callable(self.denoiser):
            raise InputError(f"`denoiser` must be callable as denoiser(x, sigma); got {type(self.denoiser).__name__}.")
        if not isinstance(self.steps, int) or self.steps < 0:
            raise InputError(f"`steps` of annealing are counted and an integer >= 0; got {self.steps}.")

    def __call__(self, result: Result, y: Tensor, physics: PhysicsLike) -> Tensor:
        """The annealed image of a ``result``, (B, C, H, W)."""
        maps = result.maps
        theta, default = unwrapped(maps.denoiser)
        step = (1 / result.parameters["weight"] if "weight" in result.parameters else result.parameters["step"]) / theta
        sigma = maps.sigma if maps.sigma is not None else 0.0 if default is None else default
        if type(maps.data_term) is LeastSquares:  # a weighted misfit is in units of its own
            misfit = (y - physics.A(result.x)).flatten(1).square().mean(1).sqrt()
            assumed = torch.as_tensor(sigma).to(misfit).reshape(-1)
            # One level for all stays one: a physics may hold something for each image, and then a batch is not taken apart.
            sigma = assumed.maximum(LEAST * step**0.5 * (misfit if len(assumed) > 1 else misfit.max()))
        return annealed(
            self.denoiser, result.x, y, physics, sigma=sigma, step=step,
            data_term=maps.data_term, steps=self.steps, box=maps.box,
        )  # fmt: skip

    @torch.no_grad()
    def check(self, solver: Solver, y: Tensor) -> None:
        """Raise InputError unless results of this solver can be annealed."""
        require_prox(solver.data_term, "annealing", "Leave `improve` out.")
        default = unwrapped(solver.denoiser)[1]
        if solver.sigma is None and default is None:
            raise InputError("annealing needs the noise level that the solver's denoiser assumes; pass sigma= to the solver.")
        channels = getattr(solver.denoiser, "in_channels", y.shape[1])
        image = y.new_zeros(1, channels, 16, 16)
        try:
            shape = self.denoiser(image, HIGHEST).shape
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"the annealing denoiser refused an image of {channels} channels, {y.dtype} on {y.device} ({error})."
            ) from error
        if shape != image.shape:
            raise InputError(f"the annealing denoiser turned an image of shape {tuple(image.shape)} into {tuple(shape)}.")


@torch.no_grad()
def annealed(
    denoiser: DenoiserLike,
    x: Tensor,
    y: Tensor,
    physics: PhysicsLike,
    *,
    sigma: float | Tensor,
    step: float,
    data_term: DataTerm | None = None,
    steps: int = STEPS,
    box: Box = None,
) -> Tensor:
    """x after ``steps`` steps of half-quadratic splitting.

    x ← P_C D(prox_{γr²f}(x), rs), s = √2 σ, r from max(1, 15/(255 s)) down to 1 in equal ratios, γ the ``step``

    At r = 1 data and prior are balanced as at a fixed point of x ↦ D(x − γ∇f(x), s). D need not be nonexpansive and nothing
    is proved: the steps are counted beforehand, and the result is a guide (``refine``). Without noise, σ = 0, the steps are
    proximal ones. ``sigma`` is a number or one for each image; ``data_term`` f is least squares by default. Raises InputError
    for a data term without a prox, and what the denoiser raises.

    Source: Zhang, Li, Zuo, Zhang, Van Gool & Timofte (2022), "Plug-and-play image restoration with deep denoiser prior".
    """
    term = LeastSquares() if data_term is None else data_term
    prox = require_prox(term, "annealing", "Take another data term.").prox
    levels = torch.as_tensor(sigma).reshape(-1)
    if len(levels) > 1:  # each image has a schedule of its own
        parts = [
            annealed(
                denoiser, x[i : i + 1], y[i : i + 1], physics, sigma=level, step=step,
                data_term=term.part([i], y), steps=steps, box=box,
            )
            for i, level in enumerate(levels)
        ]  # fmt: skip
        return torch.cat(parts)
    s = STRONGER * levels
    highest = max(1.0, HIGHEST / float(s)) if s else 1.0
    for k in counted(reversed(range(steps)), "Anneal", steps):
        ratio = highest ** (k / max(steps - 1, 1))
        x = denoiser(prox(x, y, physics, step * ratio**2).x, ratio * s)
        x = x if box is None else x.clamp(*box)
    return x


def unwrapped(denoiser: object) -> tuple[float, float | None]:
    """The product of the relaxations around a denoiser, and its default noise level where it has one."""
    theta = 1.0
    while (inner := getattr(denoiser, "denoiser", None)) is not None:
        theta *= float(getattr(denoiser, "theta", 1.0))
        denoiser = inner
    default = getattr(denoiser, "default_sigma", None)
    return theta, None if default is None else float(default)
