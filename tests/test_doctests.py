"""Every example in every docstring runs, in whichever way the package was installed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

PACKAGES = ("pnp_lip", "pnp_lip.operators", "pnp_lip.solvers", "pnp_lip.benchmarks")  # an editable install splits them
NAMES = sorted(
    {
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    }
)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name: str) -> None:
    torch.manual_seed(0)
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_examples() -> None:
    assert len(NAMES) > 60
