"""Deblurring: camera shakes, a Gaussian and a box, two noise levels, every prior."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.comparison import Case, CaseKey, Comparison, Observation, seeded
from pnp_lip.benchmarks.config import DeblurringConfig
from pnp_lip.benchmarks.photographs import NamedImage, hashes, load_images, sha256_of, source, validation_images
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, Record, Row
from pnp_lip.benchmarks.restoration import measure_restoration
from pnp_lip.errors import InputError
from pnp_lip.operators import Blur, box_psf, gaussian_psf, load_psf, shake_psf

__all__ = ["blurred", "load_psfs", "run"]

VALIDATION_PSF = 0  # the shake's seed; the shakes on trial have others


def run(config: DeblurringConfig, to: Destination, priors: Sequence[Prior]) -> Row:
    """The record of every prior on every image, blur and noise level; continues the one that is there."""
    images = load_images(config.photographs)
    held_out = validation_images(config.photographs.side, colour=config.photographs.colour)
    psfs = load_psfs(config.kernels, config.kernel_limit)
    data = {
        "images": hashes(images),
        "kernels": {name: psf_hash(psf) for name, psf in psfs.items()},
        "validation": hashes(held_out),
        "source": source(config.photographs),
    }
    shake = shake_psf(torch.Generator().manual_seed(VALIDATION_PSF), reach=7)
    cases, validation = [], {}
    for noise in config.noises:
        cases += [blurred(image, *psf, noise, config.seed) for psf in psfs.items() for image in images]
        chosen_on = [blurred(image, "validation shake", shake, noise, config.seed) for image in held_out]
        validation[f"noise {noise:g}"] = chosen_on
    record = Record.open(to, "deblurring", config, data)
    measure = functools.partial(measure_restoration, limits=config.limits)
    return Comparison(record, validation, measure).run(cases, priors)


def psf_hash(psf: Tensor) -> str:
    """In float32: processors differ in the last bit of an exponential, and a record is continued on any of them."""
    return sha256_of(psf.float())


def blurred(image: NamedImage, name: str, psf: Tensor, noise: float, seed: int) -> Case:
    """One problem: circular borders, white Gaussian noise; strengths are chosen anew for each noise level."""
    key: CaseKey = {"image": image.name, "kernel": name, "noise": noise}

    def make() -> Observation:
        physics = Blur(psf, (image.x.shape[1], image.x.shape[2], image.x.shape[3]), padding="circular")
        y = physics.A(image.x)
        y = y + noise * torch.randn(y.shape, generator=seeded(seed, key))
        return Observation(image.x, y, physics, noise, shown=y)

    return Case(key, f"noise {noise:g}", make)


def load_psfs(folder: Path | None, limit: int | None = None) -> dict[str, Tensor]:
    """Camera shakes by name, the package's or those in a folder's images, npy and npz files; a Gaussian of 1.6, a box of 9.

    ``limit`` keeps the first of them all. Raises InputError for a folder without kernels.
    """
    psfs: dict[str, Tensor] = {}
    if folder is None:
        psfs |= {f"shake{n}": shake_psf(torch.Generator().manual_seed(n), reach=4 + 2 * n) for n in (1, 2, 3, 4)}
    else:
        for path in sorted(p for p in folder.glob("*") if p.suffix.lower() in (".npz", ".npy", ".png")):
            if path.suffix.lower() == ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    psfs |= {name: load_psf(path, key=name) for name in sorted(archive.keys())}
            else:
                psfs[path.stem] = load_psf(path)
        if not psfs:
            raise InputError(f"{folder}: no kernels (.npz, .npy, .png) there.")
    psfs |= {"gaussian 1.6": gaussian_psf(1.6), "box 9": box_psf(9)}
    return dict(list(psfs.items())[:limit])
