"""The loop, its monitoring and its acceleration cost next to nothing beside denoiser and operator."""

from __future__ import annotations

import json

import pytest
import torch

from pnp_lip.benchmarks import convergence
from pnp_lip.benchmarks.convergence import Cell, Config, measured, overhead, render


@pytest.mark.slow
def test_overhead_is_below_three_percent():
    torch.set_num_threads(1)
    shares = overhead(Config(), iterations=25)
    assert set(shares) == {"KrasnoselskiiMann", "Anderson"}
    assert shares["KrasnoselskiiMann"] < 0.03, shares
    assert shares["Anderson"] < 0.03, shares  # its least-squares problem included


def test_the_tables_are_made_from_the_record():
    def cell(solver, scheme, iterations, denoiser="certified", outcome="settled"):
        cell = Cell("blur", solver, denoiser, scheme, "converged", outcome, iterations, 9e-6, 25.0, 1.5, True)
        return {**cell.__dict__}

    cells = [
        cell("RED", "KrasnoselskiiMann", 120),
        cell("RED", "Anderson", 30),
        cell("RED", "KrasnoselskiiMann", 9, "DnCNN", "diverged"),
    ]
    text = render({"config": {}, "versions": "now", "overhead": {"KrasnoselskiiMann": 0.012}, "cells": cells})
    assert (
        "| RED | 120 (1.5) |" in text and "| RED | 30 (1.5) |" in text and "| RED | diverged, 9e-06, 25.0 dB |" in text
    )
    assert "median 4.0, least 4.0" in text and "KrasnoselskiiMann 1.2%" in text


def test_an_interrupted_record_goes_on_where_it_was(tmp_path, monkeypatch):
    calls = []

    def measure(solver, y, physics, x, operator, denoiser):
        calls.append(type(solver).__name__)
        if len(calls) == 5:
            raise KeyboardInterrupt
        settled = ("converged", "settled", 9, 1e-6, 25.0, 1.5, True)
        return Cell(operator, calls[-1], denoiser, type(solver.scheme).__name__, *settled)

    monkeypatch.setattr(convergence, "measure", measure)
    monkeypatch.setattr(convergence, "overhead", lambda config: {"KrasnoselskiiMann": 0.01})
    config, path = Config(size=16, training_steps=0), tmp_path / "record.json"
    with pytest.raises(KeyboardInterrupt):
        measured(config, path)
    assert len(json.loads(path.read_text())["cells"]) == 4
    record = measured(config, path)
    assert record["complete"] and len(record["cells"]) == 5 * 8 * 3 == len(calls) - 1
    assert json.loads(path.read_text()) == record
    measured(config, path)  # a complete record is measured anew
    assert len(calls) - 1 == 2 * len(record["cells"])
