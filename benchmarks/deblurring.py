"""Deblurring: camera shakes, a Gaussian and a box, two noise levels, every prior.

``run(Config(...), path, priors)`` fills a record; ``pnp-lip bench deblurring`` is the command.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.comparison import Case, Scene, Tell, compare, seeded
from pnp_lip.benchmarks.photographs import NamedImage, load_images, sha256_of, validation_images
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Record
from pnp_lip.benchmarks.restoration import Limits, measure_restoration
from pnp_lip.errors import InputError
from pnp_lip.operators import Blur, box_psf, gaussian_psf, load_psf, shake_psf

__all__ = ["Config", "load_psfs", "run"]

VALIDATION_KERNEL = 0  # the shake's seed; the shakes on trial have others


@dataclasses.dataclass(frozen=True)
class Config:
    """``images`` and ``kernels`` are folders, None for what the package brings; ``noises`` on the scale of [0, 1];
    ``crop``, ``limit`` and ``colour`` as in ``load_images``; ``kernel_limit`` keeps the first kernels; ``side`` of the
    validation images."""

    images: Path | None = None
    kernels: Path | None = None
    noises: tuple[float, ...] = (0.01, 0.03)
    crop: int | None = 128
    limit: int | None = None
    kernel_limit: int | None = None
    side: int = 128
    colour: bool = False
    seed: int = 0
    limits: Limits = dataclasses.field(default_factory=Limits)


def run(
    config: Config,
    path: Path,
    priors: Sequence[Prior],
    skipped: Mapping[str, str] | None = None,
    *,
    fresh: bool = False,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """The record of every prior on every image, kernel and noise level; continues the one at ``path``."""
    images = load_images(config.images, crop=config.crop, limit=config.limit, colour=config.colour)
    kernels = load_psfs(config.kernels, config.kernel_limit)
    held_out = validation_images(config.side, colour=config.colour)
    data = {
        "images": {image.name: image.sha256 for image in images},
        "kernels": {name: kernel_hash(kernel) for name, kernel in kernels.items()},
        "validation": {image.name: image.sha256 for image in held_out},
        "source": "scikit-image" if config.images is None else config.images.name,
    }
    record = Record.open(path, "deblurring", settings(config), data, fresh=fresh)
    for name, reason in (skipped or {}).items():
        record.skip(name, reason)
    cases = [
        blurred(image, name, kernel, noise, config.seed)
        for noise in config.noises
        for name, kernel in kernels.items()
        for image in images
    ]
    shake = shake_psf(torch.Generator().manual_seed(VALIDATION_KERNEL), reach=7)
    validation = {
        group(noise): [blurred(image, "validation shake", shake, noise, config.seed) for image in held_out]
        for noise in config.noises
    }
    compare(record, cases, validation, priors, functools.partial(measure_restoration, limits=config.limits), tell)
    return record.content


def kernel_hash(kernel: Tensor) -> str:
    """Of the kernel in float32: processors differ in the last bit of an exponential, and a record is to go on on any."""
    return sha256_of(kernel.float())


def settings(config: Any) -> dict[str, Any]:
    """The configuration as plain data, without the places where its files lie."""
    plain = dataclasses.asdict(config)
    return {
        k: v for k, v in plain.items() if not isinstance(v, Path) and k not in ("images", "kernels", "phantom", "tilts")
    }


def group(noise: float) -> str:
    """Strengths are chosen anew for each noise level."""
    return f"noise {noise:g}"


def blurred(image: NamedImage, name: str, kernel: Tensor, noise: float, seed: int) -> Case:
    """One problem: circular borders, white Gaussian noise."""
    key = {"image": image.name, "kernel": name, "noise": noise}

    def make() -> Scene:
        physics = Blur(kernel, (image.x.shape[1], image.x.shape[2], image.x.shape[3]), padding="circular")
        y = physics.A(image.x)
        y = y + noise * torch.randn(y.shape, generator=seeded(seed, key))
        return Scene(image.x, y, physics, noise, shown=y)

    return Case(key, group(noise), make)


def load_psfs(folder: Path | None, limit: int | None = None) -> dict[str, Tensor]:
    """Camera shakes by name, the package's or those in a folder's images, npy and npz files; a Gaussian of 1.6, a box of 9.

    ``limit`` keeps the first of them all. Raises InputError for a folder without kernels.
    """
    if folder is None:
        kernels = {f"shake{n}": shake_psf(torch.Generator().manual_seed(n), reach=4 + 2 * n) for n in (1, 2, 3, 4)}
    else:
        kernels = {}
        for path in sorted(p for p in folder.glob("*") if p.suffix.lower() in (".npz", ".npy", ".png")):
            if path.suffix.lower() == ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    names = sorted(archive.keys())
                kernels |= {name: load_psf(path, key=name) for name in names}
            else:
                kernels[path.stem] = load_psf(path)
        if not kernels:
            raise InputError(f"{folder}: no kernels (.npz, .npy, .png) there.")
    kernels |= {"gaussian 1.6": gaussian_psf(1.6), "box 9": box_psf(9)}
    return dict(list(kernels.items())[:limit])
