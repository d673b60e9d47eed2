"""The settings of every benchmark. Each field is an option of ``pnp-lip bench``; this module loads without torch."""

# ruff: noqa: RUF009 (an option is a field)
import argparse
import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TypeVar

from pnp_lip.errors import InputError

__all__ = ["CertificatesConfig", "ConvergenceConfig", "CtConfig", "DeblurringConfig", "DenoisingConfig", "Limits",
           "OperatorsConfig", "Photographs", "Scans", "SpeedConfig", "add_options", "configured"]  # fmt: skip

T = TypeVar("T")


def option(default: T, text: str, *, least: int | None = None, quick: T | None = None) -> T:
    """A field with its help; ``least`` is the smallest number that it takes, ``quick`` what --quick makes of it."""
    return field(default=default, metadata={"help": text, "least": least, "quick": quick})


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The images on trial, and the size of the validation images."""

    images: Path | None = option(None, "folder of test images (default: scikit-image's)")
    crop: int | None = option(None, "their central N x N pixels; 0 for the whole images", least=0, quick=48)
    limit: int | None = option(None, "the first N images", least=1, quick=1)
    colour: bool = option(False, "colour images and denoisers")
    side: int = option(128, "of the validation images, in pixels", least=1, quick=32)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a run may spend, the same for every prior."""

    tol: float = option(1e-4, "relative residual at which a run ends first; a tenth of it must not change the PSNR")
    max_iter: int = option(10_000, "updates of a run", least=1)
    seconds: float = option(60.0, "of processor time of a run", quick=1.5)
    oracle: bool = option(False, "also find the best strength of each test problem, to show what choosing costs")


@dataclasses.dataclass(frozen=True)
class DenoisingConfig:
    """One pass of every denoiser."""

    photographs: Photographs = field(default_factory=Photographs)
    levels: tuple[float, ...] = option((5, 15, 25, 50), "noise levels in units of 1/255", quick=(25,))
    seed: int = option(0, "of the noise")
    limits: Limits = field(default_factory=Limits)


@dataclasses.dataclass(frozen=True)
class DeblurringConfig:
    """Every prior under every blur."""

    photographs: Photographs = field(default_factory=lambda: Photographs(crop=128))
    kernels: Path | None = option(None, "folder of camera shakes, images, npy, npz (default: the package's)")
    kernel_limit: int | None = option(None, "the first N kernels", least=1, quick=1)
    noises: tuple[float, ...] = option((0.01, 0.03), "noise levels on the scale of [0, 1]", quick=(0.01,))
    seed: int = option(0, "of the noise")
    limits: Limits = field(default_factory=Limits)
    kernel_names: tuple[str, ...] = option((), "these kernels only")
    paired: bool = option(False, "image i with kernel i modulo their number, instead of all pairs")


@dataclasses.dataclass(frozen=True)
class Scans:
    """The scanners and their noise."""

    geometries: tuple[str, ...] = option(
        ("parallel 32", "parallel 60", "parallel 180", "fan 360"), "beams and views", quick=("parallel 60",)
    )
    noises: tuple[str, ...] = option(("Gaussian", "Poisson"), "kinds of noise", quick=("Gaussian",))
    gaussian: float = option(0.01, "standard deviation of Gaussian noise over the largest datum")
    photons: float = option(1e5, "count per ray of Poisson noise")


@dataclasses.dataclass(frozen=True)
class CtConfig:
    """Every prior on every slice."""

    phantom: Path | None = option(None, "npz with hu, Hounsfield units (n, rows, columns); else Shepp and Logan's")
    scans: Scans = field(default_factory=Scans)
    limit: int | None = option(None, "so many slices, evenly spaced", least=1, quick=1)
    side: int = option(128, "pixels to which slices are reduced by averaging", least=1, quick=32)
    seed: int = option(0, "of the noise")
    limits: Limits = field(default_factory=Limits)


@dataclasses.dataclass(frozen=True)
class CertificatesConfig:
    """Attacks on crops of photographs, and the certification of a random network."""

    levels: tuple[float, ...] = option((5, 25), "noise levels of the denoisers in units of 1/255", quick=(25,))
    steps: int = option(8, "of the attack", least=1, quick=2)
    side: int = option(20, "of the attacked crops, in pixels", least=1, quick=12)
    colour: bool = option(False, "crops and denoisers in colour")
    layers: int = option(12, "of the random network", least=1, quick=2)
    channels: int = option(64, "of the random network", least=1, quick=16)
    rtol: float = option(1e-3, "relative tolerance of the certification")
    seed: int = option(0, "of the attack and of the random network")


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """One noisy grey image."""

    side: int = option(256, "of the image, in pixels", least=1, quick=64)
    level: float = option(25, "noise level in units of 1/255")
    repeats: int = option(9, "passes of each, in turns", least=1, quick=3)
    seed: int = option(0, "of the noise and of random weights")


@dataclasses.dataclass(frozen=True)
class ConvergenceConfig:
    """Every solver on one image."""

    size: int = option(32, "of the image, in pixels", least=1, quick=16)
    noise: float = option(0.01, "noise level over the largest datum")
    sigma: float = option(0.03, "noise level that the denoiser assumes")
    tol: float = option(1e-5, "relative residual at which a run ends", quick=1e-3)
    max_iter: int = option(5000, "updates of a run with a proof", least=1, quick=300)
    uncertified_max_iter: int = option(300, "updates of a run without a proof", least=1, quick=20)
    seed: int = option(0, "of the noise and of the untrained network")


@dataclasses.dataclass(frozen=True)
class OperatorsConfig:
    """Our forward models and deepinv's."""

    repeats: int = option(15, "how often each product is timed", least=1, quick=3)
    large: bool = option(False, "also 512^2 with 360 views, for which deepinv needs 3 GB and a minute")
    seed: int = option(0, "of the images")


def number(text: str) -> float:
    """A number, whole where it can be: records tell 25 from 25.0."""
    return int(float(text)) if float(text).is_integer() else float(text)


def add_options(command: argparse.ArgumentParser, config: object) -> None:
    """An option for each field of a configuration, and of those in it."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value, flag = getattr(config, f.name), f"--{f.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            add_options(command, value)
        else:
            given = () if value is None else value if isinstance(value, tuple) else (value,)
            text = f.metadata["help"] + (f" (default: {', '.join(map(str, given))})" if given else "")
            kind = next(t for t in (*typing.get_args(hints[f.name]), hints[f.name]) if isinstance(t, type))
            read = number if kind is float else kind
            if kind is bool:
                command.add_argument(flag, action="store_true", default=None, help=f.metadata["help"])
            elif isinstance(value, tuple):
                command.add_argument(flag, nargs="+", type=read, help=text, metavar=f.name[:-1].upper())
            else:
                command.add_argument(flag, type=read, help=text, metavar=kind.__name__.upper())


def configured(config: T, values: Mapping[str, object], *, quick: bool = False) -> T:
    """The configuration, or its quick form, with the named values replaced, and so the configurations that it holds.

    Raises InputError for a number below the least one.
    """
    changes = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value, least, small = getattr(config, f.name), f.metadata.get("least"), f.metadata.get("quick")
        if dataclasses.is_dataclass(value):
            value = configured(value, values, quick=quick)
        else:
            value = values.get(f.name, small if quick and small is not None else value)
        if least is not None and isinstance(value, int) and value < least:
            kind = "positive" if least else "non-negative"
            raise InputError(f"--{f.name.replace('_', '-')} must be a {kind} integer; got {value}.")
        changes[f.name] = value
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]
