"""The kernels that people have: shifted, one-sided, unnormalised, even, too large, a photograph. Each is right or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from skimage import data
from torch import Tensor

from pnp_lip import deblur
from pnp_lip.command_line.main import main
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, box_psf, check_psf, disk_psf, gaussian_psf, load_psf, motion_psf, parse_psf, shake_psf

MOTION = motion_psf(7, 25)
X = torch.from_numpy(data.camera()[100:160, 180:240])[None, None].float() / 255
H, W = MOTION.shape
Y = Blur(MOTION, (1, 60, 60), padding="valid").A(X)
TRUTH = X[..., H // 2 : -(H // 2), W // 2 : -(W // 2)]


def padded(psf: Tensor, size: int, top: int, left: int) -> Tensor:
    """The PSF on a square of zeros."""
    k = torch.zeros(size, size, dtype=psf.dtype)
    k[top : top + psf.shape[0], left : left + psf.shape[1]] = psf
    return k


CENTRED = padded(MOTION, 25, 12 - H // 2, 12 - W // 2)
MADE = {
    "as it is": (MOTION, 0),
    "not of sum 1": (300 * MOTION, 0),
    "float32": (MOTION.float(), 0),
    "numpy, big-endian": (MOTION.numpy().astype(">f4"), 0),
    "with an axis more": (MOTION[None], 0),
    "with margins": (CENTRED, 0),
    "on an even square": (padded(MOTION, 26, 13 - H // 2, 13 - W // 2), 0),
    "shifted by an FFT": (torch.fft.ifftshift(CENTRED), 1),
    "shifted, of the image's size": (torch.fft.ifftshift(padded(MOTION, 60, 30 - H // 2, 30 - W // 2)), 1),
    "one-sided": (padded(MOTION, 25, 12, 12), 1),
    "in a corner": (padded(MOTION, 25, 0, 0), 1),
}


@pytest.mark.parametrize("name", MADE)
def test_a_kernel_is_found_however_it_was_stored(name: str) -> None:
    psf, lines = MADE[name]
    found, notes = check_psf(psf)
    assert len(notes) == lines and found.sum().item() == pytest.approx(1)
    torch.testing.assert_close(found, MOTION, atol=1e-7, rtol=1e-6)


def test_a_shifted_kernel_restores_as_the_centred_one_does() -> None:
    fast = {"denoiser": "tiny", "tol": 1e-3, "device": "cpu"}
    straight = deblur(Y, MOTION, 0.01, **fast)
    shifted = deblur(Y, torch.fft.ifftshift(CENTRED), 0.01, **fast)
    assert psnr(straight.image, TRUTH) > psnr(Y, TRUTH) + 1.5
    assert torch.equal(straight.image, shifted.image)
    assert straight.notes == () and "corner" in shifted.notes[0]


@pytest.mark.parametrize("psf", [box_psf(4), box_psf((1, 6)), box_psf((6, 3)), torch.tensor([[0.5, 0.5]])])
def test_even_kernels_do_not_move_the_image(psf: Tensor) -> None:
    """By the convention of all blurs here: the tap (h//2, w//2) is at zero."""
    y = Blur(psf, (1, 60, 60), padding="circular").A(X)[..., 10:-10, 10:-10]
    found = deblur(y, psf, 0.005, denoiser="tiny", tol=1e-3, device="cpu")
    moved = {s: psnr(found.image, X.roll(s, (2, 3))[..., 10:-10, 10:-10]) for s in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))}
    assert max(moved, key=moved.get) == (0, 0)
    assert found.notes == ()


@pytest.mark.parametrize(
    "psf", [gaussian_psf(1.6), gaussian_psf(3.0, size=21), gaussian_psf(5.0, size=17), box_psf(9), box_psf(20),
     disk_psf(4.3), motion_psf(12, 35), motion_psf(9, 90),
            shake_psf(torch.Generator().manual_seed(3)), shake_psf(torch.Generator().manual_seed(5)), torch.ones(1, 1)],
)  # fmt: skip
def test_good_kernels_stay_as_they_are(psf: Tensor) -> None:
    found, notes = check_psf(psf)
    assert notes == ()
    y = torch.rand(1, 1, 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = (Blur(k, (1, 40, 40), padding="circular", dtype=torch.float64).A(y) for k in (psf, found))
    torch.testing.assert_close(a, b * psf.sum(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("psf", "error", "message"),
    [
        (torch.from_numpy(data.camera()[::8, ::8].copy()), InputError, "looks like a photograph"),
        (gaussian_psf(1.0) - 0.5 * gaussian_psf(1.0).max(), InputError, "not positive"),
        (torch.tensor([[-0.4, 1.8, -0.4]]), InputError, "31% of the PSF is negative"),
        (torch.zeros(3, 3), InputError, "sum is 0"),
        (torch.full((3, 3), torch.nan), InputError, "NaN"),
        (torch.ones(2, 3, 3), ShapeError, "two axes"),
        (torch.ones(0, 3), ShapeError, "two axes"),
    ],
)
def test_what_is_no_kernel_is_refused(psf: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        deblur(Y, psf, 0.01)


def test_a_kernel_larger_than_the_image_is_refused_unless_its_margin_is_dark() -> None:
    with pytest.raises(InputError, match=r"the PSF \(99 x 99\) is larger than the image"):
        deblur(Y, box_psf(99), 0.01)
    wide = padded(MOTION, 301, 150 - H // 2, 150 - W // 2)
    assert deblur(Y, wide, 0.01, denoiser="tiny", tol=0.5, device="cpu").record["psf_shape"] == [H, W]


@pytest.mark.parametrize(
    "text", ["box:4.7", "box:0", "box:-3", "gaussian", "gaussian:x", "motion:3:4:5", "cube:3", "nothing.npy"]
)
def test_words_that_describe_no_kernel(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "y.npy", Y[0, 0].numpy())
    arguments = ["deblur", str(tmp_path / "y.npy"), "--noise", "0.01", "--psf", text, "-o", str(tmp_path / "x.npy")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("pnp-lip: ") and error.count("\n") == 1


def test_files_of_every_kind(tmp_path: Path) -> None:
    k = MOTION.numpy()
    np.savetxt(tmp_path / "k.txt", k)
    np.savetxt(tmp_path / "k.csv", k, delimiter=",")
    savemat(tmp_path / "k.mat", {"psf": k, "about": "a kernel"})
    np.savez(tmp_path / "k.npz", psf=k, other=np.eye(3))
    np.save(tmp_path / "k.npy", k.astype(">f8"))
    for file in ("k.txt", "k.csv", "k.mat", "k.npz:psf", "k.npy"):
        torch.testing.assert_close(parse_psf(str(tmp_path / file)), MOTION, atol=1e-12, rtol=0)
    for text in ("motion:1e9:0", "gaussian:1001", "disk:inf"):  # before memory runs out
        with pytest.raises(InputError, match="at most 1000"):
            parse_psf(text)
    with pytest.raises(InputError, match=r"it holds 2 arrays; choose one by key= or k\.npz:NAME: psf, other"):
        load_psf(tmp_path / "k.npz")
    savemat(tmp_path / "two.mat", {"a": k, "b": k})
    with pytest.raises(InputError, match="2 arrays"):
        load_psf(tmp_path / "two.mat")


def test_matlab_files_of_version_7_3(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "k.mat", "w", userblock_size=512) as file:
        file["psf"] = MOTION.numpy().T
    with (tmp_path / "k.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\x02IM")
    torch.testing.assert_close(load_psf(tmp_path / "k.mat"), MOTION)


def test_a_column_of_a_matlab_file_stays_one(tmp_path: Path) -> None:
    for shape in ((5, 1), (1, 5), (1, 1)):
        savemat(tmp_path / "k.mat", {"psf": np.ones(shape), "struct": {"a": 1.0}})
        assert load_psf(tmp_path / "k.mat").shape == shape
