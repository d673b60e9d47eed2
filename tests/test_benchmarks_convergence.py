"""The benchmark of convergence: what it runs, how it goes on, its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pnp_lip.benchmarks import convergence
from pnp_lip.benchmarks.config import ConvergenceConfig
from pnp_lip.benchmarks.record import Destination, Row


def settled(solver: str, scheme: str, iterations: int, denoiser: str = "certified", outcome: str = "settled") -> Row:
    return {"operator": "blur", "solver": solver, "denoiser": denoiser, "scheme": scheme, "status": "converged",
            "outcome": outcome, "iterations": iterations, "relative_residual": 9e-6, "psnr": 25.0, "cpu_seconds": 1.5,
            "proved": True}  # fmt: skip


def test_the_tables_are_made_from_the_record() -> None:
    rows = [
        {**settled("RED", "KrasnoselskiiMann", 120), "examination": 0.012},
        settled("RED", "Anderson", 30),
        settled("RED", "KrasnoselskiiMann", 9, "DnCNN", "diverged"),
        {**settled("RED", "Anderson", 9, "DnCNN"), "error": "lost"},
    ]
    versions = {"pnp-lip": "1", "torch": "2", "deepinv": "3"}
    here = {"versions": versions, "system": "somewhere", "threads": 1}
    tables = convergence.tables({"settings": {"size": 8}, "environments": [here], "rows": rows})
    text = " ".join("\n".join(table.markdown() for table in tables).split())
    assert "| RED | 120 (1.5) |" in text and "| RED | 30 (1.5) |" in text and "| RED | diverged, 9e-06, 25.0 dB |" in text
    assert "median 4.0, least 4.0" in text and "of 50 iterations: median 1.2%, most 1.2%" in text
    del rows[0]["examination"]
    without = convergence.tables({"settings": {}, "environments": [here], "rows": rows})[-1]
    assert without.note == "Plain over accelerated iterations: median 4.0, least 4.0."
    assert 'Settings: {"size": 8}, pnp-lip 1, torch 2, deepinv 3, somewhere, 1 thread(s).' in text


def test_an_interrupted_record_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def solved(solver: object, *data: object) -> Row:
        calls.append(type(solver).__name__)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return {"status": "converged", "outcome": "settled", "iterations": 9}

    monkeypatch.setattr(convergence, "solved", solved)
    config, to = ConvergenceConfig(size=16), Destination(tmp_path / "record.json")
    with pytest.raises(KeyboardInterrupt):
        convergence.run(config, to)
    assert len(json.loads(to.path.read_text())["rows"]) == 4
    content = convergence.run(config, to)
    assert len(content["rows"]) == 5 * 8 * 3 and len(calls) - 1 == 5 * 8 * 3
    assert json.loads(to.path.read_text()) == content
    assert convergence.run(config, to) == content  # a complete record is left as it is
    assert len(calls) - 1 == 5 * 8 * 3


def test_solvers_run_with_and_without_a_certificate(tmp_path: Path) -> None:
    config = ConvergenceConfig(size=16, tol=1e-2, max_iter=60, uncertified_max_iter=3)
    x = convergence.test_image(16)
    for name, physics in list(convergence.forward_models(16))[:1]:
        for label, solver in list(convergence.solvers(config))[:3]:
            row = convergence.solved(solver, physics.A(x), physics, x, config, label == "certified")
            assert row["proved"] == (label == "certified") and row["iterations"] > 0, (name, label)
            assert 0 <= row["examination"] < 1
