"""Training a denoiser: constraint kept at every step, averaged weights, checkpoints, exact resume."""

import csv
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pnp_lip.errors import InputError
from pnp_lip.images import psnr, write_atomically
from pnp_lip.potentials import GradientStepPotential, RidgePotential
from pnp_lip.training.gradient_step_training import GradientStepRun
from pnp_lip.training.potential_training import PotentialRun, denoised
from pnp_lip.training.training_run import Network, Penalty, TrainingRun, TrainingSettings
from pnp_lip.version import __version__

__all__ = ["train", "validate"]

VALIDATION_SIGMAS = (1, 5, 15, 25, 50)  # noise levels of validation, in units of 1/255
VALIDATION_CROP = 256  # pixels a side, the centre of each image


def train(
    denoiser: Network,
    training: Sequence[Tensor],
    validation: Sequence[Tensor],
    out: str | Path,
    settings: TrainingSettings,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[int, float], None] | None = None,
    penalty: Penalty | None = None,
) -> Network:
    """Train ``denoiser`` on images of shape (C, H, W) and return the averaged copy, with plain weights.

    Minimises the mean over images of log ‖D(x + σn, σ) − x‖², on some patches of each image, σ drawn log-uniformly, one
    per batch, plus the ``penalty`` where there is one (for rivals that are not nonexpansive by construction; ours need
    none). In the place of D(x + σn, σ) a ``RidgePotential`` learns from its minimisers (``PotentialRun``), and a
    ``GradientStepPotential`` from its gradient steps or critical points (``GradientStepRun``).

    Writes ``checkpoint.pt`` (atomic; ``resume=True`` continues from it exactly), ``log.csv`` (the loss is the mean since
    the row before) and ``settings.json`` under ``out``. Raises InputError when the loss is no longer finite, and for a
    checkpoint of another run.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    kinds: dict[type[nn.Module], type] = {RidgePotential: PotentialRun, GradientStepPotential: GradientStepRun}
    kind = cast("type[TrainingRun[Network]]", next((kinds[k] for k in kinds if isinstance(denoiser, k)), TrainingRun))
    if kind is TrainingRun and settings.problems.equilibrium > 0:
        raise InputError("only potentials learn from reconstructions; for a denoiser set `equilibrium` (--equilibrium) to 0.")
    run = kind(denoiser.to(device), training, settings, penalty)
    if resume and (out / "checkpoint.pt").is_file():
        run.load(out / "checkpoint.pt")
    with write_atomically(out / "settings.json") as path:
        about = {"pnp_lip": __version__, **dataclasses.asdict(settings), **run.constraint, "network": denoiser.config}
        path.write_text(json.dumps(about, indent=1))
    start = time.monotonic()
    while run.step < settings.steps:
        loss = run.advance()
        if progress is not None:
            progress(run.step, loss)
        if not math.isfinite(loss):
            raise InputError(f"the loss became {loss} at step {run.step}; the last checkpoint under {out} is good.")
        last = run.step == settings.steps
        if run.step % settings.validate_every == 0 or last:
            seconds, mean, run.losses = round(time.monotonic() - start, 1), statistics.fmean(run.losses), []
            scores = validate(run.averaged.module, validation, device=device)
            run.rows.append({"step": run.step, "seconds": seconds, "loss": mean, **scores})
            with write_atomically(out / "log.csv") as path, open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, run.rows[0])
                writer.writeheader()
                writer.writerows(run.rows)
        if run.step % settings.checkpoint_every == 0 or last:
            run.save(out / "checkpoint.pt")
    return run.result()


@torch.no_grad()
def validate(denoiser: nn.Module, images: Sequence[Tensor], *, device: str = "cpu") -> dict[str, float]:
    """Mean PSNR over central crops at five noise levels, with noise from a fixed generator.

    A potential denoises by its minimiser, a gradient-step potential by its gradient step.
    """
    training = denoiser.training
    denoiser.eval()
    scores = {}
    with parametrize.cached():  # a constrained layer is made once, not for each image
        for level in VALIDATION_SIGMAS:
            generator = torch.Generator().manual_seed(level)
            values = []
            for image in images:
                top, left = ((n - min(VALIDATION_CROP, n)) // 2 for n in image.shape[1:])
                x = image[None, :, top : top + VALIDATION_CROP, left : left + VALIDATION_CROP]
                y = (x + level / 255 * torch.randn(x.shape, generator=generator)).to(device)
                if isinstance(denoiser, RidgePotential):
                    x_hat = denoised(denoiser, y, level / 255)
                elif isinstance(denoiser, GradientStepPotential):
                    x_hat = denoiser.denoise(y, level / 255).detach()
                else:
                    x_hat = denoiser(y, level / 255)
                values.append(psnr(x_hat.cpu(), x))
            scores[f"psnr_{level}"] = round(statistics.fmean(values), 3)
    denoiser.train(training)
    return scores
