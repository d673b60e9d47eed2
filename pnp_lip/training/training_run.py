"""One training run: what learns, from which loss, and everything that a checkpoint holds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pnp_lip.denoisers import AnnealingDenoiser, GradientFlowDenoiser, guided, require_guidance
from pnp_lip.denoisers.tiling import improve
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.layers import GuideNetwork, constrain, project, release
from pnp_lip.layers.constraints import UnitNorm
from pnp_lip.pretrained import load_annealer
from pnp_lip.training.draws import draw
from pnp_lip.training.equilibrium import Equilibrium, ProblemPool, noisy_guide
from pnp_lip.training.optimisation import make_optimisers, ramped_average, reduced_precision
from pnp_lip.training.patches import PatchSampler
from pnp_lip.training.ranks import Ranks
from pnp_lip.training.settings import PER_IMAGE, SIGMA_RANGE, TrainingSettings

__all__ = ["Network", "Penalty", "TrainingRun", "log_error"]

Network = TypeVar("Network", bound=nn.Module)
Penalty = Callable[[nn.Module, Tensor, float], Tensor]  # of the denoiser, noisy patches and their noise level

LIMIT = 0.985  # of τ‖W‖²/2 in each layer: at 1 the composition would be nonexpansive, but not averaged
REFRESH = 50  # evaluations between searches of the whole torus for the norm of a filter
WARM_UP = 200  # steps in which the learning rate grows to its largest value
FINAL_RATE = 1e-5  # the learning rate at the end of a run
AVERAGE = 0.999  # the share that the averaged weights keep at each step of a long run
BFLOAT16_ABOVE = 8 / 255  # noise level below which the rounding of bfloat16 costs up to 1 dB
GOLDEN = (math.sqrt(5) - 1) / 2
RANK_SEED = 1_000_003  # between the seeds of processes that train together


class TrainingRun(Generic[Network]):
    """The state of a run, advanced step by step. Shapes: ``images`` are (C, H, W) on [0, 1]."""

    def __init__(
        self,
        denoiser: Network,
        images: Sequence[Tensor],
        settings: TrainingSettings,
        device: str,
        penalty: Penalty | None = None,
    ) -> None:
        self.denoiser, self.settings, self.device, self.penalty = denoiser.train(), settings, device, penalty
        self.step, self.ranks = 0, Ranks.here()
        self.losses: list[float] = []  # since the last row of the log
        self.first_sigma = draw(0, 1, torch.Generator().manual_seed(settings.seed))
        self.generator = torch.Generator().manual_seed(settings.seed + RANK_SEED * self.ranks.rank)
        learning = learning_part(denoiser, settings)
        self.frozen = learning is not denoiser  # what a certificate speaks of is not trained
        self.pool = ProblemPool(equilibrium_of(denoiser, settings), remembered=settings.part == "guide network")
        self.sampler = PatchSampler(images, settings.patches, self.generator)
        if self.frozen:
            denoiser.requires_grad_(False)
            learning.requires_grad_(True)
        elif isinstance(denoiser, GradientFlowDenoiser):  # rivals have no layers that could be constrained
            constrain(denoiser, limit=LIMIT, every=REFRESH, zero_mean_channels=denoiser.in_channels)
        if isinstance(denoiser, GradientFlowDenoiser):
            # Less than half the time on a processor.
            denoiser.use_fourier(torch.device(device).type == "cpu")
        self.ranks.share(denoiser)
        self.averaged = AveragedModel(denoiser, multi_avg_fn=ramped_average(AVERAGE))
        self.averaged.requires_grad_(False)
        self.optimisers = make_optimisers(denoiser, learning)

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine."""
        warm = min(1.0, (self.step + 1) / WARM_UP)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        return warm * (FINAL_RATE + (self.settings.learning_rate - FINAL_RATE) * cosine)

    def advance(self) -> float:
        """One step of the optimisers; returns the loss, in several processes their mean."""
        loss = self.loss()
        self.denoiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        loss = self.ranks.average(self.denoiser.parameters(), loss)
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["rate"] * self.learning_rate()
            optimiser.step()
        self.averaged.update_parameters(self.denoiser)
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def mean_loss(self) -> float:
        """The mean loss since the last call."""
        mean, self.losses = statistics.fmean(self.losses), []
        return mean

    def loss(self) -> Tensor:
        """The mean over images of the log of their clean patches' mean squared error, with the penalty where there is one."""
        part, share = self.settings.part, self.settings.problems.equilibrium
        x = self.sampler()
        if share > 0 and draw(0, 1, self.generator) < share:
            problem = self.pool(self.denoiser, x.to(self.device), self.generator)
            if part == "guide network" and problem.guide is not None:
                return log_error(self.improved(problem.guide, problem.sigma), problem.x)
            return log_error(self.pool.equilibrium.solve(self.denoiser, problem), problem.x)
        sigma, y = self.corrupt(x)
        x = x.to(self.device)
        if part == "denoiser":
            with reduced_precision(self.device, sigma > BFLOAT16_ABOVE):
                loss = log_error(self.denoiser(y, sigma), x)
            return loss if self.penalty is None else loss + self.penalty(self.denoiser, y, sigma)
        guide = noisy_guide(self.denoiser, y, sigma, self.generator)
        if part == "guide network":
            return log_error(self.improved(guide, sigma), x)
        return log_error(guided(self.denoiser, guide)(y, sigma), x)

    def improved(self, guide: Tensor, sigma: float) -> Tensor:
        """What the guide network makes of a guide."""
        network = cast(GuideNetwork, self.denoiser.guide_network)
        with reduced_precision(self.device):
            return improve(network, guide, sigma=torch.tensor([sigma]).to(guide))

    def corrupt(self, x: Tensor) -> tuple[float, Tensor]:
        """A noise level and the patches with that noise.

        Its logarithm runs through frac(u₀ + t(√5 − 1)/2), t counting the batches of all processes: equidistributed, with
        gaps of order 1/n among any n successive ones, where independent draws let the averaged weights wander.
        """
        low, high = (math.log(bound) for bound in SIGMA_RANGE)
        batch = self.step * self.ranks.size + self.ranks.rank
        sigma = math.exp(low + (high - low) * math.modf(self.first_sigma + batch * GOLDEN)[0])
        return sigma, (x + sigma * torch.randn(x.shape, generator=self.generator)).to(self.device)

    def save(self, path: Path) -> None:
        """Write a checkpoint in one atomic step. A run that resumes from it goes on exactly as this one does."""
        self.forget()
        state = {
            "step": self.step,
            "denoiser": self.denoiser.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "generators": torch.stack(self.ranks.gather(self.generator.get_state())),  # of every process
            "losses": self.losses,
        }
        if self.ranks.rank == 0:
            with write_atomically(path) as temporary:
                torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. Raises InputError for one of another network, part or number of processes."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        generators = state["generators"].cpu()
        if len(generators) != self.ranks.size:
            raise InputError(
                f"{path} was written by {len(generators)} processes and would be continued by {self.ranks.size}; start as "
                "many, or train anew."
            )
        try:
            self.denoiser.load_state_dict(state["denoiser"])
            self.averaged.load_state_dict(state["averaged"])
            for optimiser, its in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(its)
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{path} is of another network, or of another part of it, than these options train; train anew ({error})."
            ) from error
        self.generator.set_state(generators[self.ranks.rank].clone())  # set_state reads from the storage's beginning
        self.step, self.losses = state["step"], state["losses"]
        self.forget()

    def forget(self) -> None:
        """Drop what no checkpoint holds: the pool of problems, and the frequencies at which filters' norms were found."""
        self.pool.problems = []
        for module in self.denoiser.modules():
            if isinstance(module, UnitNorm):
                module.age = 0

    def result(self) -> Network:
        """The averaged network with plain weights, its steps shortened where an average left the constraint."""
        denoiser = cast(Network, self.averaged.module.eval())
        if isinstance(denoiser, GradientFlowDenoiser):
            denoiser.use_fourier(False)
            if not self.frozen:
                release(denoiser)
                project(denoiser, limit=LIMIT)
        return denoiser


def learning_part(denoiser: nn.Module, settings: TrainingSettings) -> nn.Module:
    """The denoiser, or the part of it that a run trains. Raises InputError where there is no such part."""
    if isinstance(denoiser, AnnealingDenoiser):
        if settings.part != "denoiser" or settings.problems.equilibrium:
            raise InputError("an annealer learns from noisy images alone: leave out `equilibrium` and guidance.")
        return denoiser.network
    if settings.part == "denoiser":
        return denoiser
    require_guidance(denoiser)
    part = denoiser.guidance if settings.part == "guidance" else denoiser.guide_network
    if part is None:
        raise InputError("this denoiser has no guide network; `pnp_lip.denoisers.add_guidance` adds one.")
    return cast(nn.Module, part)


def equilibrium_of(denoiser: nn.Module, settings: TrainingSettings) -> Equilibrium:
    """Which problems a run solves, with the annealer that ships if it needs one."""
    problems, annealer = settings.problems, None
    if problems.annealed:
        annealer = load_annealer(cast(int, denoiser.in_channels)).to(next(denoiser.parameters()))
    return Equilibrium(
        guidance=settings.part != "denoiser", scans=problems.scans, annealed=problems.annealed, annealer=annealer
    )


def log_error(x_hat: Tensor, x: Tensor, per_image: int = PER_IMAGE) -> Tensor:
    """The mean over images of log ‖x̂ − x‖²/n, each image known by ``per_image`` successive patches.

    PSNR is averaged over images. The logarithm of the whole batch's error is decided by its most textured image, and the
    logarithm of each patch's by the smoothest patches: either moves the balance of noise and detail.
    """
    error = (x_hat.float() - x).square().flatten(1).mean(1)
    mean: Tensor = error.reshape(-1, per_image).mean(1).log().mean()
    return mean
