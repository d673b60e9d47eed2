"""Training a gradient-flow denoiser: constraint kept at every step, averaged weights, checkpoints, exact resume."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from pnp_lip.denoisers import GradientFlowDenoiser, guided, require_guidance
from pnp_lip.errors import InputError
from pnp_lip.images import psnr, write_atomically
from pnp_lip.layers import constrain, project, release
from pnp_lip.solvers import denoise_guided
from pnp_lip.training.curve import append_row, draw_curve, forget_rows
from pnp_lip.training.draws import draw
from pnp_lip.training.equilibrium import LARGEST_KERNEL, Equilibrium, ProblemPool
from pnp_lip.training.guides import Example, ExampleSet, annealer_for, noisy_guide, random_example
from pnp_lip.training.optimisation import KernelMuon, learning_names, parameter_groups, ramped_average
from pnp_lip.training.patches import PatchSampler, at_scales
from pnp_lip.training.precision import reduced_precision
from pnp_lip.training.ranks import Ranks

__all__ = ["TrainingSettings", "train", "validate"]

Penalty = Callable[[torch.nn.Module, Tensor, float], Tensor]  # of the denoiser, noisy patches and their noise level
VALIDATION_SIGMAS = (1, 5, 15, 25, 50)  # in units of 1/255
PROJECTION_GRID = 128  # searched at every step: for 9x9 filters a quarter of the finest, and steps 2 % shorter
GOLDEN = (math.sqrt(5) - 1) / 2
RANK_SEED = 1_000_003  # between the seeds of processes that train together


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What determines a training run; ``constraint`` is "parametrisation" or "projection" (the paper's way)."""

    steps: int = 8_000
    batch: int = 8
    patch: int = 64
    patches_per_image: int = 4
    scales: tuple[int, ...] = (1, 2)  # every photograph takes part reduced by each of these factors
    learning_rate: float = 3e-3
    activation_rate: float = 3.3  # thresholds, shifts and steps learn this many times faster than the weights
    final_learning_rate: float = 1e-5
    warm_up: int = 200
    sigma_range: tuple[float, float] = (0.5 / 255, 55 / 255)
    bfloat16_above: float = 8 / 255  # below this noise level the rounding of bfloat16 costs up to 1 dB
    average: float = 0.999
    constraint: str = "parametrisation"
    equilibrium: float = 0.0  # the share of steps that train the plug-and-play fixed point instead of denoising
    scans: float = 0.4  # the share of those that are scans, the others being blurs
    later: float = 0.0  # the share of guides that are second solutions, which first ones have guided
    annealed: float = 0.0  # the share of blurs' guides that half-quadratic splitting has improved, as `refine` does
    guidance: bool = False  # train what ``guided`` needs; the denoiser itself stays as it is, to the bit
    centres: bool = False  # of that only what the centres of clips need; the factors of thresholds stay, too
    guide_network: bool = False  # train the network that improves guides, and nothing else
    limit: float = 0.985
    refresh: int = 50
    zero_mean: bool = True
    texture_threshold: float = 0.0  # above 0, of the patches with less texture only one in eight is kept
    seed: int = 0
    checkpoint_every: int = 500
    validate_every: int = 2_000

    def __post_init__(self) -> None:
        if self.constraint not in ("parametrisation", "projection"):
            raise InputError(f'`constraint` is "parametrisation" or "projection"; got {self.constraint!r}.')
        if min(self.steps, self.batch, self.checkpoint_every, self.validate_every, self.refresh) < 1 or self.patch < 8:
            raise InputError(
                "steps, batch, refresh and the two intervals must be at least 1, and patches at least 8 wide."
            )
        if self.patches_per_image < 1 or self.batch % self.patches_per_image:
            raise InputError(
                f"a batch of {self.batch} patches cannot hold {self.patches_per_image} of each image; choose a multiple."
            )
        for name in ("equilibrium", "scans", "later", "annealed"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise InputError(f"`{name}` is a share, from 0 to 1; got {share}.")
        if self.equilibrium > 0 and self.patch <= LARGEST_KERNEL:
            raise InputError(
                f"random blurs are up to {LARGEST_KERNEL} pixels wide: the patches of equilibrium training must be wider; got "
                f"{self.patch}."
            )
        if (self.later or self.annealed) and not (self.guidance or self.guide_network):
            raise InputError(
                "`later` and `annealed` say which guides are learned from, and take `guidance` or `guide_network` as well."
            )
        if self.centres and not self.guidance:
            raise InputError("`centres` says which part of guidance is trained, and takes `guidance` as well.")
        if self.guidance and self.guide_network:
            raise InputError(
                "guidance and the network that improves guides are trained one after the other; choose one."
            )
        if not self.scales or min(self.scales) < 1:
            raise InputError(f"`scales` are factors of at least 1 by which photographs are reduced; got {self.scales}.")
        if (
            not 0 < self.sigma_range[0] <= self.sigma_range[1]
            or not self.learning_rate > 0
            or not 0 <= self.average < 1
        ):
            raise InputError("sigma_range must be positive and ordered, learning_rate positive, average in [0, 1).")


def train(
    denoiser: GradientFlowDenoiser,
    training: Sequence[Tensor],
    validation: Sequence[Tensor],
    out: str | Path,
    settings: TrainingSettings,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[int, float], None] | None = None,
    penalty: Penalty | None = None,
) -> GradientFlowDenoiser:
    """Train ``denoiser`` on images of shape (C, H, W) and return the averaged, unconstrained-form copy.

    Minimises the mean over images of log ‖D(x + σn, σ) − x‖², on some patches of each image, σ drawn log-uniformly, one
    per batch, plus the ``penalty`` where there is one (for rivals that are not nonexpansive by construction; ours need
    none). Writes ``checkpoint.pt`` (atomic; ``resume=True`` continues from it exactly), ``log.csv`` (the loss is the
    mean since the row before), ``curve.png`` and ``settings.json`` under ``out``. Inside ``join_ranks``, under
    torchrun, every process draws batches of its own, gradients are averaged, the first process writes, and all return
    the same weights. Raises InputError when the loss is no longer finite, and for a checkpoint of another number of
    processes.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(denoiser.to(device), training, settings, device, penalty)
    first = run.ranks.rank == 0
    if resume and (out / "checkpoint.pt").is_file():
        run.load(out / "checkpoint.pt")
    if first:
        forget_rows(out / "log.csv", run.step)
        with write_atomically(out / "settings.json") as path:
            path.write_text(json.dumps({**dataclasses.asdict(settings), "network": denoiser.config}, indent=1))
    start = time.monotonic()
    while run.step < settings.steps:
        loss = run.advance()
        if progress is not None:
            progress(run.step, loss)
        if not math.isfinite(loss):
            raise InputError(f"the loss became {loss} at step {run.step}; the last checkpoint under {out} is good.")
        last = run.step == settings.steps
        if run.step % settings.validate_every == 0 or last:
            row = {"step": run.step, "seconds": round(time.monotonic() - start, 1), "loss": run.mean_loss()}
            if first:
                scores = validate(run.averaged.module, validation, device=device, guidance=run.frozen)
                append_row(out / "log.csv", row | scores)
                draw_curve(out / "log.csv", out / "curve.png")
        if run.step % settings.checkpoint_every == 0 or last:
            run.save(out / "checkpoint.pt")
    return run.result()


class Run:
    """The state of a training run: everything that a checkpoint has to hold."""

    def __init__(
        self,
        denoiser: GradientFlowDenoiser,
        images: Sequence[Tensor],
        settings: TrainingSettings,
        device: str,
        penalty: Penalty | None = None,
    ) -> None:
        self.settings, self.device, self.step, self.penalty = settings, device, 0, penalty
        self.ranks = Ranks.here()
        self.loss_sum, self.loss_count = 0.0, 0
        shares = {name: getattr(settings, name) for name in ("scans", "later", "annealed")}
        self.pool = ProblemPool(Equilibrium(**shares, annealer=annealer_for(denoiser) if settings.annealed else None))
        self.first_sigma = draw(0, 1, torch.Generator().manual_seed(settings.seed))
        self.generator = torch.Generator().manual_seed(settings.seed + RANK_SEED * self.ranks.rank)
        self.sampler = PatchSampler(
            at_scales(images, settings.scales),
            settings.patch,
            self.generator,
            texture_threshold=settings.texture_threshold,
            per_image=settings.patches_per_image,
        )
        self.denoiser = denoiser.train()
        self.frozen = settings.guidance or settings.guide_network  # what certificates speak of is not trained
        self.examples = ExampleSet(self.example, self.sampler, settings.batch, device, self.generator.initial_seed())
        if self.frozen:
            learning = learning_part(denoiser, settings)
            denoiser.requires_grad_(False)
            for parameter in learning:
                parameter.requires_grad_(True)
        elif settings.constraint == "parametrisation":
            zero_mean = denoiser.in_channels if settings.zero_mean else 0
            constrain(denoiser, limit=settings.limit, every=settings.refresh, zero_mean_channels=zero_mean)
        fourier(denoiser, torch.device(device).type == "cpu")
        self.ranks.share(denoiser)
        self.solver = copy.deepcopy(denoiser) if settings.guide_network else denoiser  # makes what is learned from
        self.averaged = AveragedModel(denoiser, multi_avg_fn=ramped_average(settings.average))
        self.averaged.requires_grad_(False)
        self.optimiser: Any = torch.optim.Adam(parameter_groups(denoiser, settings.activation_rate))
        if settings.guide_network:
            self.optimiser = KernelMuon(learning, rate=1.0)

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine."""
        s = self.settings
        warm = min(1.0, (self.step + 1) / s.warm_up)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / s.steps))
        return warm * (s.final_learning_rate + (s.learning_rate - s.final_learning_rate) * cosine)

    def advance(self) -> float:
        """One optimiser step; returns the loss, in several processes their mean."""
        s = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * self.learning_rate()
        loss = self.loss()
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        loss = self.ranks.average(self.denoiser.parameters(), loss)
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        self.optimiser.step()
        if s.constraint == "projection" and not self.frozen:
            project(self.denoiser, limit=s.limit, grid=PROJECTION_GRID)
        self.averaged.update_parameters(self.denoiser)
        self.step += 1
        value = float(loss.detach())
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1
        return value

    def mean_loss(self) -> float:
        """The mean loss since the last call."""
        mean = self.loss_sum / self.loss_count
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def loss(self) -> Tensor:
        """The mean over images of the log of their clean patches' mean squared error, with the penalty where there is one."""
        s = self.settings
        if s.guide_network:
            return log_error(*self.examples(self.denoiser, self.step, self.generator), s.patches_per_image)
        x = self.sampler(s.batch)
        if s.equilibrium > 0 and draw(0, 1, self.generator) < s.equilibrium:
            x = x.to(self.device)
            x_hat, x = self.pool(self.denoiser, x, self.generator, guidance=s.guidance)
            return log_error(x_hat, x, s.patches_per_image)
        sigma, y = self.corrupt(x)
        x = x.to(self.device)
        if s.guidance:
            guide, _ = noisy_guide(self.denoiser, y, sigma, self.pool.equilibrium.later, self.generator)
            return log_error(guided(self.denoiser, guide)(y, sigma), x, s.patches_per_image)
        with reduced_precision(self.device, sigma > s.bfloat16_above):
            x_hat = self.denoiser(y, sigma)
        loss = log_error(x_hat, x, s.patches_per_image)
        return loss if self.penalty is None else loss + self.penalty(self.denoiser, y, sigma)

    def example(self, x: Tensor, generator: torch.Generator) -> Example:
        """Something for the guide network to learn from."""
        return random_example(self.solver, x, self.settings, self.pool.equilibrium, generator)

    def corrupt(self, x: Tensor) -> tuple[float, Tensor]:
        """A noise level and the patches with that noise.

        Its logarithm runs through frac(u₀ + t(√5 − 1)/2), t counting the batches of all processes: equidistributed, with
        gaps of order 1/n among any n successive ones, where independent draws let the averaged weights wander.
        """
        low, high = (math.log(bound) for bound in self.settings.sigma_range)
        batch = self.step * self.ranks.size + self.ranks.rank
        sigma = math.exp(low + (high - low) * math.modf(self.first_sigma + batch * GOLDEN)[0])
        return sigma, (x + sigma * torch.randn(x.shape, generator=self.generator)).to(self.device)

    def state(self) -> dict[str, Any]:
        ages = {name: (m.age, m.frequencies) for name, m in self.denoiser.named_modules() if hasattr(m, "age")}
        return {
            "step": self.step,
            "denoiser": self.denoiser.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": torch.stack(self.ranks.gather(self.generator.get_state())),
            "losses": (self.loss_sum, self.loss_count),
            "ages": ages,
            "learning": learning_names(self.denoiser),
            **({"solver": self.solver.state_dict()} if self.settings.guide_network else {}),
        }

    def save(self, path: Path) -> None:
        self.pool.clear()
        state = self.state()  # on every process, because each gives the state of its generator
        if self.ranks.rank == 0:
            with write_atomically(path) as temporary:
                torch.save(state, temporary)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.step = state["step"]
        try:
            self.denoiser.load_state_dict(state["denoiser"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.solver.load_state_dict(state.get("solver", self.solver.state_dict()))
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} is of another network than these options make; train anew ({error}).") from error
        learning = learning_names(self.denoiser)
        if state.get("learning", learning) != learning:
            raise InputError(
                f"{path} is of a run that trains another part of the network; train anew, or ask for that part."
            )
        generators = state["generator"].cpu()
        generators = generators.reshape(-1, generators.shape[-1])  # one row for each process
        if len(generators) != self.ranks.size:
            raise InputError(
                f"{path} was written by {len(generators)} processes and would be continued by {self.ranks.size}; start as "
                "many, or train anew."
            )
        self.generator.set_state(generators[self.ranks.rank].clone())  # set_state reads from the storage's beginning
        self.loss_sum, self.loss_count = state.get("losses", (0.0, 0))
        for name, (age, frequencies) in state["ages"].items():
            module: Any = self.denoiser.get_submodule(name)
            module.age, module.frequencies = age, frequencies
            average: Any = self.averaged.module.get_submodule(name)
            average.frequencies = frequencies.clone()  # of the checkpoint's number, whatever is the default now

    def result(self) -> GradientFlowDenoiser:
        """The averaged network with plain weights, its steps shortened where an average left the constraint."""
        denoiser: GradientFlowDenoiser = self.averaged.module  # type: ignore[assignment]
        fourier(denoiser.eval(), False)
        if self.frozen:
            return denoiser
        release(denoiser)
        project(denoiser, limit=self.settings.limit)
        return denoiser


def learning_part(denoiser: GradientFlowDenoiser, settings: TrainingSettings) -> list[torch.nn.Parameter]:
    """What a run trains that leaves the denoiser itself as it is. Raises InputError where there is no such part."""
    require_guidance(denoiser)
    part = denoiser.guide_network if settings.guide_network else denoiser.guidance
    if part is None:
        raise InputError("this denoiser has no guide network; `pnp_lip.training.add_guide_network` adds one.")
    learning = [p for name, p in part.named_parameters() if "share" in name or not settings.centres]
    if not learning:
        raise InputError("this denoiser's clips have no centres; `pnp_lip.training.add_guidance` adds them.")
    return learning


def fourier(denoiser: torch.nn.Module, on: bool) -> None:
    """Convolve by the Fourier transform where the network can: less than half the time on a processor. Rivals cannot."""
    if isinstance(denoiser, GradientFlowDenoiser):
        denoiser.use_fourier(on)


def log_error(x_hat: Tensor, x: Tensor, per_image: int) -> Tensor:
    """The mean over images of log ‖x̂ − x‖²/n, each image known by ``per_image`` successive patches.

    PSNR is averaged over images. The logarithm of the whole batch's error is decided by its most textured image, and the
    logarithm of each patch's by the smoothest patches: either moves the balance of noise and detail (docs/training.md).
    """
    error = (x_hat.float() - x).square().flatten(1).mean(1)
    mean: Tensor = error.reshape(-1, per_image).mean(1).log().mean()
    return mean


@torch.no_grad()
def validate(
    denoiser: torch.nn.Module,
    images: Sequence[Tensor],
    *,
    crop: int = 256,
    device: str = "cpu",
    guidance: bool = False,
) -> dict[str, float]:
    """Mean PSNR over central crops at five noise levels, with noise from a fixed generator.

    With ``guidance`` of a second pass, which the result of the first guides.
    """
    training = denoiser.training
    denoiser.eval()
    scores = {}
    with parametrize.cached():  # a constrained layer is made once, not for each image
        for level in VALIDATION_SIGMAS:
            generator = torch.Generator().manual_seed(level)
            values = []
            for image in images:
                top, left = ((n - min(crop, n)) // 2 for n in image.shape[1:])
                x = image[None, :, top : top + crop, left : left + crop]
                y = (x + level / 255 * torch.randn(x.shape, generator=generator)).to(device)
                x_hat = denoise_guided(denoiser, y, level / 255) if guidance else denoiser(y, level / 255)
                values.append(psnr(x_hat.cpu(), x))
            scores[f"psnr_{level}"] = round(sum(values) / len(values), 3)
    denoiser.train(training)
    return scores
