"""One training run: what learns, from which loss, how fast, and everything that a checkpoint holds."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.layers import constrain, project, release
from pnp_lip.layers.constraints import UnitNorm
from pnp_lip.potentials import GradientStepPotential
from pnp_lip.training.patches import PER_IMAGE, PatchSampler, PatchSettings
from pnp_lip.training.problems import LARGEST_PSF, ProblemSettings, TrainingProblem, draw

__all__ = ["Network", "Penalty", "TrainingRun", "TrainingSettings", "log_error", "make_optimisers"]

Network = TypeVar("Network", bound=nn.Module)
Penalty = Callable[[nn.Module, Tensor, float], Tensor]  # of the denoiser, noisy patches and their noise level
Parameters = tuple[Tensor, ...] | list[Tensor]

SIGMA_RANGE = (0.5 / 255, 55 / 255)  # noise levels of training, on the scale of images in [0, 1]
LIMIT = 0.985  # of τ‖W‖²/2 in each layer: at 1 the composition would be nonexpansive, but not averaged
REFRESH = 50  # evaluations between searches of the whole torus for the norm of a filter
WARM_UP = 200  # steps in which the learning rate grows to its largest value
FINAL_RATE = 1e-5  # the learning rate at the end of a run
AVERAGE = 0.999  # the share that the averaged weights keep at each step of a long run
BFLOAT16_ABOVE = 8 / 255  # noise level below which the rounding of bfloat16 costs up to 1 dB
GOLDEN = (math.sqrt(5) - 1) / 2

# Thresholds and steps learn so many times faster than weights. A threshold is stored as its logarithm, of order
# one, and a weight is of order 1/30: equal steps would either freeze the thresholds or let the first hundred steps push
# all of a weight's spectrum into a single frequency.
ACTIVATION_RATE = 3.3


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What determines a training run, besides the network and the photographs.

    ``learning_rate`` is the largest one. A checkpoint is written every ``checkpoint_every`` steps, a row of the log every
    ``validate_every``. Raises InputError for values outside their ranges.
    """

    steps: int = 8_000
    learning_rate: float = 3e-3
    patches: PatchSettings = dataclasses.field(default_factory=PatchSettings)
    problems: ProblemSettings = dataclasses.field(default_factory=ProblemSettings)
    seed: int = 0
    checkpoint_every: int = 500
    validate_every: int = 2_000

    def __post_init__(self) -> None:
        if min(self.steps, self.checkpoint_every, self.validate_every) < 1 or not self.learning_rate > 0:
            raise InputError("steps and the two intervals must be at least 1, and learning_rate must be positive.")
        if self.problems.equilibrium > 0 and self.patches.size <= LARGEST_PSF:
            raise InputError(
                f"random blurs are up to {LARGEST_PSF} pixels wide: the patches of equilibrium training must be wider; got "
                f"{self.patches.size}."
            )


class TrainingRun(Generic[Network]):
    """The state of a run, advanced step by step. Shapes: ``images`` are (C, H, W) on [0, 1]."""

    def __init__(
        self, denoiser: Network, images: Sequence[Tensor], settings: TrainingSettings, penalty: Penalty | None = None
    ) -> None:
        self.denoiser, self.settings, self.penalty = denoiser.train(), settings, penalty
        self.device = next(denoiser.parameters()).device
        self.step, self.warm_up = 0, WARM_UP
        self.constraint: dict[str, float] = {}  # its numbers, for the file of settings, where they can be chosen
        self.losses: list[float] = []  # since the last row of the log
        self.rows: list[dict[str, float]] = []  # of the log
        self.first_sigma = draw(0, 1, torch.Generator().manual_seed(settings.seed))
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.pool: list[TrainingProblem] = []
        self.sampler = PatchSampler(images, settings.patches, self.generator)
        if isinstance(denoiser, GradientFlowDenoiser):  # rivals have no layers that could be constrained
            constrain(denoiser, limit=LIMIT, every=REFRESH, zero_mean_channels=denoiser.in_channels)
            denoiser.use_fourier(self.device.type == "cpu")  # less than half the time there
        self.averaged = AveragedModel(denoiser, multi_avg_fn=ramped_average)
        self.averaged.requires_grad_(False)
        self.optimisers = make_optimisers(denoiser)

    def advance(self) -> float:
        """One step of the optimisers; returns the loss."""
        loss = self.loss()
        self.denoiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        rate = FINAL_RATE + (self.settings.learning_rate - FINAL_RATE) * cosine
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["rate"] * (min(1.0, (self.step + 1) / self.warm_up) * rate)
            optimiser.step()
        self.averaged.update_parameters(self.denoiser)
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def loss(self) -> Tensor:
        """The mean over images of the log of their clean patches' mean squared error, with the penalty where there is one."""
        x = self.sampler()
        sigma, y = self.corrupt(x)
        with reduced_precision(self.device, sigma > BFLOAT16_ABOVE):
            loss = log_error(self.denoiser(y, sigma), x.to(self.device))
        return loss if self.penalty is None else loss + self.penalty(self.denoiser, y, sigma)

    def corrupt(self, x: Tensor) -> tuple[float, Tensor]:
        """A noise level and the patches with that noise.

        Its logarithm runs through frac(u₀ + t(√5 − 1)/2), t counting the steps: equidistributed, with gaps of order 1/n
        among any n successive ones, where independent draws let the averaged weights wander.
        """
        low, high = (math.log(bound) for bound in SIGMA_RANGE)
        sigma = math.exp(low + (high - low) * math.modf(self.first_sigma + self.step * GOLDEN)[0])
        return sigma, (x + sigma * torch.randn(x.shape, generator=self.generator)).to(self.device)

    def save(self, path: Path) -> None:
        """Write a checkpoint in one atomic step. A run that resumes from it goes on exactly as this one does."""
        self.forget()
        state = {
            "step": self.step,
            "denoiser": self.denoiser.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "generator": self.generator.get_state(),
            "losses": self.losses,
            "rows": self.rows,
        }
        with write_atomically(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. Raises InputError for one of another network or version."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if not {"generator", "losses", "rows"} <= state.keys():
            raise InputError(f"{path} was written by another version of pnp-lip; train anew.")
        try:
            self.denoiser.load_state_dict(state["denoiser"])
            self.averaged.load_state_dict(state["averaged"])
            for optimiser, its in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(its)
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(f"{path} is of another network than these options train; train anew ({error}).") from error
        self.generator.set_state(state["generator"].cpu())
        self.step, self.losses, self.rows = state["step"], state["losses"], state["rows"]
        self.forget()

    def forget(self) -> None:
        """Drop what no checkpoint holds: the pool of problems, and the frequencies at which filters' norms were found."""
        self.pool = []
        for module in self.denoiser.modules():
            if isinstance(module, UnitNorm):
                module.age = 0

    def result(self) -> Network:
        """The averaged network with plain weights, its steps shortened where an average left the constraint."""
        denoiser = cast(Network, self.averaged.module.eval())
        if isinstance(denoiser, GradientFlowDenoiser):
            denoiser.use_fourier(False)
            release(denoiser)
            project(denoiser, limit=LIMIT)
        return denoiser


def make_optimisers(network: nn.Module) -> list[torch.optim.Optimizer]:
    """Adam for a denoiser; for a gradient-step potential Muon for kernels and Adam for biases.

    A group's "rate" is the rate at which its parameters learn, in units of the run's. Muon takes a kernel (C', C, k, k) as
    a matrix (C', C k²). One rate serves it and Adam, because its updates are scaled to a size like that of Adam's. Of a
    U-net 3e-3 to 5e-3 were best (docs/notebook/training.md).

    Source: Jordan et al. (2024); the scale is that of Liu et al. (2025).
    """
    named = list(network.named_parameters())
    if not isinstance(network, GradientStepPotential):
        ours = isinstance(network, GradientFlowDenoiser)
        slow = [p for name, p in named if not ours or "weight" in name]
        fast = [p for name, p in named if ours and "weight" not in name]
        groups = ({"params": slow, "rate": 1.0}, {"params": fast, "rate": ACTIVATION_RATE})
        return [torch.optim.Adam([group for group in groups if group["params"]])]
    biases, kernels = ([p for _, p in named if (p.ndim == 4) == wanted] for wanted in (False, True))
    for p in kernels:
        p.data = p.detach().contiguous()
    matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in kernels]  # of the same storage: Muon moves kernels
    muon = torch.optim.Muon([{"params": matrices, "rate": 1.0}], weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def hand_over(*_: object) -> None:
        for matrix, kernel in zip(matrices, kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)

    muon.register_step_pre_hook(hand_over)
    return [muon, torch.optim.Adam([{"params": biases, "rate": 1.0}])]


@torch.no_grad()
def ramped_average(averaged: Parameters, current: Parameters, count: Tensor | int) -> None:
    """An exponential moving average whose memory grows with the run, so that early averages forget the initial weights."""
    torch._foreach_lerp_(averaged, current, max(1 - AVERAGE, 9 / (10 + int(count))))


def reduced_precision(device: torch.device, wanted: bool) -> torch.autocast:
    """A context in which convolutions run in bfloat16 if that is ``wanted`` and fast there.

    It is on accelerators, and on processors with instructions for it; others emulate it, eleven times slower (measured).
    """
    fast = device.type != "cpu" or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and fast)


def log_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """The mean over images of log ‖x̂ − x‖²/n, each image known by ``PER_IMAGE`` successive patches.

    PSNR is averaged over images. The logarithm of the whole batch's error is decided by its most textured image, and the
    logarithm of each patch's by the smoothest patches: either moves the balance of noise and detail.
    """
    return (x_hat.to(x.dtype) - x).square().flatten(1).mean(1).reshape(-1, PER_IMAGE).mean(1).log().mean()
