"""deepinv's networks beside ours: untrained, from a file, or trained by our pipeline on the same photographs."""

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pnp_lip.benchmarks.record import Row
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.training import TrainingSettings, load_photographs, train

__all__ = ["firmness_penalty", "load_rival", "rival", "save_rival", "train_rival", "untrained"]

FORMAT = "pnp-lip benchmark network 1"
KINDS = ("DnCNN", "DRUNet", "GSDRUNet")  # classes of deepinv.models that a file may name
RIVAL = {"in_channels": 1, "out_channels": 1, "depth": 8, "nf": 20}  # 22,101 parameters; ``grey`` had 23,700


def untrained(kind: str, seed: int, **config: object) -> nn.Module:
    """One of deepinv's networks as the seed initialises it, a constant map; torch's own generator stays as it was."""
    import deepinv

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = getattr(deepinv.models, kind)(**config, pretrained=None)
    return network.eval().requires_grad_(False)


def save_rival(network: nn.Module, path: str | Path, *, kind: str, config: Row) -> None:
    """Write a network of deepinv for ``load_rival``: format, class name, keywords of its constructor, weights.

    The file is one dictionary of plain values and tensors, written by ``torch.save`` in one atomic step and read without
    running code. ``kind`` is DnCNN, DRUNet or GSDRUNet; ``config`` the keywords other than ``pretrained``.
    Raises InputError for another kind, or when the keywords do not rebuild the network.
    """
    data = {"format": FORMAT, "class": kind, "config": config, "state_dict": network.state_dict()}
    rebuild(data, path)
    with write_atomically(path) as temporary:
        torch.save(data, temporary)


def load_rival(path: str | Path) -> nn.Module | None:
    """A network that ``save_rival`` wrote, read without running code; None for a file of another kind.

    Raises InputError for a file that is not one of plain weights, and for weights that do not fit.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a file of plain weights ({type(error).__name__}).") from error
    return rebuild(data, path) if isinstance(data, dict) and data.get("format") == FORMAT else None


def rebuild(data: Row, name: str | Path) -> nn.Module:
    """The network from its description."""
    if data["class"] not in KINDS:
        raise InputError(f"{name}: the network must be one of {', '.join(KINDS)}; got {data['class']!r}.")
    try:
        network = untrained(data["class"], 0, **data["config"])
        network.load_state_dict(data["state_dict"])
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{name}: the weights do not fit the network that the file describes ({error}).") from error
    return network


def rival(seed: int = 0) -> nn.Module:
    """An untrained DnCNN of about as many parameters as ``grey`` had when it was trained."""
    network = untrained("DnCNN", seed, **RIVAL).train().requires_grad_(True)
    vars(network).update(in_channels=1, config=dict(RIVAL))  # what the training pipeline asks of a denoiser
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


def train_rival(images: Path | None, penalty: float, steps: int, out: Path) -> Path:
    """Train one rival and write it to rival.pt, which ``--denoiser NAME=FILE`` reads; returns the file."""
    if images is None:
        raise InputError("--images names the folder of photographs to train on.")
    training, validation = load_photographs(images)
    settings = TrainingSettings(steps=steps, learning_rate=1e-3, validate_every=500)
    extra = firmness_penalty(penalty) if penalty > 0 else None
    network = train(rival(), training, validation, out, settings, resume=True, penalty=extra)
    save_rival(network, out / "rival.pt", kind="DnCNN", config=RIVAL)
    return out / "rival.pt"
