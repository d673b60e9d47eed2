"""The commands as a user types them: results, and a clear line instead of a traceback for every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pnp_lip import load_pretrained, save_denoiser
from pnp_lip.command_line import main
from pnp_lip.command_line.scene import photograph
from pnp_lip.images import psnr, read_image, write_image
from pnp_lip.operators import Blur, gaussian_kernel


@pytest.fixture
def blurred(tmp_path: Path) -> Path:
    """A small colour photograph, blurred without knowledge of what lies beyond the border."""
    x = photograph("camera", 256)[..., 40:111, 70:141].repeat(1, 3, 1, 1)
    y = Blur(gaussian_kernel(1.5, size=7), (3, 71, 71), padding="valid").A(x)
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "y.png", y)
    write_image(tmp_path / "x.png", x[..., 3:-3, 3:-3])
    return tmp_path / "y.png"


def test_deblur_restores_and_writes_its_guarantee(blurred: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = blurred.parent / "out.png"
    arguments = ["deblur", str(blurred), "--kernel", "gaussian:1.5", "--noise", "0.01", "-o", str(out), "--quiet"]
    np.save(blurred.parent / "k.npy", gaussian_kernel(1.5, size=7).numpy())
    arguments[3] = str(blurred.parent / "k.npy")
    assert main([*arguments, "--tol", "1e-3"]) == 0
    x = read_image(blurred.parent / "x.png")
    assert psnr(read_image(out), x) > psnr(read_image(blurred), x) + 1
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["status"] == "converged" and record["guarantee"]["proved"]
    assert "forward-backward" in record["guarantee"]["theorem"]
    for history in record["histories"]:
        residuals = history["residual"]
        assert all(b <= a * (1 + 1e-6) for a, b in zip(residuals, residuals[1:], strict=False))
    assert "proved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "missing.png"}, "no such image"),
        ({"image": "text.png"}, "could not be read"),
        ({"image": "nan.npy"}, "NaN"),
        ({"image": "cube.npy"}, "shape"),
        ({"--kernel": "missing.npy"}, "no such kernel"),
        ({"--kernel": "zero.npy"}, "kernel"),
        ({"--kernel": "box:99"}, "larger than the image"),
        ({"--kernel": "gaussian"}, "gaussian:SIGMA"),
        ({"--kernel": "gaussian:-1"}, "positive"),
        ({"--noise": "-0.1"}, "not negative"),
        ({"--noise": "nan"}, "finite"),
        ({"--noise": "2.55"}, "divide by 255"),
        ({"--sigma": "-1"}, "not negative"),
        ({"--step": "2.5"}, r"(0, 2/||A||^2)"),
        ({"--step": "-1"}, "step"),
        ({"--max-iter": "0"}, "max_iter"),
        ({"--padding": "mirror"}, "padding"),
        ({"--denoiser": "purple"}, "purple"),
        ({"--denoiser": "missing.safetensors"}, "no such file"),
        ({"-o": "out.xyz"}, "suffix"),
    ],
)
def test_bad_input_gives_one_clear_line(
    blurred: Path,
    change: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(blurred.parent)
    Path("text.png").write_text("no picture")
    np.save("nan.npy", np.full((30, 30), np.nan))
    np.save("cube.npy", np.zeros((30, 30, 30)))
    np.save("zero.npy", np.zeros((5, 5)))
    options = {"--kernel": "gaussian:1.5", "--noise": "0.01", "-o": "out.png", **change}
    image = options.pop("image", "y.png")
    assert main(["deblur", image, "--quiet", *(part for pair in options.items() for part in pair)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pnp-lip: ") and message in error and "Traceback" not in error
    assert not Path("out.png").exists()


def test_denoise(tmp_path: Path) -> None:
    x = photograph("camera", 256)[..., 40:104, 70:134]
    write_image(tmp_path / "y.npy", x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert main(["denoise", str(tmp_path / "y.npy"), "--noise", "0.1", "-o", str(tmp_path / "out.png")]) == 2
    write_image(tmp_path / "y.png", x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert main(["denoise", str(tmp_path / "y.png"), "--noise", "0.1", "-o", str(tmp_path / "out.png")]) == 0
    assert psnr(read_image(tmp_path / "out.png"), x) > 25


def test_certify_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "grey", "--json", str(tmp_path / "c.json")]) == 0
    assert "averaged" in capsys.readouterr().out and (tmp_path / "c.json").is_file()
    path = tmp_path / "w.safetensors"
    save_denoiser(load_pretrained("grey"), path)
    assert main(["certify", str(path)]) == 0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["layers.3.weight"] *= 1.1
    save_file(tensors, path, metadata)
    assert main(["certify", str(path)]) == 1
    assert "layers.3" in capsys.readouterr().out
    assert main(["certify", str(tmp_path / "none.safetensors")]) == 2


def test_train_makes_weights_that_certify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        write_image(tmp_path / "photos" / f"{i}.png", photograph("camera", 256)[..., 60 * i : 60 * i + 60, 70:130])
    arguments = ["train", "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), "--steps", "3"]
    arguments += ["--batch", "2", "--patch", "16", "--channels", "2", "--hidden", "3", "--dilations", "1,2"]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert main(["certify", str(tmp_path / "run" / "denoiser.safetensors")]) == 0
    assert main(arguments) == 2 and "--resume" in capsys.readouterr().err
    assert main([*arguments[:-1], "1;2", "--resume"]) == 2


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--quiet"]) == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["status"] == "converged" and record["guarantee"]["proved"]
    assert record["psnr"]["pnp-lip"] > record["psnr"]["total variation"] > record["psnr"]["observed"]
    residuals = record["histories"][0]["residual"]
    assert all(b <= a * (1 + 1e-6) for a, b in zip(residuals, residuals[1:], strict=False))
    assert (tmp_path / "demo.png").stat().st_size > 50_000 and (tmp_path / "certificate.json").is_file()


def test_no_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "deblur" in capsys.readouterr().out
