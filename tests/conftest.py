"""Tests run against what is installed, or, by ``python -m pytest`` or without an installation, against the checkout."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[1])

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads than one each would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
if find_spec("pnp_lip") is None:
    sys.path.insert(0, ROOT)
if Path(find_spec("pnp_lip").origin).parents[1] == Path(ROOT):  # processes that a test starts elsewhere import the same
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are restored in this process: a worker takes seconds to begin."""
    from pnp_lip.command_line.restoring import outcome_of

    monkeypatch.setattr("pnp_lip.command_line.files.outcomes", lambda items, options: (outcome_of(i, options) for i in items))
