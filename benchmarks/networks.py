"""Networks of other groups and rivals of our own: untrained, from a file, or from an import path."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path

import torch
from torch import nn

from pnp_lip.benchmarks.record import Row
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.protocols import DenoiserLike

__all__ = ["load_by_import", "load_rival", "read_plain", "save_rival", "untrained"]

FORMAT = "pnp-lip benchmark network 1"
RIVALS = ("DnCNN", "DRUNet", "GSDRUNet")  # classes of deepinv.models that a file may name


def untrained(kind: str, seed: int, **config: object) -> nn.Module:
    """One of deepinv's networks as the seed initialises it, a constant map; torch's own generator stays as it was."""
    import deepinv

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = getattr(deepinv.models, kind)(**config, pretrained=None)
    return network.eval().requires_grad_(False)


def read_plain(path: Path) -> Row:
    """A dictionary of tensors and plain values, read without running code."""
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a file of plain weights ({type(error).__name__}).") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a dictionary of weights; got {type(data).__name__}.")
    return data


def save_rival(network: nn.Module, path: str | Path, *, kind: str, config: Row) -> None:
    """Write a network of deepinv for ``load_rival``: format, class name, keywords of its constructor, weights.

    The file is one dictionary of plain values and tensors, written by ``torch.save`` in one atomic step and read without
    running code. ``kind`` is DnCNN, DRUNet or GSDRUNet; ``config`` the keywords other than ``pretrained``.
    Raises InputError for another kind, or when the keywords do not rebuild the network.
    """
    rebuild(kind, config, network.state_dict(), str(path))
    data = {"format": FORMAT, "class": kind, "config": config, "state_dict": network.state_dict()}
    with write_atomically(path) as temporary:
        torch.save(data, temporary)


def load_rival(path: str | Path) -> nn.Module:
    """A network that ``save_rival`` wrote, read with ``weights_only``. Raises InputError for anything else."""
    data = read_plain(Path(path))
    if data.get("format") != FORMAT:
        raise InputError(f"{path}: not a network by pnp_lip.benchmarks.networks.save_rival.")
    return rebuild(data["class"], data["config"], data["state_dict"], str(path))


def rebuild(kind: str, config: Row, state: Row, name: str) -> nn.Module:
    """The network from its description."""
    if kind not in RIVALS:
        raise InputError(f"{name}: the network must be one of {', '.join(RIVALS)}; got {kind!r}.")
    try:
        network = untrained(kind, 0, **config)
        network.load_state_dict(state)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{name}: the weights do not fit the network that the file describes ({error}).") from error
    return network


def load_by_import(path: str) -> DenoiserLike:
    """``package.module:factory``, called without arguments, gives the denoiser D(x, sigma)."""
    module, _, attribute = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{path!r} cannot be imported ({error}); expected package.module:factory.") from error
    if not callable(factory):
        raise InputError(f"{path!r} is a {type(factory).__name__}, not a factory of a denoiser.")
    denoiser: DenoiserLike = factory()
    if not callable(denoiser):
        raise InputError(f"{path}() must return a denoiser D(x, sigma); got {type(denoiser).__name__}.")
    return denoiser.eval() if isinstance(denoiser, nn.Module) else denoiser
