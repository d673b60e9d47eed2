"""``pnp-lip ct``: a reconstruction with its proof, the shipped sinogram, and one clear line for every bad input."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_lip.command_line import main
from pnp_lip.command_line.ct import parse_angles, read_sinogram, remarks
from pnp_lip.errors import InputError
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography, demo_sinogram
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.reconstruction import BRIGHT

ANGLES = np.arange(0, 180, 6.0)


@pytest.fixture(scope="module")
def sinograms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sinograms of the phantom in units of one's own, 32 x 32 pixels."""
    path = tmp_path_factory.mktemp("sinograms")
    x = 500 * ellipse_image(32)[None, None].float()
    np.save(path / "truth.npy", x[0, 0].numpy())
    y = ParallelBeamTomography(ParallelBeam(ANGLES, n_det=46), (1, 32, 32)).A(x)[0, 0].numpy()
    np.save(path / "y.npy", y)
    np.savez(path / "y.npz", sinogram=y, angles=ANGLES)
    np.savetxt(path / "angles.txt", ANGLES)
    geometry = FanBeam(2 * ANGLES, n_det=60, source_distance=60.0, detector_distance=30.0)
    fan = FanBeamTomography(geometry, (1, 32, 32))
    np.savez(path / "fan.npz", sinogram=fan.A(x)[0, 0].numpy(), angles=2 * ANGLES)
    np.save(path / "nan.npy", np.full((46, 30), np.nan))
    np.save(path / "cube.npy", np.zeros((4, 46, 30)))
    np.save(path / "turned.npy", y.T)
    np.save(path / "dark.npy", -y)
    (path / "junk.npz").write_bytes(b"no archive")
    return path


@pytest.fixture
def folder(sinograms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sinograms, which a test may change, as the current folder."""
    shutil.copytree(sinograms, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [["y.npz"], ["y.npy", "--angles", "0:180:6"], ["y.npy", "--angles", "angles.txt"], ["fan.npz", "--fan", "60:30"]],
)
def test_reconstructs_a_users_sinogram_in_its_own_units(folder: Path, arguments: list[str]) -> None:
    settings = ["--size", "32", "--out", "out", "--quiet", "--tol", "1e-3", "--sigma", "0.01"]
    assert main(["ct", *arguments, *settings]) == 0
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "ct.png", "fbp.npy", "pnp-lip.npy", "result.json", "tikhonov.npy",
    ]  # fmt: skip
    truth = np.load("truth.npy")
    error = {n: np.linalg.norm(np.load(f"out/{n}.npy") - truth) / np.linalg.norm(truth) for n in ("fbp", "pnp-lip")}
    assert error["pnp-lip"] < 0.3 and error["pnp-lip"] < 0.9 * error["fbp"]
    record = json.loads(Path("out/result.json").read_text())
    assert record["status"] == "converged" and record["guarantee"]["proved"]
    assert record["misfit"]["pnp-lip"] < 0.06 and "norm" in record and record["missing"] == {}


SHORT_SCANS = {
    "fan over 120 degrees": FanBeam(np.arange(0, 120, 5.0), n_det=60, source_distance=60.0, detector_distance=30.0),
    "fan over 180 degrees": FanBeam(np.arange(0, 180, 7.5), n_det=60, source_distance=60.0, detector_distance=30.0),
    "displaced, half a turn": ParallelBeam(ANGLES, n_det=30, det_offset=7.3),
    "displaced fan, short scan": FanBeam(
        np.arange(0, 240, 8.0), n_det=44, source_distance=60.0, detector_distance=30.0, det_offset=-11.0
    ),
}


@pytest.mark.parametrize("name", SHORT_SCANS)
def test_a_scan_without_fbp_begins_with_tikhonov(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    geometry, truth = SHORT_SCANS[name], np.load("truth.npy")
    fan = isinstance(geometry, FanBeam)
    physics = (FanBeamTomography if fan else ParallelBeamTomography)(geometry, (1, 32, 32))
    y = physics.A(torch.from_numpy(truth)[None, None])
    with pytest.raises(InputError) as refusal:
        physics.fbp(y)
    np.savez("short.npz", sinogram=y[0, 0].numpy(), angles=geometry.degrees)
    settings = ["--size", "32", "--offset", str(geometry.det_offset), *(["--fan", "60:30"] if fan else [])]
    settings += ["--out", "out", "--tol", "1e-3", "--sigma", "0.01", "--denoiser", "tiny"]
    quiet = fan
    assert main(["ct", "short.npz", *settings, *(["--quiet"] if quiet else [])]) == 0
    said = capsys.readouterr().out
    assert (f"no FBP to compare with: {refusal.value}" not in said) == quiet and "data misfit Tikhonov" in said
    assert sorted(p.name for p in Path("out").iterdir()) == ["ct.png", "pnp-lip.npy", "result.json", "tikhonov.npy"]
    record = json.loads(Path("out/result.json").read_text())
    assert record["missing"] == {"FBP": str(refusal.value)}
    assert list(record["misfit"]) == ["FBP", "Tikhonov", "pnp-lip"] and record["misfit"]["FBP"] is None
    assert record["misfit"]["Tikhonov"] < 0.05 and record["misfit"]["pnp-lip"] < 0.1 and record["guarantee"]["proved"]
    brightest = float(np.quantile(np.load("out/tikhonov.npy"), 0.999))
    assert record["scale"] == pytest.approx(brightest / BRIGHT, rel=1e-5)
    assert 0.7 < brightest / np.quantile(truth, 0.999) < 1.3  # the data's units, not the prior's
    error = np.linalg.norm(np.load("out/pnp-lip.npy") - truth) / np.linalg.norm(truth)
    assert error < 0.5


def test_dark_data_are_refused_without_fbp(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = np.load("fan.npz")
    np.savez("dark.npz", sinogram=-scan["sinogram"][:, :12], angles=scan["angles"][:12])
    assert main(["ct", "dark.npz", "--fan", "60:30", "--size", "32", "--out", "out", "--denoiser", "tiny"]) == 2
    assert "positive image" in capsys.readouterr().err and not Path("out/result.json").exists()


def test_no_file_of_others_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ct", "y.npz", "--size", "32", "--out", "out", "--quiet", "--tol", "1e-2", "--sigma", "0.01"]
    Path("out").mkdir()
    for name in ("pnp-lip.npy", "ct.png", "result.json"):
        Path("out", name).write_text("mine")
        assert main(arguments) == 2 and f"{name} exists, and pnp-lip did not write it" in capsys.readouterr().err
        assert [path.name for path in Path("out").iterdir()] == [name] and Path("out", name).read_text() == "mine"
        Path("out", name).unlink()
    Path("out/fbp.npy").write_text("mine")
    assert main([*arguments, "--force"]) == 0
    assert main(arguments) == 0  # its own files
    assert json.loads(Path("out/result.json").read_text())["input"]["path"] == "y.npz"
    Path("y.npz").rename("out/fbp.npy")
    assert main(["ct", "out/fbp.npy", *arguments[2:], "--force"]) == 2 and "another input" in capsys.readouterr().err


@pytest.mark.slow
def test_the_strength_follows_from_the_misfit_aimed_at(folder: Path) -> None:
    found = []
    for misfit in ("0.01", "0.2"):
        assert main(["ct", "y.npz", "--size", "32", "--out", "out", "--quiet", "--tol", "1e-4", "--misfit", misfit]) == 0
        record = json.loads(Path("out/result.json").read_text())
        found.append(record["settings"]["sigma"])
        scores = {float(s): score for s, score in record["score_by_sigma"].items()}
        assert record["misfit"]["pnp-lip"] <= float(misfit) or found[-1] == pytest.approx(min(scores), rel=1e-5)
    assert found[0] < found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.npy"], "no such sinogram"),
        (["junk.npz"], "npz file"),
        (["y.npy"], "pass --angles"),
        (["truth.npy", "--angles", "0:180:6"], "32 views, but 30 angles"),
        (["turned.npy", "--angles", "0:180:6"], "transpose"),
        (["cube.npy", "--angles", "0:180:6"], "(detectors, views)"),
        (["nan.npy", "--angles", "0:180:6"], "NaN"),
        (["dark.npy", "--angles", "0:180:6"], "positive image"),
        (["y.npy", "--angles", "0:180"], "START:STOP:STEP"),
        (["y.npy", "--angles", "0:180:0"], "START:STOP:STEP"),
        (["y.npy", "--angles", "180:0:6"], "START:STOP:STEP"),
        (["y.npy", "--angles", "junk.npz"], "could not be read"),
        (["y.npy", "--angles", "cube.npy"], "list of finite numbers"),
        (["--angles", "0:180:6"], "name its file"),
        (["y.npz", "--fan", "60"], "SOURCE:DETECTOR"),
        (["y.npz", "--fan", "3:30"], "inside the object"),
        (["y.npz", "--curved"], "pass --fan"),
        (["y.npz", "--spacing", "-1"], "det_spacing"),
        (["y.npz", "--size", "0"], "img_size"),
        (["y.npz", "--misfit", "2"], "--misfit"),
        (["y.npz", "--sigma", "-1"], "sigma"),
        (["y.npz", "--sigma", "25"], "divide by 255"),
        (["y.npz", "--denoiser", "purple"], "purple"),
        (["y.npz", "--out", "y.npy"], "cannot be a folder"),
    ],
)
def test_bad_input_gives_one_clear_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--out" in arguments else ["--out", "out"]
    assert main(["ct", *arguments, *out, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pnp-lip: ") and message in error and "Traceback" not in error
    assert not Path("out/result.json").exists()


@pytest.mark.slow
def test_a_misfit_that_no_strength_reaches_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "32", "--quiet", "--tol", "1e-3", "--denoiser", "tiny"]
    np.savetxt("wrong.txt", 0.5 * ANGLES)
    for angles, wrong in (("wrong.txt", True), ("angles.txt", False)):
        for strength in ([], ["--sigma", "0.005"]):
            assert main(["ct", "y.npy", "--angles", angles, "--out", "out", *options, *strength]) == 0
            said = capsys.readouterr().out  # half the angles also look like an axis elsewhere
            assert ("check the angles (degrees)" in said or "the axis of rotation seems" in said) == wrong


def test_a_wrong_description_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry, truth = ParallelBeam(ANGLES, n_det=30, det_offset=2.0), np.load("truth.npy")
    y = ParallelBeamTomography(geometry, (1, 32, 32)).A(torch.from_numpy(truth)[None, None])[0, 0].numpy()
    np.savez("scan.npz", sinogram=y, angles=ANGLES)
    np.savez("turned.npz", sinogram=y.T, angles=ANGLES)
    np.savez("radians.npz", sinogram=y, angles=np.deg2rad(ANGLES))
    settings = ["--size", "32", "--out", "out", "--quiet", "--tol", "1e-2", "--sigma", "0.01", "--denoiser", "tiny"]
    for file, offset, message in (("scan", 2, ""), ("scan", -2, "wrong sign"), ("turned", 2, "transposed")):
        assert main(["ct", f"{file}.npz", "--offset", str(offset), *settings]) == 0
        said = capsys.readouterr().out
        assert message in said and ("WARNING: the" in said) == bool(message)
    assert main(["ct", "radians.npz", *settings]) == 2
    assert "cover π, as radians do" in capsys.readouterr().err


def test_the_shipped_sinogram_is_measured_data() -> None:
    data = demo_sinogram()
    assert data.y.dtype == torch.float32 and data.y.shape == (1, 1, 256, 77) and "public domain" in data.source
    mass = data.y[0, 0].sum(0)  # every tilt sees the whole needle: its mass stays the same up to a few per cent
    assert float((mass / mass.mean() - 1).abs().max()) < 0.1
    assert torch.equal(read_sinogram(None, None).y, data.y)
    with pytest.raises(InputError, match="START:STOP:STEP"):
        parse_angles("0:nan:1")


@pytest.mark.slow
def test_the_shipped_sinogram_is_reconstructed_to_two_per_cent(tmp_path: Path) -> None:
    assert main(["ct", "--out", str(tmp_path), "--quiet"]) == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["guarantee"]["proved"] and record["status"] == "converged"
    assert record["misfit"]["pnp-lip"] < 0.02 < record["misfit"]["FBP"]


def test_held_out_views_choose_the_strength_unless_a_misfit_is_stated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnp_lip.solvers.scan_strength.FACTORS", (0.25, 0.5, 1.0, 2.0, 4.0))
    y = np.load("y.npz")["sinogram"]
    noisy = y + 0.03 * y.max() * np.random.default_rng(0).standard_normal(y.shape)
    np.savez("noisy.npz", sinogram=noisy, angles=ANGLES)
    found = {}
    for out, more in (("held-out", []), ("misfit", ["--misfit", "0.5"])):
        assert main(["ct", "noisy.npz", "--size", "32", "--out", out, "--quiet", *more]) == 0
        found[out] = json.loads(Path(out, "result.json").read_text())
    scores = {float(sigma): score for sigma, score in found["held-out"]["score_by_sigma"].items()}
    assert "of held-out views" in found["held-out"]["criterion"] and min(scores.values()) < 0.3
    assert min(scores) <= found["held-out"]["settings"]["sigma"] <= max(scores)
    misfits = [float(s) for s in found["misfit"]["score_by_sigma"]]
    assert found["misfit"]["settings"]["sigma"] == pytest.approx(max(misfits), rel=1e-5)  # the smoothest one fits so badly
    truth = np.load("truth.npy")
    errors = [np.linalg.norm(np.load(f"{out}/pnp-lip.npy") - truth) for out in ("held-out", "misfit")]
    assert errors[0] < 0.9 * errors[1] and errors[0] < 0.8 * np.linalg.norm(np.load("held-out/fbp.npy") - truth)


def test_a_bead_far_brighter_than_the_body_is_not_cut_off(folder: Path) -> None:
    x = 500 * ellipse_image(96, ((1.0, 0.8, 0.8, 0.0, 0.0, 0.0),))[None, None].float()
    x[..., 30:32, 60:62] = 5000
    physics = ParallelBeamTomography(ParallelBeam(ANGLES, n_det=96), (1, 96, 96))
    np.savez("bead.npz", sinogram=physics.A(x)[0, 0].numpy(), angles=ANGLES)
    assert main(["ct", "bead.npz", "--out", "out", "--quiet", "--tol", "1e-4", "--sigma", "0.01"]) == 0
    record, found = json.loads(Path("out/result.json").read_text()), np.load("out/pnp-lip.npy")
    assert record["guarantee"]["proved"] and record["settings"]["box"][1] > 2
    assert found[30, 60] > 3500 and abs(np.median(found[x[0, 0].numpy() == 500]) / 500 - 1) < 0.02


def test_remarks_name_what_to_check() -> None:
    def said(found: float, noise: float, top: float = 2.0, **settings: float) -> str:
        options = argparse.Namespace(**{"misfit": None, "sigma": None, **settings})
        return " ".join(remarks(torch.tensor([0.2, 1.0]), top, found, noise, options))

    assert said(0.019, 0.02) == "" and "noise explains 2.0%; the rest is what the model" in said(0.029, 0.02)
    assert said(0.06, 0.02).startswith("WARNING: the result misses the data by 6.0%, where their noise explains 2.0%; check")
    assert said(0.009, 0.001) == ""  # without noise
    assert said(0.14, 0.02, sigma=0.1) == "" and "at most 10.0% was expected" in said(0.16, 0.02, sigma=0.1)
    assert said(0.029, 0.001, misfit=0.02) == "" and "at most 2.0%" in said(0.031, 0.1, misfit=0.02)
    assert said(0.01, 0.02, top=1.0).startswith("1 pixels are as bright")
