"""Accuracy and certificates of the operators, on phantoms and on measured data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.benchmarks.operator_speed import Measurement
from pnp_lip.operators import (
    Blur,
    CertifiedPhysics,
    FanBeamTomography,
    ParallelBeamTomography,
    gaussian_psf,
    hounsfield_to_attenuation,
    motion_psf,
)
from pnp_lip.operators.phantoms import ellipse_image, ellipse_sinogram

__all__ = ["Work", "cases", "cranium", "tilt_series"]

Work = Callable[[], list[Measurement]]


def cases() -> dict[str, Work]:
    """What needs no data, by case."""
    half, full = np.arange(0, 180, 1.5), np.arange(0, 360, 2.0)
    wide = partial(FanBeamTomography, source_distance=256.0, detector_distance=256.0, det_spacing=2.0)
    near = partial(FanBeamTomography, source_distance=40.0, detector_distance=30.0, normalize=True)
    found: dict[str, Work] = {
        "Shepp-Logan sinogram 256^2, 60 views": sinogram,
        "parallel 128^2, 120 views": lambda: norm(ParallelBeamTomography(half, (1, 128, 128)), 1e-3),
        "fan 128^2, 180 views": lambda: norm(wide(full, (1, 128, 128)), 1e-3),
    }
    for padding in ("circular", "zeros", "replicate", "reflect", "valid"):
        bar = 1e-3 if padding == "circular" else 1e-2
        for name, psf in (("gaussian", gaussian_psf(2.0)), ("motion", motion_psf(15, 30))):
            physics = Blur(psf, (1, 64, 64), padding=padding)
            found[f"blur 64^2, {name}, {padding}"] = partial(norm, physics, bar)
    size, shake = (1, 24, 24), motion_psf(7, 20)
    return found | {
        "parallel 24^2": lambda: prox(ParallelBeamTomography(np.arange(0, 180, 4.0), size, normalize=True)),
        "fan 24^2": lambda: prox(near(np.arange(0, 360, 8.0), size)),
        "blur 24^2, reflect": lambda: prox(Blur(shake, size, padding="reflect", normalize=True)),
        "blur 24^2, circular": lambda: prox(Blur(shake, size, normalize=True)),
        "ADMM 256^2, 180 views, gamma 1000": admm_steps,
    }


def sinogram() -> list[Measurement]:
    """Relative L2 error of the sinogram against the exact bin means of the Shepp-Logan phantom, 256² and 60 views."""
    from deepinv.physics import Tomography
    from skimage.transform import radon

    n, n_det, angles = 256, 363, np.arange(0, 180, 3.0)
    x = ellipse_image(n)[None, None].float()
    truth = ellipse_sinogram(n, torch.from_numpy(angles), n_det)

    def error(found: Tensor) -> float:
        return float((found - truth).norm() / truth.norm())

    other = Tomography(angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False)
    strip, joseph = (
        ParallelBeamTomography(angles, (1, n, n), n_det=n_det, model=model).A(x)[0, 0] for model in ("strip", "joseph")
    )
    theirs = torch.from_numpy(radon(x[0, 0].numpy(), angles, circle=False))
    return [
        Measurement("relative error, strip", error(strip), at_most=0.008),
        Measurement("relative error, joseph", error(joseph)),
        Measurement("relative error of deepinv", error(other.A(x)[0, 0])),
        Measurement("relative error of skimage", error(theirs)),
    ]


def norm(physics: CertifiedPhysics, bar: float) -> list[Measurement]:
    """upper/‖A‖ − 1 with ‖A‖ by a Lanczos iteration to 1e-12 in float64; negative would be a false certificate."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    n = physics.img_size[1]

    def gram(v: NDArray[np.float64]) -> NDArray[np.float64]:
        x = torch.from_numpy(np.asarray(v, dtype=np.float64)).reshape(1, 1, n, n)
        return np.asarray(physics.adjoint_map(physics.forward_map(x)).flatten().numpy())

    operator = LinearOperator((n * n, n * n), matvec=gram, dtype=np.float64)
    largest = float(np.sqrt(eigsh(operator, k=1, tol=1e-12, return_eigenvectors=False)[0]))
    excess = physics.norm_upper / largest - 1
    return [Measurement("norm_upper over the norm, less 1", excess, at_most=bar, at_least=-1e-12)]


def prox(physics: CertifiedPhysics) -> list[Measurement]:
    """Largest actual error over reported bound against a dense solution, γ from 1 to 1e6: at most 1, always."""
    n = physics.img_size[1]
    matrix = physics.forward_map(torch.eye(n * n, dtype=torch.float64).reshape(-1, 1, n, n)).flatten(1).T
    _, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    z, x = torch.rand(1, 1, n, n), torch.rand(1, 1, n, n)
    y = physics.A(x)
    ratios = []
    for gamma in (1.0, 1e2, 1e4, 1e6):
        result = physics.solve_prox(z, y, gamma, tol=1e-3)
        right = z.double().flatten() + gamma * (y.double().flatten() @ matrix)
        along = right @ vt.T
        exact = right + (along / (1 + gamma * s**2) - along) @ vt
        ratios.append(float((result.x.double().flatten() - exact).norm() / result.error_bound[0]))
    return [Measurement("prox: largest error over bound", max(ratios), at_most=1.0)]


def admm_steps() -> list[Measurement]:
    """Conjugate-gradient steps over 30 warm-started ADMM iterations, total-variation denoiser, γ = 1000."""
    from skimage.restoration import denoise_tv_chambolle

    n = 256
    physics = ParallelBeamTomography(np.arange(180.0), (1, n, n), normalize=True)
    x_true = ellipse_image(n)[None, None].float()
    y = physics.A(x_true)
    y = y + 0.005 * y.abs().max() * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    x, steps = physics.A_adjoint(y), 0
    v, dual, size = x.clone(), torch.zeros_like(x), float(x_true.norm())
    for k in range(30):
        result = physics.solve_prox(v - dual, y, 1000.0, x0=x, tol=0.02 * size / (k + 1) ** 1.2)
        x, steps = result.x, steps + result.iterations
        denoised = denoise_tv_chambolle((x + dual)[0, 0].numpy(), weight=0.02, max_num_iter=50)
        v = torch.from_numpy(denoised.astype(np.float32))[None, None]
        dual = dual + x - v
    return [Measurement("conjugate gradient steps in 30 iterations", steps, at_most=120)]


def tilt_series(path: Path) -> list[Measurement]:
    """Tikhonov reconstruction (one prox from zero) of measured electron-tomography sinograms."""
    archive = np.load(path, allow_pickle=False)
    scale = float(np.percentile(archive["sinograms"], 99))
    y = torch.from_numpy(archive["sinograms"] / scale).permute(0, 2, 1)[:, None].contiguous()
    physics = ParallelBeamTomography(archive["tilts_deg"], (1, 256, 256), n_det=256, normalize=True)
    result = physics.solve_prox(torch.zeros(len(y), 1, 256, 256), y, 3e3, tol=1e-3 * float(y.norm()))
    residual = float((physics.A(result.x) - y).norm() / y.norm())
    return [
        Measurement("relative data residual", residual, at_most=0.03),
        Measurement("symmetries used", len(physics.plan.group)),
    ]


def cranium(path: Path) -> list[Measurement]:
    """Simulated fan-beam scan of head slices: relative error of filtered back-projection and of Tikhonov."""
    hu = torch.from_numpy(np.load(path, allow_pickle=False)["hu"].astype(np.float32))[:, None]
    x = hounsfield_to_attenuation(hu)
    physics = FanBeamTomography(
        np.arange(0, 360, 1.0), (1, 256, 256), source_distance=540.0, detector_distance=410.0, pixel_size=0.957, det_spacing=1.5
    )  # fmt: skip
    y = physics.A(x)
    fbp = physics.fbp(y)
    result = physics.solve_prox(0.9 * fbp, y, 1e3 / physics.norm_upper**2, tol=1e-3 * float(x.norm()))
    return [
        Measurement("relative error of FBP", float((fbp - x).norm() / x.norm())),
        Measurement("relative error of Tikhonov", float((result.x - x).norm() / x.norm())),
        Measurement("relative data residual", float((physics.A(result.x) - y).norm() / y.norm())),
    ]
