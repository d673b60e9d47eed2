"""The strength that the noise of a scan leads to expect, the variation that it is compared with, and the record of both."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

import pytest
import torch
from deepinv.physics import Denoising

from pnp_lip.benchmarks import held_out
from pnp_lip.benchmarks.baselines import SmoothedTotalVariation
from pnp_lip.errors import InputError
from pnp_lip.solvers import SCAN_WEIGHT, Variational, noise_of_scan
from pnp_lip.solvers.scan_strength import EXPECTED, LEAST, MOST, expected_level, levels_for_scan


def test_the_expected_level_is_proportional_to_the_noise() -> None:
    for noise in (0.001, 0.01, 0.03):
        levels = levels_for_scan(noise)
        assert (
            expected_level(noise) * math.sqrt(SCAN_WEIGHT) == pytest.approx(EXPECTED * noise) and expected_level(noise) in levels
        )
        assert all(b / a == pytest.approx(math.sqrt(2)) for a, b in itertools.pairwise(levels)) and max(levels) <= 1
    assert expected_level(0.0) == LEAST and expected_level(9.0) == MOST


def test_small_sinograms_take_the_noise_of_a_fit() -> None:
    y = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert noise_of_scan(y, 0.1 * torch.ones_like(y)) == pytest.approx(0.1)
    with pytest.raises(InputError, match="patches"):
        noise_of_scan(y)


def test_the_smoothed_variation_is_convex_and_as_smooth_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    potential = SmoothedTotalVariation()
    for size in (0.3, 1e-3):  # above and below δ
        x = size * torch.rand(1, 1, 5, 6, generator=generator, dtype=torch.float64)
        leaf = x.clone().requires_grad_()
        potential.fn(leaf, None).sum().backward()
        assert leaf.grad is not None
        torch.testing.assert_close(potential.grad(x, None), leaf.grad, rtol=1e-9, atol=1e-12)
        hessian = torch.autograd.functional.hessian(lambda v: potential.fn(v, None).sum(), x).reshape(30, 30)
        eigenvalues = torch.linalg.eigvalsh(hessian)
        assert float(eigenvalues[0]) > -1e-9 * float(eigenvalues[-1])
        assert float(eigenvalues[-1]) <= potential.curvature.upper
    assert float(eigenvalues[-1]) > 0.8 * potential.curvature.upper


def test_a_step_denoised_by_variation_has_the_known_solution() -> None:
    x = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    x[..., 4:] = 0.5
    weight = 0.1  # each half moves by weight/width towards the other, and the smoothing bends it a little
    solver = Variational(SmoothedTotalVariation(), weight=weight, curvature=SmoothedTotalVariation.curvature, tol=1e-9)
    found = solver.solve(x, Denoising(), max_iter=3000).x
    torch.testing.assert_close(found, x + torch.where(x > 0, -weight / 4, weight / 4), atol=2e-3, rtol=0)


def test_scans_are_repeatable_and_contrast_is_relative() -> None:
    x = held_out.low_contrast(48)
    assert held_out.contrast(x, x) == 1 and held_out.contrast(0.5 * x, x) == pytest.approx(0.5)
    a, b = (held_out.simulate("low contrast", x, "limited 60", "Poisson 1e4") for _ in range(2))
    assert torch.equal(a.y, b.y) and a.y.shape[-1] == 60 and not torch.equal(a.y, a.physics.A(x))


def test_a_record_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def measure(scan: held_out.Scan, prior: str) -> held_out.Row:
        seen.append(scan.name)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return {"psnr": 30.123456, "status": "converged"}

    monkeypatch.setattr(held_out, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        held_out.run(tmp_path / "r.csv", None, 32)
    held_out.run(tmp_path / "r.csv", None, 32)
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36 == len({(r["object"], r["geometry"], r["noise"], r["prior"]) for r in rows})
    assert rows[0]["psnr"] == "30.123" and len(seen) == 37
