"""The loop, its monitoring and its acceleration cost next to nothing beside denoiser and operator."""

from __future__ import annotations

import pytest
import torch

from pnp_lip.benchmarks.convergence import Cell, Config, overhead, render


@pytest.mark.slow
def test_overhead_is_below_three_percent():
    torch.set_num_threads(1)
    shares = overhead(Config(), iterations=25)
    assert set(shares) == {"Relaxed", "Anderson"}
    assert shares["Relaxed"] < 0.03, shares
    assert shares["Anderson"] < 0.05, shares  # its least-squares problem included


def test_the_tables_are_made_from_the_record():
    def cell(solver, scheme, iterations, denoiser="certified", outcome="settled"):
        cell = Cell("blur", solver, denoiser, scheme, "converged", outcome, iterations, 9e-6, 25.0, 1.5, True)
        return {**cell.__dict__}

    cells = [cell("RED", "Relaxed", 120), cell("RED", "Anderson", 30), cell("RED", "Relaxed", 9, "DnCNN", "diverged")]
    text = render({"config": {}, "versions": "now", "overhead": {"Relaxed": 0.012}, "cells": cells})
    assert (
        "| RED | 120 (1.5) |" in text and "| RED | 30 (1.5) |" in text and "| RED | diverged, 9e-06, 25.0 dB |" in text
    )
    assert "median 4.0, least 4.0" in text and "Relaxed 1.2%" in text
