"""What the data hold beyond a guide: who makes it, who looks at it, and that no proof takes notice of it."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from guided_cases import guided_network, looking_network

from pnp_lip import GradientFlowDenoiser, attack, certify, denoise_guided, guided, load_pretrained
from pnp_lip.command_line.main import main
from pnp_lip.command_line.scene import photograph
from pnp_lip.denoisers import relax
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.images import psnr
from pnp_lip.layers import GuideNetwork
from pnp_lip.operators import Blur, ParallelBeam, ParallelBeamTomography, gaussian_psf
from pnp_lip.solvers import ForwardBackward, refine, residual_image
from pnp_lip.training import TrainingSettings, add_guide_network, train
from pnp_lip.training.draws import draw
from pnp_lip.training.equilibrium import Equilibrium
from pnp_lip.training.guides import noisy_guide, random_example

S = torch.tensor([0.1])


def images(height: int = 31, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """A guide and a residual."""
    x = photograph("camera", 256)[..., 60 : 60 + height, 90 : 90 + width]
    return x, 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def test_the_network_sees_it_beside_the_guide_and_zero_where_there_is_none() -> None:
    g, r = images(6, 8)
    u = looking_network().guide_network
    assert torch.equal(u(g, S), u(g, S, torch.zeros_like(g))) and not torch.allclose(u(g, S, r), u(g, S), atol=1e-3)
    first, second, last = u.convolutions
    parts = [torch.nn.functional.pixel_unshuffle(image, 2) for image in (g, r)]
    levels = [torch.full_like(parts[0][:, :1], level) for level in (0.5, math.log(0.5) / 4)]
    t = first(torch.cat([*parts, *levels], 1)).relu()
    expected = g + 0.005**0.5 * torch.nn.functional.pixel_shuffle(last(t + second(t).relu()), 2)
    s = torch.tensor([0.05])
    assert torch.equal(u(g, torch.zeros(1), r), g)
    assert torch.allclose(u(g, s, r), expected, atol=1e-6)
    plain = GuideNetwork(1, width=5, depth=3)
    torch.nn.init.normal_(plain.convolutions[-1].weight)  # type: ignore[arg-type]
    assert torch.equal(plain(g, S, r), plain(g, S))


def test_a_guided_denoiser_hands_it_on_and_no_proof_changes() -> None:
    d = looking_network()
    g, r = images()
    told, untold = guided(d, g, r), guided(d, g)
    assert torch.equal(untold(g, 0.1), guided(d, g, torch.zeros_like(g))(g, 0.1))
    assert (told(g, 0.1) - untold(g, 0.1)).abs().max() > 1e-3
    assert torch.equal(relax(told, 0.5).denoiser(g, 0.1), guided(relax(d, 0.5), g, r).denoiser(g, 0.1))  # type: ignore[operator]
    mine, plain = certify(told), certify(d)
    assert (mine.lipschitz_upper, mine.averagedness) == (plain.lipschitz_upper, plain.averagedness)
    g, r = images(16, 16)
    assert attack(guided(d, g, 50 * r).double(), g.double(), sigma=0.2, steps=15).ratio <= 1 + 1e-9


def test_what_is_kept_is_made_anew_for_another_one() -> None:
    d = looking_network()
    g, r = images()
    told = guided(d, g, r)
    first = told(g, 0.1)
    assert torch.equal(told(g, 0.1), first)
    told.residual.mul_(2)  # type: ignore[operator]
    assert torch.allclose(told(g, 0.1), guided(d, g, 2 * r)(g, 0.1), atol=1e-6)
    assert not torch.equal(told(g, 0.1), first)


def test_a_batch_is_cut_into_images_and_images_into_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    d = looking_network((5, 3, 2))
    g, r = images(90, 101)
    two, other = torch.cat([g, g.flip(-1)]), torch.cat([r, r.flip(-2)])
    whole = guided(d, two, other)
    result = whole(two, 0.1)
    assert torch.allclose(whole.part([1])(two[1:], 0.1), result[1:], atol=1e-6)  # type: ignore[operator]
    monkeypatch.setattr("pnp_lip.denoisers.guided_denoiser.GUIDE_TILE", (16, 24))
    assert torch.allclose(guided(d, two, other)(two, 0.1), result, atol=1e-6)


def test_what_is_no_image_like_the_guide_is_refused() -> None:
    d = looking_network()
    g, r = images()
    with pytest.raises(ShapeError, match="the residual must have the guide's shape"):
        guided(d, g, r[..., 1:])
    with pytest.raises(ShapeError, match="the residual must be an image"):
        guided(d, g, r[0])
    with pytest.raises(InputError, match="the residual holds NaN"):
        guided(d, g, r / 0)
    with pytest.raises(InputError, match="takes `guide_network` as well"):
        GradientFlowDenoiser(hidden_channels=2, dilations=(1,), guidance=True, residual=True)


def test_denoising_makes_it_from_the_noisy_image_and_solving_by_a_step_of_steepest_descent() -> None:
    d = looking_network()
    x, noise = images()
    y = x + noise
    h = d(y, 1.1 * 0.1)
    assert torch.equal(denoise_guided(d, y, 0.1), guided(d, h, y - h)(y, 0.1))
    physics = Blur(gaussian_psf(1.0), (1, 31, 40), padding="circular")
    y = physics.A(x) + 0.2 * noise
    solver = ForwardBackward(d, sigma=0.02, tol=1e-5, max_iter=3000)
    first, second = refine(solver, y, physics, rounds=1)
    r = residual_image(first.x, y, physics)
    again = dataclasses.replace(solver, denoiser=guided(d, first.x, r)).solve(y, physics, x0=first.x)
    assert torch.equal(second.x, again.x) and second.guarantee.proved

    def misfit(t: float) -> float:
        return float((physics.A(first.x + t * r) - y).norm())

    assert misfit(1) < min(misfit(0.98), misfit(1.02), misfit(0))  # the best step in its direction
    back = physics.A_adjoint(y - physics.A(first.x))
    assert torch.nn.functional.cosine_similarity(back.flatten(), r.flatten(), dim=0) > 1 - 1e-6


def test_a_new_network_learns_to_look_at_it(tmp_path: Path) -> None:
    start = load_pretrained("tiny")
    assert not add_guide_network(start, start).config.get("residual")
    camera = photograph("camera", 256)[0]
    settings = TrainingSettings(
        steps=240, batch=4, patch=32, warm_up=5, checkpoint_every=240, validate_every=240, average=0.5, guide_network=True,
        sigma_range=(0.1, 0.1), learning_rate=1e-2,
    )  # fmt: skip
    trained = train(add_guide_network(start, (8, 3)), [camera], [camera], tmp_path, settings)
    x = torch.cat([camera[None, :, i : i + 64, 90:154] for i in range(0, 160, 16)])
    e = random_example(start, x, settings, Equilibrium(), torch.Generator().manual_seed(6))
    u = trained.guide_network
    assert u is not None and trained.config["residual"]
    with torch.no_grad():
        assert psnr(u(e.guide, S, e.residual), x) > psnr(u(e.guide, S), x) + 0.02


def test_the_image_is_not_rounded_where_others_are() -> None:
    seen = []
    u, (g, r) = looking_network().guide_network, images(8, 8)
    for conv in u.convolutions[:2]:
        conv.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        u(g, S, r)
    assert seen == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]


def test_one_guide_goes_with_a_batch_of_residuals() -> None:
    u, (g, r) = looking_network().guide_network, images(8, 8)
    both = u(g, S, torch.cat([r, -r]))
    assert torch.allclose(both, torch.cat([u(g, S, r), u(g, S, -r)]), atol=1e-6)


@pytest.mark.parametrize("later", [0.0, 1.0])
def test_training_hands_on_what_its_guides_left_of_the_data(monkeypatch: pytest.MonkeyPatch, later: float) -> None:
    tiny, x = load_pretrained("tiny"), photograph("camera", 256)[..., 60:108, 90:138]
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(denoiser: GradientFlowDenoiser, guide: torch.Tensor, residual: torch.Tensor) -> torch.nn.Module:
        calls.append((guide, residual))
        return guided(denoiser, guide, residual)

    for module in ("equilibrium", "guides", "train"):
        monkeypatch.setattr(sys.modules[f"pnp_lip.training.{module}"], "guided", spy)
    equilibrium = Equilibrium(scans=0.0, later=later, free=10)
    with torch.no_grad():
        problem = equilibrium.problem(tiny, x, torch.Generator().manual_seed(0), guidance=True)
        equilibrium.solve(tiny, problem)
    for guide, residual in calls:
        assert torch.allclose(residual, residual_image(guide, problem.y, problem.physics), atol=1e-6)
    assert len(calls) == 1 + later and calls[-1][0] is problem.guide
    calls.clear()
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    g, r = noisy_guide(tiny, y, 0.1, later, torch.Generator().manual_seed(3))  # of twice the noise
    told = [float((guide + residual - x).std()) for guide, residual in [*calls, (g, r)]]
    assert all(0.09 < level < 0.31 for level in told) and len(told) == 1 + later
    prior = guided(tiny, *calls[0]) if later else tiny
    level = 0.1 * max(1.0, 3 ** draw(-1, 1, torch.Generator().manual_seed(3)))
    assert torch.allclose(prior(g + r, 1.1 * level), g, atol=1e-5)


def test_a_step_of_guidance_and_a_scan_hand_it_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[torch.Tensor | None] = []

    def spy(
        denoiser: GradientFlowDenoiser, guide: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.nn.Module:
        calls.append(residual)
        return guided(denoiser, guide, residual)

    camera = photograph("camera", 256)[0]
    settings = TrainingSettings(
        steps=1, batch=4, patch=16, warm_up=1, checkpoint_every=1, validate_every=1, guidance=True
    )
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["pnp_lip.training.train"], "guided", spy)
        train(guided_network(), [camera], [camera], tmp_path, settings)
    assert [None if r is None else tuple(r.shape) for r in calls] == [(4, 1, 16, 16)]
    calls.clear()
    monkeypatch.setattr("pnp_lip.denoisers.guided", spy)
    geometry = ParallelBeam(np.arange(0, 180, 6.0), n_det=46)
    y = ParallelBeamTomography(geometry, (1, 32, 32)).A(20 * camera[None, :, 90:122, 90:122])
    np.savez(tmp_path / "y.npz", sinogram=y[0, 0].numpy(), angles=np.arange(0, 180, 6.0))
    arguments = ["--size", "32", "--out", str(tmp_path / "ct"), "--quiet", "--tol", "1e-2", "--sigma", "0.01"]
    assert main(["ct", str(tmp_path / "y.npz"), "--denoiser", "tiny", *arguments]) == 0
    assert len(calls) == 1 and calls[0] is not None and calls[0].abs().max() > 0


def test_an_image_that_the_physics_cannot_take_is_refused() -> None:
    physics = Blur(gaussian_psf(1.0), (1, 16, 16), padding="circular")
    x = torch.rand(1, 1, 16, 16)
    with pytest.raises(ShapeError, match="`y` has shape"):
        residual_image(x, torch.rand(2, 1, 16, 16), physics)
    with pytest.raises(ShapeError, match=r"expected|refused"):
        residual_image(x[..., :9], x, physics)


def test_examples_hold_what_their_solutions_left_of_the_data() -> None:
    tiny, x = load_pretrained("tiny"), photograph("camera", 256)[..., 60:108, 90:138]
    for share in (0.0, 1.0):
        settings = TrainingSettings(equilibrium=share, guide_network=True, patch=48)
        e = random_example(tiny, x, settings, Equilibrium(scans=0.0), torch.Generator().manual_seed(1))
        assert e.residual.shape == x.shape and 0.2 * e.sigma < e.residual.std() < 5 * e.sigma
        if share == 0:
            assert psnr(e.guide + e.residual, x) < psnr(e.guide, x)  # the noise is in it
