"""Every example in every docstring runs, in whichever way the package was installed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import pnp_lip

NAMES = sorted(m.name for m in pkgutil.walk_packages(pnp_lip.__path__, "pnp_lip.") if not m.name.endswith("__main__"))


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name: str) -> None:
    torch.manual_seed(0)
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_examples() -> None:
    assert len(NAMES) > 60
