"""The networks that ship: proved anew, small, identity without noise, better than total variation with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pnp_lip
from pnp_lip import certify, load_pretrained
from pnp_lip.benchmarks.baselines import total_variation
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.check import main as check
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.potentials import RidgePotential
from pnp_lip.pretrained import certified_names, pretrained_names
from pnp_lip.restore import denoise
from pnp_lip.solvers import ProximalDenoiser, Variational

POTENTIALS = ["ridge"]
SMOOTH = ["gradient-step"]
NAMES = [name for name in certified_names() if name not in POTENTIALS]
FOLDER = Path(pnp_lip.__file__).parent / "weights"
LEVELS = (5, 15, 25, 50)


def noisy(x: torch.Tensor, level: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(level)
    return x + level / 255 * torch.randn(x.shape, generator=generator)


def denoised(name: str, x: torch.Tensor, factor: float = 1.0) -> list[float]:
    """PSNR at each level, the network told ``factor`` times the noise level."""
    network = load_pretrained(name)
    denoiser = ProximalDenoiser(network) if isinstance(network, RidgePotential) else network
    with torch.no_grad():
        return [psnr(denoiser(noisy(x, level), factor * level / 255), x) for level in LEVELS]


def denoised_by_channel(name: str, x: torch.Tensor) -> list[float]:
    """The same with a denoiser of grey images on each channel of the same noisy image."""
    network = load_pretrained(name)
    denoiser = ProximalDenoiser(network) if isinstance(network, RidgePotential) else network
    noisy_images = [noisy(x, level).transpose(0, 1) for level in LEVELS]
    with torch.no_grad():
        return [psnr(denoiser(y, level / 255).transpose(0, 1), x) for y, level in zip(noisy_images, LEVELS, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_documented_and_proved_averaged_with_a_margin(name: str) -> None:
    path = FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < (100_000 if name == "tiny" else 4_000_000)
    assert (FOLDER / f"{name}.md").read_text().startswith(f"# Model card: {name}\n")
    assert check([str(path), str(FOLDER / f"{name}.certificate.json")]) == 0
    certificate = certify(load_pretrained(name))
    assert certificate.nonexpansive and certificate.averagedness < 1


@pytest.mark.parametrize("name", POTENTIALS)
def test_potentials_are_small_documented_and_proved_to_have_one_prox(name: str) -> None:
    path = FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 1_000_000
    assert (FOLDER / f"{name}.md").read_text().startswith(f"# Model card: {name}\n")
    assert check([str(path), str(FOLDER / f"{name}.certificate.json")]) == 0
    curvature = certify(load_pretrained(name)).curvature
    assert curvature is not None and curvature.rho <= 0.8 and curvature.upper <= 32


def test_a_potential_deblurs_and_says_what_it_found() -> None:
    x = photograph("coffee", 96)
    physics = Blur(gaussian_psf(1.2), (1, 96, 96))
    y = physics(x) + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    result = Variational(load_pretrained("ridge"), sigma=0.02, weight=0.15).solve(y, physics)
    assert result.status == "converged" and result.guarantee.proved and result.guarantee.kind == "critical point"
    assert psnr(result.x, x) > psnr(y, x) + 2


def test_one_objective_restores_a_blurred_photograph_better_than_the_ridge_potential() -> None:
    x = photograph("coffee", 96)
    physics = Blur(gaussian_psf(1.2), (1, 96, 96))
    y = physics(x) + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, sigma, weight in (("gradient-step", 0.01, 0.5), ("ridge", 0.02, 0.15)):
        result = Variational(load_pretrained(name), sigma=sigma, weight=weight, tol=1e-5).solve(y, physics)
        assert result.status == "converged" and result.guarantee.title == "proved", str(result)
        assert result.guarantee.kind == "critical point"
        found[name] = psnr(result.x, x)
    assert found["gradient-step"] > found["ridge"] + 0.2, found


def test_all_that_ships_is_certified_or_smooth() -> None:
    assert certified_names() == ["colour", "grey", "ridge", "tiny"]
    assert pretrained_names() == sorted([*certified_names(), *SMOOTH])
    for name in SMOOTH:
        assert (FOLDER / f"{name}.safetensors").stat().st_size < 4_000_000
        assert (FOLDER / f"{name}.md").read_text().startswith(f"# Model card: {name}\n")


@pytest.mark.parametrize("name", [n for n in pretrained_names() if n not in (*POTENTIALS, *SMOOTH)])
def test_without_noise_the_image_comes_back(name: str) -> None:
    denoiser = load_pretrained(name)
    x = torch.rand(1, denoiser.in_channels, 40, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (denoiser(x, 0.0) - x).abs().max() < 1e-3


@pytest.mark.parametrize("name", [n for n in pretrained_names() if "colour" not in n and n not in SMOOTH])
def test_every_noise_level_is_better_removed_than_by_total_variation(name: str) -> None:
    x, other = photograph("camera", 96), photograph("astronaut", 96)
    tv, thresholds = total_variation(), (0.35, 0.5, 0.7, 1.0, 1.4)
    for level, value in zip(LEVELS, denoised(name, x), strict=True):
        s, y = level / 255, noisy(other, level)
        found = {t: psnr(tv(y, t * s), other) for t in thresholds}
        best = max(thresholds, key=found.__getitem__)
        assert value > psnr(tv(noisy(x, level), best * s), x), level


def test_colour_together_is_better_denoised_than_channel_by_channel() -> None:
    x = photograph("coffee", 96, colour=True)
    for together, apart in zip(denoised("colour", x), denoised_by_channel("tiny", x), strict=True):
        assert together > apart + 0.25


def test_grey_priors_restore_colour_along_its_axes_better_than_channel_by_channel() -> None:
    x = photograph("coffee", 64, colour=True)
    along = [psnr(torch.as_tensor(denoise(noisy(x, n), n / 255, device="cpu").image), x) for n in LEVELS]
    for together, colour, apart in zip(along, denoised("colour", x), denoised_by_channel("ridge", x), strict=True):
        assert together > max(colour, apart) + 0.25


def test_a_misstated_noise_level_costs_what_the_model_card_says() -> None:
    x = photograph("camera", 96)
    exact = denoised("grey", x)
    for factor, most in ((0.8, 0.4), (1.2, 0.8)):
        losses = [a - b for a, b in zip(exact, denoised("grey", x, factor), strict=True)]
        assert max(losses) < most
