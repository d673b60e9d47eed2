"""Fair rivals: deepinv's DnCNN trained by our pipeline on the same photographs, free or with its Jacobian penalty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from pnp_lip.benchmarks.config import RivalConfig
from pnp_lip.benchmarks.networks import save_rival, untrained
from pnp_lip.errors import InputError
from pnp_lip.training import TrainingSettings, load_photographs, train

__all__ = ["firmness_penalty", "rival", "train_rival"]

CONFIG = {"in_channels": 1, "out_channels": 1, "depth": 8, "nf": 20}  # 22,101 parameters; ``grey`` had 23,700


def rival(seed: int = 0) -> nn.Module:
    """An untrained DnCNN of about as many parameters as ``grey`` had when it was trained."""
    network = untrained("DnCNN", seed, **CONFIG).train().requires_grad_(True)
    vars(network).update(in_channels=1, config=dict(CONFIG))  # what the training pipeline asks of a denoiser
    return network


def firmness_penalty(weight: float, *, target: float = 0.98) -> Callable[[nn.Module, Tensor, float], Tensor]:
    """weight · max(‖2 J_D(y) − Id‖ − target, 0), the norm estimated at one patch of the batch.

    The norm is a power iteration's, a lower bound at one image, so that a small penalty proves nothing.
    Source: Pesquet, Repetti, Terris & Wiaux (2021), Section 3; deepinv's FNEJacobianSpectralNorm.
    """
    from deepinv.loss import FNEJacobianSpectralNorm

    norm = FNEJacobianSpectralNorm(max_iter=4, tol=1e-2, eval_mode=False)

    def penalty(denoiser: nn.Module, y: Tensor, sigma: float) -> Tensor:
        estimate: Tensor = norm(y[:1].detach().clone(), y[:1].detach(), denoiser, sigma)
        return weight * (estimate.mean() - target).clamp_min(0)

    return penalty


def train_rival(config: RivalConfig, out: Path) -> Path:
    """Train one rival and write it to rival.pt, which ``--denoiser NAME=FILE`` reads; returns the file."""
    if config.images is None:
        raise InputError("--images names the folder of photographs to train on.")
    training, validation = load_photographs(config.images)
    settings = TrainingSettings(steps=config.steps, learning_rate=1e-3, validate_every=500)
    penalty = firmness_penalty(config.penalty) if config.penalty > 0 else None
    network = train(rival(), training, validation, out, settings, resume=True, penalty=penalty)
    save_rival(network, out / "rival.pt", kind="DnCNN", config=CONFIG)
    return out / "rival.pt"
