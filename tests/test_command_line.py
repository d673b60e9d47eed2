"""The commands as a user types them: results, and a clear line instead of a traceback for every kind of bad input."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pnp_lip import Certificate, GradientFlowDenoiser, certify, enforce, load_denoiser, load_pretrained, save_denoiser
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.command_line import main
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.pictures import read_image, write_image


@pytest.fixture
def blurred(tmp_path: Path) -> Path:
    """A small colour photograph, blurred without knowledge of what lies beyond the border."""
    x = photograph("camera", 256)[..., 40:111, 70:141].repeat(1, 3, 1, 1)
    y = Blur(gaussian_psf(1.5, size=7), (3, 71, 71), padding="valid").A(x)
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "y.png", y)
    write_image(tmp_path / "x.png", x[..., 3:-3, 3:-3])
    return tmp_path / "y.png"


def test_deblur_restores_and_writes_its_guarantee(blurred: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = blurred.parent / "out.png"
    arguments = ["deblur", str(blurred), "--psf", "gaussian:1.5", "--noise", "0.01", "-o", str(out), "--quiet"]
    np.save(blurred.parent / "k.npy", gaussian_psf(1.5, size=7).numpy())
    arguments[3] = str(blurred.parent / "k.npy")
    assert main([*arguments, "--tol", "1e-3", "--denoiser", "colour"]) == 0
    x = read_image(blurred.parent / "x.png")
    assert psnr(read_image(out), x) > psnr(read_image(blurred), x) + 1
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["status"] == "converged" and record["guarantee"]["proved"]
    assert "forward-backward" in record["guarantee"]["theorem"]
    for history in record["histories"]:
        residuals = history["residual"]
        assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(residuals))
    assert "proved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "missing.png"}, "no such image"),
        ({"image": "text.png"}, "could not be read"),
        ({"image": "nan.npy"}, "NaN"),
        ({"image": "cube.npy"}, "shape"),
        ({"--psf": "missing.npy"}, "no such PSF"),
        ({"--psf": "zero.npy"}, "the PSF's sum is 0"),
        ({"--psf": "box:99"}, "larger than the image"),
        ({"--psf": "gaussian"}, "gaussian:SIGMA"),
        ({"--psf": "gaussian:-1"}, "positive"),
        ({"--noise": "-0.1"}, "not negative"),
        ({"--noise": "nan"}, "finite"),
        ({"--noise": "2.55"}, "divide by 255"),
        ({"--strength": "0"}, "the strength must be a positive number; got 0.0"),
        ({"--step": "2.5", "--denoiser": "tiny"}, r"(0, 2/||A||^2)"),
        ({"--step": "-1"}, "step"),
        ({"--max-iter": "0"}, "max_iter"),
        ({"--padding": "mirror"}, "padding"),
        ({"--denoiser": "purple"}, "purple"),
        ({"--denoiser": "colour", "image": "grey.npy"}, "takes 3 channels; the image has 1"),
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
    np.save("grey.npy", np.zeros((30, 30)))
    np.save("zero.npy", np.zeros((5, 5)))
    options = {"--psf": "gaussian:1.5", "--noise": "0.01", "-o": "out.png", **change}
    image = options.pop("image", "y.png")
    assert main(["deblur", image, "--quiet", *(part for pair in options.items() for part in pair)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pnp-lip: ") and message in error and "Traceback" not in error
    assert not Path("out.png").exists()


def test_the_old_name_of_the_blur_works(blurred: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = []
    for option in ("--psf", "--kernel"):
        written.append(blurred.parent / f"{option}.png")
        arguments = ["deblur", str(blurred), option, "gaussian:1.5", "--noise", "0.01", "-o", str(written[-1])]
        assert main([*arguments, "--quiet", "--tol", "1e-2", "--denoiser", "tiny"]) == 0
    assert torch.equal(*map(read_image, written))
    with pytest.raises(SystemExit, match="2"):
        main(["deblur", str(blurred), "-o", "out.png"])
    assert "--psf" in capsys.readouterr().err


def test_denoise(tmp_path: Path) -> None:
    x = photograph("camera", 256)[..., 40:104, 70:134]
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert y.min() < 0  # noise leaves [0, 1], and an array keeps it
    np.save(tmp_path / "y.npy", y[0, 0].numpy())
    write_image(tmp_path / "y.png", y)
    for name in ("y.npy", "y.png"):
        assert main(["denoise", str(tmp_path / name), "--noise", "0.1", "-o", str(tmp_path / "out.png")]) == 0
        assert psnr(read_image(tmp_path / "out.png"), x) > 25


def test_where_nothing_can_be_written_nothing_is_begun(blurred: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    deblur = ["deblur", str(blurred), "--psf", "gaussian:1.5", "--noise", "0.01"]
    assert main([*deblur, "-o", str(tmp_path / "file" / "x.png")]) == 2
    assert "nothing can be written in" in capsys.readouterr().err
    assert main([*deblur, "-o", str(blurred)]) == 2
    assert "would replace the image itself" in capsys.readouterr().err
    assert main(["certify", "tiny", "--json", str(tmp_path / "file" / "c.json")]) == 2  # and not 1: it is certified
    assert main(["demo", "--out", str(tmp_path / "file"), "--quiet"]) == 2
    assert "pnp-lip: " in capsys.readouterr().err
    assert main([*deblur[:3], "gauss:1.5", *deblur[4:], "-o", str(tmp_path / "z.png")]) == 2
    assert "gaussian:SIGMA" in capsys.readouterr().err


def test_certify_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "grey", "--json", str(tmp_path / "c.json")]) == 0
    said = capsys.readouterr().out
    assert "averaged" in said and "licensed solvers: ForwardBackward" in said and (tmp_path / "c.json").is_file()
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


@pytest.fixture
def small() -> GradientFlowDenoiser:
    """Two layers, certified and cheap to attack."""
    torch.manual_seed(0)
    denoiser = GradientFlowDenoiser(channels=2, hidden_channels=4, dilations=(1, 1))
    enforce(denoiser)
    return denoiser.requires_grad_(False)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_certify_reads_torch_files(small: GradientFlowDenoiser, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save({"config": small.config, "state_dict": small.state_dict()}, path)
    assert main(["certify", str(path), "--json", str(tmp_path / "c.json")]) == 0
    assert Certificate.from_json((tmp_path / "c.json").read_text()) == certify(small)
    small.layers[0].tau.mul_(3)
    torch.save({"config": small.config, "state_dict": small.state_dict()}, path)
    assert main(["certify", str(path)]) == 1


def test_every_command_reads_every_kind_of_file(
    small: GradientFlowDenoiser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """safetensors and torch files denoise alike; a file that does not certify is refused before any image is written."""
    write_image(tmp_path / "y.png", photograph("camera", 256)[..., 40:60, 70:90])
    save_denoiser(small, tmp_path / "w.safetensors")
    torch.save({"config": small.config, "state_dict": small.state_dict()}, tmp_path / "w.pt")
    for suffix in (".safetensors", ".pt"):
        arguments = ["denoise", str(tmp_path / "y.png"), "--noise", "0.1", "--denoiser", str(tmp_path / f"w{suffix}")]
        assert main([*arguments, "-o", str(tmp_path / f"{suffix[1:]}.png")]) == 0
    assert torch.equal(read_image(tmp_path / "safetensors.png"), read_image(tmp_path / "pt.png"))
    small.layers[0].tau.mul_(3)
    torch.save({"config": small.config, "state_dict": small.state_dict()}, tmp_path / "w.pt")
    assert main([*arguments, "-o", str(tmp_path / "none.png")]) != 0
    assert "layers.0" in capsys.readouterr().err and not (tmp_path / "none.png").exists()


def test_what_certify_cannot_read_is_status_two(
    small: GradientFlowDenoiser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never 0 or 1: an unknown name, a damaged file, a file of another kind, weights that are no numbers, a bad option."""
    save_denoiser(small, tmp_path / "w.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-4])
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    small.layers[1].weight[0, 0, 0, 0] = torch.nan
    torch.save({"config": small.config, "state_dict": small.state_dict()}, tmp_path / "nan.pt")
    for name in ("purple", *(str(tmp_path / f) for f in ("cut.safetensors", "other.safetensors", "nan.pt", "w.bin"))):
        assert main(["certify", name]) == 2
        error = capsys.readouterr().err
        assert error.startswith("pnp-lip: ") and error.count("\n") == 1
    assert main(["certify", str(tmp_path / "w.safetensors"), "--rtol", "2"]) == 2


class Payload:
    """Unpickled carelessly, it would create the file ``ran``."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.ran,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    path, ran = tmp_path / "w.pt", tmp_path / "ran"
    torch.save({"config": {}, "state_dict": Payload(ran)}, path, pickle_protocol=protocol)
    assert main(["certify", str(path)]) == 2
    error = capsys.readouterr().err
    assert "could run code" in error and error.count("\n") == 1 and not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists()  # so the refusal above was needed


@pytest.mark.parametrize("content", [[1], {"config": {}}, {"config": {"depth": 3}, "state_dict": {}}, b"", b"no pickle"])
def test_torch_files_that_are_no_denoisers(content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert main(["certify", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pnp-lip: {path}: ") and error.count("\n") == 1


def test_certify_and_attack(small: GradientFlowDenoiser, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    write_image(images[0], photograph("camera", 256)[..., 40:70, 70:110])
    write_image(images[1], photograph("camera", 256)[..., 90:114, 70:94].repeat(1, 3, 1, 1))
    save_denoiser(small, tmp_path / "w.safetensors")
    arguments = ["certify", str(tmp_path / "w.safetensors"), "--attack-steps", "2", "--attack"]
    assert main([*arguments, *images]) == 0
    assert "attack: the largest ratio found is" in capsys.readouterr().out
    write_image(images[1], photograph("camera", 256)[..., :23, :40])
    assert main([*arguments, *images]) == 2 and "24 x 24" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "missing.png")]) == 2


def test_a_refuted_bound_is_no_success(
    small: GradientFlowDenoiser, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certifier that overlooks a layer is caught by the attack."""
    write_image(tmp_path / "a.png", photograph("camera", 256)[..., 40:70, 70:110])
    proof = certify(small)
    small.layers[0].tau.mul_(3)
    torch.save({"config": small.config, "state_dict": small.state_dict()}, tmp_path / "w.pt")
    monkeypatch.setattr("pnp_lip.command_line.certify.certify", lambda module, rtol: proof)
    assert main(["certify", str(tmp_path / "w.pt"), "--attack", str(tmp_path / "a.png")]) == 1
    assert "the claimed bound is false" in capsys.readouterr().out


def write_photographs(folder: Path, count: int) -> None:
    for i in range(count):
        write_image(folder / f"{i}.png", photograph("camera", 256)[..., 60 * i : 60 * i + 60, 70:130])


def test_train_makes_weights_that_certify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "photos", 3)
    arguments = ["train", "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), "--steps", "3"]
    arguments += ["--batch", "4", "--patch", "16", "--size", "2,4,5"]
    assert main([*arguments, "--device", "cpu"]) == 0
    made = tmp_path / "run" / "denoiser.safetensors"
    assert main(["certify", str(made)]) == 0
    assert [tuple(layer.weight.shape) for layer in load_denoiser(made).layers] == [(4, 1, 5, 5)] * 2
    assert main(arguments) == 2 and "--resume" in capsys.readouterr().err
    assert main([*arguments[:-1], "2,4", "--resume"]) == 2 and "--size" in capsys.readouterr().err
    for option in ("--size", "--scales"):
        with pytest.raises(SystemExit):
            main([*arguments, "--resume", option, "1;2"])
        assert option in capsys.readouterr().err


def test_train_replaces_no_file_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "photos", 3)
    out = tmp_path / "run"
    out.mkdir()
    arguments = ["train", "--images", str(tmp_path / "photos"), "--out", str(out), "--steps", "1", "--device", "cpu"]
    arguments += ["--batch", "4", "--patch", "16", "--size", "2,4,5"]
    for name in ("denoiser.safetensors", "denoiser.certificate.json", "denoiser.json", "settings.json", "log.csv"):
        (out / name).write_text("mine")
        assert main(arguments) == 2
        assert f"{name} exists, and pnp-lip did not write it" in capsys.readouterr().err
        assert [path.name for path in out.iterdir()] == [name] and (out / name).read_text() == "mine"
        (out / name).unlink()
    (out / "settings.json").write_text(json.dumps({"pnp_lip": "0.1"}))  # of a run that died before its first checkpoint
    assert main(arguments) == 0 and main([*arguments[:-2], "--size", "2,4,5", "--resume"]) == 0
    (out / "denoiser.safetensors").write_text("mine")
    assert main([*arguments, "--resume"]) == 2 and (out / "denoiser.safetensors").read_text() == "mine"
    assert main([*arguments, "--resume", "--force"]) == 0 and load_denoiser(out / "denoiser.safetensors").in_channels == 1


def test_train_reduces_the_photographs_as_asked(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 2)
    arguments = ["train", "--images", str(tmp_path / "photos"), "--start", "tiny", "--device", "cpu"]
    arguments += ["--steps", "1", "--batch", "4", "--patch", "16", "--out", str(tmp_path / "run"), "--scales", "1,3"]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["patches"]["scales"] == [1, 3]


def test_train_goes_on_from_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "photos", 2)
    arguments = ["train", "--images", str(tmp_path / "photos"), "--start", "tiny", "--device", "cpu"]
    arguments += ["--steps", "1", "--batch", "4", "--patch", "16"]
    assert main([*arguments, "--rate", "1e-9", "--out", str(tmp_path / "run")]) == 0
    tiny, result = load_pretrained("tiny"), load_denoiser(tmp_path / "run" / "denoiser.safetensors")
    assert result.config == tiny.config
    x = photograph("camera", 32)
    assert float((result(x, 0.1) - tiny(x, 0.1)).norm()) < 0.02 * float((x - tiny(x, 0.1)).norm())
    for options, message in ((["--size", "2,4,5"], "leave out"), (["--colour"], "--colour")):
        assert main([*arguments, *options, "--out", str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--quiet"]) == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["status"] == "converged" and record["guarantee"]["proved"]
    assert record["psnr"]["pnp-lip"] > record["psnr"]["total variation"] > record["psnr"]["observed"]
    objective = record["histories"][0]["objective"]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(objective))
    assert (tmp_path / "demo.png").stat().st_size > 50_000


def test_no_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "deblur" in capsys.readouterr().out
