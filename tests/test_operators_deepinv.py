"""deepinv's own tests of a physics, run on our operators."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import deepinv
import numpy as np
import pytest
import torch

from pnp_lip.operators import Blur, CertifiedPhysics, FanBeam, FanBeamTomography, ParallelBeamTomography, gaussian_psf

SIZE = (1, 16, 16)
CPU = torch.device("cpu")
OPERATORS: dict[str, Callable[[], CertifiedPhysics]] = {
    "blur circular": lambda: Blur(gaussian_psf(1.0), SIZE),
    "blur zeros": lambda: Blur(gaussian_psf(1.0), SIZE, padding="zeros", normalize=True),
    "blur reflect": lambda: Blur(gaussian_psf(1.0), SIZE, padding="reflect", normalize=True),
    "parallel": lambda: ParallelBeamTomography(np.arange(0, 180, 6.0), SIZE, normalize=True),
    "fan": lambda: FanBeamTomography(
        FanBeam(np.arange(0, 360, 12.0), source_distance=30.0, detector_distance=20.0), SIZE, normalize=True
    ),
}
CHECKS = [
    ("test_operators_adjointness", ("rng",)),
    ("test_pseudo_inverse", ("rng", "implicit")),
    ("test_operators_differentiability", ()),
    ("test_adjoint_autograd", ()),
    ("test_concatenation", ()),
    ("test_physics_state_dict", ()),
    ("test_device_consistency", ()),
    pytest.param("test_clone", (), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def suite() -> Iterator[ModuleType]:
    """deepinv's test module, which imports helpers of its own folder by bare names."""
    folder = str(Path(deepinv.__file__).parent / "tests")
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("deepinv.tests.test_physics")
    except ImportError as error:
        pytest.skip(f"deepinv's tests are not installed ({error})")
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if name.startswith("deepinv.tests") or name in ("dummy", "conftest"):
                del sys.modules[name]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("check", "needs"), CHECKS)
def test_deepinv_accepts_our_operators(
    suite: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, check: str, needs: tuple[str, ...]
) -> None:
    def find_operator(name: str, device: Any, get_physics_param: bool = False) -> tuple[Any, ...]:
        found = (OPERATORS[name](), SIZE, 1.0, torch.float32)
        return (*found, []) if get_physics_param else found

    monkeypatch.setattr(suite, "find_operator", find_operator)
    monkeypatch.setattr(suite, "OPERATORS", list(OPERATORS))
    monkeypatch.chdir(tmp_path)  # one of the tests writes beside itself
    torch.manual_seed(0)
    arguments = [name] if check == "test_device_consistency" else [name, CPU]
    if "rng" in needs:
        arguments.append(torch.Generator().manual_seed(0))
    for implicit in (True, False) if "implicit" in needs else (None,):
        getattr(suite, check)(*arguments, *(() if implicit is None else (implicit,)))


@pytest.mark.parametrize("name", OPERATORS)
def test_norm_is_the_reference(name: str) -> None:
    """deepinv's own norm test also demands a warning of its power iteration, which we do not run."""
    physics = OPERATORS[name]()
    assert float(physics.compute_sqnorm(torch.zeros(SIZE), max_iter=1000, tol=1e-6)) == pytest.approx(1.0, abs=1e-2)
