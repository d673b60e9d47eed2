"""Guides that a few steps of half-quadratic splitting have improved, and that no proof takes notice of them."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import deepinv
import numpy as np
import pytest
import torch
from guided_cases import guided_network, looking_network

from pnp_lip import guided, load_pretrained
from pnp_lip.command_line.main import main
from pnp_lip.command_line.scene import photograph
from pnp_lip.denoisers import ClippedDenoiser, can_estimate, estimate, relax
from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.pretrained import load_annealer
from pnp_lip.solvers import (
    RED,
    Anderson,
    ForwardBackward,
    LeastSquares,
    UserFidelity,
    WeightedLeastSquares,
    annealed,
    refine,
    residual_image,
)
from pnp_lip.training import TrainingSettings
from pnp_lip.training.equilibrium import Equilibrium, Ranges
from pnp_lip.training.train import Run

SIZE = (1, 14, 17)
SIGMA = torch.tensor([0.05])


def scene(images: int = 1) -> tuple[torch.Tensor, Blur, torch.Tensor]:
    """Images, their blur and its noisy data, in float64."""
    x = photograph("camera", 256)[..., 60 : 60 + SIZE[1] * images, 90 : 90 + SIZE[2]]
    x = x.reshape(images, *SIZE).double()
    physics = Blur(gaussian_psf(1.2), SIZE, dtype=torch.float64)
    y = physics.A(x)
    return x, physics, y + 0.02 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)


def test_an_estimate_is_what_the_guide_network_makes_of_a_first_pass_and_what_that_took_away() -> None:
    d = looking_network()
    y = scene(2)[2].float()
    g = d(y, 1.1 * SIGMA)
    expected = d.guide_network(g, SIGMA, y - g)
    assert torch.allclose(estimate(d, y, 0.05), expected, atol=1e-6)
    assert (expected - g).abs().max() > 1e-3  # the network does something
    for inside in (relax(d, 0.5), ClippedDenoiser(d, 0, 1), guided(d, g)):
        assert torch.equal(estimate(inside, y, 0.05), estimate(d, y, 0.05))
    assert torch.equal(estimate(d, y, None), estimate(d, y, d.default_sigma))
    assert torch.allclose(estimate(d, y, torch.tensor([0.05, 0.1]))[1:], estimate(d, y[1:], 0.1), atol=1e-6)


def test_annealing_is_half_quadratic_splitting_with_a_falling_noise_level() -> None:
    d = looking_network().double()
    x, physics, y = scene()
    dense = torch.stack([physics.A(e.reshape(1, *SIZE)).flatten() for e in torch.eye(x.numel()).double()], 1)
    sigma, step, z = 0.01, 1.7, y
    s = math.sqrt(2) * sigma
    for r in np.geomspace(15 / 255 / s, 1, 3):
        gamma = step * r**2
        system = torch.eye(x.numel()).double() + gamma * dense.T @ dense
        z = torch.linalg.solve(system, z.flatten() + gamma * dense.T @ y.flatten()).reshape(y.shape)
        z = estimate(d, z, r * s)
    balance = {"sigma": sigma, "step": step, "data_term": LeastSquares()}
    made = annealed(d, y, y, physics, steps=3, **balance)
    assert torch.allclose(made, z, atol=1e-8)
    assert torch.equal(annealed(d, y, y, physics, steps=0, **balance), y)
    clipped = y
    for r in np.geomspace(15 / 255 / s, 1, 3):
        clipped = estimate(d, physics.prox_l2(clipped, y, step * r**2), r * s).clamp(0.3, 0.4)
    assert torch.allclose(annealed(d, y, y, physics, steps=3, box=(0.3, 0.4), **balance), clipped, atol=1e-8)
    once = estimate(
        d, physics.prox_l2(y, y, step), math.sqrt(2) * 0.1
    )  # already below the highest level: one step, at the balance
    assert torch.allclose(annealed(d, y, y, physics, steps=1, **{**balance, "sigma": 0.1}), once, atol=1e-10)
    without_noise = annealed(d, y, y, physics, steps=2, **{**balance, "sigma": 0.0})  # proximal steps alone
    assert torch.allclose(without_noise, physics.prox_l2(physics.prox_l2(y, y, step), y, step), atol=1e-5)


def test_each_image_of_a_batch_is_annealed_by_itself() -> None:
    d = looking_network().double()
    _, physics, y = scene(2)
    sigma = torch.tensor([0.005, 0.03])
    told = {"step": 1.9, "data_term": LeastSquares(), "steps": 3}
    together = annealed(d, y, y, physics, sigma=sigma, **told)
    for i in range(2):
        alone = annealed(d, y[i : i + 1], y[i : i + 1], physics, sigma=float(sigma[i]), **told)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


def test_refining_with_an_annealer_improves_guides_and_proves_what_it_proved() -> None:
    d, annealer = guided_network(), looking_network()
    _, _, y = scene(2)
    physics, y = Blur(gaussian_psf(1.2), SIZE), y.float()
    solver = ForwardBackward(d, sigma=torch.tensor([0.02, 0.04]), box=(0, 1), tol=1e-4)
    first, second = refine(solver, y, physics, annealer=annealer)
    assert (first.settings["step"], first.settings["weight"]) == (second.settings["step"], 0)
    g = annealed(
        annealer, first.x, y, physics, sigma=solver.sigma, step=first.settings["step"], data_term=LeastSquares(), steps=8,
        box=(0, 1),
    )  # fmt: skip
    again = dataclasses.replace(solver, denoiser=guided(d, g, residual_image(g, y, physics)))
    assert torch.equal(second.x, again.solve(y, physics, x0=g).x) and second.guarantee.proved
    assert second.settings["map_averagedness"] == first.settings["map_averagedness"]
    plain = refine(solver, y, physics)
    assert torch.equal(plain[0].x, first.x) and not torch.allclose(plain[1].x, second.x, atol=1e-4)
    assert torch.equal(refine(solver, y, physics, annealer=annealer, anneal=0)[1].x, plain[1].x)
    told = {"annealer": annealer, "anneal": 2, "rounds": 2, "sigma": 0.03}
    _, second, third = refine(solver, y, physics, **told)
    g = annealed(
        annealer, second.x, y, physics, sigma=solver.sigma, step=first.settings["step"], data_term=LeastSquares(), steps=2,
        box=(0, 1),
    )  # fmt: skip
    again = dataclasses.replace(solver, denoiser=guided(d, g, residual_image(g, y, physics)), sigma=0.03)
    assert torch.equal(third.x, again.solve(y, physics, x0=g).x) and third.guarantee.proved


def test_a_denoiser_that_cannot_anneal_is_refused_before_anything_runs() -> None:
    physics = Blur(gaussian_psf(1.2), SIZE)
    y = scene()[2].float()
    solver = ForwardBackward(guided_network(), sigma=0.02)
    for d in (guided_network(), guided_network(guide_network=(5, 3)), lambda x, s: x):
        assert not can_estimate(d)
        for refused in (lambda d=d: refine(solver, y[:, :, 1:], physics, annealer=d), lambda d=d: estimate(d, y, 0.1)):
            with pytest.raises(InputError, match=r"no guide network that looks at the data|has learned no guidance"):
                refused()
    good, colour = looking_network(), load_pretrained("colour")
    stated = dataclasses.replace(solver, data_term=UserFidelity(deepinv.optim.L2(), 1.0))
    for with_solver, told, words in (
        (solver, {"annealer": good, "anneal": -1}, r"`anneal` counts .* got -1"),
        (solver, {"annealer": good, "anneal": 2.5}, r"`anneal` counts .* got 2\.5"),
        (solver, {"annealer": copy.deepcopy(good).double()}, r"is of torch\.float64 .*: annealer\.to\(y\)"),
        (dataclasses.replace(solver, denoiser=colour), {"annealer": good}, "takes 1 channels, and the denoiser 3"),
        (stated, {"annealer": good}, "which UserFidelity has not"),
    ):
        with pytest.raises(InputError, match=words):  # before the data are looked at
            refine(with_solver, y[:, :, 1:], physics, **told)


def test_the_balance_is_that_of_the_solver() -> None:
    d, annealer = guided_network(), looking_network()
    physics = Blur(gaussian_psf(1.2), SIZE)
    y = scene()[2].float()
    for solver, sigma, step in (
        (RED(d, sigma=0.02, weight=0.4, tol=1e-4), 0.02, 2.5),
        (ForwardBackward(d, step=1.3, tol=1e-3), d.default_sigma, 1.3),
        (ForwardBackward(relax(d, 0.5), sigma=0.02, step=1.3, tol=1e-3), 0.02, 2.6),
    ):
        first, second = refine(solver, y, physics, annealer=annealer, anneal=2)
        g = annealed(annealer, first.x, y, physics, sigma=sigma, step=step, data_term=LeastSquares(), steps=2)
        again = dataclasses.replace(solver, denoiser=guided(solver.denoiser, g, residual_image(g, y, physics)))
        assert torch.equal(second.x, again.solve(y, physics, x0=g).x)


def test_however_weak_the_prior_annealing_is_told_of_the_noise_that_the_misfit_shows() -> None:
    d, annealer = guided_network(), looking_network()
    physics = Blur(gaussian_psf(1.2), SIZE)
    y = scene(2)[2].float()
    weak = torch.tensor([1e-3, 0.3])
    for denoiser, sigma, step in (
        (d, 1e-3, 1.3),
        (d, weak, 1.3),
        (d, weak.reshape(2, 1, 1, 1), 1.3),
        (relax(d, 0.5), 1e-3, 2.6),
    ):
        solver = ForwardBackward(denoiser, sigma=sigma, step=1.3, tol=1e-3)
        first, second = refine(solver, y, physics, annealer=annealer, anneal=2)
        misfit = (y - physics.A(first.x)).flatten(1).square().mean(1).sqrt()
        least = 0.5 * math.sqrt(step / 2) * misfit
        assert least[0] > 1e-3 and least[1] < 0.3 and least[0] != least[1]
        told = torch.stack([least[0], weak[1]]) if torch.is_tensor(sigma) else least.max()
        g = annealed(annealer, first.x, y, physics, sigma=told, step=step, data_term=LeastSquares(), steps=2)
        again = dataclasses.replace(solver, denoiser=guided(denoiser, g, residual_image(g, y, physics)))
        assert torch.allclose(second.x, again.solve(y, physics, x0=g).x, atol=1e-5)
    bare = annealed(annealer, first.x, y, physics, sigma=1e-3, step=2.6, data_term=LeastSquares(), steps=2)
    assert (bare - g).abs().max() > 1e-3
    term = WeightedLeastSquares(torch.full_like(y, 0.9))
    solver = ForwardBackward(d, sigma=1e-3, step=1.3, tol=1e-3, data_term=term)  # whose misfit is in units of its own
    first, second = refine(solver, y, physics, annealer=annealer, anneal=2)
    g = annealed(annealer, first.x, y, physics, sigma=1e-3, step=1.3, data_term=term, steps=2)
    again = dataclasses.replace(solver, denoiser=guided(d, g, residual_image(g, y, physics)))
    assert torch.equal(second.x, again.solve(y, physics, x0=g).x)


def test_a_physics_with_something_for_each_image_keeps_its_batch() -> None:
    x = scene(2)[0].float()
    filters = torch.stack([gaussian_psf(s, size=5) for s in (0.8, 1.2)])[:, None]
    physics = deepinv.physics.BlurFFT(img_size=SIZE, filter=filters.float())
    y = physics.A(x) + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    solver = ForwardBackward(guided_network(), sigma=1e-3, step=1.0, tol=1e-2)
    assert refine(solver, y, physics, annealer=looking_network(), anneal=2)[1].x.shape == x.shape


@pytest.mark.parametrize(
    ("image", "base", "priors"), [("camera", "tiny", ("grey", "tiny")), ("astronaut", "colour", ("colour",))]
)
def test_the_shipped_ones_improve_denoising_and_deblurring(image: str, base: str, priors: tuple[str, ...]) -> None:
    x = photograph(image, 256, colour=base == "colour")[..., 40:136, 70:166]
    annealer = load_annealer(x.shape[1])
    with pytest.raises(InputError, match="ships for images of 1 and of 3 channels; got 4"):
        load_annealer(4)
    for layer, other in zip(annealer.layers, load_pretrained(base).layers, strict=True):
        assert torch.equal(layer.weight, other.weight)
    with torch.no_grad():
        for level in (5, 15, 25, 50):
            y = x + level / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(level))
            assert psnr(estimate(annealer, y, level / 255), x) > psnr(annealer(y, level / 255), x) + 0.3
    physics = Blur(gaussian_psf(1.2), (x.shape[1], 96, 96), padding="circular")
    y = physics.A(x) + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for name in priors:
        solver = ForwardBackward(load_pretrained(name), sigma=0.007, box=(0, 1), tol=1e-4, scheme=Anderson())
        without, result = (refine(solver, y, physics, annealer=a)[1] for a in (None, annealer))
        assert result.guarantee.proved and psnr(result.x, x) > psnr(without.x, x)


def test_what_learns_from_annealed_guides_has_them_in_blurs_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    d = looking_network()
    x = photograph("camera", 256)[..., :32, :32].repeat(4, 1, 1, 1)
    ranges = Ranges(noise=(0.02, 0.02), first=(0.7, 0.7), guided=(0.5, 0.5))
    for scans in (0.0, 1.0):
        bare, improved = (
            Equilibrium(scans=scans, free=3, annealed=share, annealer=d, blur=ranges).problem(
                d, x, torch.Generator().manual_seed(1), guidance=True
            )
            for share in (0.0, 1.0)
        )
        g, y, physics = bare.guide, bare.y, bare.physics
        if not scans:
            g = annealed(d, g, y, physics, sigma=0.014, step=1.9, data_term=LeastSquares(), steps=8)
        assert torch.equal(improved.y, y) and torch.allclose(improved.guide, g, atol=1e-6)
        assert torch.equal(improved.residual, residual_image(improved.guide, y, physics))
    assert not torch.allclose(bare.guide, annealed(
        d, bare.guide, bare.y, bare.physics, sigma=0.014, step=1.9, data_term=LeastSquares(), steps=1
    ), atol=1e-3)  # fmt: skip
    settings = TrainingSettings(guidance=True, annealed=0.5, equilibrium=0.5, patch=32)
    for d in (guided_network(), looking_network()):
        shipped = Run(d.requires_grad_(True), list(x), settings, "cpu").pool.equilibrium.annealer
        assert torch.equal(estimate(shipped, x, 0.1), estimate(load_pretrained("annealer"), x, 0.1))
        assert not any(p.requires_grad for p in shipped.parameters())
    with pytest.raises(InputError, match="ships for images of 1 and of 3 channels; got 2"):
        Run(guided_network(in_channels=2).requires_grad_(True), [x.repeat(1, 2, 1, 1)[0]], settings, "cpu")
    with pytest.raises(InputError, match="`annealed` is a share"):
        TrainingSettings(guidance=True, annealed=1.5)
    with pytest.raises(InputError, match="`later` and `annealed` say which guides"):
        TrainingSettings(annealed=0.5)
    told = ["train", "--images", str(tmp_path), "--out", str(tmp_path / "o"), "--annealed", "0.5"]
    assert main(told) == 2 and "`later` and `annealed` say which guides" in capsys.readouterr().err
