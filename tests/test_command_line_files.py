"""Many files through one command: names, what is finished, what is refused, and death at any moment."""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.command_line import denoise, main
from pnp_lip.command_line.common import SUFFIXES, say
from pnp_lip.command_line.items import Item, Outcome, expand, items_of, report, sweep
from pnp_lip.command_line.restoring import RESTORE, outcome_of
from pnp_lip.errors import InputError
from pnp_lip.images import IMAGE_SUFFIXES
from pnp_lip.pictures import Picture, read_image, write_image
from pnp_lip.restore import Restoration

QUICK = ["--denoiser", "tiny", "--noise", "0.05", "--quiet"]
COMMAND = [sys.executable, "-c", "import sys; from pnp_lip.command_line import main; sys.exit(main(sys.argv[1:]))"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve small photographs, 00.png to 11.png."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        write_image(tmp_path / f"{i:02}.png", photograph("camera", 256)[..., 16 * i : 16 * i + 24, 60:90])
    return tmp_path


def names(paths: list[str]) -> list[str]:
    return [item.output.name for item in items_of(paths, Path("out"))]


def test_a_pattern_that_the_shell_left_alone_stands_for_its_files(folder: Path) -> None:
    assert expand(["0*.png", "03.png", "./11.png"]) == [*(f"{i:02}.png" for i in range(10)), "./11.png"]
    os.rename("00.png", "[0].png")
    assert expand(["[0].png"]) == ["[0].png"]  # a file of this very name
    for words, message in ((["*.jpg"], r"no file matches '\*\.jpg'"), ([str(folder)], "is a folder")):
        with pytest.raises(InputError, match=message):
            expand(words)


def test_no_two_results_have_one_name() -> None:
    assert SUFFIXES == IMAGE_SUFFIXES
    assert names(["a/x.png", "b/y.WEBP"]) == ["x.png", "y.png"]
    assert names(["a/x.png", "b/X.tif", "z.jpg"]) == ["a-x.png", "b-X.tif", "z.jpg"]
    assert names(["a/x.png", "a/x.jpg"]) == ["x-png.png", "x-jpg.jpg"]  # else they would share their record
    crowd = ["a/x.png", "b/a/x.png", "b/a-x.png", "c/x.jpg", "x.png", "a-x.png"]
    stems = [Path(name).stem for name in names(crowd)]
    assert len(set(stems)) == len(crowd) and names(crowd[::-1]) == names(crowd)[::-1]


def test_half_written_files_are_swept_and_nothing_else(tmp_path: Path) -> None:
    kept = [".x.png", ".x.y.12.part.png", ".y.12.part.png", "x.12.part.png", ".x.12.part.tif"]
    for name in (*kept, ".x.12.part.png", "..x.12.part.12.part.png", ".x.7.part.json"):
        (tmp_path / name).touch()
    sweep([Item("x.png", tmp_path / "x.png")])
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_killed_and_resumed_each_result_is_there_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["denoise", "??.png", "--out-dir", "out", "--jobs", "2", *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=subprocess.DEVNULL)
    out, deadline = folder / "out", time.monotonic() + 300
    while len(list(out.glob("*.json"))) < 3 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    time.sleep(1)  # the workers end with their command
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("[!.]*.png") if path.with_suffix(".json").exists()}
    assert 1 <= len(stamps) < 12
    for path in out.glob("[!.]*.json"):
        json.loads(path.read_text())  # no half of a record
    assert main([*arguments[:-1], "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert f"12 converged; {len(stamps)} of them finished before" in said
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{i:02}{s}" for i in range(12) for s in (".json", ".png"))
    for i in (0, 5, 11):
        assert main(["denoise", f"{i:02}.png", "-o", "one.png", *QUICK]) == 0
        assert Path("one.png").read_bytes() == (out / f"{i:02}.png").read_bytes()


@pytest.mark.slow
def test_two_hundred_files_killed_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command and its workers die at once; what was finished stays untouched, and the rest is as if nobody had died."""
    monkeypatch.chdir(tmp_path)
    draw, picture = random.Random(0), photograph("camera", 256)
    for i in range(200):
        row, column = draw.randrange(230), draw.randrange(220)
        write_image(f"{i:03}.png", picture[..., row : row + 24, column : column + 30])
    arguments = ["denoise", "*.png", "--jobs", "2", *QUICK, "--out-dir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    finished: dict[Path, int] = {}
    for most in [*sorted(draw.sample(range(1, 190), 3)), None]:
        run = subprocess.Popen([*COMMAND, *arguments, "out"], env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 300
        while most is not None and len(list(Path("out").glob("*.png"))) < most and time.monotonic() < deadline:
            time.sleep(0.002)
        if most is not None:
            time.sleep(draw.uniform(0, 0.1))
            os.killpg(run.pid, signal.SIGKILL)
        assert run.wait(300) == (0 if most is None else -signal.SIGKILL)
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
        finished = {path: path.stat().st_mtime_ns for path in Path("out").glob("[!.]*.png")}
        assert most is None or most <= len(finished) < 200
    assert {path.name for path in Path("out").iterdir()} == {
        f"{i:03}{suffix}" for i in range(200) for suffix in (".json", ".png")
    }
    subprocess.run([*COMMAND, *arguments, "undisturbed"], env=environment, stdout=subprocess.DEVNULL, check=True)
    for path in finished:
        assert path.read_bytes() == (Path("undisturbed") / path.name).read_bytes()
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["status"] == "converged" and record["input"]["path"] == path.name


def test_what_changed_is_redone_only_by_force(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pnp_lip.command_line.files.outcomes", lambda items, options: (outcome_of(i, options) for i in items))
    several = ["denoise", "0[0-2].png", "--out-dir", "out", *QUICK]
    assert main(several) == 0
    before = Path("out/00.png").read_bytes()
    write_image("00.png", photograph("camera", 256)[..., 90:114, 60:90])
    assert main(several) == 2
    said = capsys.readouterr().out
    assert "00.png  failed     restored before with other content; --force" in said and "2 converged, 1 failed" in said
    assert Path("out/00.png").read_bytes() == before
    assert main([*several, "--force"]) == 0 and Path("out/00.png").read_bytes() != before
    assert "2 of them finished before" in capsys.readouterr().out
    assert main([*several[:-3], "--noise", "0.06", "--json", "--quiet"]) == 2
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["status"] for line in lines] == ["failed"] * 3 and "other noise" in lines[0]["error"] and captured.err
    Path("out/01.png").write_bytes(b"mine")
    assert main(several) == 2
    assert "pnp-lip did not write it" in capsys.readouterr().out and Path("out/01.png").read_bytes() == b"mine"
    assert main(["denoise", "0[0-2].png", "--out-dir", ".", *QUICK, "--force"]) == 2
    assert capsys.readouterr().out.count("would replace an input") == 3


def test_a_record_is_of_one_image_in_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of two runs whose names differ in their kind alone would share it."""
    monkeypatch.setattr("pnp_lip.command_line.files.outcomes", lambda items, options: (outcome_of(i, options) for i in items))
    assert main(["denoise", "00.png", "01.png", "--out-dir", "out", *QUICK]) == 0
    capsys.readouterr()
    record = Path("out/00.json").read_bytes()
    write_image("00.tif", photograph("camera", 256)[..., 90:114, 60:90])
    assert main(["denoise", "00.tif", "--out-dir", "out", *QUICK]) == 2
    assert "out/00.json is the record of 00.png; choose another --out-dir" in capsys.readouterr().out
    assert Path("out/00.json").read_bytes() == record and not Path("out/00.tif").exists()
    assert main(["denoise", "00.png", "01.png", "--out-dir", "out", *QUICK]) == 0


def test_an_input_that_changes_while_it_is_restored_is_restored_again(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(picture: Picture, options: argparse.Namespace) -> Restoration:
        write_image("00.png", photograph("camera", 256)[..., 90:114, 60:90])
        return denoise.restore(picture, options)

    monkeypatch.setattr("pnp_lip.command_line.files.outcomes", lambda items, options: (outcome_of(i, options) for i in items))
    monkeypatch.setitem(RESTORE, "denoise", restore)
    assert main(["denoise", "00.png", "--out-dir", "out", *QUICK]) == 0
    assert main(["denoise", "00.png", "--out-dir", "out", *QUICK]) == 2
    assert "restored before with other content" in capsys.readouterr().out


def test_what_is_said_of_one_file_names_it() -> None:
    items = [Item(f"{name}.png", Path(f"out/{name}.png")) for name in "ab"]
    found = [Outcome(items[0], "done", "", ("both", "one", "7 pixels")), Outcome(items[1], "done", "", ("both", "12.5 pixels"))]
    assert report(found, Path("out"))[2:5] == ["2 files: both", "2 files, such as a.png: 7 pixels", "a.png: one"]


def test_names_and_streams_of_other_encodings() -> None:
    """A name that is no text (Linux), and a pipe that has no ✓ (Windows)."""
    assert [Path(item.output).name for item in items_of(["x\udcff.png"], Path("out"))] == ["x\udcff.png"]
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    say("✓ é", pipe)
    say("x\udcff.png", pipe)
    assert pipe.buffer.getvalue() == b"\\u2713 \xe9\nx\\udcff.png\n"  # type: ignore[attr-defined]


def test_a_closed_standard_input(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["denoise", "-", "-o", "x.png", *QUICK]) == 2
    assert "standard input holds no image" in capsys.readouterr().err


def test_one_failure_stops_nothing(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnp_lip.command_line.files.outcomes", lambda items, options: (outcome_of(i, options) for i in items))
    Path("00.png").write_text("no picture")
    np.save("nan.npy", np.full((20, 20), np.nan))
    deblur = ["deblur", "00.png", "01.png", "nan.npy", "none.png", "--out-dir", "out", *QUICK, "--psf", "gaussian:0.7"]
    assert main([*deblur, "--tol", "1e-2"]) == 2
    said = capsys.readouterr().out
    assert "01.png    converged  proved" in said and "1 converged, 3 failed" in said and "Traceback" not in said
    monkeypatch.setattr("pnp_lip.command_line.restoring.read_picture", lambda path: 1 / 0)
    assert main(["denoise", "02.png", "--out-dir", "out", *QUICK]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().out
    monkeypatch.undo()
    os.chdir(folder)
    monkeypatch.setattr("pnp_lip.command_line.files.outcomes", lambda items, options: (outcome_of(i, options) for i in items))
    assert main(["deblur", "02.png", "03.png", "--out-dir", "out", *QUICK, "--psf", "gaussian:0.7", "--max-iter", "2"]) == 3
    assert main(["deblur", "02.png", "03.png", "--out-dir", "out", *QUICK, "--psf", "gaussian:0.7", "--max-iter", "2"]) == 3
    assert "2 max_iter; 2 of them finished before" in capsys.readouterr().out


def test_a_worker_that_dies_costs_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def kill() -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(workers[0].pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    assert main(["denoise", "00.png", "01.png", "--out-dir", "out", *QUICK]) == 2
    said = capsys.readouterr().out
    assert "00.png  failed     its process was killed" in said and "01.png  converged" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["00.png"], "name the result with -o FILE"),
        (["00.png", "-o", "x.png", "--out-dir", "out"], "name the result with -o FILE"),
        (["00.png", "01.png", "-o", "x.png"], "pass --out-dir DIR"),
        (["00.png", "--out-dir", "out", "--jobs", "0"], "at least 1; got 0"),
        (["00.png", "--out-dir", "01.png"], "cannot be a folder"),
        (["-", "--out-dir", "out"], "standard input is one image"),
        (["00.png", "--out-dir", "out", "--figure", "f.png"], "--figure belongs to a single image"),
        (["00.png", "-o", "-", "--json"], "leave out --json"),
        (["00.png", "-o", "x.png", "--memory", "much"], 'a size such as "6G"'),
        (["00.png", "-o", "x.png", "--memory", "300M"], "GB of memory, and there are 0.3 GB"),
        (["00.png", "-o", "x.png", "--figure", "x.jpg"], "suffix must be .png"),
        (["00.png", "-o", "x.png", "--figure", "./x.png"], "is the result itself"),
        (
            ["*.png", "--out-dir", "out", "--jobs", "1000", "--memory", "2G"],
            "--jobs 12 take 12 x 1.0 GB before they begin; at most 2",
        ),
    ],
)
def test_what_cannot_be_meant(folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["denoise", *arguments, *QUICK]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not Path("out").exists()


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_standard_input_and_output(
    folder: Path, suffix: str, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".npy":
        np.save("00.npy", np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30))
    assert main(["denoise", f"00{suffix}", "-o", f"file{suffix}", *QUICK]) == 0
    capsysbinary.readouterr()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(f"00{suffix}").read_bytes())))
    assert main(["denoise", "-", "-o", "-", *QUICK]) == 0
    captured = capsysbinary.readouterr()
    assert captured.out == Path(f"file{suffix}").read_bytes() and b"proved" in captured.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(f"00{suffix}").read_bytes())))
    assert main(["denoise", "-", "-o", "x.png", *QUICK]) == 0
    assert json.loads(Path("x.json").read_text())["input"]["path"] == "-"


def test_the_record_on_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["denoise", "00.png", "-o", "x.png", "--json", *QUICK]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads(Path("x.json").read_text()) and captured.out.count("\n") == 1
    assert "wrote x.png" in captured.err


def test_figure_and_reference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before, after and the truth; drawn again where the record knows it, never over somebody else's file."""
    arguments = ["deblur", "00.png", "--psf", "gaussian:0.7", "-o", "x.png", *QUICK, "--tol", "1e-2", "--figure", "figure.png"]
    assert main([*arguments, "--reference", "00.png"]) == 0
    said, record = capsys.readouterr().out, json.loads(Path("x.json").read_text())
    assert f"PSNR inf dB before, {record['psnr']['after']:.2f} dB after" in said and 15 < record["psnr"]["after"] < 60
    with_truth = read_image("figure.png").shape
    assert main(arguments) == 0
    assert read_image("figure.png").shape[-1] < with_truth[-1]  # one column less
    Path("figure.png").write_bytes(b"mine")
    assert main(arguments) == 2 and main([*arguments[:-1], "00.png", "--force"]) == 2
    said = capsys.readouterr().err
    assert "figure.png exists, and pnp-lip did not write it" in said and "would replace the image itself" in said
    write_image("other.png", photograph("camera", 256)[..., :20, :20])
    assert main([*arguments, "--force", "--reference", "other.png"]) == 2
    assert "1 x 20 x 20 (channels x rows x columns); the image has 1 x 24 x 30" in capsys.readouterr().err


def test_one_line_of_guarantee_or_all_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["deblur", "00.png", "--psf", "gaussian:0.7", "-o", "x.png", *QUICK, "--tol", "1e-2"]
    assert main(arguments) == 0
    brief = capsys.readouterr().out.splitlines()
    assert sum("proved" in line for line in brief) == 1 and not any("✓" in line for line in brief)
    assert main([*arguments, "--explain"]) == 0
    whole = capsys.readouterr().out.splitlines()
    hypotheses = json.loads(Path("x.json").read_text())["guarantee"]["hypotheses"]
    assert sum(line.startswith("  ✓ ") for line in whole) == len(hypotheses) > 3 and not any("advice" in line for line in whole)
    assert main([*arguments[:-1], "1e-9", "--max-iter", "2"]) == 3
    assert "advice: the image still changes; allow more iterations by --max-iter" in capsys.readouterr().out


def test_long_steps_show_a_bar_unless_quiet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["00.png", "-o", "x.png", *QUICK]
    for command in (["denoise", *arguments], ["deblur", *arguments, "--psf", "gaussian:0.7", "--tol", "1e-3"]):
        assert main(command) == 0 and "%" not in capsys.readouterr().err
        command.remove("--quiet")
        assert main(command) == 0
        assert "100%" in capsys.readouterr().err


def test_weights_are_certified_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pnp_lip import restore

    restore.get_unchanged.cache_clear()
    certified = []
    original = restore.load_pretrained
    monkeypatch.setattr(restore, "load_pretrained", lambda name: certified.append(name) or original(name))
    plain = {"denoiser": "tiny", "noise": 0.05, "device": "cpu", "limit": 2**60, "jobs": 1, "out_dir": "out"}
    plain |= dict.fromkeys(("range", "tile", "figure", "reference"))
    options = argparse.Namespace(command="denoise", command_line="", force=False, **plain)
    for i in range(3):
        assert outcome_of(Item(f"{i:02}.png", folder / "out" / f"{i:02}.png"), options).status == "converged"
    assert certified == ["tiny"]
    assert torch.equal(*(next(restore.get_certified("tiny").parameters()) for _ in range(2)))
