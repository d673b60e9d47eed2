"""Saving and loading denoisers and potentials in safetensors; what carries a certificate is certified anew at every loading."""

import json
import pickle
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils import parametrize

from pnp_lip.certificates import Certificate, certify
from pnp_lip.denoisers import GradientFlowDenoiser, denoiser_from_config
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.images import write_atomically
from pnp_lip.potentials.gradient_step_potential import GradientStepPotential, gradient_step_from_config
from pnp_lip.potentials.ridge_potential import RidgePotential, potential_from_config

__all__ = ["certified_names", "load_denoiser", "load_pretrained", "pretrained_names", "save_denoiser"]

Pretrained = GradientFlowDenoiser | GradientStepPotential | RidgePotential

# What a file says that it holds.
DENOISER, POTENTIAL = "pnp-lip denoiser 1", "pnp-lip potential 1"
GRADIENT_STEP = "pnp-lip gradient-step potential 1"
BUILDERS: dict[str, Callable[[dict[str, object]], Pretrained]] = {
    DENOISER: denoiser_from_config,
    POTENTIAL: potential_from_config,
    GRADIENT_STEP: gradient_step_from_config,
}
KINDS = {
    DENOISER: GradientFlowDenoiser,
    POTENTIAL: RidgePotential,
    GRADIENT_STEP: GradientStepPotential,
}
TORCH_SUFFIXES = (".pt", ".pth")
WEIGHTS = resources.files("pnp_lip.weights")


def pretrained_names() -> list[str]:
    """All that ships with the package."""
    return sorted(Path(f.name).stem for f in WEIGHTS.iterdir() if f.name.endswith(".safetensors"))


def certified_names() -> list[str]:
    """What ships with a certificate."""
    return [name for name in pretrained_names() if (WEIGHTS / f"{name}.certificate.json").is_file()]


def load_pretrained(name: str) -> Pretrained:
    """What ships with the package, by name, in evaluation mode: a denoiser or a potential; what has a certificate is proved anew.

    Raises InputError for an unknown name, CertificateError for weights that do not pass or are not the certificate's.
    """
    if name not in pretrained_names():
        raise InputError(f"nothing pretrained is called {name!r}; there are {', '.join(pretrained_names())}.")
    with resources.as_file(WEIGHTS / f"{name}.safetensors") as path:
        return load_denoiser(path, require_certified=name in certified_names())


def load_denoiser(path: str | Path, *, require_certified: bool = True) -> Pretrained:
    """Load what ``save_denoiser`` wrote to a safetensors file, in evaluation mode, and certify it anew: also a potential.

    A .pt or .pth file is read with torch's ``weights_only`` and holds {"config": ..., "state_dict": ...} of a denoiser, or
    of what a third entry "format" says, as in the metadata of a safetensors file: "pnp-lip potential 1". A
    certificate file beside the weights is compared with, never trusted: other hashes raise CertificateError, and so do
    weights that do not certify, unless ``require_certified=False``. A gradient-step potential needs no certificate. Raises
    InputError for an unreadable file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights.")
    kind, config, tensors = read(path)
    try:
        found = BUILDERS[kind](config)
        found.to(next(t.dtype for t in tensors.values() if t.is_floating_point())).load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, StopIteration, ArithmeticError) as error:
        raise InputError(f"{path}: the weights do not fit the network that the file describes ({error}).") from error
    found.eval().requires_grad_(False)
    if require_certified and not isinstance(found, GradientStepPotential):  # of which the theorem asks only that it is smooth
        compare(path, proved(found))
    return found


def proved(model: GradientFlowDenoiser | RidgePotential) -> Certificate:
    """The certificate of a potential, whose curvature then is bounded, or of a nonexpansive denoiser; else CertificateError."""
    certificate = certify(model)
    return certificate.require_nonexpansive() if certificate.curvature is None else certificate


def read(path: Path) -> tuple[str, dict[str, object], dict[str, Tensor]]:
    """The format, the configuration and the weights in a file; a pickle that wants to run code never does."""
    try:
        if path.suffix in TORCH_SUFFIXES:
            data = torch.load(path, map_location="cpu", weights_only=True)
            return data.get("format", DENOISER), dict(data["config"]), dict(data["state_dict"])
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return metadata["format"], json.loads(metadata["config"]), tensors
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: this pickle is damaged or holds more than tensors and plain values, so that loading it could run code."
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a safetensors file in the format of pnp_lip.save_denoiser, nor a file by torch.save of two "
            f'dictionaries {{"config": ..., "state_dict": ...}} ({type(error).__name__}).'
        ) from error


def compare(path: Path, certificate: Certificate) -> None:
    """Raise CertificateError when the certificate beside ``path`` speaks of other weights."""
    beside = path.with_suffix(".certificate.json")
    text = beside.read_bytes().decode(errors="replace") if beside.is_file() else None
    claimed = certificate if text is None else Certificate.from_json(text)
    if claimed.weights != certificate.weights:
        differing = sorted(n for n in certificate.weights if claimed.weights.get(n) != certificate.weights[n])
        raise CertificateError(
            f"{beside} belongs to other weights than {path.name}: the SHA-256 of {', '.join(differing) or 'the set'} differ."
            " One of the two files was changed; save the denoiser again, or get both from the same source."
        )


def save_denoiser(denoiser: Pretrained, path: str | Path) -> Certificate | None:
    """Certify ``denoiser``, or a potential, then write its weights to ``path`` and its certificate (``.certificate.json``).

    A gradient-step potential has no certificate: its weights are written alone. Files are written atomically. Writes nothing
    and raises CertificateError for a denoiser that is not nonexpansive or a ridge potential whose curvature is not proved to
    be bounded, InputError for one under ``constrain``.
    """
    if not isinstance(denoiser, Pretrained):
        raise InputError(
            f"a GradientFlowDenoiser, a RidgePotential or a GradientStepPotential is saved; got a {type(denoiser).__name__}."
        )
    for name, child in denoiser.named_modules():
        if parametrize.is_parametrized(child):
            raise InputError(f"`{name}` is constrained (parametrised); `layers.release` makes its weights plain.")
    path = Path(path)
    certificate = None if isinstance(denoiser, GradientStepPotential) else proved(denoiser)
    kind = next(kind for kind, its in KINDS.items() if isinstance(denoiser, its))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in denoiser.state_dict().items()}
    metadata = {"format": kind, "config": json.dumps(denoiser.config)}
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))
    if certificate is not None:
        certificate.save(path.with_suffix(".certificate.json"))
    return certificate
