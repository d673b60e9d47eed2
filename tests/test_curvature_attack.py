"""The attack on curvature bounds: close to true ones at both ends, and what it finds refutes false ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pnp_lip import attack_curvature, certify
from pnp_lip.certificates import CurvatureBound
from pnp_lip.curvature_attack import CurvatureViolation
from pnp_lip.errors import InputError
from pnp_lip.potentials import RidgePotential
from pnp_lip.spectral import norm_bound


def ridge(**options: Any) -> RidgePotential:
    """A small potential of norm one, most of whose responses can lie between rising limits of 0.02 and falling ones of 4."""
    torch.manual_seed(0)
    potential = RidgePotential(**{"filters": 4, "kernel_size": 5, **options}).requires_grad_(False).eval()
    potential.activation.set_profile([8.0, 3.0, 1.0], [0.3, 0.5], [0.002, 0.01, 0.02], [4.0, 8.0])
    potential.weight /= norm_bound(potential.weight, rtol=1e-6).upper
    return potential


@pytest.mark.parametrize("channels", [1, 2])
def test_the_attack_comes_close_to_both_ends(channels: int) -> None:
    potential = ridge(in_channels=channels)
    bound = certify(potential).curvature
    assert bound is not None
    least, largest = attack_curvature(potential, sigma=0.1, size=32, steps=1, bound=bound)
    assert not least.exceeds and not largest.exceeds
    assert least.share is not None and 0.99 < least.share <= 1 and "proves nothing" in str(least)
    assert largest.share is not None and 0.999 < largest.share <= 1


def test_the_attack_refutes_false_bounds_and_numpy_confirms_it(tmp_path: Path) -> None:
    potential = ridge()
    bound = certify(potential).curvature
    assert bound is not None
    least, largest = attack_curvature(potential, sigma=0.1, size=24, steps=0)
    false = CurvatureBound(least.curvature * (1 - 1e-6), largest.curvature * (1 - 1e-6))
    found = attack_curvature(potential, sigma=0.1, size=24, steps=0, bound=false)
    assert all(pair.exceeds and "is false" in str(pair) for pair in found)
    found[0].save(tmp_path / "pair.npz")
    held = np.load(tmp_path / "pair.npz")
    d = held["y"] - held["x"]
    assert ((held["gy"] - held["gx"]) * d).sum() / (d**2).sum() == pytest.approx(least.curvature, rel=1e-9)
    exact = copy.deepcopy(potential).double()
    assert torch.equal(exact.grad(found[1].y, found[1].sigma), found[1].gy)
    with pytest.raises(InputError, match="npz"):
        found[0].save(tmp_path / "pair.txt")


class Quadratic(nn.Module):
    """½⟨x, Qx⟩ for one blur Q: no RidgePotential, no in_channels."""

    def grad(self, x: Tensor, sigma: float) -> Tensor:
        return 0.75 * x + 0.25 * x.roll(1, -1) + 0.25 * x.roll(-1, -1)


def test_the_attack_needs_only_a_gradient() -> None:
    least, largest = attack_curvature(Quadratic(), sigma=0.1, channels=1, size=24, steps=4)
    assert isinstance(least, CurvatureViolation) and largest.curvature == pytest.approx(1.25, rel=1e-6)
    assert least.curvature < 0.3 and least.share is None
    with pytest.raises(InputError, match="channels"):
        attack_curvature(Quadratic())
    with pytest.raises(InputError, match="no method `grad"):
        attack_curvature(nn.Identity(), channels=1)
    with pytest.raises(InputError, match="sigma > 0"):
        attack_curvature(Quadratic(), channels=1, sigma=0.0)
