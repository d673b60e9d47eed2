"""Denoising: quality, time, parameters and certified bound of every prior over noise levels.

``run(Config(...), path, priors)`` fills a record; ``pnp-lip bench denoising`` is the command.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pnp_lip.benchmarks.comparison import Case, Scene, Tell, compare, seeded
from pnp_lip.benchmarks.deblurring import settings
from pnp_lip.benchmarks.photographs import NamedImage, load_images, validation_images
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Record
from pnp_lip.benchmarks.restoration import measure_denoising

__all__ = ["Config", "run"]


@dataclasses.dataclass(frozen=True)
class Config:
    """``images`` is a folder, None for scikit-image's; ``levels`` are noise levels in units of 1/255; ``crop`` and ``limit``
    and ``colour`` as in ``load_images``; ``side`` of the validation images."""

    images: Path | None = None
    levels: tuple[float, ...] = (5, 15, 25, 50)
    crop: int | None = None
    limit: int | None = None
    colour: bool = False
    side: int = 128
    seed: int = 0


def run(
    config: Config,
    path: Path,
    priors: Sequence[Prior],
    skipped: Mapping[str, str] | None = None,
    *,
    fresh: bool = False,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """The record of every prior on every image and noise level; continues the one at ``path``."""
    images = load_images(config.images, crop=config.crop, limit=config.limit, colour=config.colour)
    held_out = validation_images(config.side, colour=config.colour)
    data = {
        "images": {image.name: image.sha256 for image in images},
        "validation": {image.name: image.sha256 for image in held_out},
        "source": "scikit-image" if config.images is None else config.images.name,
    }
    record = Record.open(path, "denoising", settings(config), data, fresh=fresh)
    for name, reason in (skipped or {}).items():
        record.skip(name, reason)
    cases = [noisy(image, level, config.seed) for level in config.levels for image in images]
    validation = {group(level): [noisy(image, level, config.seed) for image in held_out] for level in config.levels}
    compare(record, cases, validation, [told(p) for p in priors], measure_denoising, tell)
    return record.content


def told(prior: Prior) -> Prior:
    """A denoiser that takes a noise level is told the true one; only thresholds and relaxations are chosen.

    A guided one is a map of its data alone here, from which the guide is made: of that map nothing is proved.
    """
    if prior.before is not None:
        prior = dataclasses.replace(
            prior, before=told(prior.before), certificate=None, reason="nonexpansive with its guide held fixed only"
        )
    return prior if prior.threshold or prior.blind else dataclasses.replace(prior, grid=(1.0,))


def group(level: float) -> str:
    """Strengths are chosen anew for each noise level."""
    return f"sigma {level:g}"


def noisy(image: NamedImage, level: float, seed: int) -> Case:
    """One image with white Gaussian noise."""
    key = {"image": image.name, "sigma": level}

    def make() -> Scene:
        y = image.x + level / 255 * torch.randn(image.x.shape, generator=seeded(seed, key))
        return Scene(image.x, y, None, level / 255, shown=y)

    return Case(key, group(level), make)
