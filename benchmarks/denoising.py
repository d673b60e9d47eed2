"""Denoising: quality, time, parameters and certified bound of every prior over noise levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from pnp_lip.benchmarks.comparison import Case, CaseKey, Comparison, Observation, seeded
from pnp_lip.benchmarks.config import DenoisingConfig
from pnp_lip.benchmarks.photographs import NamedImage, hashes, load_images, source, validation_images
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, Record, Row
from pnp_lip.benchmarks.restoration import measure_denoising

__all__ = ["run"]


def run(config: DenoisingConfig, to: Destination, priors: Sequence[Prior]) -> Row:
    """The record of every prior on every image and noise level; continues the one that is there."""
    images = load_images(config.photographs)
    held_out = validation_images(config.photographs.side, colour=config.photographs.colour)
    data = {"images": hashes(images), "validation": hashes(held_out), "source": source(config.photographs)}
    record = Record.open(to, "denoising", config, data)
    cases = [noisy(image, level, config.seed) for level in config.levels for image in images]
    validation = {
        f"sigma {level:g}": [noisy(image, level, config.seed) for image in held_out] for level in config.levels
    }
    return Comparison(record, validation, measure_denoising).run(cases, [at_true_level(p) for p in priors])


def at_true_level(prior: Prior) -> Prior:
    """The prior at the true noise level, if it takes one; only thresholds and relaxations are chosen.

    A guided prior makes its guide from the data here, and so loses its certificate, which treats the guide as constant.
    """
    if prior.guide is not None:
        guide = dataclasses.replace(prior.guide, prior=at_true_level(prior.guide.prior))
        reason = "nonexpansive only for a constant guide"
        prior = dataclasses.replace(prior, guide=guide, certificate=None, reason=reason)
    if prior.strength.acts_as != "noise level squared":
        return prior
    return dataclasses.replace(prior, strength=dataclasses.replace(prior.strength, grid=(1.0,)))


def noisy(image: NamedImage, level: float, seed: int) -> Case:
    """One image with white Gaussian noise; strengths are chosen anew for each noise level."""
    key: CaseKey = {"image": image.name, "sigma": level}

    def make() -> Observation:
        y = image.x + level / 255 * torch.randn(image.x.shape, generator=seeded(seed, key))
        return Observation(image.x, y, None, level / 255, shown=y)

    return Case(key, f"sigma {level:g}", make)
