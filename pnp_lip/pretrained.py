"""Saving and loading denoisers: weights in safetensors, re-certified at every loading."""

from __future__ import annotations

import json
import pickle
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils import parametrize

from pnp_lip.certificates import Certificate, certify
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.images import write_atomically

__all__ = ["load_annealer", "load_denoiser", "load_pretrained", "pretrained_names", "save_denoiser"]

FORMAT = "pnp-lip denoiser 1"
ANNEALERS = {1: "annealer", 3: "annealer-colour"}  # by channels; their layers are those of `tiny` and `colour`
TORCH_SUFFIXES = (".pt", ".pth")


def pretrained_names() -> list[str]:
    """The denoisers that ship with the package."""
    folder = resources.files("pnp_lip.weights")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".safetensors"))


def load_pretrained(name: str) -> GradientFlowDenoiser:
    """Load a denoiser that ships with the package, by name, without any download, and certify it anew.

    Returns the denoiser in evaluation mode. Raises InputError for an unknown name, CertificateError when the weights do
    not pass or differ from the shipped certificate's.
    """
    if name not in pretrained_names():
        raise InputError(f"no pretrained denoiser is called {name!r}; there are {', '.join(pretrained_names())}.")
    with resources.as_file(resources.files("pnp_lip.weights") / f"{name}.safetensors") as path:
        return load_denoiser(path)


def load_annealer(channels: int = 1) -> GradientFlowDenoiser:
    """What improves the guides of blurred images with so many channels: a certified denoiser and a network behind it.

    Of the layers the certificate speaks; of the guide network nothing is proved (``solvers.refine``). Raises InputError
    unless ``channels`` is 1 or 3.
    """
    if channels not in ANNEALERS:
        raise InputError(f"an annealer ships for images of 1 and of 3 channels; got {channels}.")
    return load_pretrained(ANNEALERS[channels])


def save_denoiser(denoiser: GradientFlowDenoiser, path: str | Path) -> Certificate:
    """Certify ``denoiser``, then write its weights to ``path`` and its certificate beside them (``.certificate.json``).

    Both files are written atomically. Raises CertificateError, writing nothing, when the map is not nonexpansive, and
    InputError for a denoiser under ``constrain``, whose weights are not its own.
    """
    if not isinstance(denoiser, GradientFlowDenoiser):
        raise InputError(
            f"only a GradientFlowDenoiser is saved, not what is made of one; got {type(denoiser).__name__}."
        )
    path = Path(path)
    held = [name for name, child in denoiser.named_modules() if parametrize.is_parametrized(child)]
    if held:
        raise InputError(
            f"`{held[0]}` is constrained (parametrised); `pnp_lip.layers.release` makes its weights plain."
        )
    certificate = certify(denoiser).require_nonexpansive()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in denoiser.state_dict().items()}
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(tensors, {"format": FORMAT, "config": json.dumps(denoiser.config)}))
    certificate.save(certificate_path(path))
    return certificate


def load_denoiser(path: str | Path, *, require_certified: bool = True) -> GradientFlowDenoiser:
    """Load a denoiser from a safetensors file written by ``save_denoiser`` and certify it anew.

    A .pt or .pth file is read with torch's ``weights_only`` and holds {"config": ..., "state_dict": ...}.

    A certificate file beside the weights is compared with, never trusted: other hashes raise CertificateError, and so do
    weights that do not certify, unless ``require_certified=False``. Raises InputError for an unreadable file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights.")
    config, tensors = read_torch(path) if path.suffix in TORCH_SUFFIXES else read_safetensors(path)
    try:
        denoiser = GradientFlowDenoiser(**config)
        denoiser.to(next(t.dtype for t in tensors.values() if t.is_floating_point())).load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, StopIteration) as error:
        raise InputError(f"{path}: the weights do not fit the network that the file describes ({error}).") from error
    denoiser.eval().requires_grad_(False)
    if require_certified:
        compare(path, certify(denoiser).require_nonexpansive())
    return denoiser


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights that ``save_denoiser`` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}).") from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected a file written by pnp_lip.save_denoiser; its format is {metadata.get('format')!r}."
        )
    try:
        config: dict[str, Any] = json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: its description of the network is missing or damaged ({error}).") from error
    return config, tensors


def read_torch(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights of a file by ``torch.save``; a pickle that wants to run code never does."""
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: this pickle holds more than tensors and plain values, or is damaged; loading it could run code, so "
            'it is refused. Save {"config": denoiser.config, "state_dict": denoiser.state_dict()}, or use save_denoiser.'
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a file by torch.save ({type(error).__name__}).") from error
    if not isinstance(data, dict) or not all(isinstance(data.get(key), dict) for key in ("config", "state_dict")):
        raise InputError(
            f'{path}: expected {{"config": ..., "state_dict": ...}}, two dictionaries, the first the keywords'
            " of GradientFlowDenoiser."
        )
    return data["config"], data["state_dict"]


def compare(path: Path, certificate: Certificate) -> None:
    """Raise CertificateError when the certificate beside ``path`` speaks of other weights."""
    beside = certificate_path(path)
    if not beside.is_file():
        return
    claimed = Certificate.from_json(beside.read_text())
    differing = sorted(n for n in certificate.weights if claimed.weights.get(n) != certificate.weights[n])
    if differing or set(claimed.weights) != set(certificate.weights):
        raise CertificateError(
            f"{beside} belongs to other weights than {path.name}: the SHA-256 of {', '.join(differing) or 'the set'} differ."
            " One of the two files was changed; save the denoiser again, or get both from the same source."
        )


def certificate_path(path: Path) -> Path:
    """Where the certificate of ``path`` stands."""
    return path.with_suffix(".certificate.json")
