"""Tomography: parallel beam with 32, 60 and 180 views, fan beam with 360; Gaussian and Poisson noise; every prior, and FBP.

``run(Config(...), path, priors)`` fills a record; ``pnp-lip bench ct`` is the command.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.comparison import Case, Scene, Tell, compare, seeded
from pnp_lip.benchmarks.deblurring import settings
from pnp_lip.benchmarks.photographs import VALIDATION, NamedImage, photograph, sha256_of
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Record
from pnp_lip.benchmarks.restoration import Limits, measure_restoration, quality, timed
from pnp_lip.errors import InputError
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.operators.tomography import SymmetricTomography, circle_mask

__all__ = ["Config", "run"]

FILTERS = ("ramp", "shepp-logan", "hann")  # FBP's grid
FBP = Prior("FBP", None, grid=(0.0, 1.0, 2.0), reason="filtered back-projection iterates nothing")
LARGEST_INTEGRAL = 4.0  # of the attenuation along a ray, for Poisson noise


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


@dataclasses.dataclass(frozen=True)
class Config:
    """``phantom`` is an .npz file with ``hu`` (slices, n, n) in Hounsfield units, None for Shepp and Logan's; ``tilts`` one
    with ``sinograms`` (slices, angles, bins) and ``tilts_deg``; ``limit`` keeps so many slices, evenly spaced, of each.

    Slices are reduced to ``side`` pixels by averaging. ``gaussian`` is the noise's standard deviation over the largest
    datum, ``photons`` the count per ray of Poisson noise.
    """

    phantom: Path | None = None
    tilts: Path | None = None
    geometries: tuple[str, ...] = ("parallel 32", "parallel 60", "parallel 180", "fan 360")
    noises: tuple[str, ...] = ("Gaussian", "Poisson")
    gaussian: float = 0.01
    photons: float = 1e5
    limit: int | None = None
    side: int = 128
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
    """The record of every prior, and of FBP, on every slice, geometry and noise; continues the one at ``path``."""
    slices = load_slices(config.phantom, config.limit, config.side)
    held_out = validation_slices(config.side)
    data: dict[str, Any] = {
        "images": {s.name: s.sha256 for s in slices},
        "validation": {s.name: s.sha256 for s in held_out},
        "source": "scikit-image" if config.phantom is None else config.phantom.stem,
    }
    cases: list[Case] = []
    validation: dict[str, list[Case]] = {}
    for geometry in config.geometries:
        for noise in config.noises:
            cases += [scan(s, geometry, noise, config) for s in slices]
            validation[f"{geometry}, {noise}"] = [scan(s, geometry, noise, config) for s in held_out]
    if config.tilts is not None:
        measured, reference = measured_cases(config.tilts, config)
        cases += measured
        validation["tilt series"] = [reference]
        data["tilts"] = sha256_of(torch.from_numpy(np.load(config.tilts, allow_pickle=False)["sinograms"]))
    record = Record.open(path, "ct", settings(config), data, fresh=fresh)
    for name, reason in (skipped or {}).items():
        record.skip(name, reason)
    compare(record, cases, validation, [FBP, *priors], functools.partial(measure, limits=config.limits), tell)
    return record.content


def measure(prior: Prior, strength: float, scene: Scene, tuning: bool, limits: Limits) -> tuple[Tensor, dict[str, Any]]:
    """FBP with the strength's filter, or the solver's reconstruction."""
    if prior.name != FBP.name:
        return measure_restoration(prior, strength, scene, tuning, limits)
    name = FILTERS[int(strength)]
    data = scene.y
    x_hat, times = timed(lambda: scene.physics.fbp(data, filter=name).clamp(0, 1))
    return x_hat, {**quality(x_hat, scene), **times, "filter": name}


def load_slices(phantom: Path | None, limit: int | None, side: int) -> list[NamedImage]:
    """The objects on trial as images on [0, 1]: attenuations from −1000 to 1600 HU, or Shepp and Logan's phantom."""
    if phantom is None:
        from skimage.data import shepp_logan_phantom

        whole = torch.from_numpy(shepp_logan_phantom()).float()[None, None].clamp(0, 1)
        x = torch.nn.functional.interpolate(whole, (side, side), mode="area")
        return [NamedImage("Shepp-Logan", x, sha256_of(x))]
    try:
        hu = np.load(phantom, allow_pickle=False)["hu"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{phantom}: expected an .npz file with an array `hu` ({error}).") from error
    x = ((torch.from_numpy(hu.astype(np.float32)) + 1000) / 2600).clamp(0, 1)[:, None]
    x = torch.nn.functional.interpolate(x, (side, side), mode="area") * circle_mask(side)
    return [NamedImage(f"slice {i}", x[i : i + 1], sha256_of(x[i])) for i in spread(len(x), limit)]


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
    return [made_up_head(n), NamedImage(f"{VALIDATION[0]} in a circle", x, sha256_of(x))]


def made_up_head(n: int) -> NamedImage:
    """Skull, brain with smooth texture, ventricles, sinuses, small bones."""
    x = ellipse_image(n, HEAD).float()[None, None]
    coarse = torch.randn((1, 1, 24, 24), generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.interpolate(coarse, (n, n), mode="bicubic")
    inside = ellipse_image(n, (BRAIN,)).float()
    x = (x + 0.02 * texture * inside).clamp(0, 1)
    return NamedImage("made-up head", x, sha256_of(x))


@functools.cache
def geometry_of(name: str, n: int) -> SymmetricTomography:
    """The forward model, of norm at most 1; distances of the fan beam in pixels."""
    kind, views = name.split()
    if kind == "parallel":
        angles = np.arange(int(views)) * 180.0 / int(views)
        parallel = ParallelBeam(angles, n_det=math.ceil(1.05 * n))
        return ParallelBeamTomography(parallel, (1, n, n), mask="circle", normalize=True)
    angles = np.arange(int(views)) * 360.0 / int(views)
    near, far = 2.2 * n, 1.7 * n
    fan = FanBeam(
        angles,
        source_distance=near,
        detector_distance=far,
        det_spacing=(near + far) / near,
        n_det=math.ceil(1.1 * n),
    )
    return FanBeamTomography(fan, (1, n, n), mask="circle", normalize=True)


def scan(image: NamedImage, geometry: str, noise: str, config: Config) -> Case:
    """One simulated scan."""
    key = {"image": image.name, "geometry": geometry, "noise": noise}

    def make() -> Scene:
        physics = geometry_of(geometry, image.x.shape[-1])
        generator = seeded(config.seed, key)
        clean = physics.A(image.x)
        if noise == "Gaussian":
            deviation = config.gaussian * float(clean.max())
            y = clean + deviation * torch.randn(clean.shape, generator=generator)
        else:
            y, deviation = photon_noise(clean, config.photons, generator)
        return Scene(image.x, y, physics, deviation, shown=physics.fbp(y).clamp(0, 1))

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


def measured_cases(path: Path, config: Config) -> tuple[list[Case], Case]:
    """Real sinograms, whose truth nobody knows, and the simulated scan with their angles and noise for the strengths."""
    try:
        archive = np.load(path, allow_pickle=False)
        sinograms, degrees = torch.from_numpy(archive["sinograms"].astype(np.float32)), archive["tilts_deg"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected an .npz file with `sinograms` and `tilts_deg` ({error}).") from error
    n = sinograms.shape[-1]
    physics = ParallelBeamTomography(ParallelBeam(degrees, n_det=n), (1, n, n), normalize=True)
    raw = sinograms.permute(0, 2, 1)[:, None].contiguous()
    brightest = float(physics.fbp(raw, filter="hann").flatten().kthvalue(int(0.995 * raw.shape[0] * n * n)).values)
    y = raw / brightest
    deviation = robust_noise(y)
    cases = []
    for i in spread(len(y), config.limit):
        key = {"image": f"tilt series {i}", "geometry": f"{len(degrees)} tilts", "noise": "measured"}
        cases.append(Case(key, "tilt series", functools.partial(measured_scene, y[i : i + 1], physics, deviation)))
    image = made_up_head(n)
    key = {"image": image.name, "geometry": f"{len(degrees)} tilts", "noise": "Gaussian"}

    def make() -> Scene:
        clean = physics.A(image.x)
        data = clean + deviation * torch.randn(clean.shape, generator=seeded(config.seed, key))
        return Scene(image.x, data, physics, deviation, shown=physics.fbp(data).clamp(0, 1))

    return cases, Case(key, "tilt series", make)


def measured_scene(y: Tensor, physics: SymmetricTomography, deviation: float) -> Scene:
    """Data without a truth."""
    return Scene(None, y, physics, deviation, shown=physics.fbp(y).clamp(0, 1))


def robust_noise(y: Tensor) -> float:
    """The standard deviation of white noise in (…, bins, views), from second differences along the bins.

    Second differences of a smooth signal vanish and those of white noise have √6 times its deviation; the median makes
    edges harmless.
    """
    second = y[..., 2:, :] - 2 * y[..., 1:-1, :] + y[..., :-2, :]
    return float(second.abs().median()) / 0.6745 / math.sqrt(6)
