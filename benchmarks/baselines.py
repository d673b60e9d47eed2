"""Priors without training, from deepinv: total variation of two orders, wavelets, BM3D, a median filter."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from pnp_lip.errors import InputError

__all__ = ["BASELINES", "total_generalised_variation", "total_variation"]

Level: TypeAlias = "float | Tensor | None"  # a threshold λ or a noise level σ
Map: TypeAlias = Callable[[Tensor, Level], Tensor]


def total_variation(inner_iterations: int = 60) -> Map:
    """deepinv's total-variation prox as a denoiser (x, λ) ↦ x, started afresh at each call so that it is a fixed map.

    Its default stopping rule ends after one iteration when λ is as small as here, which makes the prox a bad one. With
    τ = 0.03 its correction was 6 to 7 % off after 40 iterations and 1 % after 100; with the default τ = 0.01, 11 to 13 %
    after 100.
    """
    from deepinv.models import TVDenoiser

    return lambda x, threshold: TVDenoiser(n_it_max=inner_iterations, crit=0.0, tau=0.03)(x, ths=threshold)


def total_generalised_variation(inner_iterations: int = 150) -> Map:
    """deepinv's prox of second-order total generalised variation, (x, λ) ↦ x, started afresh at each call.

    λ is the weight of the first-order part, which deepinv takes tenfold. With its default τ = 0.01 it needs a thousand
    iterations to come as far as with 0.1 in two hundred.
    """
    from deepinv.models import TGVDenoiser

    def prox(x: Tensor, threshold: Level) -> Tensor:
        solver = TGVDenoiser(n_it_max=inner_iterations, crit=0.0)
        solver.tau = 0.1
        denoised: Tensor = solver(x, ths=threshold if threshold is None else 10 * threshold)
        return denoised

    return prox


def wavelets() -> Map:
    """Soft thresholding in an orthonormal Daubechies-8 basis, (x, λ) ↦ x; needs the package ptwt."""
    require("ptwt")
    from deepinv.models import WaveletDenoiser

    model = WaveletDenoiser(level=3)
    return lambda x, threshold: model(x, ths=threshold)


def bm3d() -> Map:
    """BM3D (x, σ) ↦ x; needs the package bm3d."""
    require("bm3d")
    from deepinv.models import BM3D

    model = BM3D()
    return lambda x, sigma: model(x, sigma).to(x)


def median() -> Map:
    """The 3 × 3 median, whatever the noise level."""
    from deepinv.models import MedianFilter

    model = MedianFilter(kernel_size=3)
    return lambda x, sigma: model(x)


def require(package: str) -> None:
    """Raise InputError when an optional package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"the package {package} is not installed")


# By name: the builder, and whether λ is a threshold (any strength scales it) or the map has a noise level or nothing.
BASELINES: dict[str, tuple[Callable[[], Map], bool]] = {
    "TV": (total_variation, True),
    "TGV": (total_generalised_variation, True),
    "wavelets": (wavelets, True),
    "BM3D": (bm3d, False),
    "median": (median, False),
}
