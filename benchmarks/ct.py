"""Tomography: parallel beam with 32, 60 and 180 views, fan beam with 360; Gaussian and Poisson noise; every prior, and FBP."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.comparison import (
    Case,
    Comparison,
    Observation,
    measure_restoration,
    quality,
    seeded,
)
from pnp_lip.benchmarks.config import CtConfig, Limits
from pnp_lip.benchmarks.photographs import VALIDATION, NamedImage, hashes, photograph
from pnp_lip.benchmarks.priors import Prior, Strength
from pnp_lip.benchmarks.record import Destination, Record, Row, timed
from pnp_lip.errors import InputError
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.operators.tomography import SymmetricTomography
from pnp_lip.operators.tomography_inputs import circle_mask

__all__ = ["run"]

FILTERS = ("ramp", "shepp-logan", "hann")  # the grid of FBP
FBP = Prior("FBP", lambda x, sigma: x, Strength(grid=(0.0, 1.0, 2.0)), reason="it does not iterate")
LARGEST_INTEGRAL = 4.0  # of the attenuation along a ray, for Poisson noise: e⁻⁴ of the photons arrive
HOUNSFIELD = (-1000, 1600)  # HU, mapped to [0, 1]

BRAIN = (1.0, 0.64, 0.82, 0.0, 0.0, 0.0)
HEAD = (  # of the validation: value, half axes, centre, degrees, as in the Shepp-Logan phantom, whose shapes it does not share
    (0.90, 0.71, 0.89, 0.0, 0.0, 0.0),
    (-0.48, 0.64, 0.82, 0.0, 0.0, 0.0),
    (-0.06, 0.09, 0.27, -0.15, 0.08, 12.0),
    (-0.06, 0.09, 0.27, 0.15, 0.08, -12.0),
    (0.05, 0.20, 0.14, 0.27, -0.38, 30.0),
    (-0.04, 0.11, 0.20, -0.36, -0.22, 20.0),
    (0.08, 0.05, 0.05, -0.30, 0.42, 0.0),
    (0.40, 0.03, 0.10, 0.0, 0.70, 0.0),
    (0.35, 0.12, 0.04, -0.20, -0.66, 25.0),
    (-0.38, 0.10, 0.06, 0.18, -0.68, -10.0),
)


def run(config: CtConfig, to: Destination, priors: Sequence[Prior]) -> Row:
    """The record of every prior, and of FBP, on every slice, geometry and noise; continues the one that is there."""
    slices, held_out = load_slices(config.phantom, config.limit, config.side), validation_slices(config.side)
    source = "scikit-image" if config.phantom is None else config.phantom.stem
    data = {"images": hashes(slices), "validation": hashes(held_out), "source": source}
    cases: list[Case] = []
    validation: dict[str, list[Case]] = {}
    for geometry in config.scans.geometries:
        for noise in config.scans.noises:
            cases += [scan(s, geometry, noise, config) for s in slices]
            validation[f"{geometry}, {noise}"] = [scan(s, geometry, noise, config) for s in held_out]
    record = Record.open(to, "ct", config, data)
    measure = functools.partial(measure_scan, limits=config.limits)
    return Comparison(record, validation, measure).run(cases, [FBP, *priors])


def measure_scan(prior: Prior, strength: float, observation: Observation, tuning: bool, limits: Limits) -> Row:
    """FBP with the strength's filter, or the solver's reconstruction."""
    y, physics = observation.y, observation.physics
    if prior.name != FBP.name or not isinstance(physics, SymmetricTomography):
        return measure_restoration(prior, strength, observation, tuning, limits)
    name = FILTERS[int(strength)]
    x_hat, times = timed(lambda: physics.fbp(y, filter=name).clamp(0, 1))
    return {**quality(x_hat, observation), **times, "filter": name}


def load_slices(phantom: Path | None, limit: int | None, side: int) -> list[NamedImage]:
    """The objects on trial as images on [0, 1]: ``limit`` slices, evenly spaced, from −1000 to 1600 HU, or a phantom."""
    if phantom is None:
        from skimage.data import shepp_logan_phantom

        whole = torch.from_numpy(shepp_logan_phantom()).float()[None, None].clamp(0, 1)
        return [NamedImage("Shepp-Logan", torch.nn.functional.interpolate(whole, (side, side), mode="area"))]
    low, high = HOUNSFIELD
    try:
        with np.load(phantom, allow_pickle=False) as archive:
            hu = archive["hu"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{phantom}: expected an .npz file with `hu` ({error}).") from error
    x = ((torch.from_numpy(hu.astype(np.float32)) - low) / (high - low)).clamp(0, 1)[:, None]
    x = torch.nn.functional.interpolate(x, (side, side), mode="area") * circle_mask(side)
    count = len(x) if limit is None else min(limit, len(x))
    spread = [round(i * (len(x) - 1) / max(count - 1, 1)) for i in range(count)]
    return [NamedImage(f"slice {i}", x[i : i + 1]) for i in spread]


def validation_slices(n: int) -> list[NamedImage]:
    """The objects on which strengths are chosen: a made-up head, and a photograph in a circle, which has texture everywhere.

    The head has a skull, a brain with smooth texture, ventricles, sinuses and small bones. It alone would choose a total
    variation far too strong for real slices.
    """
    coarse = torch.randn((1, 1, 24, 24), generator=torch.Generator().manual_seed(0))
    texture = (
        0.02 * torch.nn.functional.interpolate(coarse, (n, n), mode="bicubic") * ellipse_image(n, (BRAIN,)).float()
    )
    head = (ellipse_image(n, HEAD).float()[None, None] + texture).clamp(0, 1)
    circle = photograph(VALIDATION[0], n) * circle_mask(n)
    return [NamedImage("made-up head", head), NamedImage(f"{VALIDATION[0]} in a circle", circle)]


@functools.cache
def geometry_of(name: str, n: int) -> SymmetricTomography:
    """The forward model, of norm at most 1; distances of the fan beam in pixels."""
    kind, count = name.split()
    angles = np.arange(int(count)) * (180.0 if kind == "parallel" else 360.0) / int(count)
    if kind == "parallel":
        parallel = ParallelBeam(angles, n_det=math.ceil(1.05 * n))
        return ParallelBeamTomography(parallel, (1, n, n), mask="circle", normalize=True)
    near, far, bins = 2.2 * n, 1.7 * n, math.ceil(1.1 * n)
    fan = FanBeam(angles, source_distance=near, detector_distance=far, det_spacing=(near + far) / near, n_det=bins)
    return FanBeamTomography(fan, (1, n, n), mask="circle", normalize=True)


def scan(image: NamedImage, geometry: str, noise: str, config: CtConfig) -> Case:
    """One simulated scan."""
    key = {"image": image.name, "geometry": geometry, "noise": noise}

    def make() -> Observation:
        physics = geometry_of(geometry, image.x.shape[-1])
        generator = seeded(config.seed, key)
        clean = physics.A(image.x)
        if noise == "Gaussian":
            deviation = config.scans.gaussian * float(clean.max())
            y = clean + deviation * torch.randn(clean.shape, generator=generator)
        else:
            y, deviation = photon_noise(clean, config.scans.photons, generator)
        return Observation(image.x, y, deviation, physics)

    return Case(key, f"{geometry}, {noise}", make)


def photon_noise(clean: Tensor, photons: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Logarithms of Poisson counts, and the root mean square of their noise.

    With p = c·Ax the attenuation and I photons per ray, the variance of the datum is about eᵖ/(c²I). The priors run with
    plain least squares all the same: with the counts as weights the problem is so badly conditioned that nothing converges
    within the limits.
    """
    scale = LARGEST_INTEGRAL / float(clean.max())
    counts = torch.poisson(photons * torch.exp(-scale * clean.double()), generator=generator).clamp_min(1)
    y = (-(counts / photons).log() / scale).to(clean.dtype)
    return y, float((photons / counts).mean() / photons) ** 0.5 / scale
