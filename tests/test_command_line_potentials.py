"""Potentials on the command line: one objective, one solve, and a result that says what was minimised and how far."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_lip import save_denoiser
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.colour import NOISE_OF_AXES
from pnp_lip.command_line import main
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, ParallelBeam, ParallelBeamTomography, gaussian_psf
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.pictures import read_image, write_image
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers.scan_strength import FACTORS
from pnp_lip.spectral import norm_bound

NOISE = 0.05


def ridge(channels: int) -> RidgePotential:
    """A potential of curvature in [−0.8, 11.2], a few filters of differences."""
    torch.manual_seed(0)
    potential = RidgePotential(in_channels=channels, filters=4, kernel_size=3, rising=2, falling=1)
    potential.activation.set_profile([9.0, 3.0], [0.8], [0.1, 0.3], [2.0])
    with torch.no_grad():
        potential.weight.div_(norm_bound(potential.weight, padding_mode="circular").upper)
    return potential


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Noisy and blurred images, a sinogram, and potentials of one and of three channels."""
    monkeypatch.chdir(tmp_path)
    save_denoiser(ridge(1), "ridge.safetensors")
    save_denoiser(ridge(3), "ridge3.safetensors")
    x = photograph("camera", 128)[..., 40:88, 40:88].repeat(1, 3, 1, 1)
    noise = NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    write_image("x.png", x)
    write_image("grey.png", x[:, :1])
    write_image("noisy.png", x + noise)
    np.save("noisy.npy", (x + noise)[0, 0].numpy())
    write_image("blurred.png", Blur(gaussian_psf(1.0), (3, 48, 48), padding="circular").A(x) + 0.2 * noise)
    angles = np.arange(0, 180, 6.0)
    y = ParallelBeamTomography(ParallelBeam(angles, n_det=46), (1, 32, 32)).A(500 * ellipse_image(32)[None, None].float())
    np.savez("y.npz", sinogram=y[0, 0].numpy(), angles=angles)
    return tmp_path


def test_denoise_writes_the_distance_to_the_minimiser(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image, prior, truth in (
        ("noisy.npy", "ridge.safetensors", "grey.png"),
        ("noisy.png", "ridge.safetensors", "x.png"),
        ("noisy.png", "ridge3.safetensors", "x.png"),
    ):
        assert main(["denoise", image, "--noise", str(NOISE), "-o", "out.png", "--denoiser", prior]) == 0
        y = torch.from_numpy(np.load(image))[None, None] if image.endswith("npy") else read_image(image)
        assert psnr(read_image("out.png"), read_image(truth)) > psnr(y, read_image(truth)) + 1
        record = json.loads(Path("out.json").read_text())
        assert record["guarantee"]["proved"] and record["guarantee"]["kind"] == "global minimiser"
        assert all(0 < d < 0.05 for d in record["distance_upper"]) and all(s < 0.01 for s in record["stationarity"])
        assert len(record["objective"]) == (3 if (image, prior) == ("noisy.png", "ridge.safetensors") else 1)
        assert "out.json" in capsys.readouterr().out


def test_deblur_solves_one_objective(folder: Path) -> None:
    common = [
        "deblur",
        "blurred.png",
        "--psf",
        "gaussian:1",
        "--noise",
        "0.01",
        "--padding",
        "circular",
        "--quiet",
        "--tol",
        "1e-3",
    ]
    for prior in ("ridge.safetensors", "ridge3.safetensors"):
        assert main([*common, "--denoiser", prior, "-o", "out.png"]) == 0
        assert psnr(read_image("out.png"), read_image("x.png")) > psnr(read_image("blurred.png"), read_image("x.png")) + 0.5
        record = json.loads(Path("out.json").read_text())
        assert record["guarantee"]["proved"] and record["guarantee"]["kind"] == "critical point"
        factors = NOISE_OF_AXES.numpy() if prior == "ridge.safetensors" else 1
        assert np.allclose(record["settings"]["sigma"], 0.02 * factors) and record["distance_upper"] is None
        assert record["objective"] and record["stationarity"]
    assert main([*common, "--denoiser", "ridge.safetensors", "-o", "out.png", "--strength", "4"]) == 0
    assert json.loads(Path("out.json").read_text())["settings"]["weight"] == 4


def test_ct_chooses_the_noise_level_by_the_misfit(folder: Path) -> None:
    common = ["ct", "y.npz", "--size", "32", "--out", "out", "--quiet", "--denoiser", "ridge.safetensors", "--tol", "1e-3"]
    assert main([*common, "--misfit", "0.03"]) == 0
    record = json.loads(Path("out/result.json").read_text())
    assert record["guarantee"]["proved"] and record["objective"] and record["guarantee"]["kind"] == "critical point"
    scores = record["score_by_sigma"]
    assert len(scores) == len(FACTORS)
    assert f"{record['settings']['sigma']:g}" == max((s for s in scores if scores[s] <= 1), key=float)
    assert record["misfit"]["pnp-lip"] <= 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["denoise", "noisy.npy", "--tile", "64"], "--tile belongs to a denoiser"),
        (["deblur", "noisy.npy", "--psf", "gaussian:1", "--step", "1"], "--step belongs to a denoiser"),
        (["deblur", "noisy.npy", "--psf", "gaussian:1", "--strength", "-1"], "strength must be a positive number"),
        (["deblur", "noisy.npy", "--psf", "gaussian:1", "--denoiser", "ridge3.safetensors"], "takes 3 channels"),
    ],
)
def test_options_of_denoisers_are_refused(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments
    options = {"--noise": "0.05", "-o": "out.png", "--denoiser": "ridge.safetensors"}
    given = [part for pair in options.items() if pair[0] not in rest for part in pair]
    assert main([command, *rest, *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pnp-lip: ") and message in error and error.count("\n") == 1
    assert not Path("out.png").exists()


@pytest.mark.slow
def test_the_demo_takes_a_potential(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", "demo", "--denoiser", "ridge.safetensors"]) == 0
    record = json.loads(Path("demo/result.json").read_text())
    assert record["guarantee"]["proved"] and record["objective"]
    assert "proved: it tends to a critical point" in capsys.readouterr().out
