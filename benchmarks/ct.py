"""Tomography: parallel beam with 32, 60 and 180 views, fan beam with 360; Gaussian and Poisson noise; every prior, and FBP."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.benchmarks.comparison import Case, Comparison, Observation, seeded
from pnp_lip.benchmarks.config import CtConfig, Limits
from pnp_lip.benchmarks.photographs import VALIDATION, NamedImage, hashes, photograph, sha256_of
from pnp_lip.benchmarks.priors import Prior, Strength
from pnp_lip.benchmarks.record import Destination, Record, Row
from pnp_lip.benchmarks.restoration import measure_restoration, quality
from pnp_lip.benchmarks.timing import timed
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
BRIGHTEST = 0.995  # the quantile of a measured image's pixels that becomes 1

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
    data: Row = {"images": hashes(slices), "validation": hashes(held_out), "source": source}
    cases: list[Case] = []
    validation: dict[str, list[Case]] = {}
    for geometry in config.scans.geometries:
        for noise in config.scans.noises:
            cases += [scan(s, geometry, noise, config) for s in slices]
            validation[f"{geometry}, {noise}"] = [scan(s, geometry, noise, config) for s in held_out]
    if config.tilts is not None:
        counts, degrees = load_array(config.tilts, "sinograms", "tilts_deg")
        sinograms = torch.from_numpy(counts.astype(np.float32))
        measured, reference = measured_cases(sinograms, degrees, config)
        cases += measured
        validation["tilt series"] = [reference]
        data["tilts"] = sha256_of(sinograms)
    record = Record.open(to, "ct", config, data)
    measure = functools.partial(measure_scan, limits=config.limits)
    return Comparison(record, validation, measure).run(cases, [FBP, *priors])


def measure_scan(
    prior: Prior, strength: float, observation: Observation, tuning: bool, limits: Limits
) -> tuple[Tensor, Row]:
    """FBP with the strength's filter, or the solver's reconstruction."""
    y, physics = observation.y, observation.physics
    if prior.name != FBP.name or not isinstance(physics, SymmetricTomography):
        return measure_restoration(prior, strength, observation, tuning, limits)
    name = FILTERS[int(strength)]
    x_hat, times = timed(lambda: physics.fbp(y, filter=name).clamp(0, 1))
    return x_hat, {**quality(x_hat, observation), **times, "filter": name}


def load_array(path: Path, *names: str) -> list[NDArray[np.generic]]:
    """Arrays of an .npz file. Raises InputError when one is missing or the file cannot be read."""
    try:
        archive = np.load(path, allow_pickle=False)
        return [archive[name] for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: expected an .npz file with {' and '.join(f'`{n}`' for n in names)} ({error})."
        ) from error


def load_slices(phantom: Path | None, limit: int | None, side: int) -> list[NamedImage]:
    """The objects on trial as images on [0, 1]: attenuations from −1000 to 1600 HU, or Shepp and Logan's phantom."""
    if phantom is None:
        from skimage.data import shepp_logan_phantom

        whole = torch.from_numpy(shepp_logan_phantom()).float()[None, None].clamp(0, 1)
        return [NamedImage("Shepp-Logan", torch.nn.functional.interpolate(whole, (side, side), mode="area"))]
    low, high = HOUNSFIELD
    (hu,) = load_array(phantom, "hu")
    x = ((torch.from_numpy(hu.astype(np.float32)) - low) / (high - low)).clamp(0, 1)[:, None]
    x = torch.nn.functional.interpolate(x, (side, side), mode="area") * circle_mask(side)
    return [NamedImage(f"slice {i}", x[i : i + 1]) for i in spread(len(x), limit)]


def spread(count: int, limit: int | None) -> list[int]:
    """``limit`` indices below ``count``, evenly spaced.

    >>> spread(8, 3)
    [0, 4, 7]
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [round(i * (count - 1) / max(limit - 1, 1)) for i in range(limit)]


def validation_slices(n: int) -> list[NamedImage]:
    """The objects on which strengths are chosen: a made-up head, and a photograph in a circle, which has texture everywhere.

    The head alone would choose a total variation far too strong for real slices.
    """
    x = photograph(VALIDATION[0], n) * circle_mask(n)
    return [made_up_head(n), NamedImage(f"{VALIDATION[0]} in a circle", x)]


def made_up_head(n: int) -> NamedImage:
    """Skull, brain with smooth texture, ventricles, sinuses, small bones."""
    x = ellipse_image(n, HEAD).float()[None, None]
    coarse = torch.randn((1, 1, 24, 24), generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.interpolate(coarse, (n, n), mode="bicubic")
    inside = ellipse_image(n, (BRAIN,)).float()
    return NamedImage("made-up head", (x + 0.02 * texture * inside).clamp(0, 1))


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
        return scanned(image.x, y, physics, deviation)

    return Case(key, f"{geometry}, {noise}", make)


def scanned(x: Tensor | None, y: Tensor, physics: SymmetricTomography, deviation: float) -> Observation:
    """Data, which FBP shows."""
    return Observation(x, y, physics, deviation, shown=physics.fbp(y).clamp(0, 1))


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


def measured_cases(sinograms: Tensor, degrees: NDArray[np.generic], config: CtConfig) -> tuple[list[Case], Case]:
    """Real sinograms, whose truth nobody knows, and the simulated scan with their angles and noise for the strengths."""
    n, geometry = sinograms.shape[-1], f"{len(degrees)} tilts"
    physics = ParallelBeamTomography(ParallelBeam(degrees, n_det=n), (1, n, n), normalize=True)
    raw = sinograms.permute(0, 2, 1)[:, None].contiguous()
    pixels = physics.fbp(raw, filter="hann").flatten()
    y = raw / float(pixels.kthvalue(int(BRIGHTEST * len(pixels))).values)
    deviation = robust_noise(y)
    cases = []
    for i in spread(len(y), config.limit):
        key = {"image": f"tilt series {i}", "geometry": geometry, "noise": "measured"}
        cases.append(Case(key, "tilt series", functools.partial(scanned, None, y[i : i + 1], physics, deviation)))
    image = made_up_head(n)
    key = {"image": image.name, "geometry": geometry, "noise": "Gaussian"}

    def make() -> Observation:
        clean = physics.A(image.x)
        data = clean + deviation * torch.randn(clean.shape, generator=seeded(config.seed, key))
        return scanned(image.x, data, physics, deviation)

    return cases, Case(key, "tilt series", make)


def robust_noise(y: Tensor) -> float:
    """The standard deviation of white noise in (…, bins, views), from second differences along the bins.

    Second differences of a smooth signal vanish and those of white noise have √6 times its deviation; the median makes
    edges harmless.
    """
    second = y[..., 2:, :] - 2 * y[..., 1:-1, :] + y[..., :-2, :]
    return float(second.abs().median()) / 0.6745 / math.sqrt(6)
