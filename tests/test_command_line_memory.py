"""Memory: what there is, what a restoration takes, and one line where that is too much."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_lip import load_pretrained, memory
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.command_line import main
from pnp_lip.command_line.files import limit_of
from pnp_lip.command_line.needs import needed, share_of_memory
from pnp_lip.errors import InputError
from pnp_lip.memory import available, keeping_within, most_kept
from pnp_lip.pictures import Picture, write_image
from pnp_lip.solvers import Anderson

# Peak memory of the process in MB, measured with 8-bit images of so many megapixels (1 is 2**20 pixels) on a machine with 23 GB;
# gradient-step after one to three updates, with what five pairs of its memory hold more added.
PEAKS = [
    ("tiny", 1, 1.0, False, 909), ("tiny", 1, 4.0, False, 1199), ("grey", 1, 1.0, False, 910), ("colour", 3, 1.0, False, 1109),
    ("ridge", 1, 1.0, False, 1161), ("ridge", 1, 2.0, False, 1328), ("ridge", 3, 1.0, False, 1210),
    ("ridge", 3, 22.89, False, 6701),
    ("tiny", 1, 1.0, True, 1052), ("tiny", 1, 4.0, True, 1432), ("colour", 3, 1.0, True, 1319), ("ridge", 1, 1.0, True, 1047),
    ("gradient-step", 1, 0.25, True, 1379), ("gradient-step", 1, 1.0, True, 1761), ("gradient-step", 1, 2.0, True, 2333),
    ("gradient-step", 1, 11.5, True, 3716), ("gradient-step", 3, 5.72, True, 2972),
    ("gradient-step", 3, 22.89, True, 5403),
]  # fmt: skip


@pytest.mark.parametrize(("name", "channels", "megapixels", "blurred", "peak"), PEAKS)
def test_estimates_are_never_below_nor_far_above(name: str, channels: int, megapixels: float, blurred: bool, peak: int) -> None:
    with keeping_within(23 * 2**30):
        need = needed(load_pretrained(name), channels, int(megapixels * 2**20), blurred=blurred) / 2**20
    assert peak <= need <= 1.5 * peak


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "ridge"])
def test_the_estimate_holds_here(tmp_path: Path, name: str) -> None:
    """The peak of a whole process, read when it ends."""
    write_image(tmp_path / "y.png", photograph("camera", 512).repeat(1, 1, 2, 2)[..., :1024, :1024])
    code = """if True:
        import resource, sys
        from pnp_lip.command_line import main
        assert main(sys.argv[1:]) == 0
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    """
    arguments = ["denoise", "y.png", "-o", "x.png", "--noise", "0.05", "--denoiser", name, "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--memory", "8G"], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    peak = int(run.stdout.split()[-1])
    with keeping_within(8 * 2**30):
        need = needed(load_pretrained(name), 1, 2**20, blurred=False)
    assert peak <= need <= 1.5 * peak


def test_what_is_kept_follows_the_limit() -> None:
    v = torch.zeros(1, 1, 8, 8)
    with keeping_within(4 * 2 * 3 * v.numel() * v.element_size()):
        assert most_kept() == 2 * 3 * v.numel() * v.element_size()
        assert Anderson().start(v)["images"].shape[1] == 3
    assert Anderson().start(v)["images"].shape[1] == 8 and most_kept() <= memory.machine() // 4


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    group = tmp_path / "cgroup" / ("memory/a/b" if version == 1 else "a/b")
    group.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 99999 kB\nMemAvailable: 5000 kB\n")
    (tmp_path / "self" / "cgroup").write_text("7:cpu,memory:/a/b\n3:pids:/x\n" if version == 1 else "0::/a/b\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    (group / names[0]).write_text(str(1 << 62) if version == 1 else "max")
    (group / names[1]).write_text("1000000")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "cgroup")
    assert available() == 5000 * 1024  # there is no limit
    (group.parent / names[0]).write_text("2000000")  # of the group around it
    (group.parent / names[1]).write_text("1500000")
    (group.parent / "memory.stat").write_text("file 900000\ninactive_file 400000\n")
    assert available() == 2_000_000 - (1_500_000 - 400_000) and most_kept() == 2_000_000 // 4


def test_sizes_are_read() -> None:
    assert [limit_of(text) for text in ("6G", "1.5g", "500 M".replace(" ", ""), "64KiB", "2TB", "7")] == [
        6 * 2**30, 3 * 2**29, 500 * 2**20, 2**16, 2**41, 7,
    ]  # fmt: skip
    assert 2**28 < limit_of(None) <= memory.machine()


def test_too_large_an_image_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image("y.png", torch.zeros(1, 1, 20, 30))
    arguments = ["denoise", "y.png", "--denoiser", "tiny", "--quiet", "--memory", "0.5G"]
    assert main([*arguments, "-o", "x.png"]) == 2
    error = capsys.readouterr().err
    assert "30 x 20 pixels take about 1.0 GB of memory, and there are 0.5 GB; continue with a part" in error
    assert error.count("\n") == 1 and not Path("x.png").exists()


def test_a_photograph_of_24_megapixels_is_restored_in_8_gigabytes() -> None:
    picture = Picture(Path("y.png"), np.broadcast_to(np.uint8(0), (4000, 6000, 3)))
    options = argparse.Namespace(
        command="deblur", denoiser=None, psf="motion:9:0", padding="valid", limit=8 * 2**30, jobs=1, out_dir=None
    )
    assert share_of_memory(picture, options) == options.limit
    options.denoiser = "grey"
    assert 0 < share_of_memory(picture, options) < options.limit  # with fewer differences of Anderson's scheme
    options.limit, options.jobs, options.out_dir = 4 * 2**30, 2, "out"
    for options.denoiser, size in (("grey", "7.5"), (None, "6.6")):
        with pytest.raises(
            InputError, match=f"6010 x 4000 pixels take about {size} GB .* 4.0 GB; continue with fewer --jobs, a part"
        ):
            share_of_memory(picture, options)
    small = Picture(Path("y.png"), picture.pixels[:1024, :1024])
    options.limit, options.jobs = 3 * 2**29, 1
    with pytest.raises(InputError, match=r"1\.5 GB; continue with --denoiser grey, which fits, a part of the image"):
        share_of_memory(small, options)
    options.command, options.limit = "denoise", 8 * 2**30
    assert share_of_memory(picture, options) > 0


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 9 TiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_refused_allocation_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without_workers: None, error: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    write_image("y.png", torch.zeros(1, 1, 20, 30))
    monkeypatch.setitem(__import__("pnp_lip.command_line.restoring", fromlist=["RESTORE"]).RESTORE, "denoise", fails)
    arguments = ["denoise", "y.png", "--denoiser", "tiny", "--quiet"]
    assert main([*arguments, "-o", "x.png"]) == 2
    said = capsys.readouterr().err
    assert "memory ran out" in said and said.count("\n") == 1
    assert main([*arguments, "--out-dir", "out", "--json"]) == 2
    assert "memory ran out" in json.loads(capsys.readouterr().out)["error"]


def test_other_errors_stay_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str) -> None:
        raise RuntimeError("another")

    monkeypatch.chdir(tmp_path)
    write_image("y.png", torch.zeros(1, 1, 20, 30))
    monkeypatch.setattr("pnp_lip.command_line.restoring.read_picture", fails)
    with pytest.raises(RuntimeError, match="another"):
        main(["denoise", "y.png", "-o", "x.png", "--quiet"])
