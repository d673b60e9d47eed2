"""What the commands share: from the user's options to a checked prior, its solver, noise level and folder; a search's scores."""

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from pnp_lip.command_line.common import say
from pnp_lip.denoisers import GradientFlowDenoiser, can_be_guided, require_guidance
from pnp_lip.errors import InputError
from pnp_lip.noise import estimate_noise
from pnp_lip.potentials import RidgePotential
from pnp_lip.pretrained import ANNEALERS, TORCH_SUFFIXES, certified_names, load_annealer, load_denoiser, load_pretrained
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers import Anderson, Anneal, Choice, ForwardBackward, Result, Solver, Variational, refine
from pnp_lip.solvers.refine import Improve

__all__ = ["Learned", "by_channel", "by_sigma", "check_noise", "get_annealing", "get_certified", "get_noise", "get_prior",
           "make_folder", "solutions", "solver_of"]  # fmt: skip

Learned: TypeAlias = GradientFlowDenoiser | RidgePotential


def get_certified(name: str, *, require_certified: bool = True) -> Learned:
    """A denoiser or a potential by its name or from a file.

    Raises InputError for an unknown name and for a shipped network without a certificate, CertificateError for weights
    that do not certify, unless ``require_certified=False``.
    """
    if Path(name).suffix in (".safetensors", *TORCH_SUFFIXES):
        return load_denoiser(name, require_certified=require_certified)
    found = load_pretrained(name)
    if not isinstance(found, Learned):
        raise InputError(f"{name} has no certificate; these have one: {', '.join(certified_names())}.")
    return found


def get_prior(options: argparse.Namespace, channels: int = 1, grey: str = "grey") -> tuple[Learned, int]:
    """The denoiser or potential, by default the shipped one for so many channels, and how often to solve again.

    Raises InputError for rounds that it cannot do.
    """
    denoiser = get_certified(options.denoiser or (grey if channels == 1 else "colour"))
    if isinstance(denoiser, RidgePotential):
        if options.rounds:
            raise InputError(f"--rounds {options.rounds} guides a denoiser; the objective of a potential is solved once.")
        return denoiser, 0
    rounds: int = int(can_be_guided(denoiser)) if options.rounds is None else options.rounds
    if rounds < 0:
        raise InputError(f"--rounds must not be negative; got {rounds}.")
    if rounds:
        require_guidance(denoiser)
    return denoiser, rounds


def solver_of(
    prior: Learned, *, tol: float | None = None, sigma: float | None = None, step: float | None = None, weight: float = 1.0
) -> Solver | Variational:
    """Forward-backward with a denoiser, or the objective f + λR_σ of a potential, λ the ``weight``, for images in [0, 1].

    ``tol`` defaults to 1e-4 with a denoiser, and to that of ``Variational``. Raises InputError for a step with a potential.
    """
    if isinstance(prior, GradientFlowDenoiser):
        return ForwardBackward(prior, sigma=sigma, step=step, box=(0, 1), scheme=Anderson(), tol=1e-4 if tol is None else tol)
    if step is not None:
        raise InputError("--step belongs to a denoiser; the steps of a potential follow from its certificate.")
    solver = Variational(prior, sigma=sigma, weight=weight, box=(0.0, 1.0))
    return solver if tol is None else dataclasses.replace(solver, tol=tol)


def solutions(
    solver: Solver | Variational, y: Tensor, physics: PhysicsLike, rounds: int = 0, improve: Improve | None = None, *,
    sigma: float | None = None, solve: Callable[..., Result],
) -> tuple[Result, ...]:  # fmt: skip
    """All that ``refine`` finds with a denoiser; the one solution of an objective."""
    if isinstance(solver, Solver):
        return refine(solver, y, physics, rounds, improve, sigma=sigma, solve=solve)
    return (solve(solver, y, physics, x0=None),)


def get_annealing(denoiser: Learned, rounds: int) -> Anneal | None:
    """What improves the guides of blurred images; None without guides, or where no annealer ships for the channels."""
    return Anneal(load_annealer(denoiser.in_channels)) if rounds and denoiser.in_channels in ANNEALERS else None


def get_noise(stated: float | None, image: Tensor) -> float:
    """The noise level that was stated, or an estimate from the image, which is then said."""
    if stated is not None:
        return check_noise(stated)
    noise = float(estimate_noise(image))
    say(f"noise level {noise:.2g}, estimated from the image; pass --noise if you know it")
    return noise


def check_noise(value: float, name: str = "--noise") -> float:
    """A noise level on the scale of images in [0, 1]: finite, not negative, and not meant in units of 1/255."""
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a finite standard deviation that is not negative; got {value}.")
    if value > 1:
        raise InputError(f"{name} is on the scale of images in [0, 1]; got {value}. For 8-bit levels divide by 255.")
    return value


def by_channel(x: Tensor, denoiser: Learned) -> Tensor:
    """(1, C, H, W) as C images of one channel when the prior is grey; as it is when the channels agree."""
    channels = denoiser.in_channels
    if channels not in (1, x.shape[1]):
        raise InputError(f"this denoiser takes {channels} channels; the image has {x.shape[1]}. Use --denoiser grey.")
    return x.reshape(-1, channels, *x.shape[-2:])


def make_folder(path: str) -> Path:
    """The output folder, made if need be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be a folder ({error}).") from error
    return Path(path)


def by_sigma(choice: Choice) -> dict[str, float]:
    """The score of each noise level that was tried."""
    return {f"{c['sigma']:g}": score for c, score in zip(choice.candidates, choice.scores, strict=True)}
