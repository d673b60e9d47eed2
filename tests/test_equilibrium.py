"""Equilibrium training: it stands at the fixed point that the solver finds, and improves it without losing the proof."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pnp_lip import GradientFlowDenoiser, certify, load_pretrained, relax
from pnp_lip.command_line.scene import photograph
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, gaussian_kernel, shake_kernel
from pnp_lip.operators.tomography_inputs import circle_mask
from pnp_lip.solvers import ForwardBackward
from pnp_lip.training import TrainingSettings, train
from pnp_lip.training.equilibrium import STEP, Equilibrium, random_kernel


def test_kernels_are_nonnegative_of_sum_one_and_reproducible() -> None:
    kernels = [random_kernel(torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert len({tuple(k.shape) for k in kernels}) > 4
    for seed, kernel in enumerate(kernels):
        assert kernel.min() >= 0 and abs(kernel.sum().item() - 1) < 1e-12
        assert torch.equal(kernel, random_kernel(torch.Generator().manual_seed(seed)))
    shake = shake_kernel(torch.Generator().manual_seed(0), reach=6)
    assert shake.shape == (13, 13) and (shake > 0).sum() > 13


def test_the_approach_ends_where_the_solver_ends() -> None:
    denoiser = load_pretrained("grey")
    x = photograph("camera", 256)[..., 60:108, 90:138]
    physics = Blur(gaussian_kernel(1.0), (1, 48, 48))
    y = physics.A(x) + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    equilibrium = Equilibrium(free=60)
    solver = ForwardBackward(relax(denoiser, equilibrium.theta), sigma=0.014, step=STEP, tol=1e-5)
    expected = solver.solve(y, physics).x
    with torch.no_grad():
        x_hat = equilibrium.approach(denoiser, physics, y, 0.014, y)
        for _ in range(3):
            x_hat = equilibrium.update(denoiser, physics, x_hat, y, 0.014, STEP)
    assert (x_hat - expected).norm() < 0.1 * (y - expected).norm()


@pytest.mark.parametrize("guidance", [False, True])
@pytest.mark.parametrize("scans", [0.0, 1.0])
def test_what_comes_back_is_closer_to_the_truth_than_the_data(scans: float, guidance: bool) -> None:
    denoiser = load_pretrained("tiny")
    x = photograph("camera", 256)[..., 60:108, 90:138]
    with torch.no_grad():
        x_hat, truth = Equilibrium(scans=scans)(denoiser, x, torch.Generator().manual_seed(2), guidance=guidance)
    assert torch.equal(truth, x * circle_mask(48) if scans else x)
    assert psnr(x_hat, truth) > 24


def test_training_at_equilibrium_lowers_its_loss_and_keeps_the_certificate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = [photograph("camera", 128)[0], photograph("astronaut", 128)[0]]
    settings = TrainingSettings(
        steps=25, batch=4, patch=32, equilibrium=1.0, learning_rate=2e-2, warm_up=2, average=0.5, refresh=5,
        checkpoint_every=25, validate_every=25,
    )  # fmt: skip
    start = GradientFlowDenoiser(channels=3, hidden_channels=6, kernel_size=5, dilations=(1, 2))
    before = loss(start, images[0][None])
    trained = train(start, images, images[:1], tmp_path, settings)
    assert certify(trained).averaged
    assert loss(trained, images[0][None]) < before - 0.02
    assert dataclasses.asdict(settings)["equilibrium"] == 1.0


@torch.no_grad()
def loss(denoiser: GradientFlowDenoiser, x: torch.Tensor) -> float:
    generator = torch.Generator().manual_seed(5)
    pairs = [Equilibrium(free=20)(denoiser, x, generator) for _ in range(4)]
    return float(torch.stack([(x_hat - truth).square().mean().log() for x_hat, truth in pairs]).mean())
