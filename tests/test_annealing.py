"""Guides improved by a few steps of half-quadratic splitting, with any denoiser; the proofs stay what they are."""

from __future__ import annotations

import copy
import dataclasses
import math

import deepinv
import numpy as np
import pytest
import torch
from guided_cases import annealing_network, guided_network

from pnp_lip import guided, load_pretrained
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.denoisers import GuidedDenoiser, relax
from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.pretrained import load_annealer
from pnp_lip.solvers import (
    RED,
    Anderson,
    Anneal,
    ForwardBackward,
    LeastSquares,
    UserFidelity,
    WeightedLeastSquares,
    annealed,
    choose_by_discrepancy,
    refine,
)

SIZE = (1, 14, 17)
SIGMA = torch.tensor([0.05])


def scene(images: int = 1) -> tuple[torch.Tensor, Blur, torch.Tensor]:
    """Images, their blur and its noisy data, in float64."""
    x = photograph("camera", 256)[..., 60 : 60 + SIZE[1] * images, 90 : 90 + SIZE[2]]
    x = x.reshape(images, *SIZE).double()
    physics = Blur(gaussian_psf(1.2), SIZE, dtype=torch.float64)
    y = physics.A(x)
    return x, physics, y + 0.02 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)


def test_annealing_is_half_quadratic_splitting_with_a_falling_noise_level() -> None:
    d = annealing_network().double()
    x, physics, y = scene()
    dense = torch.stack([physics.A(e.reshape(1, *SIZE)).flatten() for e in torch.eye(x.numel()).double()], 1)
    sigma, step, z = 0.01, 1.7, y
    s = math.sqrt(2) * sigma
    for r in np.geomspace(15 / 255 / s, 1, 3):
        gamma = step * r**2
        system = torch.eye(x.numel()).double() + gamma * dense.T @ dense
        z = torch.linalg.solve(system, z.flatten() + gamma * dense.T @ y.flatten()).reshape(y.shape)
        z = d(z, r * s)
    balance = {"sigma": sigma, "step": step, "data_term": LeastSquares()}
    made = annealed(d, y, y, physics, steps=3, **balance)
    assert torch.allclose(made, z, atol=1e-8)
    assert torch.equal(annealed(d, y, y, physics, steps=0, **balance), y)
    clipped = y
    for r in np.geomspace(15 / 255 / s, 1, 3):
        clipped = d(physics.prox_l2(clipped, y, step * r**2), r * s).clamp(0.3, 0.4)
    assert torch.allclose(annealed(d, y, y, physics, steps=3, box=(0.3, 0.4), **balance), clipped, atol=1e-8)
    once = d(physics.prox_l2(y, y, step), math.sqrt(2) * 0.1)  # already below the highest level: one step, at the balance
    assert torch.allclose(annealed(d, y, y, physics, steps=1, **{**balance, "sigma": 0.1}), once, atol=1e-10)
    without_noise = annealed(d, y, y, physics, steps=2, **{**balance, "sigma": 0.0})  # proximal steps alone
    assert torch.allclose(without_noise, physics.prox_l2(physics.prox_l2(y, y, step), y, step), atol=1e-5)


def test_each_image_of_a_batch_is_annealed_by_itself() -> None:
    d = annealing_network().double()
    _, physics, y = scene(2)
    sigma = torch.tensor([0.005, 0.03])
    balance = {"step": 1.9, "data_term": LeastSquares(), "steps": 3}
    together = annealed(d, y, y, physics, sigma=sigma, **balance)
    for i in range(2):
        alone = annealed(d, y[i : i + 1], y[i : i + 1], physics, sigma=float(sigma[i]), **balance)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


def test_refining_with_an_annealer_improves_guides_and_proves_what_it_proved() -> None:
    d, annealer = guided_network(), annealing_network()
    _, _, y = scene(2)
    physics, y = Blur(gaussian_psf(1.2), SIZE), y.float()
    solver = ForwardBackward(d, sigma=torch.tensor([0.02, 0.04]), box=(0, 1), tol=1e-2)
    first, second = refine(solver, y, physics, improve=Anneal(annealer))
    assert first.settings["step"] == second.settings["step"]
    balance = {"step": first.settings["step"], "data_term": LeastSquares(), "box": (0, 1)}
    g = annealed(annealer, first.x, y, physics, sigma=solver.sigma, steps=8, **balance)
    again = dataclasses.replace(solver, denoiser=guided(d, g))
    assert torch.equal(second.x, again.solve(y, physics, x0=g).x) and second.guarantee.proved
    assert second.settings["map_averagedness"] == first.settings["map_averagedness"]
    plain = refine(solver, y, physics)
    assert torch.equal(plain[0].x, first.x) and not torch.allclose(plain[1].x, second.x, atol=1e-2)
    assert torch.equal(refine(solver, y, physics, improve=Anneal(annealer, steps=0))[1].x, plain[1].x)
    _, second, third = refine(solver, y, physics, 2, Anneal(annealer, steps=2), sigma=0.04)
    g = annealed(annealer, second.x, y, physics, sigma=0.04, steps=2, **balance)
    again = dataclasses.replace(solver, denoiser=guided(d, g), sigma=0.04)
    assert torch.equal(third.x, again.solve(y, physics, x0=g).x) and third.guarantee.proved


def test_any_function_may_improve_a_guide_and_any_denoiser_anneal() -> None:
    d = guided_network()
    physics = Blur(gaussian_psf(1.2), SIZE)
    x, _, y = (value.float() if isinstance(value, torch.Tensor) else value for value in scene())
    solver = ForwardBackward(d, sigma=0.02, tol=1e-2)
    seen = []

    def truth(result, data, forward):
        seen.append((result.status, data is y, forward is physics))
        return x

    result = refine(solver, y, physics, improve=truth)[1]
    assert seen == [("converged", True, True)] and result.guarantee.proved
    again = dataclasses.replace(solver, denoiser=guided(d, x))
    assert torch.equal(result.x, again.solve(y, physics, x0=x).x)
    for denoiser in (deepinv.models.DnCNN(1, 1, depth=3, nf=4, pretrained=None), lambda x, sigma: (1 - sigma) * x):
        assert refine(solver, y, physics, improve=Anneal(denoiser, steps=2))[1].guarantee.proved


def test_a_search_may_find_each_of_the_solutions() -> None:
    d = guided_network()
    physics = Blur(gaussian_psf(1.2), SIZE)
    y = scene()[2].float()
    choices = []

    def search(solver, y, physics, /, *, x0):
        choice = choose_by_discrepancy(solver, y, physics, noise=0.02, values=[0.001, 0.01], x0=x0, max_iter=30)
        choices.append(choice)
        return choice.result

    results = refine(ForwardBackward(d, tol=1e-3), y, physics, solve=search)
    assert [choice.result for choice in choices] == list(results)
    assert isinstance(choices[1].solver.denoiser, GuidedDenoiser) and choices[0].solver.denoiser is d


def test_what_cannot_anneal_is_refused_before_anything_runs() -> None:
    physics = Blur(gaussian_psf(1.2), SIZE)
    y = scene()[2].float()
    solver = ForwardBackward(guided_network(), sigma=0.02)
    good, colour = annealing_network(), load_pretrained("colour")
    stated = dataclasses.replace(solver, data_term=UserFidelity(deepinv.optim.L2(), 1.0))
    for with_solver, annealer, words in (
        (solver, copy.deepcopy(good).double(), r"refused an image of 1 channels, torch\.float32 on cpu"),
        (dataclasses.replace(solver, denoiser=colour), good, "refused an image of 3 channels"),
        (solver, lambda x: x, "refused an image"),
        (solver, lambda x, sigma: x[..., 1:], r"turned an image of shape \(1, 1, 16, 16\) into \(1, 1, 16, 15\)"),
        (stated, good, "UserFidelity has none"),
    ):
        with pytest.raises(InputError, match=words):  # before the data are looked at
            refine(with_solver, y[:, :, 1:], physics, improve=Anneal(annealer))
    for steps in (-1, 2.5):
        with pytest.raises(InputError, match=f"`steps` of annealing are counted .* got {steps}"):
            Anneal(good, steps)
    with pytest.raises(InputError, match="must be callable"):
        Anneal(3)
    with pytest.raises(InputError, match="UserFidelity has none"):
        annealed(good, y, y, physics, sigma=0.1, step=1.0, data_term=stated.data_term)
    nameless = dataclasses.replace(solver, denoiser=lambda x, sigma: x, sigma=None)
    with pytest.raises(InputError, match="pass sigma= to the solver"):
        Anneal(good).check(nameless, y)
    with pytest.raises(InputError, match="has learned no guidance"):
        refine(nameless, y, physics, improve=Anneal(good))


def test_the_balance_is_that_of_the_solver() -> None:
    d, annealer = guided_network(), annealing_network()
    physics = Blur(gaussian_psf(1.2), SIZE)
    y = scene()[2].float()
    for solver, sigma, step in (
        (RED(d, sigma=0.02, weight=0.4, tol=1e-2), 0.02, 2.5),
        (ForwardBackward(d, step=1.3, tol=1e-2), d.default_sigma, 1.3),
        (ForwardBackward(relax(d, 0.5), sigma=0.02, step=1.3, tol=1e-2), 0.02, 2.6),
    ):
        first, second = refine(solver, y, physics, improve=Anneal(annealer, 2))
        g = annealed(annealer, first.x, y, physics, sigma=sigma, step=step, data_term=LeastSquares(), steps=2)
        again = dataclasses.replace(solver, denoiser=guided(solver.denoiser, g))
        assert torch.equal(second.x, again.solve(y, physics, x0=g).x)


def test_however_weak_the_prior_annealing_assumes_the_noise_that_the_misfit_shows() -> None:
    d, annealer = guided_network(), annealing_network()
    physics = Blur(gaussian_psf(1.2), SIZE)
    y = scene(2)[2].float()
    weak = torch.tensor([1e-3, 0.3])
    for denoiser, sigma, step in (
        (d, 1e-3, 1.3),
        (d, weak, 1.3),
        (d, weak.reshape(2, 1, 1, 1), 1.3),
        (relax(d, 0.5), 1e-3, 2.6),
    ):
        solver = ForwardBackward(denoiser, sigma=sigma, step=1.3, tol=1e-2)
        first, second = refine(solver, y, physics, improve=Anneal(annealer, 2))
        misfit = (y - physics.A(first.x)).flatten(1).square().mean(1).sqrt()
        least = 0.5 * math.sqrt(step / 2) * misfit
        assert least[0] > 1e-3 and least[1] < 0.3 and least[0] != least[1]
        assumed = torch.stack([least[0], weak[1]]) if torch.is_tensor(sigma) else least.max()
        g = annealed(annealer, first.x, y, physics, sigma=assumed, step=step, data_term=LeastSquares(), steps=2)
        again = dataclasses.replace(solver, denoiser=guided(denoiser, g))
        assert torch.allclose(second.x, again.solve(y, physics, x0=g).x, atol=1e-5)
    bare = annealed(annealer, first.x, y, physics, sigma=1e-3, step=2.6, data_term=LeastSquares(), steps=2)
    assert (bare - g).abs().max() > 1e-3
    term = WeightedLeastSquares(torch.full_like(y, 0.9))
    solver = ForwardBackward(d, sigma=1e-3, step=1.3, tol=1e-2, data_term=term)  # whose misfit is in units of its own
    first, second = refine(solver, y, physics, improve=Anneal(annealer, 2))
    g = annealed(annealer, first.x, y, physics, sigma=1e-3, step=1.3, data_term=term, steps=2)
    again = dataclasses.replace(solver, denoiser=guided(d, g))
    assert torch.equal(second.x, again.solve(y, physics, x0=g).x)


def test_a_physics_with_something_for_each_image_keeps_its_batch() -> None:
    x = scene(2)[0].float()
    filters = torch.stack([gaussian_psf(s, size=5) for s in (0.8, 1.2)])[:, None]
    physics = deepinv.physics.BlurFFT(img_size=SIZE, filter=filters.float())
    y = physics.A(x) + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    solver = ForwardBackward(guided_network(), sigma=1e-3, step=1.0, tol=1e-2)
    assert refine(solver, y, physics, improve=Anneal(annealing_network(), 2))[1].x.shape == x.shape


@pytest.mark.parametrize(
    ("image", "base", "priors"), [("camera", "tiny", ("grey", "tiny")), ("astronaut", "colour", ("colour",))]
)
def test_the_shipped_ones_improve_denoising_and_deblurring(image: str, base: str, priors: tuple[str, ...]) -> None:
    x = photograph(image, 256, colour=base == "colour")[..., 40:104, 70:134]
    annealer = load_annealer(x.shape[1])
    with pytest.raises(InputError, match="ships for images of 1 and of 3 channels; got 4"):
        load_annealer(4)
    for layer, other in zip(annealer.first.layers, load_pretrained(base).layers, strict=True):
        assert torch.equal(layer.weight, other.weight)
    with torch.no_grad():
        for level in (5, 15, 25, 50):
            y = x + level / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(level))
            assert psnr(annealer(y, level / 255), x) > psnr(annealer.first(y, level / 255), x) + 0.3
    physics = Blur(gaussian_psf(1.2), (x.shape[1], 64, 64), padding="circular")
    y = physics.A(x) + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for name in priors:
        solver = ForwardBackward(load_pretrained(name), sigma=0.007, box=(0, 1), tol=1e-4, scheme=Anderson())
        without, result = (refine(solver, y, physics, improve=i)[1] for i in (None, Anneal(annealer)))
        assert result.guarantee.proved and psnr(result.x, x) > psnr(without.x, x)
