"""The registry of operators that the generic tests run over: a new operator is one new line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pnp_lip.operators import Blur, CertifiedPhysics, disk_kernel, gaussian_kernel, motion_kernel

Build = Callable[[torch.dtype], CertifiedPhysics]


@dataclasses.dataclass(frozen=True)
class OperatorCase:
    """``build`` makes the operator in a dtype; ``gap`` is how far norm_upper may lie above ‖A‖, relatively."""

    name: str
    build: Build
    gap: float


def signed_kernel(height: int, width: int) -> Tensor:
    return torch.randn(height, width, generator=torch.Generator().manual_seed(height + 10 * width), dtype=torch.float64)


def triangular_kernel(height: int, width: int) -> np.ndarray:
    """Nonnegative and without any symmetry."""
    return np.triu(np.arange(1.0, height * width + 1).reshape(height, width)) / (height * width)


def blur(kernel: Tensor | np.ndarray, size: tuple[int, int, int], **options: object) -> Build:
    return lambda dtype: Blur(kernel, size, dtype=dtype, **options)  # type: ignore[arg-type]


def blur_cases() -> list[OperatorCase]:
    colour = torch.stack([gaussian_kernel(s, size=5) for s in (0.8, 1.0, 1.3)])
    cases = [
        OperatorCase("blur, colour kernels", blur(colour, (3, 9, 8)), 1e-3),
        OperatorCase("disk, circular", blur(disk_kernel(2.2), (1, 12, 13)), 1e-3),
        OperatorCase("signed, circular", blur(signed_kernel(3, 4), (1, 14, 15)), 1e-3),
        OperatorCase("gaussian, zeros", blur(gaussian_kernel(1.5), (1, 16, 16), padding="zeros"), 1e-2),
        OperatorCase("one row, zeros", blur(signed_kernel(1, 2), (1, 9, 9), padding="zeros"), 1e-2),
        OperatorCase("signed, valid", blur(signed_kernel(3, 4), (1, 36, 33), padding="valid"), 1e-2),
    ]
    for padding in ("circular", "zeros", "replicate", "reflect", "valid"):
        gap = 1e-3 if padding == "circular" else 1e-2
        even, signed = triangular_kernel(4, 6), signed_kernel(2, 3)
        cases += [
            OperatorCase(
                f"motion, {padding}, odd image", blur(motion_kernel(7, 30), (1, 15, 17), padding=padding), gap
            ),
            OperatorCase(f"asymmetric even, {padding}, two channels", blur(even, (2, 13, 12), padding=padding), gap),
            OperatorCase(f"normalised, {padding}", blur(signed, (1, 9, 10), padding=padding, normalize=True), gap),
        ]
    return cases


CASES = blur_cases()


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
