"""Blur against deepinv and against the definition; PSFs against closed forms; bad input."""

from __future__ import annotations

import math
from pathlib import Path

import deepinv
import numpy as np
import pytest
import torch

from pnp_lip import operators
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators import Blur, box_psf, disk_psf, gaussian_psf, load_psf, motion_psf
from pnp_lip.operators.collatz_wielandt import leading_vectors

PADDINGS = ("circular", "zeros", "replicate", "reflect", "valid")


def rand(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(9, 9), (8, 8), (7, 10), (4, 3)])
def test_agrees_with_deepinv(padding: str, size: tuple[int, int]) -> None:
    kernel, x = rand(*size), rand(2, 2, 24, 21, seed=1)
    ours = Blur(kernel, (2, 24, 21), padding=padding, dtype=torch.float64)
    theirs = deepinv.physics.Blur(filter=kernel[None, None], padding="constant" if padding == "zeros" else padding)
    y = ours.A(x)
    torch.testing.assert_close(y, theirs.A(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.A_adjoint(y), theirs.A_adjoint(y), rtol=0, atol=1e-11)


def test_agrees_with_blurfft_and_its_prox() -> None:
    kernel, x, z = gaussian_psf(1.2), rand(1, 3, 20, 19), rand(1, 3, 20, 19, seed=1)
    ours = Blur(kernel, (3, 20, 19), dtype=torch.float64)
    theirs = deepinv.physics.BlurFFT((3, 20, 19), filter=kernel[None, None]).double()
    y = ours.A(x)
    torch.testing.assert_close(y, theirs.A(x), rtol=0, atol=1e-6)  # BlurFFT keeps its phases in complex64
    torch.testing.assert_close(ours.prox_l2(z, y, 3.0), theirs.prox_l2(z, y, 3.0), rtol=0, atol=1e-5)


def test_is_a_convolution_by_its_definition() -> None:
    kernel, x = rand(2, 3), rand(1, 1, 5, 6, seed=1)
    y = Blur(kernel, (1, 5, 6), dtype=torch.float64).A(x)
    for i in range(5):
        for j in range(6):
            expected = sum(kernel[a, b] * x[0, 0, (i + 1 - a) % 5, (j + 1 - b) % 6] for a in range(2) for b in range(3))
            assert float(y[0, 0, i, j]) == pytest.approx(float(expected), abs=1e-13)


def test_replicate_padding_of_a_unit_sum_psf_exceeds_one() -> None:
    assert Blur(motion_psf(31, 20), (1, 64, 64), padding="replicate").norm_lower > 1.02


@pytest.mark.parametrize("padding", ["zeros", "valid", "replicate", "reflect"])
def test_bounds_of_larger_images_enclose_a_long_power_iteration(padding: str) -> None:
    shake = torch.rand(9, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64).triu()
    for psf in (gaussian_psf(2.0), box_psf(9), shake / shake.sum(), shake.abs() * 1e-200):
        physics = Blur(psf, (1, 150, 170), padding=padding, dtype=torch.float64)
        bound, v = physics.norm_bound(), torch.ones(1, 1, 150, 170, dtype=torch.float64)
        scaled = Blur(psf / psf.sum(), (1, 150, 170), padding=padding, dtype=torch.float64)
        for _ in range(300):
            v = scaled.A_adjoint(scaled.A(v))
            v = v / v.norm()
        norm = float(scaled.A(v).norm() * psf.sum())
        assert norm <= bound.upper <= 1.002 * norm and bound.lower <= bound.upper


def test_normalize_gives_a_norm_of_at_most_one() -> None:
    for dtype in (torch.float32, torch.float64):
        physics = Blur(7.3 * gaussian_psf(1.0), (1, 20, 20), padding="replicate", normalize=True, dtype=dtype)
        assert 0.998 < physics.norm_lower <= physics.norm_upper <= 1


def test_per_channel_psfs_stay_in_their_channel() -> None:
    kernels = torch.stack([gaussian_psf(1.0, size=5), 2 * box_psf(5)])
    physics = Blur(kernels, (2, 10, 10), dtype=torch.float64)
    assert physics.norm_upper == pytest.approx(2)
    x = rand(1, 2, 10, 10)
    single = Blur(kernels[1], (1, 10, 10), dtype=torch.float64)
    torch.testing.assert_close(physics.A(x)[:, 1:], single.A(x[:, 1:]), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("psf", "error", "message"),
    [
        (torch.ones(9, 3), InputError, "larger than the image"),
        (torch.zeros(3, 3), InputError, "zero everywhere"),
        (torch.tensor([[1.0, float("nan")]]), InputError, "NaN"),
        (torch.full((2, 2), 1e200, dtype=torch.float64), InputError, "NaN or infinite"),
        (torch.ones(2, 3, 3), ShapeError, "channels"),
        (torch.ones(3), ShapeError, "PSF has shape"),
        (torch.ones(0, 3), ShapeError, "PSF has shape"),
        (torch.ones(2, 2, dtype=torch.complex64), ShapeError, "real numbers"),
    ],
)
def test_bad_psfs_are_refused(psf: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Blur(psf, (1, 8, 8))


@pytest.mark.parametrize("kind", ["box", "disk", "gaussian", "load", "motion", "shake"])
def test_old_names_of_psfs_warn(kind: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{kind}_kernel is now pnp_lip.operators.{kind}_psf"):
        old = getattr(operators, f"{kind}_kernel")
    assert old is getattr(operators, f"{kind}_psf")
    with pytest.raises(AttributeError, match="no attribute"):
        _ = operators.nothing_kernel


def test_bad_settings_are_refused() -> None:
    kernel = torch.ones(3, 3)
    with pytest.raises(InputError, match="padding"):
        Blur(kernel, (1, 8, 8), padding="mirror")
    with pytest.raises(ShapeError, match="dtype"):
        Blur(kernel, (1, 8, 8), dtype=torch.float16)
    with pytest.raises(ShapeError, match="img_size"):
        Blur(kernel, (8, 8))  # type: ignore[arg-type]


def test_psfs_have_unit_sum_and_the_right_spread() -> None:
    for kernel in (gaussian_psf((1.0, 2.0), angle=30), box_psf((3, 4)), disk_psf(3.3), motion_psf(9.5, 77)):
        assert float(kernel.sum()) == pytest.approx(1)
        assert bool((kernel >= 0).all())
    kernel = gaussian_psf((2.0, 1.0), size=21)
    u = torch.arange(21) - 10
    assert float((kernel.sum(0) * u**2).sum()) == pytest.approx(4, rel=1e-3)  # σ₁ lies along the columns
    assert float((kernel.sum(1) * u**2).sum()) == pytest.approx(1, rel=1e-3)
    turned = gaussian_psf((2.0, 1.0), size=21, angle=90)
    torch.testing.assert_close(turned, kernel.T)


def test_disk_has_exact_areas() -> None:
    kernel = disk_psf(1.0)
    centre_row = kernel[1] * math.pi
    # The area of a unit disk beyond x = 1/2, within |y| ≤ 1/2, by elementary geometry.
    side = 2 * (0.5 * (0.5 * math.sqrt(0.75) + math.asin(0.5)) - 0.25)
    assert centre_row.tolist() == pytest.approx([side, 1.0, side], abs=1e-12)
    corner = (math.pi - 1 - 4 * side) / 4
    assert float(kernel[0, 0] * math.pi) == pytest.approx(corner, abs=1e-12)


def test_motion_has_the_moments_of_its_segment() -> None:
    for length, angle in ((6.0, 0.0), (7.3, 25.0), (11.0, 90.0), (5.0, 135.0)):
        kernel = motion_psf(length, angle)
        rows, columns = (torch.arange(n, dtype=torch.float64) - n // 2 for n in kernel.shape)
        mean = (float((kernel.sum(1) * rows).sum()), float((kernel.sum(0) * columns).sum()))
        assert mean == pytest.approx((0, 0), abs=1e-12)
        across = float((kernel * rows[:, None] * columns[None, :]).sum())
        expected = -(length**2) / 12 * math.sin(math.radians(angle)) * math.cos(math.radians(angle))
        assert across == pytest.approx(expected, abs=1e-10)  # bilinear spreading keeps first and mixed moments


def test_load_psf_reads_images_and_arrays(tmp_path: Path) -> None:
    from skimage.io import imsave

    shake = np.zeros((5, 7))
    shake[2, 1:6] = [10, 20, 30, 20, 20]
    expected = torch.from_numpy(shake / shake.sum())
    np.save(tmp_path / "k.npy", shake)
    np.savez(tmp_path / "k.npz", kernel=shake, other=shake[:1])
    imsave(tmp_path / "k.png", shake.astype(np.uint8), check_contrast=False)
    torch.testing.assert_close(load_psf(tmp_path / "k.npy"), expected)
    torch.testing.assert_close(load_psf(tmp_path / "k.npz", key="kernel"), expected)
    torch.testing.assert_close(load_psf(tmp_path / "k.png"), expected)


def test_load_psf_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        load_psf(tmp_path / "missing.npy")
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="could not be read"):
        load_psf(tmp_path / "broken.npy")
    np.savez(tmp_path / "k.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    with pytest.raises(InputError, match="key="):
        load_psf(tmp_path / "k.npz")
    with pytest.raises(InputError, match="no array 'c'"):
        load_psf(tmp_path / "k.npz", key="c")
    for name, array, message in (
        ("cube", np.ones((2, 2, 2)), "two axes"),
        ("nan", np.full((2, 2), np.nan), "NaN"),
        ("zero", np.zeros((2, 2)), "not positive"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(InputError, match=message):
            load_psf(tmp_path / f"{name}.npy")


@pytest.mark.parametrize(
    "make",
    [
        lambda: gaussian_psf(0.0),
        lambda: gaussian_psf((1.0, -1.0)),
        lambda: gaussian_psf(1.0, size=0),
        lambda: gaussian_psf(1.0, angle=float("inf")),
        lambda: box_psf((3, 0)),
        lambda: disk_psf(float("nan")),
        lambda: motion_psf(-2.0),
        lambda: motion_psf(2.0, float("nan")),
    ],
)
def test_psf_builders_refuse_bad_parameters(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("padding", ["circular", "zeros", "replicate", "reflect", "valid"])
def test_a_channel_that_is_zero_has_the_norm_of_the_other(padding):
    psf = torch.stack([torch.zeros(3, 3), gaussian_psf(0.8, size=3).float()])
    both, one = Blur(psf, (2, 9, 9), padding=padding), Blur(psf[1], (1, 9, 9), padding=padding)
    assert both.norm_upper == one.norm_upper


@pytest.mark.parametrize("padding", ["replicate", "reflect"])
def test_the_bound_of_a_large_image_is_sharp(padding: str) -> None:
    """Box PSFs: the norm is the product of those of the rows and the columns, which are dense matrices."""
    size = (600, 700)
    physics = Blur(box_psf((9, 4)), (1, *size), padding=padding, dtype=torch.float64)
    norm = 1.0
    for n, taps in zip(size, (9, 4), strict=True):
        axis = Blur(torch.ones(taps, 1) / taps, (1, n, 1), padding=padding, dtype=torch.float64)
        norm *= float(torch.linalg.matrix_norm(axis.A(torch.eye(n, dtype=torch.float64)[:, None, :, None])[:, 0, :, 0], 2))
    assert norm <= physics.norm_upper <= 1.0005 * norm


def test_leading_vectors_are_starts_from_which_one_product_suffices() -> None:
    """B = AᵀA of a random A ≥ 0, whose largest eigenvalue is known."""
    A = torch.rand(150, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8 + 3 * torch.eye(150)
    rho = float(torch.linalg.eigvalsh(A.T @ A)[-1])
    phi, v = leading_vectors(lambda x: (A.T @ (A @ x.flatten())).reshape(10, 15), (10, 15))
    assert float(phi.min()) > 0 and float(v.min()) > 0
    assert float(((A.T @ (A @ v.flatten())) / v.flatten()).max()) <= 1.001 * rho
    assert float((A @ phi.flatten()).square().sum() / phi.square().sum()) >= 0.999 * rho
