"""Reading and writing images, and the figures of merit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.io import imsave

from pnp_lip.errors import InputError
from pnp_lip.images import psnr, ssim, to_grey, write_atomically
from pnp_lip.pictures import read_image, write_image


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip(tmp_path: Path, suffix: str, channels: int) -> None:
    levels = torch.randint(256, (1, channels, 7, 9), generator=torch.Generator().manual_seed(0))
    x = levels.float() / 255
    write_image(tmp_path / f"x{suffix}", x)
    assert torch.allclose(read_image(tmp_path / f"x{suffix}"), x, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [f"x{suffix}"]


def test_sixteen_bits_alpha_and_booleans(tmp_path: Path) -> None:
    imsave(tmp_path / "a.png", np.full((4, 4), 65535, dtype=np.uint16), check_contrast=False)
    assert read_image(tmp_path / "a.png").max() == 1
    imsave(tmp_path / "b.png", np.full((4, 4, 4), 255, dtype=np.uint8), check_contrast=False)
    assert read_image(tmp_path / "b.png").shape == (1, 3, 4, 4)
    assert read_image(tmp_path / "b.png", grey=True).shape == (1, 1, 4, 4)
    np.save(tmp_path / "c.npy", np.eye(3, dtype=bool))
    assert read_image(tmp_path / "c.npy").sum() == 3


def test_photographs_are_read_as_the_camera_was_held(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(np.array([[0, 0, 0], [255, 255, 255]], np.uint8)).save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png")[0, 0].tolist() == [[1, 0]] * 3


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 1.5), r"\[0, 1\]"),
        (np.zeros((4, 4, 7)), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.zeros((4, 4), dtype=complex), "real numbers"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "x.npy")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such image"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="could not be read"):
        read_image(tmp_path / "text.png")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="could not be read"):
        read_image(tmp_path / "object.npy")
    with pytest.raises(InputError, match="suffix"):
        write_image(tmp_path / "x.txt", torch.zeros(1, 1, 2, 2))
    with pytest.raises(InputError, match="directory"):
        (tmp_path / "folder.png").mkdir()
        write_image(tmp_path / "folder.png", torch.zeros(1, 1, 2, 2))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_figures_of_merit() -> None:
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert psnr(x + 0.1, x) == pytest.approx(20.0, abs=1e-5)
    assert ssim(x, x) == pytest.approx(1.0) and ssim(x, 1 - x) < 0
    assert torch.allclose(to_grey(torch.ones(1, 3, 2, 2)), torch.ones(1, 1, 2, 2))


def test_noise_may_leave_the_unit_interval_where_that_is_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array([[-0.2, 1.3]]))
    assert read_image(tmp_path / "y.npy", beyond=0.5).flatten().tolist() == pytest.approx([-0.2, 1.3])
    with pytest.raises(InputError, match=r"in \[0, 1\]; got \[-0.2, 1.3\]"):
        read_image(tmp_path / "y.npy")
    with pytest.raises(InputError, match=r"in \[-0.25, 1.25\]"):
        read_image(tmp_path / "y.npy", beyond=0.25)
    write_image(tmp_path / "x.npy", torch.tensor([[[-0.2, 1.3]]]))
    assert read_image(tmp_path / "x.npy").flatten().tolist() == [0, 1]


@pytest.mark.parametrize("kind", [np.int64, np.int16, np.uint32, np.int8])
def test_integers_that_do_not_say_what_white_is_are_refused(tmp_path: Path, kind: type) -> None:
    np.save(tmp_path / "y.npy", np.full((4, 4), 100, dtype=kind))
    with pytest.raises(InputError, match="does not say which number is white"):
        read_image(tmp_path / "y.npy")
