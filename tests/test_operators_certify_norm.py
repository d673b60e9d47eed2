"""certify_norm on deepinv's physics: never below the dense norm, and refusals that give the reason."""

from __future__ import annotations

from typing import Any

import deepinv.physics as dp
import pytest
import torch

from pnp_lip.errors import CertificateError
from pnp_lip.operators import Blur, certify_norm, gaussian_psf
from pnp_lip.operators.collatz_wielandt import collatz_wielandt, gamma_factor

FILTER = gaussian_psf(1.0).float()[None, None]
MAPS = torch.randn(1, 2, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def tomography(**options: Any) -> dp.Tomography:
    return dp.Tomography(angles=12, img_width=12, normalize=False, **options)


def dense_norm(physics: Any, size: tuple[int, ...], dtype: torch.dtype) -> float:
    n = torch.Size(size).numel()
    y = physics.A(torch.eye(n, dtype=dtype).reshape(n, *size))
    y = y.flatten(1) if isinstance(y, torch.Tensor) else torch.cat([part.flatten(1) for part in y], 1)
    return float(torch.linalg.matrix_norm(y.double(), 2))


CASES = [
    ("denoising", dp.Denoising, (1, 6, 6), 1e-12),
    ("inpainting", lambda: dp.Inpainting((1, 8, 8), mask=0.5), (1, 8, 8), 1e-12),
    ("demosaicing", lambda: dp.Demosaicing((3, 8, 8)), (3, 8, 8), 1e-12),
    ("MRI", lambda: dp.MRI(mask=torch.rand(1, 2, 8, 8)), (2, 8, 8), 1e-5),
    ("multi-coil MRI", lambda: dp.MultiCoilMRI(coil_maps=MAPS, img_size=(2, 8, 8)), (2, 8, 8), 1e-5),
    ("decolorize", dp.Decolorize, (3, 5, 5), 1e-6),
    ("blur fft", lambda: dp.BlurFFT((1, 12, 13), filter=FILTER), (1, 12, 13), 1e-5),
    ("blur fft, signed", lambda: dp.BlurFFT((1, 12, 13), filter=torch.randn(1, 1, 3, 4)), (1, 12, 13), 1e-5),
    ("blur replicate", lambda: dp.Blur(filter=FILTER, padding="replicate"), (1, 12, 13), 1e-2),
    ("blur constant", lambda: dp.Blur(filter=FILTER, padding="constant"), (1, 12, 13), 1e-2),
    ("downsampling", lambda: dp.Downsampling((1, 12, 12), filter="bicubic", factor=2), (1, 12, 12), 1e-5),
    ("decimation", lambda: dp.Downsampling((1, 12, 12), filter=None, factor=2), (1, 12, 12), 1e-12),
    (
        "downsampling, replicate",
        lambda: dp.Downsampling((1, 12, 12), filter="gaussian", factor=2, padding="replicate"),
        (1, 12, 12),
        5e-3,
    ),
    ("upsampling", lambda: dp.Upsampling((1, 12, 12), filter="bilinear", factor=2), (1, 6, 6), 1e-5),
    ("pansharpen", lambda: dp.Pansharpen((3, 8, 8), factor=2), (3, 8, 8), 0.5),
    ("tomography", tomography, (1, 12, 12), 5e-3),
    ("tomography in float64", lambda: tomography(dtype=torch.float64), (1, 12, 12), 2e-3),
    ("fan beam", lambda: tomography(fan_beam=True), (1, 12, 12), 5e-3),
    ("compressed sensing", lambda: dp.CompressedSensing(m=9, img_size=(1, 6, 6)), (1, 6, 6), 1e-5),
    ("composition", lambda: tomography() * dp.BlurFFT((1, 12, 12), filter=FILTER), (1, 12, 12), 0.1),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("make", "size", "gap"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bounds_enclose_the_dense_norm(make: Any, size: tuple[int, ...], gap: float) -> None:
    torch.manual_seed(0)
    physics = make()
    dtype = getattr(physics, "dtype", torch.float32)
    norm, bound = dense_norm(physics, size, dtype), certify_norm(physics, img_size=size)
    assert norm * (1 - 1e-6) <= bound.upper <= norm * (1 + gap)  # the dense truth itself is rounded in float32
    assert bound.lower <= norm * (1 + 1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inexact_adjoint_is_refused() -> None:
    physics = tomography(adjoint_via_backprop=False)
    with pytest.raises(CertificateError, match="inexact adjoint"):
        certify_norm(physics)
    with pytest.raises(CertificateError):
        certify_norm(physics, img_size=(1, 12, 12), nonnegative=True)


class Wrong(dp.LinearPhysics):  # type: ignore[misc]
    """Two operators that claim too much: a negative entry, and an adjoint that is 1 % off in one entry."""

    def __init__(self, matrix: torch.Tensor, adjoint: torch.Tensor) -> None:
        super().__init__(img_size=(1, 1, 3))
        self.matrix, self.adjoint = matrix, adjoint

    def A(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return x @ self.matrix.T

    def A_adjoint(self, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return y @ self.adjoint.T


def test_false_claims_are_refused() -> None:
    positive = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 1.0], [3.0, 1.0, 1.0]])
    off = positive.T.clone()
    off[1, 0] *= 1.01
    negative = positive * torch.tensor([1.0, -1.0, 1.0])
    good = certify_norm(Wrong(positive, positive.T), nonnegative=True)
    norm = float(torch.linalg.matrix_norm(positive.double(), 2))
    assert good.lower <= norm <= good.upper <= 1.005 * norm
    with pytest.raises(CertificateError, match="transpose"):
        certify_norm(Wrong(positive, off), nonnegative=True)
    with pytest.raises(CertificateError, match="negative"):
        certify_norm(Wrong(negative, negative.T), nonnegative=True)


def test_refusals_name_the_reason() -> None:
    with pytest.raises(CertificateError, match="no structure"):
        certify_norm(dp.CompressedSensing(m=4, img_size=(1, 40, 40)))
    with pytest.raises(CertificateError, match="image size"):
        certify_norm(dp.Blur(filter=FILTER, padding="replicate"))
    with pytest.raises(CertificateError, match="no filter"):
        certify_norm(dp.Blur(filter=None), img_size=(1, 8, 8))
    with pytest.raises(CertificateError, match="no mask"):
        certify_norm(dp.Inpainting((1, 8, 8)))
    with pytest.raises(CertificateError, match="LinearPhysics"):
        certify_norm(torch.nn.Identity())

    class Doubled(dp.Denoising):  # type: ignore[misc]
        def A(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return 2 * x

    with pytest.raises(CertificateError, match="Doubled"):
        certify_norm(Doubled())
    assert certify_norm(Doubled(), img_size=(1, 5, 5)).upper == pytest.approx(2)


def test_ours_composed_with_theirs() -> None:
    blur = Blur(gaussian_psf(1.0), (1, 8, 8))
    physics = dp.Inpainting((1, 8, 8), mask=0.5) * blur
    assert certify_norm(physics).upper == pytest.approx(1, abs=1e-6)


def test_collatz_wielandt_holds_for_any_positive_vector() -> None:
    matrix = torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix[:, 3] = 0
    norm_sq = float(torch.linalg.matrix_norm(matrix, 2) ** 2)
    slack = gamma_factor(20, torch.float64)
    for seed in range(10):
        v = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1e-3
        for iterations in (1, 3, 30):
            found = collatz_wielandt(lambda u: matrix.T @ (matrix @ u), v, rounding=slack, tol=1e-12, max_iter=iterations)
            assert found.lower_sq <= norm_sq * (1 + 1e-14)
            assert found.upper_sq >= norm_sq * (1 - 1e-14)
    assert found.upper_sq <= norm_sq * (1 + 1e-9)
    with pytest.raises(CertificateError, match="negative"):
        collatz_wielandt(lambda u: -u, v, rounding=0.0)
    assert collatz_wielandt(lambda u: 0 * u, v, rounding=0.0).upper_sq == 0
    with pytest.raises(CertificateError, match="float64"):
        gamma_factor(10**8, torch.float32)
