"""Priors without training, from deepinv: total variation of two orders, wavelets, BM3D, a median filter; a smoothed variation."""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import CurvatureBound
from pnp_lip.errors import InputError
from pnp_lip.protocols import DenoiserLike

__all__ = ["BASELINES", "SmoothedTotalVariation", "total_generalised_variation", "total_variation"]


@dataclasses.dataclass(frozen=True)
class SmoothedTotalVariation:
    """R(x) = Σ h_δ(|∇x|), h_δ(t) = t²/(2δ) + δ/2 below δ and t above, a potential for ``Variational``; it ignores σ.

    ∇ has forward differences, zero beyond the last row and column. R is convex, and ∇R is 8/δ-Lipschitz: state ``curvature``.
    Total variation lies at most δ/2 a pixel below it. ``Variational`` solves it to its tolerance in some hundred gradients. A
    third of δ changes the PSNR of tomography by up to 0.02 dB (four solutions, made-up head and a head slice).

    >>> potential = SmoothedTotalVariation()
    >>> step = torch.tensor([[[[0.0, 1.0]]]])
    >>> round(potential.fn(step, None).item(), 4), potential.grad(step, None).tolist()
    (1.0005, [[[[-1.0, 1.0]]]])
    """

    delta: ClassVar[float] = 1e-3
    curvature: ClassVar[CurvatureBound] = CurvatureBound(0.0, 8 / delta)

    def fn(self, x: Tensor, sigma: object) -> Tensor:
        """R(x), one number per image in float64."""
        size = torch.stack(self.differences(x)).norm(dim=0)
        return torch.where(size < self.delta, size.square() / (2 * self.delta) + self.delta / 2, size).double().sum((1, 2, 3))

    def grad(self, x: Tensor, sigma: object) -> Tensor:
        """∇R(x)."""
        right, down = self.differences(x)
        share = (right.square() + down.square()).sqrt_().clamp_(min=self.delta)
        right, down = right / share, down / share
        gradient = -right - down
        gradient[..., 1:] += right[..., :-1]
        gradient[..., 1:, :] += down[..., :-1, :]
        return gradient

    @staticmethod
    def differences(x: Tensor) -> tuple[Tensor, Tensor]:
        """To the right and downwards."""
        right, down = torch.zeros_like(x), torch.zeros_like(x)
        right[..., :-1] = x.diff(dim=-1)
        down[..., :-1, :] = x.diff(dim=-2)
        return right, down


def total_variation(inner_iterations: int = 60) -> DenoiserLike:
    """deepinv's total-variation prox as a denoiser (x, λ) ↦ x, started afresh at each call so that it is a fixed map.

    Its default stopping rule ends after one iteration when λ is as small as here, which makes the prox a bad one. With
    τ = 0.03 its correction was 6 to 7 % off after 40 iterations and 1 % after 100; with the default τ = 0.01, 11 to 13 %
    after 100.
    """
    from deepinv.models import TVDenoiser

    return lambda x, threshold: TVDenoiser(n_it_max=inner_iterations, crit=0.0, tau=0.03)(x, ths=threshold)


def total_generalised_variation(inner_iterations: int = 150) -> DenoiserLike:
    """deepinv's prox of second-order total generalised variation, (x, λ) ↦ x, started afresh at each call.

    λ is the weight of the first-order part, which deepinv takes tenfold. With its default τ = 0.01 it needs a thousand
    iterations to come as far as with 0.1 in two hundred.
    """
    from deepinv.models import TGVDenoiser

    def prox(x: Tensor, threshold: float | Tensor | None) -> Tensor:
        solver = TGVDenoiser(n_it_max=inner_iterations, crit=0.0)
        solver.tau = 0.1
        denoised: Tensor = solver(x, ths=threshold if threshold is None else 10 * threshold)
        return denoised

    return prox


def wavelets() -> DenoiserLike:
    """Soft thresholding in an orthonormal Daubechies-8 basis, (x, λ) ↦ x; needs the package ptwt."""
    require("ptwt")
    from deepinv.models import WaveletDenoiser

    model = WaveletDenoiser(level=3)
    return lambda x, threshold: model(x, ths=threshold)


def bm3d() -> DenoiserLike:
    """BM3D (x, σ) ↦ x; needs the package bm3d."""
    require("bm3d")
    from deepinv.models import BM3D

    model = BM3D()
    return lambda x, sigma: model(x, sigma).to(x)


def median() -> DenoiserLike:
    """The 3 × 3 median, whatever the noise level."""
    from deepinv.models import MedianFilter

    model = MedianFilter(kernel_size=3)
    return lambda x, sigma: model(x)


def require(package: str) -> None:
    """Raise InputError when an optional package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"the package {package} is not installed")


# By name: the builder, and whether λ is a threshold (any strength scales it) or the map has a noise level or nothing.
BASELINES: dict[str, tuple[Callable[[], DenoiserLike], bool]] = {
    "TV": (total_variation, True),
    "TGV": (total_generalised_variation, True),
    "wavelets": (wavelets, True),
    "BM3D": (bm3d, False),
    "median": (median, False),
}
