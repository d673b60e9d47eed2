"""Guides to learn from, and the training of the network that improves them."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_lip.denoisers import GUIDE_SIGMA_FACTOR, GradientFlowDenoiser, guided
from pnp_lip.pretrained import load_annealer
from pnp_lip.training.draws import draw, draw_log
from pnp_lip.training.equilibrium import Equilibrium
from pnp_lip.training.patches import PatchSampler, turned
from pnp_lip.training.precision import reduced_precision

if TYPE_CHECKING:
    from pnp_lip.training.train import TrainingSettings

__all__ = ["Example", "ExampleSet", "annealer_for", "noisy_guide", "random_example"]

LARGEST_GUIDE_NOISE = 3.0  # of the guides that guidance is trained with, in units of the image's
EXAMPLES = 4_000  # that are learned from again and again
FEWEST = 48  # of them at first
ADDED = 0.12  # per step: to make one costs some ten times as much as to learn from it
VISITED = 2  # examples in each step
UNTOLD = 0.1  # the share that goes without the residual, as where a user gives a guide alone
EXAMPLE_SEED = 7_919  # between the seeds of two examples


@dataclasses.dataclass(frozen=True)
class Example:
    """Images x, their solutions so far, what the data hold beyond these, and the noise level that the next round is told."""

    x: Tensor
    guide: Tensor
    residual: Tensor
    sigma: float


@torch.no_grad()
def noisy_guide(
    denoiser: Any, y: Tensor, sigma: float, later: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """g = D(z, 1.1 ρσ) and z − g, z being y with noise added up to ρ ≥ 1 times its own, 1 half of the time: as uncertain as the
    guides of harder problems are, whose residual is no noise of the level that is told either. The share ``later`` D_g(z)."""
    ratio = max(1.0, LARGEST_GUIDE_NOISE ** draw(-1, 1, generator))
    noisy = y + sigma * math.sqrt(ratio**2 - 1) * torch.randn(y.shape, generator=generator).to(y)
    level = GUIDE_SIGMA_FACTOR * ratio * sigma
    guide: Tensor = denoiser(noisy, level)
    if draw(0, 1, generator) < later:
        guide = guided(denoiser, guide)(noisy, level)
    return guide, noisy - guide


@torch.no_grad()
def random_example(
    denoiser: GradientFlowDenoiser,
    x: Tensor,
    settings: TrainingSettings,
    equilibrium: Equilibrium,
    generator: torch.Generator,
) -> Example:
    """A random problem with the images ``x``, solved once or twice: a blur or a scan, otherwise images to be denoised."""
    if draw(0, 1, generator) < settings.equilibrium:
        problem = equilibrium.problem(denoiser, x, generator, guidance=True)
        assert problem.guide is not None and problem.residual is not None
        return Example(problem.x, problem.guide, problem.residual, problem.sigma)
    sigma = draw_log(*settings.sigma_range, generator)
    y = x + sigma * torch.randn(x.shape, generator=generator).to(x)
    return Example(x, *noisy_guide(denoiser, y, sigma, equilibrium.later, generator), sigma)


def annealer_for(denoiser: GradientFlowDenoiser) -> GradientFlowDenoiser:
    """What improves guides of so many channels as the denoiser takes. Raises InputError where none ships."""
    annealer = load_annealer(denoiser.in_channels)
    annealer.requires_grad_(False).to(next(denoiser.parameters()))
    return annealer


class ExampleSet:
    """Examples, made when they are first asked for and kept, from more and more of which each step draws a few.

    Example i depends on ``seed`` and i alone, because the denoiser that makes the guides is not trained meanwhile. So a run
    resumes exactly although no checkpoint holds an example. Patches are from ``sampler``, on ``device``.
    """

    def __init__(
        self,
        make: Callable[[Tensor, torch.Generator], Example],
        sampler: PatchSampler,
        batch: int,
        device: str,
        seed: int,
    ) -> None:
        self.make, self.sampler, self.batch, self.device, self.seed = make, copy.copy(sampler), batch, device, seed
        self.examples: dict[int, Example] = {}

    def __getitem__(self, index: int) -> Example:
        if index not in self.examples:
            generator = torch.Generator().manual_seed(self.seed + EXAMPLE_SEED * (index + 1))
            self.sampler.generator = generator
            self.examples[index] = self.make(self.sampler(self.batch).to(self.device), generator)
        return self.examples[index]

    def __call__(self, denoiser: GradientFlowDenoiser, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """U(g, σ, r) of some examples, turned at random and now and then without r, and the images that it should be."""
        available = min(EXAMPLES, FEWEST + int(ADDED * step))
        chosen = [self[i] for i in torch.randint(available, (VISITED,), generator=generator).tolist()]
        turns = torch.randint(8, (VISITED,), generator=generator).tolist()
        guides = torch.cat([turned(e.guide, turn) for e, turn in zip(chosen, turns, strict=True)])
        x = torch.cat([turned(e.x, turn) for e, turn in zip(chosen, turns, strict=True)])
        sigma = torch.tensor([e.sigma for e in chosen]).repeat_interleave(self.batch).to(x)
        with reduced_precision(self.device):
            x_hat: Tensor = denoiser.guide_network(guides, sigma)  # type: ignore[misc]
        return x_hat, x
