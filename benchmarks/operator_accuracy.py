"""Accuracy and certificates of the operators, on phantoms and on measured data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.operator_record import Record, record
from pnp_lip.operators import (
    Blur,
    CertifiedPhysics,
    FanBeam,
    FanBeamTomography,
    ParallelBeam,
    ParallelBeamTomography,
    gaussian_psf,
    hounsfield_to_attenuation,
    motion_psf,
)
from pnp_lip.operators.phantoms import ellipse_image, ellipse_sinogram

__all__ = ["accuracy", "admm_steps", "cranium", "norms", "prox_errors", "tilt_series"]


def accuracy() -> list[Record]:
    """Relative L2 error of the sinogram against the exact bin means of the Shepp-Logan phantom, 256² and 60 views."""
    import deepinv
    from skimage.transform import radon

    n, n_det, angles = 256, 363, np.arange(0, 180, 3.0)
    x = ellipse_image(n)[None, None].float()
    truth = ellipse_sinogram(n, torch.from_numpy(angles), n_det)

    def error(sinogram: Tensor) -> float:
        return float((sinogram - truth).norm() / truth.norm())

    other = deepinv.physics.Tomography(angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False)
    case = "Shepp-Logan sinogram 256^2, 60 views"
    models = {
        model: ParallelBeamTomography(ParallelBeam(angles, n_det=n_det, model=model), (1, n, n)).A(x)[0, 0]
        for model in ("strip", "joseph")
    }
    return [
        record(case, "relative error, strip", error(models["strip"]), at_most=0.008),
        record(case, "relative error, joseph", error(models["joseph"])),
        record(case, "relative error of deepinv", error(other.A(x)[0, 0])),
        record(
            case, "relative error of skimage", error(torch.from_numpy(radon(x[0, 0].numpy(), angles, circle=False)))
        ),
    ]


def norms() -> list[Record]:
    """upper/‖A‖ − 1 with ‖A‖ by a Lanczos iteration to 1e-12 in float64; negative would be a false certificate."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    half, full = np.arange(0, 180, 1.5), np.arange(0, 360, 2.0)
    operators: dict[str, tuple[CertifiedPhysics, float]] = {
        "parallel 128^2, 120 views": (ParallelBeamTomography(half, (1, 128, 128)), 1e-3),
        "fan 128^2, 180 views": (
            FanBeamTomography(
                FanBeam(full, source_distance=256.0, detector_distance=256.0, det_spacing=2.0), (1, 128, 128)
            ),
            1e-3,
        ),
    }
    for padding in ("circular", "zeros", "replicate", "reflect", "valid"):
        bar = 1e-3 if padding == "circular" else 1e-2
        for name, kernel in (("gaussian", gaussian_psf(2.0)), ("motion", motion_psf(15, 30))):
            operators[f"blur 64^2, {name}, {padding}"] = Blur(kernel, (1, 64, 64), padding=padding), bar
    records = []
    for case, (physics, bar) in operators.items():
        n = physics.img_size[1]

        def gram(v: np.ndarray, physics: Any = physics, n: int = n) -> np.ndarray:
            x = torch.from_numpy(np.asarray(v, dtype=np.float64)).reshape(1, 1, n, n)
            return np.asarray(physics.adjoint_map(physics.forward_map(x)).flatten().numpy())

        operator = LinearOperator((n * n, n * n), matvec=gram, dtype=np.float64)
        norm = float(np.sqrt(eigsh(operator, k=1, tol=1e-12, return_eigenvectors=False)[0]))
        records.append(
            record(
                case, "norm_upper over the norm, less 1", physics.norm_upper / norm - 1, at_most=bar, at_least=-1e-12
            )
        )
    return records


def prox_errors() -> list[Record]:
    """Largest actual error over reported bound against a dense solution, γ from 1 to 1e6: at most 1, always."""
    n = 24
    physics_list: dict[str, CertifiedPhysics] = {
        "parallel 24^2": ParallelBeamTomography(np.arange(0, 180, 4.0), (1, n, n), normalize=True),
        "fan 24^2": FanBeamTomography(
            FanBeam(np.arange(0, 360, 8.0), source_distance=40.0, detector_distance=30.0), (1, n, n), normalize=True
        ),
        "blur 24^2, reflect": Blur(motion_psf(7, 20), (1, n, n), padding="reflect", normalize=True),
        "blur 24^2, circular": Blur(motion_psf(7, 20), (1, n, n), normalize=True),
    }
    records = []
    for case, physics in physics_list.items():
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
        records.append(record(case, "prox: largest error over bound", max(ratios), at_most=1.0))
    return records


def admm_steps() -> list[Record]:
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
    return [
        record("ADMM 256^2, 180 views, gamma 1000", "conjugate gradient steps in 30 iterations", steps, at_most=120)
    ]


def tilt_series(folder: Path, pictures: Path | None) -> list[Record]:
    """Tikhonov reconstruction (one prox from zero) of measured electron-tomography sinograms."""
    path = folder / "tilt_series8.npz"
    archive = np.load(path, allow_pickle=False)
    scale = float(np.percentile(archive["sinograms"], 99))
    y = torch.from_numpy(archive["sinograms"] / scale).permute(0, 2, 1)[:, None].contiguous()
    physics = ParallelBeamTomography(ParallelBeam(archive["tilts_deg"], n_det=256), (1, 256, 256), normalize=True)
    result = physics.solve_prox(torch.zeros(len(y), 1, 256, 256), y, 3e3, tol=1e-3 * float(y.norm()))
    residual = float((physics.A(result.x) - y).norm() / y.norm())
    save_picture(pictures, "tilt_series", torch.cat([result.x[0, 0], physics.fbp(y, filter="hann")[0, 0]], 1))
    case = "electron tomography 256^2, 77 tilts"
    return [
        record(case, "relative data residual", residual, at_most=0.03) | {"data_sha256": sha256(path)},
        record(case, "symmetries used", len(physics.plan.group)),
    ]


def cranium(folder: Path, pictures: Path | None) -> list[Record]:
    """Simulated fan-beam scan of head slices: relative error of filtered back-projection and of Tikhonov."""
    path = folder / "cranium8.npz"
    hu = torch.from_numpy(np.load(path, allow_pickle=False)["hu"].astype(np.float32))[:, None]
    x = hounsfield_to_attenuation(hu)
    geometry = FanBeam(
        np.arange(0, 360, 1.0), source_distance=540.0, detector_distance=410.0, pixel_size=0.957, det_spacing=1.5
    )
    physics = FanBeamTomography(geometry, (1, 256, 256))
    y = physics.A(x)
    fbp = physics.fbp(y)
    scale = physics.norm_upper**2
    result = physics.solve_prox(0.9 * fbp, y, 1e3 / scale, tol=1e-3 * float(x.norm()))
    save_picture(pictures, "cranium", torch.cat([x[4, 0], fbp[4, 0], result.x[4, 0]], 1))
    case = "head CT 256^2, fan beam, 360 views"
    return [
        record(case, "relative error of FBP", float((fbp - x).norm() / x.norm())) | {"data_sha256": sha256(path)},
        record(case, "relative error of Tikhonov", float((result.x - x).norm() / x.norm())),
        record(case, "relative data residual", float((physics.A(result.x) - y).norm() / y.norm())),
    ]


def save_picture(folder: Path | None, name: str, image: Tensor) -> None:
    """Write an image stretched to its own range, for looking at."""
    if folder is None:
        return
    from skimage.io import imsave

    folder.mkdir(parents=True, exist_ok=True)
    low, high = float(image.quantile(0.01)), float(image.quantile(0.995))
    grey = ((image - low) / (high - low)).clamp(0, 1) * 255
    imsave(folder / f"{name}.png", grey.numpy().astype(np.uint8), check_contrast=False)


def sha256(path: Path) -> str:
    """Fingerprint of a data file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
