"""The noise level that nobody has stated: against what was put in, through scale, saturation and the commands."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from pnp_lip import deblur, estimate_noise
from pnp_lip.command_line.main import main
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.images import psnr
from pnp_lip.noise import shows_jpeg_blocks
from pnp_lip.operators import Blur, box_psf, gaussian_psf, motion_psf
from pnp_lip.pictures import read_image, write_image
from pnp_lip.restore import shown_level


def picture(name: str, side: int = 200) -> Tensor:
    """(1, 3, side, side) of one of scikit-image's colour photographs."""
    x = torch.from_numpy(np.atleast_3d(getattr(data, name)())).permute(2, 0, 1)[None] / 255
    return x[..., :side, -side:].contiguous()


def noisy(x: Tensor, sigma: float, seed: int = 0) -> Tensor:
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.1])
def test_the_noise_of_colour_photographs_and_of_blurred_grey_ones_is_read_off(name: str, sigma: float) -> None:
    x = picture(name)
    assert estimate_noise(noisy(x, sigma)).item() == pytest.approx(sigma, abs=0.02 * sigma + 1e-3)
    grey = x.mean(1, keepdim=True)
    blurred = Blur(motion_psf(12, 35), (1, 200, 200), padding="valid").A(grey)
    assert estimate_noise(noisy(blurred, sigma)).item() == pytest.approx(sigma, abs=0.02 * sigma + 1e-3)


def test_each_image_has_its_own_level_in_its_own_units() -> None:
    x = picture("chelsea").double()
    y = torch.cat([noisy(x, 0.02), noisy(x, 0.06, seed=1)])
    both = estimate_noise(y)
    assert both.dtype == torch.float64 and both[1] > 2.5 * both[0]
    assert torch.equal(both[1:], estimate_noise(y[1:]))
    assert torch.allclose(estimate_noise(255 * y - 40), 255 * both, rtol=1e-9)


def test_channels_that_are_equal_count_once_and_empty_ones_not() -> None:
    y = noisy(picture("coffee").mean(1, keepdim=True), 0.03)
    assert torch.equal(estimate_noise(y.repeat(1, 3, 1, 1)), estimate_noise(y))
    assert torch.equal(estimate_noise(torch.cat([torch.zeros_like(y), y], 1)), estimate_noise(y))


def test_what_is_saturated_shows_no_noise_and_is_left_out() -> None:
    y = noisy(picture("astronaut"), 0.02)
    y[..., :120, :] = 1.0
    y.clamp_(0, 1)
    assert estimate_noise(y).item() == pytest.approx(0.02, rel=0.1)


def test_a_large_image_is_known_by_a_part_of_its_patches() -> None:
    ramp = torch.linspace(0, 1, 1200).expand(1, 1, 900, 1200)
    assert estimate_noise(noisy(ramp, 0.01)).item() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.rand(40, 40), ShapeError, r"\(B, C, H, W\); got \(40, 40\)"),
        (torch.rand(0, 1, 40, 40), ShapeError, "got"),
        (torch.rand(1, 1, 0, 40), ShapeError, "got"),
        (torch.zeros(1, 1, 40, 40, dtype=torch.uint8), InputError, r"got torch\.uint8\. Convert 8-bit levels"),
        (torch.rand(1, 1, 20, 20), InputError, "20 x 20 pixels have 169. State the noise level"),
        (torch.rand(1, 1, 5, 90), InputError, "5 x 90 pixels have 0"),
        (torch.ones(1, 3, 60, 60), InputError, "not saturated"),
        (torch.full((1, 1, 40, 40), float("nan")), InputError, "NaN"),
    ],
)
def test_bad_input(y: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        estimate_noise(y)


def jpeg(x: Tensor, quality: int, subsampling: int) -> Tensor:
    """The pixels of a JPEG file; ``subsampling`` 2 halves the resolution of the colours (4:2:0)."""
    pixels = (255 * x.clamp(0, 1)).round().byte()[0].permute(1, 2, 0).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(file) as image:
        read = torch.from_numpy(np.array(image)).float() / 255
    return read[None, None] if read.ndim == 2 else read.permute(2, 0, 1)[None]


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("quality", [75, 80, 85, 90, 95, 100])
def test_the_noise_of_a_compressed_file_is_not_estimated_too_low(quality: int, subsampling: int) -> None:
    """Of blurred pictures; in sharp ones it is what is left of luma's noise, which qualities of 75 to 85 remove."""
    y = jpeg(noisy(Blur(motion_psf(8, 35), (3, 128, 128), padding="valid").A(picture("coffee", 128)), 0.02), quality, subsampling)
    assert 0.019 < estimate_noise(y, compressed=True, blurred=True).item() < 0.028
    if subsampling and quality < 100:
        assert estimate_noise(y).item() < 0.02 / 5  # the colours' noise is gone
        assert shown_level(y, None, blurred=True)[1]


@pytest.mark.parametrize("sigma", [0.002, 0.01, 0.04])
def test_white_noise_is_not_taken_for_that_of_a_compressed_file(sigma: float) -> None:
    x = picture("chelsea", 128)
    y = noisy(Blur(motion_psf(8, 35), (3, 128, 128), padding="valid").A(x), sigma)
    level, correlated = shown_level(y, None, blurred=True)
    assert not correlated and level == pytest.approx(sigma, rel=0.06)
    assert shown_level(y[:, :1].repeat(1, 3, 1, 1), None, blurred=True) == shown_level(y[:, :1], None, blurred=True)
    assert estimate_noise(y[..., :40, :40], compressed=True, blurred=True) > 0  # too small to be halved
    assert sigma == 0.002 or not shown_level(noisy(x, sigma), None, blurred=False)[1]


@pytest.mark.parametrize("quality", [75, 90, 95])
def test_a_grey_jpeg_is_known_by_its_blocks(quality: int) -> None:
    """Cropped too, so that no block begins at the border; its noise is then not estimated too low."""
    for psf in (motion_psf(8, 35), gaussian_psf(1.5)):
        x = Blur(psf, (1, 136, 136), padding="valid").A(picture("coffee", 136)[:, :1])
        y = jpeg(noisy(x, 0.01), quality, 0)[..., 3:, 5:]
        level, correlated = shown_level(y, None, blurred=True)
        assert shows_jpeg_blocks(y) and correlated and level > 0.85 * (y - x[..., 3:, 5:]).std()


@pytest.mark.parametrize("name", ["brick", "gravel", "camera", "clock"])
def test_what_was_never_compressed_shows_no_blocks(name: str) -> None:
    for side in (64, 65, 200):
        x = picture(name, side)[:, :1]
        for sigma in (0.0, 0.01, 0.04):
            assert not shows_jpeg_blocks((noisy(x, sigma) * 255).round() / 255)
            assert not shows_jpeg_blocks(noisy(Blur(gaussian_psf(1.0), tuple(x.shape[1:])).A(x), sigma))
    assert not shows_jpeg_blocks(x[..., :63, :]) and not shows_jpeg_blocks(torch.zeros(1, 3, 64, 64))


def test_a_blurred_photograph_that_shows_more_noise_than_was_stated_is_believed() -> None:
    y = jpeg(noisy(Blur(box_psf(5), (3, 100, 100), padding="valid").A(picture("astronaut", 100)), 0.02), 95, 2)
    fast = {"denoiser": "tiny", "tol": 0.5, "device": "cpu"}
    found = deblur(y, box_psf(5), 0.01, **fast)
    assert found.noise == pytest.approx(0.022, abs=0.002) and "more than stated" in found.notes[0]
    assert deblur(y, box_psf(5), 0.02, **fast).noise == 0.02


@pytest.mark.slow
def test_a_compressed_photograph_is_deblurred_as_if_its_noise_were_known() -> None:
    psf = motion_psf(12, 35)
    h, w = psf.shape
    x = torch.from_numpy(data.astronaut()[60 : 171 + h, 110 : 221 + w]).permute(2, 0, 1)[None] / 255
    y = noisy(Blur(psf, tuple(x.shape[1:]), padding="valid").A(x), 0.02)
    truth = x[..., h // 2 : -(h // 2), w // 2 : -(w // 2)]

    def quality(image: Tensor, noise: float | None) -> float:
        return psnr(deblur(image, psf, noise, device="cpu").image, truth)

    file, known = jpeg(y, 95, 2), quality(jpeg(y, 95, 2), 0.02)
    assert quality(file, None) > known - 0.3 and quality(file, 0.01) > known - 1
    assert quality(y, 0.01) > quality(y, 0.02) - 1
    for file in (jpeg(y, 75, 2), jpeg(y, 90, 2)):
        assert quality(file, None) > psnr(file, truth) + 3


def test_commands_estimate_what_is_not_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = picture("astronaut", 64)
    write_image(tmp_path / "noisy.png", noisy(x, 0.05))
    blurred = Blur(motion_psf(5, 35), (3, 64, 64), padding="valid").A(x)
    write_image(tmp_path / "blurred.png", noisy(blurred, 0.02))
    arguments = {
        "denoise": ("noisy", "0.05", []),
        "deblur": ("blurred", "0.02", ["--psf", "motion:5:35", "--tol", "1e-3", "--quiet"]),
    }
    for command, (image, stated, options) in arguments.items():
        files = []
        for noise in ([], ["--noise", stated]):
            files.append(str(tmp_path / f"{command}{len(noise)}.png"))
            assert main([command, str(tmp_path / f"{image}.png"), *options, *noise, "-o", files[-1]]) == 0
            assert ("estimated from the image" in capsys.readouterr().out) == (not noise)
        assert psnr(read_image(files[0]), read_image(files[1])) > 40
    write_image(tmp_path / "small.png", x[..., :9, :9])
    assert main(["denoise", str(tmp_path / "small.png"), "-o", str(tmp_path / "out.png")]) == 2
    assert "State the noise level" in capsys.readouterr().err
