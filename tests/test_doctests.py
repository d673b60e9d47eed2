"""Every example in every docstring runs, in whichever way the package was installed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import house
import pytest
import torch

PACKAGES = (
    "pnp_lip",
    "pnp_lip.benchmarks",
    "pnp_lip.operators",
    "pnp_lip.solvers",
)  # a checkout keeps three beside one
NAMES = sorted(
    {
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    }
    | {*PACKAGES}
)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name: str) -> None:
    torch.manual_seed(0)
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_every_file_is_read() -> None:
    assert {*house.modules()} == {*NAMES}, "is a new folder missing from `packages` in pyproject.toml?"
