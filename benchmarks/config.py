"""The settings of every benchmark. Each field is an option of ``pnp-lip bench``; this module loads without torch."""

# ruff: noqa: RUF009 (an option is a field)
from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TypeVar

from pnp_lip.errors import InputError

__all__ = ["CertificatesConfig", "ConvergenceConfig", "CtConfig", "DeblurringConfig", "DenoisingConfig", "Limits",
           "OperatorsConfig", "Photographs", "RivalConfig", "Scans", "SpeedConfig", "add_options", "configured"]  # fmt: skip

T = TypeVar("T")


def option(default: T, text: str, *, least: int | None = None) -> T:
    """A field with its help; ``least`` is the smallest number that it takes."""
    return field(default=default, metadata={"help": text, "least": least})


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The images on trial, and the size of the validation images."""

    images: Path | None = option(None, "folder of test images (default: scikit-image's)")
    crop: int | None = option(None, "their central N x N pixels; 0 for the whole images", least=0)
    limit: int | None = option(None, "the first N images", least=1)
    colour: bool = option(False, "colour images and denoisers")
    side: int = option(128, "of the validation images, in pixels", least=1)


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a run ends; with a proof it may take ``max_iter`` updates, without one it has less."""

    tol: float = option(1e-5, "relative residual at which a run ends")
    tuning_tol: float = option(1e-4, "the same while a strength is chosen")
    max_iter: int = option(10_000, "updates of a run with a proof", least=1)
    uncertified_max_iter: int = option(300, "updates of a run without a proof", least=1)
    uncertified_seconds: float = option(20.0, "of processor time without a proof, half while a strength is chosen")


@dataclasses.dataclass(frozen=True)
class DenoisingConfig:
    """One pass of every denoiser."""

    photographs: Photographs = field(default_factory=Photographs)
    levels: tuple[float, ...] = option((5, 15, 25, 50), "noise levels in units of 1/255")
    seed: int = option(0, "of the noise")


@dataclasses.dataclass(frozen=True)
class DeblurringConfig:
    """Every prior under every blur."""

    photographs: Photographs = field(default_factory=lambda: Photographs(crop=128))
    kernels: Path | None = option(None, "folder of camera shakes, images, npy, npz (default: the package's)")
    kernel_limit: int | None = option(None, "the first N kernels", least=1)
    noises: tuple[float, ...] = option((0.01, 0.03), "noise levels on the scale of [0, 1]")
    seed: int = option(0, "of the noise")
    limits: Limits = field(default_factory=Limits)


@dataclasses.dataclass(frozen=True)
class Scans:
    """The scanners and their noise."""

    geometries: tuple[str, ...] = option(("parallel 32", "parallel 60", "parallel 180", "fan 360"), "beams and views")
    noises: tuple[str, ...] = option(("Gaussian", "Poisson"), "kinds of noise")
    gaussian: float = option(0.01, "standard deviation of Gaussian noise over the largest datum")
    photons: float = option(1e5, "count per ray of Poisson noise")


@dataclasses.dataclass(frozen=True)
class CtConfig:
    """Every prior on every slice."""

    phantom: Path | None = option(None, "npz with hu, Hounsfield units (n, rows, columns); else Shepp and Logan's")
    tilts: Path | None = option(None, "npz with sinograms (n, angles, bins) and tilts_deg, measured: no truth")
    scans: Scans = field(default_factory=Scans)
    limit: int | None = option(None, "so many slices of each file, evenly spaced", least=1)
    side: int = option(128, "pixels to which slices are reduced by averaging", least=1)
    seed: int = option(0, "of the noise")
    limits: Limits = field(default_factory=Limits)


@dataclasses.dataclass(frozen=True)
class CertificatesConfig:
    """Attacks on crops of photographs, and the certification of a random network."""

    levels: tuple[float, ...] = option((5, 25), "noise levels of the denoisers in units of 1/255")
    steps: int = option(8, "of the attack", least=1)
    side: int = option(20, "of the attacked crops, in pixels", least=1)
    colour: bool = option(False, "crops and denoisers in colour")
    layers: int = option(12, "of the random network", least=1)
    channels: int = option(64, "of the random network", least=1)
    rtol: float = option(1e-3, "relative tolerance of the certification")
    seed: int = option(0, "of the attack and of the random network")


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """One noisy grey image."""

    side: int = option(256, "of the image, in pixels", least=1)
    level: float = option(25, "noise level in units of 1/255")
    repeats: int = option(9, "passes of each, in turns", least=1)
    seed: int = option(0, "of the noise and of random weights")


@dataclasses.dataclass(frozen=True)
class ConvergenceConfig:
    """Every solver on one image."""

    size: int = option(32, "of the image, in pixels", least=1)
    noise: float = option(0.01, "noise level over the largest datum")
    sigma: float = option(0.03, "noise level that the denoiser assumes")
    tol: float = option(1e-5, "relative residual at which a run ends")
    max_iter: int = option(5000, "updates of a run with a proof", least=1)
    uncertified_max_iter: int = option(300, "updates of a run without a proof", least=1)
    training_steps: int = option(300, "of the trained rival", least=0)
    seed: int = option(0, "of the noise and of the rivals")


@dataclasses.dataclass(frozen=True)
class OperatorsConfig:
    """Our forward models and those of other packages."""

    repeats: int = option(15, "how often each product is timed", least=1)
    large: bool = option(False, "also 512^2 with 360 views, for which deepinv needs 3 GB and a minute")
    measured: Path | None = option(None, "folder with tilt_series8.npz and cranium8.npz, whose scans are added")
    seed: int = option(0, "of the images")


@dataclasses.dataclass(frozen=True)
class RivalConfig:
    """deepinv's DnCNN, trained as our denoisers are."""

    images: Path | None = option(None, "folder of photographs; every 20th is held out")
    penalty: float = option(0.0, "weight of the Jacobian penalty")
    steps: int = option(7_000, "of training", least=1)


def number(text: str) -> float:
    """A number, whole where it can be: records tell 25 from 25.0."""
    return int(float(text)) if float(text).is_integer() else float(text)


def add_options(command: argparse.ArgumentParser, config: object, known: set[str]) -> None:
    """An option for each field of a configuration, and of those in it, that is not ``known``; then it is."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value, flag = getattr(config, f.name), f"--{f.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            add_options(command, value, known)
        elif f.name not in known:
            known.add(f.name)
            given = () if value is None else value if isinstance(value, tuple) else (value,)
            text = f.metadata["help"] + (f" (default: {', '.join(map(str, given))})" if given else "")
            if isinstance(value, bool):
                command.add_argument(flag, action="store_true", default=None, help=f.metadata["help"])
            elif isinstance(value, tuple):
                kind = str if isinstance(value[0], str) else number
                command.add_argument(flag, nargs="+", type=kind, help=text, metavar=f.name[:-1].upper())
            else:
                kind = hints[f.name]
                kind = typing.get_args(kind)[0] if isinstance(kind, types.UnionType) else kind
                command.add_argument(
                    flag, type=number if kind is float else kind, help=text, metavar=kind.__name__.upper()
                )


def configured(config: T, values: Mapping[str, object]) -> T:
    """The configuration with the named values replaced, in the configurations that it holds, too.

    Raises InputError for a number below the least one.
    """
    changes = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value, least = getattr(config, f.name), f.metadata.get("least")
        new = configured(value, values) if dataclasses.is_dataclass(value) else values.get(f.name, value)
        if least is not None and isinstance(new, int) and new < least:
            raise InputError(
                f"--{f.name.replace('_', '-')} must be a {'positive' if least else 'non-negative'} integer; got {new}."
            )
        changes[f.name] = new
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]
