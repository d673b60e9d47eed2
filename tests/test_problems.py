"""Random reconstructions of training: kernels, made-up slices, the pool of problems."""

from __future__ import annotations

import pytest
import torch

from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.operators import shake_psf
from pnp_lip.operators.tomography import circle_mask
from pnp_lip.training.problems import LARGEST_PSF, random_phantoms, random_psf, random_reconstruction, taken


def test_kernels_are_nonnegative_of_sum_one_and_reproducible() -> None:
    kernels = [random_psf(torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert len({tuple(k.shape) for k in kernels}) > 4
    for seed, kernel in enumerate(kernels):
        assert max(kernel.shape) <= LARGEST_PSF
        assert kernel.min() >= 0 and abs(kernel.sum().item() - 1) < 1e-12
        assert torch.equal(kernel, random_psf(torch.Generator().manual_seed(seed)))
    shake = shake_psf(torch.Generator().manual_seed(0), reach=6)
    assert shake.shape == (13, 13) and (shake > 0).sum() > 13


def test_made_up_slices_hold_the_photographs_texture_in_a_body() -> None:
    photographs = torch.cat([photograph("camera", 256)[..., i : i + 64, 90:154] for i in range(0, 160, 16)])
    slices = random_phantoms(photographs, torch.Generator().manual_seed(0))
    assert slices.shape == photographs.shape and slices.min() >= 0 and slices.max() <= 1
    assert torch.equal(slices, random_phantoms(photographs, torch.Generator().manual_seed(0)))
    assert (slices * (1 - circle_mask(64))).max() == 0  # a scan sees all of them
    assert (slices.flatten(1).std(1) > 0.05).all() and len({float(x.mean()) for x in slices}) == len(slices)
    constant = random_phantoms(torch.full_like(photographs, 0.5), torch.Generator().manual_seed(0))
    assert (slices - constant).abs().flatten(1).amax(1).min() > 0.01
    assert (slices - constant).abs()[..., 32, :2].max() == 0  # outside of the bodies nothing is added


@pytest.mark.parametrize("scanned", [False, True])
def test_data_are_noisy_and_a_scan_sees_what_is_in_its_circle(scanned: bool) -> None:
    x = photograph("camera", 256)[..., 60:108, 90:138]
    problem = random_reconstruction(x, torch.Generator().manual_seed(2), scans=float(scanned))
    assert scanned or torch.equal(problem.x, x)
    assert not scanned or bool((problem.x * (1 - circle_mask(48)) == 0).all())
    assert float((problem.y - problem.physics.A(problem.x)).std()) == pytest.approx(problem.sigma, rel=0.1)
    assert problem.x_hat.shape == x.shape and not problem.visited


def test_the_pool_takes_new_problems_and_old_ones_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnp_lip.training.problems.POOL", 14)
    generator, pool, seen = torch.Generator().manual_seed(0), [], []
    for i in range(60):
        x = torch.rand(1, 1, 24, 24, generator=generator)
        seen.append(taken(pool, lambda x=x: random_reconstruction(x, generator, scans=0.4), generator))
        assert len(pool) <= 14 and (i < 12) <= (len(pool) == i + 1)
    new = len({id(problem) for problem in seen})
    assert 25 < new < 50 and pool[0] is not seen[0]  # the first twelve, then half of them
