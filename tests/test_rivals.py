"""Rivals: their networks are those of their packages, their methods do what their papers say."""

from __future__ import annotations

import importlib.util
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pnp_lip.benchmarks import networks, rivals
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.benchmarks.priors import collect
from pnp_lip.benchmarks.problem import Budget, Observation
from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, ParallelBeam, ParallelBeamTomography, gaussian_psf
from pnp_lip.operators.psf import shake_psf


def noisy(sigma: float = 0.1) -> Observation:
    x = photograph("camera", 32)
    return Observation(x, x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), sigma)


def blurred(noise: float = 0.01) -> Observation:
    x = photograph("camera", 32)
    physics = Blur(shake_psf(torch.Generator().manual_seed(1), reach=4), (1, 32, 32), padding="circular")
    y = physics.A(x)
    return Observation(x, y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)), noise, physics)


def installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


# Networks


def chain_with_norms(channels: list[int]) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """Convolutions without bias, all but the first and the last with batch normalisation, as FFDNet's file holds them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(itertools.pairwise(channels)):
        layers.append(nn.Conv2d(a, b, 3, padding=1, bias=False))
        if 0 < k < len(channels) - 2:
            norm = nn.BatchNorm2d(b)
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(b) + 0.5)
            layers.append(norm)
        layers.append(nn.ReLU())
    network = nn.Sequential(*layers[:-1]).eval()
    return network, {f"module.x.itermediate_dncnn.{name}": tensor for name, tensor in network.state_dict().items()}


def test_ffdnets_file_is_read_as_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, held = chain_with_norms([5, 6, 6, 4])
    torch.save(held, tmp_path / "ffdnet_weights_gray.pth")
    monkeypatch.setattr(networks, "in_package", lambda package, file: tmp_path / file)
    found = networks.ffdnet()
    x, sigma = torch.rand(2, 1, 6, 8), 0.2
    level = torch.full((2, 1, 3, 4), sigma)
    small = torch.stack([x[:, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
    residual = network(torch.cat([level, small], 1))
    expected = x.clone()
    for k, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected[:, 0, i::2, j::2] -= residual[:, k]
    assert torch.allclose(found(x, sigma), expected, atol=1e-5)
    assert torch.allclose(found(x, torch.full((2,), sigma)), expected, atol=1e-5)
    assert found(torch.rand(1, 1, 7, 9), sigma).shape == (1, 1, 7, 9)
    torch.save({"a": torch.zeros(2)}, tmp_path / "ffdnet_weights_gray.pth")
    with pytest.raises(InputError, match="no convolutions"):
        networks.ffdnet()


@pytest.mark.parametrize(("package", "make"), [("ffdnet", networks.ffdnet), ("scico", networks.dncnn_of_scico)])
def test_published_networks_denoise(package: str, make: partial[nn.Module]) -> None:
    installed(package)
    seen = noisy(0.05)
    with torch.no_grad():
        assert psnr(make()(seen.y, 0.05), seen.x) > psnr(seen.y, seen.x) + 3
    assert package not in __import__("sys").modules  # its code stays unread


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the package no_such_package is not installed"):
        networks.in_package("no_such_package", "x")
    with pytest.raises(InputError, match=r"holds no x\.pth"):
        networks.in_package("numpy", "x.pth")
    for folder in (None, tmp_path):
        with pytest.raises(InputError, match="--weights must name a folder with drunet"):
            networks.from_deepinv("DRUNet", folder, 1)
    (tmp_path / networks.DEEPINV_FILES["DnCNN (deepinv)"][0]).write_bytes(b"no weights")
    with pytest.raises(InputError, match="not the weights of deepinv's DnCNN"):
        networks.from_deepinv("DnCNN (deepinv)", tmp_path, 1)
    _, skipped = collect([], ["WCRR", "GSDRUNet"], weights=tmp_path)
    assert "wcrr.npz" in skipped["WCRR"] and "GSDRUNet_grayscale_torch.ckpt" in skipped["GSDRUNet"]


def test_deepinvs_weights_take_part_from_a_folder(tmp_path: Path) -> None:
    network = networks.untrained("DnCNN", 0, in_channels=1, out_channels=1)
    torch.save(network.state_dict(), tmp_path / networks.DEEPINV_FILES["DnCNN (deepinv)"][0])
    priors, skipped = collect([], ["DnCNN (deepinv)"], weights=tmp_path, task="deblurring")
    (prior,) = priors
    assert not skipped and prior.method == "DPIR" and not prior.certified
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(prior.denoiser(x, 0.1), network(x, 0.1))


# Half-quadratic steps


def test_half_quadratic_steps_are_those_of_the_paper() -> None:
    seen, levels = blurred(), []

    def denoiser(x: Tensor, sigma: float | Tensor | None) -> Tensor:
        levels.append(float(sigma))  # type: ignore[arg-type]
        return 0.9 * x

    outcome = rivals.half_quadratic_steps(denoiser, seen, 1.0, 1e-4, Budget(10, 60), None)
    assert levels == pytest.approx(np.geomspace(49 / 255, 0.01, 8)) and outcome.status == "finished"
    x = seen.y
    for sigma in levels:  # argmin ‖Az − y‖²/(2ν²) + λ‖z − x‖²/(2σ²), then the denoiser
        z = seen.physics.prox_l2(x, seen.y, sigma**2 / (0.23 * 0.01**2))
        residual = seen.physics.A_adjoint(seen.physics.A(z) - seen.y) / 0.01**2 + 0.23 * (z - x) / sigma**2
        assert float(residual.norm()) < 1e-3 * float(seen.y.norm()) / 0.01**2
        x = 0.9 * z
    assert torch.allclose(outcome.x, x, atol=1e-5)
    assert outcome.guarantee == "none: ends after 8 steps"
    with pytest.raises(InputError, match="prox_l2"):
        rivals.half_quadratic_steps(denoiser, noisy(), 1.0, 1e-4, Budget(10, 60), None)


def test_half_quadratic_steps_reconstruct_scans() -> None:
    x = photograph("camera", 24)
    physics = ParallelBeamTomography(ParallelBeam(np.arange(0, 180, 6.0), n_det=26), (1, 24, 24), mask="circle", normalize=True)
    x = x * physics.A_adjoint(torch.ones_like(physics.A(x))).gt(0)
    seen = Observation(x, physics.A(x), 0.005, physics)
    outcome = rivals.half_quadratic_steps(lambda z, sigma: z, seen, 1.0, 1e-4, Budget(10, 60), None)
    assert psnr(outcome.x.clamp(0, 1), x) > psnr(physics.fbp(seen.y).clamp(0, 1), x)


# Total variation


@pytest.mark.parametrize("order", [1, 2])
def test_operators_of_total_variation_have_their_adjoints_and_bounds(order: int) -> None:
    forward, adjoint, bound, _ = rivals.ORDERS[order]
    torch.manual_seed(0)
    u = torch.randn(2, 1 if order == 1 else 3, 3, 9, 7, dtype=torch.float64)
    z = torch.randn_like(forward(u))
    assert float((forward(u) * z).sum()) == pytest.approx(float((u * adjoint(z)).sum()), rel=1e-12)
    u = torch.randn(1, u.shape[1], 1, 40, 40, dtype=torch.float64)
    for _ in range(200):
        u = adjoint(forward(u / u.norm()))
    assert 0.9 * bound < float(u.norm()) <= bound


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("make", [noisy, blurred])
def test_total_variation_is_solved(order: int, make: partial[Observation]) -> None:
    """The primal value is as small as the dual one allows: nothing near it has a smaller objective."""
    seen = make()
    seen = Observation(seen.x.double(), seen.y.double(), seen.noise, None if seen.physics is None else seen.physics.double())
    weight = 0.5 * seen.noise
    found = rivals.variation(order, seen, 0.5, 1e-6, Budget(20_000, 120), None)
    assert found.status == "converged"
    forward, fields = rivals.ORDERS[order][0], 1 if order == 1 else 3
    u = found.state[:, :fields]

    def objective(u: Tensor) -> float:
        k, x = forward(u), u[:, 0]
        misfit = (x if seen.physics is None else seen.physics.A(x)) - seen.y
        second = k[:, 2:].square().sum((1, 2)).sqrt().sum() if order == 2 else 0.0
        return float(0.5 * misfit.square().sum() + weight * (k[:, :2].square().sum((1, 2)).sqrt().sum() + 2 * second))

    best, generator = objective(u), torch.Generator().manual_seed(1)
    for size in (1e-2, 1e-3, 1e-4):
        for smooth in (False, True):
            for _ in range(10):
                step = torch.randn(u.shape, generator=generator, dtype=torch.float64)
                step = step.cumsum(-1).cumsum(-2) / 100 if smooth else step
                other = u + size * step
                other[:, 0] = other[:, 0].clamp(0, 1)
                assert objective(other) > best - 1e-7 * best
    again = rivals.variation(order, seen, 0.5, 1e-6, Budget(20_000, 60), found)
    assert again.iterations <= 2  # it goes on where it was


def test_weights_of_total_variation_count() -> None:
    seen = noisy()
    flat = rivals.variation(1, seen, 1e3, 1e-6, Budget(5000, 60), None)
    assert float(flat.x.std()) < 1e-3 and float(flat.x.mean()) == pytest.approx(float(seen.y.mean()), abs=1e-2)


# BM3D


def test_bm3d_is_left_out_without_its_package_and_runs_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match="the package bm3d is not installed"):
            rivals.bm3d()
    installed("bm3d")
    seen = noisy()
    assert psnr(rivals.bm3d()(seen.y, 0.1), seen.x) > psnr(seen.y, seen.x) + 2
    seen = blurred()
    outcome = rivals.bm3d_deblurring(seen, 1.0, 1e-4, Budget(10, 60), None)
    assert psnr(outcome.x.clamp(0, 1), seen.x) > psnr(seen.y, seen.x) + 4  # the kernel points the right way
    with pytest.raises(InputError, match="circular"):
        rivals.bm3d_deblurring(
            Observation(seen.x, seen.y, 0.01, Blur(gaussian_psf(1.0), (1, 32, 32), padding="valid")),
            1.0,
            1e-4,
            Budget(10, 60),
            None,
        )
