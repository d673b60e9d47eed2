"""Saving and loading denoisers: weights in safetensors; what carries a certificate is certified anew at every loading."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Literal, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils import parametrize

from pnp_lip.certificates import Certificate, certify
from pnp_lip.denoisers import AnnealingDenoiser, GradientFlowDenoiser, denoiser_from_config
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.images import write_atomically

__all__ = ["certified_names", "load_annealer", "load_denoiser", "load_pretrained", "pretrained_names", "save_denoiser"]

Pretrained = GradientFlowDenoiser | AnnealingDenoiser

DENOISER, ANNEALER = "pnp-lip denoiser 1", "pnp-lip annealer 1"  # what a file says that it holds
BUILDERS: dict[str, Callable[[Mapping[str, object]], Pretrained]] = {
    DENOISER: denoiser_from_config,
    ANNEALER: AnnealingDenoiser.from_config,
}
ANNEALERS = {1: "annealer", 3: "annealer-colour"}  # by channels
TORCH_SUFFIXES = (".pt", ".pth")
WEIGHTS = resources.files("pnp_lip.weights")


def pretrained_names() -> list[str]:
    """All that ships with the package."""
    return sorted(Path(f.name).stem for f in WEIGHTS.iterdir() if f.name.endswith(".safetensors"))


def certified_names() -> list[str]:
    """What ships with a certificate."""
    return [name for name in pretrained_names() if (WEIGHTS / f"{name}.certificate.json").is_file()]


@overload
def load_pretrained(name: Literal["colour", "grey", "tiny"]) -> GradientFlowDenoiser: ...
@overload
def load_pretrained(name: Literal["annealer", "annealer-colour"]) -> AnnealingDenoiser: ...
@overload
def load_pretrained(name: str) -> GradientFlowDenoiser | AnnealingDenoiser: ...


def load_pretrained(name: str) -> GradientFlowDenoiser | AnnealingDenoiser:
    """Load a denoiser that ships with the package, by name, without any download; a certified one is certified anew.

    Returns the denoiser in evaluation mode. Raises InputError for an unknown name, CertificateError when the weights do
    not pass or differ from the shipped certificate's.
    """
    if name not in pretrained_names():
        raise InputError(f"no pretrained denoiser is called {name!r}; there are {', '.join(pretrained_names())}.")
    with resources.as_file(WEIGHTS / f"{name}.safetensors") as path:
        return load(path, require_certified=True)


def load_annealer(source: int | str | Path = 1) -> AnnealingDenoiser:
    """What makes guides for images with so many channels, 1 or 3, or the one in a file. It has no certificate.

    Raises InputError for other channels, and for a file that holds something else.
    """
    if not isinstance(source, int):
        found = load(Path(source), require_certified=True)
    elif source in ANNEALERS:
        found = load_pretrained(ANNEALERS[source])
    else:
        raise InputError(f"an annealer ships for images of 1 and of 3 channels; got {source}.")
    if not isinstance(found, AnnealingDenoiser):
        raise InputError(f"{source}: expected an annealer; it holds a {type(found).__name__}.")
    return found


def load_denoiser(path: str | Path, *, require_certified: bool = True) -> GradientFlowDenoiser:
    """Load a denoiser from a safetensors file written by ``save_denoiser`` and certify it anew.

    A .pt or .pth file is read with torch's ``weights_only`` and holds {"config": ..., "state_dict": ...}.

    A certificate file beside the weights is compared with, never trusted: other hashes raise CertificateError, and so do
    weights that do not certify, unless ``require_certified=False``. Raises InputError for an unreadable file and for one
    that holds an annealer.
    """
    found = load(Path(path), require_certified=require_certified)
    if not isinstance(found, GradientFlowDenoiser):
        raise InputError(f"{path}: an annealer has no certificate; load it by pnp_lip.pretrained.load_annealer.")
    return found


def load(path: Path, *, require_certified: bool) -> Pretrained:
    """The denoiser in a file, as what the file says that it is."""
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights.")
    kind, config, tensors = read_torch(path) if path.suffix in TORCH_SUFFIXES else read_safetensors(path)
    try:
        denoiser = BUILDERS[kind](config)
        denoiser.to(next(t.dtype for t in tensors.values() if t.is_floating_point())).load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, StopIteration) as error:
        raise InputError(f"{path}: the weights do not fit the network that the file describes ({error}).") from error
    denoiser.eval().requires_grad_(False)
    if require_certified and isinstance(denoiser, GradientFlowDenoiser):
        compare(path, certify(denoiser).require_nonexpansive())
    return denoiser


@overload
def save_denoiser(denoiser: GradientFlowDenoiser, path: str | Path) -> Certificate: ...
@overload
def save_denoiser(denoiser: AnnealingDenoiser, path: str | Path) -> None: ...


def save_denoiser(denoiser: GradientFlowDenoiser | AnnealingDenoiser, path: str | Path) -> Certificate | None:
    """Certify ``denoiser``, then write its weights to ``path`` and its certificate beside them (``.certificate.json``).

    An annealer has no certificate: its weights are written alone. Files are written atomically. Raises CertificateError,
    writing nothing, when a denoiser is not nonexpansive, and InputError for one under ``constrain``, whose weights are not
    its own.
    """
    if not isinstance(denoiser, Pretrained):
        raise InputError(
            "only a GradientFlowDenoiser or an AnnealingDenoiser is saved, not what is made of one; got "
            f"{type(denoiser).__name__}."
        )
    path = Path(path)
    held = [name for name, child in denoiser.named_modules() if parametrize.is_parametrized(child)]
    if held:
        raise InputError(
            f"`{held[0]}` is constrained (parametrised); `pnp_lip.layers.release` makes its weights plain."
        )
    certificate = certify(denoiser).require_nonexpansive() if isinstance(denoiser, GradientFlowDenoiser) else None
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in denoiser.state_dict().items()}
    kind = ANNEALER if certificate is None else DENOISER
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(tensors, {"format": kind, "config": json.dumps(denoiser.config)}))
    if certificate is not None:
        certificate.save(certificate_path(path))
    return certificate


def read_safetensors(path: Path) -> tuple[str, Mapping[str, object], dict[str, Tensor]]:
    """The format, the configuration and the weights that ``save_denoiser`` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}).") from error
    kind = metadata.get("format", "")
    if kind not in BUILDERS:
        raise InputError(
            f"{path}: expected a file written by pnp_lip.save_denoiser; its format is {metadata.get('format')!r}."
        )
    try:
        config: dict[str, object] = json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: its description of the network is missing or damaged ({error}).") from error
    return kind, config, tensors


def read_torch(path: Path) -> tuple[str, Mapping[str, object], dict[str, Tensor]]:
    """The same of a file by ``torch.save``, which holds a denoiser; a pickle that wants to run code never does."""
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
    return DENOISER, data["config"], data["state_dict"]


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
