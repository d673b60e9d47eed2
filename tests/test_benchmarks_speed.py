"""The benchmark of speed: who takes part, what is recorded, what the bar says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pnp_lip.benchmarks import speed
from pnp_lip.benchmarks.config import SpeedConfig
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, read_record
from pnp_lip.benchmarks.report import write_report
from pnp_lip.command_line.main import main
from pnp_lip.denoisers import GradientFlowDenoiser

QUICK = SpeedConfig(side=16, repeats=2)


class Untimely(nn.Module):
    """x ↦ c x, and an error once it is stored by pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.moved = nn.Parameter(torch.tensor(0.5)), False

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        if self.moved:
            raise RuntimeError("no such layout")
        return self.c * x

    def to(self, *args: Any, **kwargs: Any) -> Untimely:
        self.moved = True
        return super().to(*args, **kwargs)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    small = GradientFlowDenoiser(hidden_channels=4, kernel_size=3, dilations=(1, 1)).requires_grad_(False)
    out = tmp_path_factory.mktemp("speed") / "speed.json"
    before = torch.get_rng_state()
    priors = [Prior("small", small, ours=True), Prior("untimely", Untimely()), Prior("no network", abs)]
    speed.run(QUICK, Destination(out, skipped={"BM3D": "not installed"}), priors)
    assert torch.equal(torch.get_rng_state(), before)
    return out


def test_every_network_is_timed_in_every_way(path: Path) -> None:
    content = read_record(path)
    rows = {(r["prior"], r["way"]): r for r in content["rows"]}
    assert set(rows) == {(name, way) for name in ("small", "untimely", "DRUNet", "DnCNN") for way in ("plain", "channels-last")}
    assert content["skipped"] == {"BM3D": "not installed"}
    assert "no such layout" in rows["untimely", "channels-last"]["error"]
    for (name, way), row in rows.items():
        if "error" not in row:
            assert row["cpu_seconds"] > 0 and row["seconds"] > 0
            assert row["difference"] == 0 if way == "plain" else row["difference"] < 0.5, (name, way)
    fastest = max(rows["DRUNet", way]["times_faster"] for way in ("plain", "channels-last"))
    assert 0.99 <= fastest <= 1.5  # the reference is its own fastest way
    assert rows["untimely", "plain"]["times_faster"] > 50


def test_a_complete_record_is_left_as_it_is(path: Path) -> None:
    before = read_record(path)
    calls: list[str] = []
    priors = [Prior("small", GradientFlowDenoiser(), ours=True)]
    to = Destination(path.with_name("copy.json"), tell=calls.append)
    again = speed.run(QUICK, to, [])
    assert len(calls) == 4 and len(again["rows"]) == 4
    assert speed.run(QUICK, to, [])["rows"] == again["rows"]
    assert len(calls) == 4
    more = speed.run(QUICK, to, priors)  # ratios need one run of all
    assert len(calls) == 10 and len(more["rows"]) == 6
    assert read_record(path) == before


def test_the_bar_is_met_or_missed_by_the_numbers(path: Path) -> None:
    content = copy.deepcopy(read_record(path))
    assert "bfloat16 rounds" not in speed.tables(content)[0].note
    small = next(row for row in content["rows"] if row["prior"] == "small")
    content["rows"].append({**small, "way": "bfloat16"})  # as in older records
    for ratio, verdict in ((15.0, "met"), (14.9, "missed")):
        for row in content["rows"]:
            if row["prior"] == "small":
                row["times_faster"] = {"plain": 3.0, "channels-last": ratio, "bfloat16": 99.0}[row["way"]]
        titles = {table.title: table for table in speed.tables(content)}
        assert titles["Bars"].rows == (("small faster than DRUNet", "≥ 15 times", f"{ratio:.1f} times", verdict),)
        assert len(titles["Time of one pass"].rows) == 8 and len(titles["No result"].rows) == 1
    written = write_report([path], path.parent / "report")
    assert "| small | plain |" in written[0].read_text()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "bench",
        "speed",
        "--quick",
        "--side",
        "16",
        "--repeats",
        "1",
        "--priors",
        "grey",
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 0
    content = json.loads((tmp_path / "speed.json").read_text())
    assert {r["prior"] for r in content["rows"]} == {"grey", "DRUNet", "DnCNN"}
    assert content["priors"]["grey"]["certified"] and (tmp_path / "speed.md").is_file()
    assert main(["bench", "speed", "--repeats", "0", "--out", str(tmp_path)]) == 2
    assert "--repeats must be a positive integer" in capsys.readouterr().err
