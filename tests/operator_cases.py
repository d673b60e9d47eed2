"""The registry of operators that the generic tests run over: a new operator is one new line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from pnp_lip.operators import (
    Blur,
    CertifiedPhysics,
    ConeBeam,
    ConeBeamTomography,
    FanBeam,
    FanBeamTomography,
    ParallelBeam,
    ParallelBeamTomography,
    disk_psf,
    from_scipy,
    gaussian_psf,
    motion_psf,
)

Build = Callable[[torch.dtype], CertifiedPhysics]


@dataclasses.dataclass(frozen=True)
class OperatorCase:
    """``build`` makes the operator in a dtype; ``gap`` is how far norm_upper may lie above ‖A‖, relatively."""

    name: str
    build: Build
    gap: float


def signed_psf(height: int, width: int) -> Tensor:
    return torch.randn(height, width, generator=torch.Generator().manual_seed(height + 10 * width), dtype=torch.float64)


def triangular_psf(height: int, width: int) -> np.ndarray:
    """Nonnegative and without any symmetry."""
    return np.triu(np.arange(1.0, height * width + 1).reshape(height, width)) / (height * width)


def blur(psf: Tensor | np.ndarray, size: tuple[int, int, int], **options: object) -> Build:
    return lambda dtype: Blur(psf, size, dtype=dtype, **options)  # type: ignore[arg-type]


def blur_cases() -> list[OperatorCase]:
    colour = torch.stack([gaussian_psf(s, size=5) for s in (0.8, 1.0, 1.3)])
    cases = [
        OperatorCase("blur, colour PSFs", blur(colour, (3, 9, 8)), 1e-3),
        OperatorCase("disk, circular", blur(disk_psf(2.2), (1, 12, 13)), 1e-3),
        OperatorCase("signed, circular", blur(signed_psf(3, 4), (1, 14, 15)), 1e-3),
        OperatorCase("gaussian, zeros", blur(gaussian_psf(1.5), (1, 16, 16), padding="zeros"), 1e-2),
        OperatorCase("one row, zeros", blur(signed_psf(1, 2), (1, 9, 9), padding="zeros"), 1e-2),
        OperatorCase("signed, valid", blur(signed_psf(3, 4), (1, 14, 15), padding="valid"), 1e-2),
    ]
    for padding in ("circular", "zeros", "replicate", "reflect", "valid"):
        gap = 1e-3 if padding == "circular" else 1e-2
        even, signed = triangular_psf(4, 6), signed_psf(2, 3)
        cases += [
            OperatorCase(f"motion, {padding}, odd image", blur(motion_psf(7, 30), (1, 15, 17), padding=padding), gap),
            OperatorCase(f"asymmetric even, {padding}, two channels", blur(even, (2, 13, 12), padding=padding), gap),
            OperatorCase(f"normalised, {padding}", blur(signed, (1, 9, 10), padding=padding, normalize=True), gap),
        ]
    return cases


def parallel(geometry: ParallelBeam | np.ndarray, size: tuple[int, int, int], **options: object) -> Build:
    return lambda dtype: ParallelBeamTomography(geometry, size, dtype=dtype, **options)  # type: ignore[arg-type]


def fan(angles: np.ndarray, size: tuple[int, int, int], storage: str = "sparse", **detector: object) -> Build:
    geometry = FanBeam(angles, source_distance=14.0, detector_distance=9.0, **detector)  # type: ignore[arg-type]
    return lambda dtype: FanBeamTomography(geometry, size, dtype=dtype, storage=storage)


def cone(angles: np.ndarray, size: tuple[int, int, int, int], normalize: bool = False, **detector: object) -> Build:
    geometry = ConeBeam(angles, source_distance=14.0, detector_distance=9.0, **detector)  # type: ignore[arg-type]
    return lambda dtype: ConeBeamTomography(geometry, size, normalize=normalize, dtype=dtype)


def sparse(signed: bool) -> Build:
    matrix = scipy.sparse.random_array((20, 30), density=0.3, rng=np.random.default_rng(0)).tocsr()
    if signed:
        matrix.data -= 0.5
    return lambda dtype: from_scipy(matrix, (2, 5, 6), data_shape=(4, 5), dtype=dtype)


def tomography_cases() -> list[OperatorCase]:
    half, full, odd = np.arange(0, 180, 15.0), np.arange(0, 360, 18.0), np.array([3.0, 17.0, 50.0, 91.0, 200.0])
    weights = torch.rand(14, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = ParallelBeam(full, n_det=13, det_offset=0.3, det_spacing=0.8, pixel_size=1.1)
    return [
        OperatorCase("parallel", parallel(half, (1, 10, 10)), 1e-3),
        OperatorCase("parallel, odd image, full turn", parallel(full, (2, 9, 9)), 1e-3),
        OperatorCase("parallel, irregular angles", parallel(odd, (1, 10, 10)), 1e-3),
        OperatorCase("parallel, offset detector", parallel(moved, (1, 8, 8)), 1e-3),
        OperatorCase("parallel, joseph", parallel(ParallelBeam(half, model="joseph"), (1, 9, 9)), 1e-3),
        OperatorCase(
            "parallel, weights and mask",
            parallel(ParallelBeam(half, n_det=14), (1, 9, 9), mask="circle", weights=weights),
            1e-3,
        ),
        OperatorCase("parallel, normalised", parallel(half, (1, 8, 8), normalize=True), 1e-3),
        OperatorCase("parallel, matrix-free", parallel(half, (1, 8, 8), storage="free", normalize=True), 1e-3),
        OperatorCase("parallel, one view", parallel(np.array([30.0]), (1, 8, 8)), 1e-3),
        OperatorCase("fan", fan(full, (1, 10, 10)), 1e-3),
        OperatorCase("fan, odd image, irregular", fan(odd, (2, 9, 9), n_det=17), 1e-3),
        OperatorCase("fan, offset detector", fan(half, (1, 8, 8), n_det=15, det_offset=0.7), 1e-3),
        OperatorCase("fan, joseph, matrix-free", fan(full, (1, 8, 8), model="joseph", storage="free"), 1e-3),
        OperatorCase("sparse matrix", sparse(False), 1e-3),
        OperatorCase("signed sparse matrix", sparse(True), 1e-3),
    ]


def cone_cases() -> list[OperatorCase]:
    full, odd = np.arange(0, 360, 60.0), np.array([3.0, 50.0])
    coarse = cone(odd, (1, 5, 4, 4), n_det=(3, 5), det_spacing=3.0, det_offset=(0.4, 0.7))
    return [
        OperatorCase("cone, odd volume and rows, normalised", cone(full, (2, 3, 5, 5), True, n_det=(5, 11)), 1e-2),
        OperatorCase("cone, fine rows", cone(full, (1, 4, 4, 4), n_det=(14, 9), det_spacing=0.6), 1e-2),
        OperatorCase("cone, offset detector, coarse rows", coarse, 1e-2),
    ]


CASES = blur_cases() + tomography_cases() + cone_cases()


def dense(physics: CertifiedPhysics) -> Tensor:
    """The matrix of A in float64, column by column."""
    n = int(np.prod(physics.img_size))
    units = torch.eye(n, dtype=torch.float64).reshape(n, *physics.img_size)
    return physics.forward_map(units).flatten(1).T


def dense_adjoint(physics: CertifiedPhysics) -> Tensor:
    """The matrix of A_adjoint in float64, column by column."""
    m = int(np.prod(physics.data_size))
    units = torch.eye(m, dtype=torch.float64).reshape(m, *physics.data_size)
    return physics.adjoint_map(units).flatten(1).T
