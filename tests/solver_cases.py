"""Small problems with a dense truth, shared by the solver tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from deepinv.physics import LinearPhysics, Tomography
from torch import Tensor, nn

from pnp_lip.certificates import MapBound, Proof, rule
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.layers import GradientFlowConv2d, Identity, project
from pnp_lip.operators import Blur, gaussian_psf

SIZE = 8
SHAPE = (1, SIZE, SIZE)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Reflection(nn.Module):
    """x ↦ −x: an isometry, nonexpansive and not averaged, under which the plain iteration cycles for ever."""

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        return -x


@rule(Reflection)
def certify_reflection(module: Reflection, path: str, rtol: float) -> Proof:
    return Proof(MapBound(Fraction(1), None))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def denoiser(*, limit: float = 0.97, layers: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any):
    """A small untrained network, nonexpansive after projection; ``limit`` 0.5 with one layer makes it firm."""
    torch.manual_seed(seed)
    small = {"channels": 4, "hidden_channels": 6, "kernel_size": 3, "dilations": (1,) * layers}
    options = {**small, "padding_mode": "zeros", **options}  # zeros: iterations settle in a few hundred steps
    net = GradientFlowDenoiser(default_sigma=0.1, **options)
    for layer in net.layers:  # a trained denoiser acts more strongly than an untrained one
        torch.nn.init.constant_(layer.activation.log_scale, math.log(0.5))
    return project(net, limit=limit).to(dtype).eval()


def linear_denoiser(*, limit: float = 0.97, seed: int = 0, dtype: torch.dtype = torch.float64) -> GradientFlowConv2d:
    """D = Id − τWᵀW with 0 < WᵀW, a symmetric matrix with eigenvalues in (1 − 2·limit, 1)."""
    torch.manual_seed(seed)
    layer = GradientFlowConv2d(1, 4, 3, padding_mode="circular", activation=Identity())
    with torch.no_grad():
        layer.weight[0, 0, 1, 1] += 0.3
    return project(layer, limit=limit).to(dtype).eval()


def blur(dtype: torch.dtype = torch.float64, padding: str = "circular") -> Blur:
    return Blur(gaussian_psf(0.6), SHAPE, padding=padding, dtype=dtype)


class MatrixPhysics(LinearPhysics):
    """y = Mx for a dense matrix, whose norm only the user can vouch for."""

    def __init__(self, matrix: Tensor, shape: tuple[int, ...] = SHAPE) -> None:
        super().__init__()
        self.matrix, self.shape = matrix, shape

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return (y @ self.matrix).reshape(-1, *self.shape)

    @property
    def norm(self) -> float:
        return float(torch.linalg.matrix_norm(self.matrix, 2)) * (1 + 1e-12)


def tomography() -> Tomography:
    """deepinv's parallel beam with its exact adjoint, in double precision."""
    return Tomography(angles=7, img_width=SIZE, circle=False, normalize=False, dtype=torch.float64)


def matrix_physics(rows: int = 40, seed: int = 3, dtype: torch.dtype = torch.float64) -> MatrixPhysics:
    """A wide random matrix: the data alone do not determine the image."""
    return MatrixPhysics(random(rows, SIZE * SIZE, seed=seed, dtype=dtype) / SIZE)


def unknown_physics(dtype: torch.dtype = torch.float64) -> MatrixPhysics:
    """A signed matrix on more pixels than a dense norm proof takes: nothing is known of its norm."""
    return MatrixPhysics(random(5, 33 * 33, seed=3, dtype=dtype) / 33, (1, 33, 33))


def dense(f: Callable[[Tensor], Tensor], shape: tuple[int, ...] = SHAPE) -> Tensor:
    """The matrix of a linear map of images."""
    n = int(torch.tensor(shape).prod())
    with torch.no_grad():
        return f(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1).T


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
