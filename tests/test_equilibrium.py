"""Equilibrium training: it stands at the fixed point that the solver finds, and improves it without losing the proof."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pnp_lip import GradientFlowDenoiser, certify, load_pretrained
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, gaussian_psf, shake_psf
from pnp_lip.operators.tomography import circle_mask
from pnp_lip.solvers import ForwardBackward
from pnp_lip.training import PatchSettings, ProblemSettings, TrainingSettings, train
from pnp_lip.training.equilibrium import (
    LARGEST_PSF,
    STEP,
    Equilibrium,
    approach,
    random_phantoms,
    random_psf,
    update,
)


def test_kernels_are_nonnegative_of_sum_one_and_reproducible() -> None:
    kernels = [random_psf(torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert len({tuple(k.shape) for k in kernels}) > 4
    for seed, kernel in enumerate(kernels):
        assert max(kernel.shape) <= LARGEST_PSF
        assert kernel.min() >= 0 and abs(kernel.sum().item() - 1) < 1e-12
        assert torch.equal(kernel, random_psf(torch.Generator().manual_seed(seed)))
    shake = shake_psf(torch.Generator().manual_seed(0), reach=6)
    assert shake.shape == (13, 13) and (shake > 0).sum() > 13


def test_the_approach_ends_where_the_solver_ends() -> None:
    denoiser = load_pretrained("grey")
    x = photograph("camera", 256)[..., 60:108, 90:138]
    physics = Blur(gaussian_psf(1.0), (1, 48, 48))
    y = physics.A(x) + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    solver = ForwardBackward(denoiser, sigma=0.014, step=STEP, tol=1e-5)
    expected = solver.solve(y, physics).x
    with torch.no_grad():
        x_hat = approach(denoiser, physics, y, 0.014, y, 60)
        for _ in range(3):
            x_hat = update(denoiser, physics, x_hat, y, 0.014, STEP)
    assert (x_hat - expected).norm() < 0.1 * (y - expected).norm()


def test_only_the_differentiated_iterations_use_the_fourier_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    class TransformError(Exception): ...

    def refuse(*_: object) -> None:
        raise TransformError

    denoiser, x = load_pretrained("tiny").requires_grad_(True), torch.rand(1, 1, 24, 24)
    physics = Blur(gaussian_psf(1.0), (1, 24, 24))
    denoiser.use_fourier(True)
    monkeypatch.setattr("pnp_lip.layers.gradient_flow_conv2d.correlate", refuse)
    with torch.no_grad():
        approach(denoiser, physics, x, 0.01, x, 2)
    with pytest.raises(TransformError):
        update(denoiser, physics, x, x, 0.01, STEP)


@pytest.mark.parametrize("scans", [0.0, 1.0])
def test_what_comes_back_is_closer_to_the_truth_than_the_data(scans: float) -> None:
    denoiser = load_pretrained("tiny")
    x = photograph("camera", 256)[..., 60:108, 90:138]
    with torch.no_grad():
        equilibrium = Equilibrium(scans=scans, phantoms=0.0)
        problem = equilibrium.problem(x, torch.Generator().manual_seed(2))
        x_hat, truth = equilibrium.solve(denoiser, problem), problem.x
    assert torch.equal(truth, x * circle_mask(48) if scans else x)
    assert psnr(x_hat, truth) > 24


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


def test_a_problem_is_solved_on_from_where_it_stood() -> None:
    denoiser = load_pretrained("tiny")
    x = photograph("camera", 256)[..., 60:108, 90:138]
    equilibrium = Equilibrium(scans=0.0, free=60, again=10)
    with torch.no_grad():
        problem = equilibrium.problem(x, torch.Generator().manual_seed(2))
        start = problem.x_hat
        first = equilibrium.solve(denoiser, problem)
        second = equilibrium.solve(denoiser, problem)
        short = dataclasses.replace(equilibrium, free=10)
        anew = short.solve(denoiser, dataclasses.replace(problem, x_hat=start, visited=False))
    assert (second - first).norm() < 0.2 * (anew - first).norm()


def test_the_pool_takes_new_problems_and_old_ones_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnp_lip.training.equilibrium.POOL", 14)
    equilibrium = Equilibrium(free=1, again=1, differentiated=1)
    generator, denoiser = torch.Generator().manual_seed(0), load_pretrained("tiny")
    seen = []
    with torch.no_grad():
        for i in range(60):
            x = torch.rand(1, 1, 24, 24, generator=generator)
            problem = equilibrium.take(x, generator)
            assert equilibrium.solve(denoiser, problem).shape == problem.x.shape == x.shape
            seen.append(problem.x)
            assert len(equilibrium.pool) <= 14 and (i < 12) <= (len(equilibrium.pool) == i + 1)
    new = sum(all(truth is not before for before in seen[:i]) for i, truth in enumerate(seen))
    assert 25 < new < 50  # the first twelve, then half of them


def test_training_at_equilibrium_lowers_its_loss_and_keeps_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    for name, value in {"WARM_UP": 2, "AVERAGE": 0.5, "REFRESH": 5}.items():
        monkeypatch.setattr(f"pnp_lip.training.training_run.{name}", value)
    images = [photograph("camera", 128)[0], photograph("astronaut", 128)[0]]
    settings = TrainingSettings(
        steps=25,
        learning_rate=2e-2,
        patches=PatchSettings(batch=4, size=24),
        problems=ProblemSettings(equilibrium=1.0),
        checkpoint_every=25,
        validate_every=25,
    )
    start = GradientFlowDenoiser(channels=3, hidden_channels=6, kernel_size=5, dilations=(1, 2))
    before = loss(start, images[0][None])
    trained = train(start, images, images[:1], tmp_path, settings)
    assert certify(trained).averaged
    assert loss(trained, images[0][None]) < before - 0.02
    assert dataclasses.asdict(settings)["problems"]["equilibrium"] == 1.0


@torch.no_grad()
def loss(denoiser: GradientFlowDenoiser, x: torch.Tensor) -> float:
    generator = torch.Generator().manual_seed(5)
    errors, equilibrium = [], Equilibrium(free=20)
    for _ in range(4):
        problem = equilibrium.problem(x, generator)
        errors.append((equilibrium.solve(denoiser, problem) - problem.x).square().mean().log())
    return float(torch.stack(errors).mean())
