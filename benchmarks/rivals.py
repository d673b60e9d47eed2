"""Fair rivals: deepinv's DnCNN trained by our pipeline on the same photographs, free or with its Jacobian penalty.

``python -m pnp_lip.benchmarks.rivals --images DIR --out DIR [--penalty 1.0] [--steps N]`` writes ``rival.pt``, which
``pnp-lip bench NAME --denoiser dncnn=FILE`` reads.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pnp_lip.benchmarks.networks import save_rival
from pnp_lip.training import TrainingSettings, load_photographs, train

__all__ = ["firmness_penalty", "rival"]

CONFIG = {"in_channels": 1, "out_channels": 1, "depth": 8, "nf": 20}  # 22,101 parameters; ``grey`` has 23,700


def rival(seed: int = 0) -> Any:
    """An untrained DnCNN of about as many parameters as ``grey``."""
    from deepinv.models import DnCNN

    torch.manual_seed(seed)
    network: Any = DnCNN(**CONFIG, pretrained=None)
    network.in_channels, network.config = 1, dict(CONFIG)  # what the training pipeline asks of a denoiser
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


def main() -> None:
    """Train one rival and write it."""
    parser = argparse.ArgumentParser(description="deepinv's DnCNN, trained as our denoisers are")
    parser.add_argument("--images", required=True, type=Path, help="photographs; every 20th is held out")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--penalty", type=float, default=0.0, help="weight of the Jacobian penalty (default: none)")
    parser.add_argument("--steps", type=int, default=7_000)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    training, validation = load_photographs(options.images)
    settings = TrainingSettings(steps=options.steps, learning_rate=1e-3, validate_every=500)
    penalty = firmness_penalty(options.penalty) if options.penalty > 0 else None
    network = train(rival(), training, validation, options.out, settings, resume=True, penalty=penalty)
    save_rival(network, options.out / "rival.pt", kind="DnCNN", config=CONFIG)


if __name__ == "__main__":
    main()
