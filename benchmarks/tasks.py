"""The three comparisons of priors: denoising, deblurring and tomography."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.comparison import Case, Comparison, denoise, restore, seeded
from pnp_lip.benchmarks.config import CtConfig, DeblurringConfig, DenoisingConfig
from pnp_lip.benchmarks.photographs import VALIDATION, NamedImage, hashes, on_trial, photograph, sha256_of
from pnp_lip.benchmarks.priors import PotentialPrior, Prior
from pnp_lip.benchmarks.problem import Observation
from pnp_lip.benchmarks.record import Destination, Record, Row
from pnp_lip.errors import InputError
from pnp_lip.operators import Blur, FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.operators.psf import box_psf, gaussian_psf, load_psf, shake_psf
from pnp_lip.operators.tomography import SymmetricTomography, circle_mask

__all__ = ["ct", "deblurring", "denoising", "load_psfs", "load_slices", "validation_slices"]

VALIDATION_SHAKES = {0: 7, 10: 4, 11: 10}  # seed and reach of the kernels of the validation; those on trial have others
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


def denoising(config: DenoisingConfig, to: Destination, priors: Sequence[Prior]) -> Row:
    """The record of every prior on every image and noise level; continues the one that is there."""
    images, held_out, data = on_trial(config.photographs)
    cases = [noisy(image, level, config.seed) for level in config.levels for image in images]
    validation = [noisy(image, level, config.seed) for level in config.levels for image in held_out]
    measure = functools.partial(denoise, limits=config.limits)
    comparison = Comparison(Record.open(to, "denoising", config, data), validation, measure, config.limits.oracle)
    return comparison.run(cases, [at_true_level(prior) for prior in priors])


def at_true_level(prior: Prior) -> Prior:
    """The prior at the true noise level, if it takes one; only thresholds, total variation and relaxations are tuned."""
    if not isinstance(prior, PotentialPrior) and prior.strength.acts_as != "noise level squared":
        return prior
    return dataclasses.replace(prior, strength=dataclasses.replace(prior.strength, grid=(1.0,)))


def noisy(image: NamedImage, level: float, seed: int) -> Case:
    """One image with white Gaussian noise; strengths are chosen anew for each noise level."""
    key = {"image": image.name, "sigma": level}

    def make() -> Observation:
        y = image.x + level / 255 * torch.randn(image.x.shape, generator=seeded(seed, key))
        return Observation(image.x, y, level / 255)

    return Case(key, f"sigma {level:g}", make)


def deblurring(config: DeblurringConfig, to: Destination, priors: Sequence[Prior]) -> Row:
    """The record of every prior on every image, blur and noise level; continues the one that is there."""
    images, held_out, data = on_trial(config.photographs)
    psfs = load_psfs(config.kernels, config.kernel_limit, config.kernel_names)
    # In float32: processors differ in the last bit of an exponential, and a record is continued on any of them.
    data["kernels"] = {name: sha256_of(psf.float()) for name, psf in psfs.items()}
    shakes = validation_shakes(config.photographs.side)
    data["validation_kernels"] = {name: sha256_of(psf.float()) for name, psf in shakes.items()}
    cases, validation = [], []
    for noise in config.noises:
        cases += [blurred(image, *psf, noise, config.seed) for image, psf in meet(images, psfs, config.paired)]
        validation += [blurred(image, *psf, noise, config.seed) for image, psf in meet(held_out, shakes, True)]
    measure = functools.partial(restore, limits=config.limits)
    record = Record.open(to, "deblurring", config, data)
    return Comparison(record, validation, measure, config.limits.oracle).run(cases, priors)


def validation_shakes(side: int) -> dict[str, Tensor]:
    """The kernels on which strengths are chosen, for images of ``side`` pixels."""
    return {
        f"shake {seed}": shake_psf(torch.Generator().manual_seed(seed), reach=min(reach, side // 2 - 1))
        for seed, reach in VALIDATION_SHAKES.items()
    }


def meet(images: Sequence[NamedImage], psfs: Mapping[str, Tensor], paired: bool) -> list[tuple[NamedImage, tuple[str, Tensor]]]:
    """Image i with kernel i modulo their number if ``paired``, else every image with every kernel."""
    kernels = list(psfs.items())
    if paired:
        return [(image, kernels[i % len(kernels)]) for i, image in enumerate(images)]
    return [(image, kernel) for kernel in kernels for image in images]


def blurred(image: NamedImage, name: str, psf: Tensor, noise: float, seed: int) -> Case:
    """One problem: circular borders, white Gaussian noise; strengths are chosen anew for each noise level."""
    key = {"image": image.name, "kernel": name, "noise": noise}

    def make() -> Observation:
        physics = Blur(psf, (image.x.shape[1], image.x.shape[2], image.x.shape[3]), padding="circular")
        y = physics.A(image.x)
        return Observation(image.x, y + noise * torch.randn(y.shape, generator=seeded(seed, key)), noise, physics)

    return Case(key, f"noise {noise:g}", make)


def load_psfs(folder: Path | None, limit: int | None = None, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Camera shakes by name, the package's or those in a folder's images, npy and npz files; a Gaussian of 1.6, a box of 9.

    ``folder`` may be an npz file. ``names`` keeps those kernels, ``limit`` the first of them all. Raises InputError for a
    folder without kernels and for an unknown name.
    """
    psfs: dict[str, Tensor] = {}
    if folder is None:
        psfs |= {f"shake{n}": shake_psf(torch.Generator().manual_seed(n), reach=4 + 2 * n) for n in (1, 2, 3, 4)}
    else:
        paths = [folder] if folder.is_file() else sorted(folder.glob("*"))
        for path in (p for p in paths if p.suffix.lower() in (".npz", ".npy", ".png")):
            if path.suffix.lower() == ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    psfs |= {name: load_psf(path, key=name) for name in sorted(archive.keys())}
            else:
                psfs[path.stem] = load_psf(path)
        if not psfs:
            raise InputError(f"{folder}: no kernels (.npz, .npy, .png) there.")
    psfs |= {"gaussian 1.6": gaussian_psf(1.6), "box 9": box_psf(9)}
    unknown = [name for name in names if name not in psfs]
    if unknown:
        raise InputError(f"no kernel is called {', '.join(unknown)}; there are {', '.join(psfs)}.")
    psfs = {name: psfs[name] for name in names or psfs}
    return dict(list(psfs.items())[:limit])


def ct(config: CtConfig, to: Destination, priors: Sequence[Prior]) -> Row:
    """The record of every prior on every slice, geometry and noise; continues the one that is there."""
    slices, held_out = load_slices(config.phantom, config.limit, config.side), validation_slices(config.side)
    source = "scikit-image" if config.phantom is None else config.phantom.stem
    data = {"images": hashes(slices), "validation": hashes(held_out), "source": source}
    scans = [(geometry, noise) for geometry in config.scans.geometries for noise in config.scans.noises]
    cases, validation = ([scan(s, *how, config) for how in scans for s in which] for which in (slices, held_out))
    measure = functools.partial(restore, limits=config.limits)
    return Comparison(Record.open(to, "ct", config, data), validation, measure, config.limits.oracle).run(cases, priors)


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
    texture = 0.02 * torch.nn.functional.interpolate(coarse, (n, n), mode="bicubic") * ellipse_image(n, (BRAIN,)).float()
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
