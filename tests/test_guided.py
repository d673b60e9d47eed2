"""Guided denoisers: the same map where the guidance says nothing, the same certificate, refinement, training."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch
from guided_cases import guided_network, plain_network

from pnp_lip import (
    ClippedDenoiser,
    GradientFlowDenoiser,
    attack,
    certify,
    denoise_guided,
    firm,
    guided,
    load_denoiser,
    save_denoiser,
)
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.denoisers import GUIDE_SIGMA_FACTOR, GuidedDenoiser, add_guidance, denoiser_from_config
from pnp_lip.denoisers.guided_denoiser import KEPT, flow_kept
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.layers import Guidance
from pnp_lip.memory import most_kept
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.solvers import Anderson, ForwardBackward, Solver, refine


def image(size: int = 40, channels: int = 1) -> torch.Tensor:
    return photograph("camera", 256)[..., 60 : 60 + size, 90 : 90 + size].repeat(1, channels, 1, 1)


def keeps_clips(d_g: GuidedDenoiser) -> bool:
    """Whether the last call has left limits and centres for the next one."""
    return KEPT[d_g].steps[0][0].func is flow_kept


def silence(d: GradientFlowDenoiser) -> GradientFlowDenoiser:
    """Guidance that leaves every threshold as it is."""
    assert d.guidance is not None
    for g in d.guidance:
        g.mixing.zero_(), g.offset.zero_()
    return d


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_guidance_that_says_nothing_changes_nothing(padding_mode: str, channels: int) -> None:
    d, x = silence(guided_network(channels, padding_mode)).double(), image(channels=channels).double()
    assert torch.allclose(guided(d, x)(x, 0.1), d(x, 0.1), atol=1e-12)
    assert torch.allclose(guided(d, x)(x, torch.tensor([0.1])), d(x, 0.1), atol=1e-12)
    d = guided_network(channels, padding_mode).double()
    assert (d(x, 0.1) - guided(d, x)(x, 0.1)).abs().max() > 1e-3


def test_the_thresholds_are_those_of_the_formula() -> None:
    g = Guidance(2)
    with torch.no_grad():
        g.mixing.copy_(torch.tensor([[-0.3, 0.1], [0.2, -0.4]]))
    r = torch.rand(1, 2, 5, 6) * 4
    mean = torch.stack([r[0, :, 1:4, 2:5].square().mean((1, 2))])[0]  # at the place (2, 3)
    feature = torch.log1p(mean / 9)
    expected = 2 * (g.mixing @ feature).exp()
    made = g(g.feature(r.square()))
    assert torch.allclose(made[0, :, 2, 3], expected, rtol=1e-5)
    corner = r[0, :, :2, :2].square().mean((1, 2))  # no pixels from beyond the border
    assert torch.allclose(made[0, :, 0, 0], 2 * (g.mixing @ torch.log1p(corner / 9)).exp(), rtol=1e-5)
    wrapped, rolled = (g(g.feature(e, circular=True)) for e in (r.square(), r.square().roll((1, 2), (2, 3))))
    assert torch.allclose(rolled, wrapped.roll((1, 2), (2, 3)), rtol=1e-5)
    extreme = Guidance(1)
    with torch.no_grad():
        extreme.offset.fill_(100.0)
    assert float(extreme(r[:, :1]).detach().max()) == pytest.approx(20.0855, rel=1e-4)


def test_a_centred_layer_is_that_of_the_formula() -> None:
    d, g = guided_network(centred=True).double(), image().double()
    assert d.guidance is not None
    layer, guidance = d.layers[0], d.guidance[0]
    generator = torch.Generator().manual_seed(2)
    guidance.share_mixing.copy_(torch.randn(guidance.share_mixing.shape, generator=generator))
    x, sigma = torch.rand(2, 1, 40, 40, generator=generator, dtype=torch.float64), torch.tensor([0.1])
    change = 0.2 * torch.rand(1, 1, 40, 40, generator=generator, dtype=torch.float64)
    scale = layer.activation.scale_and_shift(sigma)[0][:, None, None]
    energies = [(layer.conv(seen, layer.weight) / scale).square() for seen in (g, change)]
    means = [torch.nn.functional.avg_pool2d(e, 3, 1, 1, count_include_pad=False) for e in energies]
    features = torch.cat([(1 + mean / 9).log() for mean in means], 1)
    logit = torch.einsum("ij,bjhw->bihw", guidance.share_mixing, features) - torch.tensor(9.0).log()
    share, limits = 1 / (1 + (-logit).exp()), scale * guidance(guidance.feature(energies[0]))
    assert float(share.min()) < 0.09 < 0.12 < float(share.max())
    t = layer.conv(x, layer.weight) - share * layer.conv(g, layer.weight)
    expected = x - layer.tau * layer.conv_adjoint(t.clamp(-limits, limits), layer.weight)
    made = guidance.clipping(layer, sigma, g, change)
    torch.testing.assert_close(layer.flow(x, *made), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_centred_at_the_whole_guide_it_maps_what_differs_from_it(padding_mode: str) -> None:
    d, x = guided_network(padding_mode=padding_mode, centred=True).double(), image().double()
    g = x.flip(-1)
    assert d.guidance is not None
    for guidance in d.guidance:
        guidance.share_offset.fill_(60.0)
    z = x - g
    for layer, guidance in zip(d.layers, d.guidance, strict=True):
        z = layer.flow(z, guidance.clipping(layer, torch.tensor([0.1]), g, 0 * g)[0])
    d_g = guided(d, g)
    assert torch.allclose(d_g(x, 0.1), g + z, atol=1e-9)
    assert torch.allclose(d_g(g, 0.1), g, atol=1e-9) and not torch.allclose(d_g(x, 0.1), x, atol=1e-3)


def test_centres_join_guidance_that_was_learned_without_them() -> None:
    with pytest.raises(InputError, match="belong to guidance"):
        denoiser_from_config({"centred": True})
    old, new = guided_network(), guided_network()
    for d in (old, new):
        assert d.guidance is not None
        d.guidance[0].offset.add_(1.0)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    assert add_guidance(new, centred=True).requires_grad_(False) is new
    assert new.config == {**old.config, "centred": True} and not new.guidance.training
    assert all(torch.equal(new.state_dict()[name], value) for name, value in before.items())
    learned = new.guidance
    assert add_guidance(new).guidance is learned and add_guidance(new, centred=True).guidance is learned
    for guidance in learned:
        guidance.share_offset.fill_(-60.0)
    assert torch.allclose(guided(new, image())(image(), 0.1), guided(old, image())(image(), 0.1), atol=1e-6)


def test_attaching_guidance_changes_neither_the_map_nor_its_type() -> None:
    d, x = plain_network().double(), image().double()
    before, plain = d(x, 0.1), certify(d)
    add_guidance(d).requires_grad_(False)
    assert torch.equal(d(x, 0.1), before) and {p.dtype for p in d.parameters()} == {torch.float64}
    assert certify(d).averagedness == plain.averagedness and set(plain.weights) < set(certify(d).weights)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.parametrize("centred", [False, True])
def test_windows_of_a_large_image_give_the_same(monkeypatch: pytest.MonkeyPatch, centred: bool, padding_mode: str) -> None:
    d, x = guided_network(padding_mode=padding_mode, centred=centred), image(100)
    if centred:
        d.guidance[0].share_mixing.normal_(generator=torch.Generator().manual_seed(0))
    whole = guided(d, x)(x, 0.1)
    monkeypatch.setattr("pnp_lip.denoisers.gradient_flow_denoiser.cache_tile", lambda *a: (24, 32))
    assert torch.allclose(guided(d, x)(x, 0.1), whole, atol=1e-6)
    monkeypatch.setattr("pnp_lip.denoisers.guided_denoiser.most_kept", lambda: 0)
    unkept = guided(d, x)
    assert torch.allclose(unkept(x, 0.1), whole, atol=1e-6)
    assert not keeps_clips(unkept)
    y = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(unkept(y, 0.1).square().sum(), y)
    monkeypatch.undo()
    assert torch.allclose(slope, torch.autograd.grad(guided(d, x)(y, 0.1).square().sum(), y)[0], atol=1e-5)


def test_centres_count_among_the_numbers_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image()
    for centred in (False, True):
        d_g = guided(guided_network(centred=centred), x)
        clips = d_g.denoiser.hidden_channels * x.numel() * x.element_size()
        monkeypatch.setattr("pnp_lip.denoisers.guided_denoiser.most_kept", lambda size=clips: size)
        d_g(x, 0.1)
        assert keeps_clips(d_g) != centred


def test_layers_are_kept_as_far_as_the_memory_reaches_and_the_map_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    d, x = guided_network(), image()
    assert most_kept() > 2**28
    whole, one = guided(d, x)(x, 0.1), d.hidden_channels * x.numel() * x.element_size()
    monkeypatch.setattr("pnp_lip.denoisers.guided_denoiser.most_kept", lambda: one)
    some = guided(d, x)
    assert torch.allclose(some(x, 0.1), whole, atol=1e-6) and len(d.layers) > 1
    assert [step.func is flow_kept for step, _, _ in KEPT[some].steps] == [True] + [False] * (len(d.layers) - 1)


def test_a_batch_is_its_images_one_by_one() -> None:
    d, x = guided_network(), torch.cat([image(), image().flip(-1), image().flip(-2)])
    s = torch.tensor([0.05, 0.1, 0.2])
    for guide in (x, x[:1]):
        for sigma in (s, s[:1]):
            one = [guided(d, guide[i % len(guide)][None])(x[i : i + 1], sigma[i % len(sigma)]) for i in range(3)]
            assert torch.equal(guided(d, guide)(x, sigma), torch.cat(one))
    assert torch.equal(d(x, s), torch.cat([d(x[i : i + 1], s[i]) for i in range(3)]))


@pytest.mark.parametrize("centred", [False, True])
def test_another_noise_level_asks_for_other_thresholds(centred: bool) -> None:
    d, x = guided_network(centred=centred), image()
    g = guided(d, x)
    first = g(x, 0.1)
    assert torch.equal(g(x, 0.2), guided(d, x)(x, 0.2))
    assert torch.equal(g(x, 0.1), first)


@pytest.mark.parametrize("centred", [False, True])
def test_thresholds_follow_a_change_of_the_guide_or_of_the_weights(centred: bool) -> None:
    d, x = guided_network(centred=centred), image()
    g = guided(d, x)
    g(x, 0.1)
    g.guide.mul_(0.5)  # type: ignore[operator]
    assert torch.equal(g(x, 0.1), guided(d, 0.5 * x)(x, 0.1))
    d.guidance[0].offset.add_(1.0)  # type: ignore[index, operator, union-attr]
    assert torch.equal(g(x, 0.1), guided(d, 0.5 * x)(x, 0.1))
    assert torch.equal(g.double()(x.double(), 0.1), guided(d, 0.5 * x.double())(x.double(), 0.1))


def test_the_certificate_is_that_of_the_denoiser_without_a_guide() -> None:
    d = guided_network()
    plain, mine = certify(d), certify(guided(d, image()))
    assert mine.nonexpansive
    assert (mine.lipschitz_upper, mine.averagedness) == (plain.lipschitz_upper, plain.averagedness)
    assert [layer.path for layer in mine.layers] == ["denoiser.layers.0", "denoiser.layers.1"]
    assert certify(firm(guided(d, image()))).firmly_nonexpansive
    d.layers[0].weight *= 1.01 * (2 / (d.layers[0].tau * plain.layers[0].norm.upper ** 2)) ** 0.5
    with pytest.raises(CertificateError):
        certify(guided(d, image())).require_nonexpansive()


@pytest.mark.parametrize("centred", [False, True])
def test_no_violation_is_found_whatever_the_guidance_and_the_guide_are(centred: bool) -> None:
    d = guided_network(centred=centred)
    assert d.guidance is not None
    generator = torch.Generator().manual_seed(1)
    for g in d.guidance:
        for p in g.parameters():
            p.copy_(3 * torch.randn(p.shape, generator=generator))
    guide, x = torch.rand(1, 1, 16, 16, generator=generator), torch.rand(1, 1, 16, 16, generator=generator)
    d_g = guided(d, guide).double()
    assert attack(d_g, x.double(), sigma=0.2, steps=15).ratio <= 1 + 1e-9


def test_denoising_guided_makes_its_guides_with_more_noise_in_mind() -> None:
    d, y = guided_network(), torch.rand(2, 1, 12, 10, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        guide = d(y, GUIDE_SIGMA_FACTOR * 0.1)
        assert torch.equal(denoise_guided(d, y, 0.1), guided(d, guide)(y, 0.1))
    with pytest.raises(InputError, match="no guidance"):
        denoise_guided(GradientFlowDenoiser(hidden_channels=2, dilations=(1,)), y, 0.1)


def test_wrappers_stay_around_the_guided_denoiser() -> None:
    d, x = guided_network(), image()
    clipped = guided(ClippedDenoiser(d), x)
    assert torch.equal(clipped(x, 0.1), guided(d, x)(x, 0.1).clamp(0, 1))
    relaxed = guided(firm(d), x)
    theta = firm(d).theta
    assert torch.allclose(relaxed(x, 0.1), x + theta * (guided(d, x)(x, 0.1) - x), atol=1e-6)  # type: ignore[operator]
    again = guided(guided(d, torch.zeros_like(x)), x)
    assert torch.equal(again(x, 0.1), guided(d, x)(x, 0.1))


def test_a_guide_that_does_not_fit_is_refused() -> None:
    d, x = guided_network(), image()
    with pytest.raises(InputError, match="no guidance"):
        guided(GradientFlowDenoiser(hidden_channels=2, dilations=(1,)), x)
    with pytest.raises(InputError, match="no guidance"):
        guided(torch.nn.Identity(), x)
    with pytest.raises(ShapeError, match="guide must be"):
        guided(d, x[0])
    with pytest.raises(InputError, match="NaN"):
        guided(d, x / 0)
    with pytest.raises(ShapeError, match="cannot guide"):
        guided(d, x)(image(48), 0.1)


@pytest.mark.parametrize("centred", [False, True])
def test_each_image_of_a_batch_keeps_its_guide(centred: bool) -> None:
    d = guided_network(centred=centred)
    guides = torch.cat([image(), image().flip(2), image().flip(3)])
    x = guides + 0.1 * torch.randn(guides.shape, generator=torch.Generator().manual_seed(0))
    whole = guided(d, guides)
    assert isinstance(whole, GuidedDenoiser)
    assert torch.allclose(whole.part([2, 0])(x[[2, 0]], 0.1), whole(x, 0.1)[[2, 0]], atol=1e-6)
    levels = torch.tensor([0.1, 0.2, 0.05])
    apart = torch.cat([guided(d, guides[i : i + 1])(x[i : i + 1], levels[i]) for i in range(3)])
    assert torch.allclose(whole(x, levels), apart, atol=1e-6)
    one = guided(d, guides[:1])
    assert isinstance(one, GuidedDenoiser) and one.part([1]) is one


def test_refinement_runs_each_round_under_its_own_guarantee() -> None:
    d, x = guided_network(padding_mode="circular"), image()
    x = torch.cat([x, 0.2 * x, x.flip(2)])
    physics = Blur(gaussian_psf(1.0), (1, 40, 40), padding="circular")
    y = physics.A(x) + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    solver, solve = (
        ForwardBackward(d, sigma=0.02, tol=1e-4, box=(0, 1), scheme=Anderson()),
        partial(Solver.solve, max_iter=3000),
    )
    results = refine(solver, y, physics, rounds=2, solve=solve)
    assert [r.status for r in results] == ["converged"] * 3
    assert all(r.guarantee.proved for r in results)
    assert torch.allclose(results[0].x, solve(solver, y, physics).x)
    by_hand = solve(dataclasses.replace(solver, denoiser=guided(d, results[0].x)), y, physics, x0=results[0].x)
    assert torch.allclose(by_hand.x, results[1].x, atol=1e-6)
    assert len(refine(solver, y, physics, rounds=0)) == 1
    with pytest.raises(InputError, match="rounds"):
        refine(solver, y, physics, rounds=-1)
    with pytest.raises(InputError, match="guidance"):
        refine(dataclasses.replace(solver, denoiser=GradientFlowDenoiser(hidden_channels=2)), y, physics)


@pytest.mark.parametrize("centred", [False, True])
def test_guidance_is_saved_with_the_weights(tmp_path: Path, centred: bool) -> None:
    d, x = guided_network(centred=centred), image()
    save_denoiser(d, tmp_path / "d.safetensors")
    again = load_denoiser(tmp_path / "d.safetensors")
    assert again.config == d.config
    assert torch.equal(guided(again, x)(x, 0.1), guided(d, x)(x, 0.1))


def test_what_is_kept_is_of_these_tensors_and_of_this_mode() -> None:
    d, x = guided_network(), photograph("camera", 256)[..., 60:90, 90:130]
    a, b = x.flip(-1), x.flip(-2)
    g = guided(d, a)
    first = g(x, 0.1)
    g.guide = b.clone()  # type: ignore[assignment]
    assert torch.equal(g(x, 0.1), guided(d, b)(x, 0.1)) and not torch.equal(g(x, 0.1), first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        g(x, 0.1)
    assert torch.equal(g(x, 0.1), guided(d, b)(x, 0.1))
    before = g(x, 0.1)
    old = d.guidance[0].offset  # type: ignore[index]
    d.guidance[0].offset = torch.nn.Parameter(old + 3, requires_grad=False)  # type: ignore[index]
    assert torch.equal(g(x, 0.1), guided(d, b)(x, 0.1)) and not torch.equal(g(x, 0.1), before)


def test_inference_mode_is_as_good_as_no_grad() -> None:
    d, x = guided_network(), photograph("camera", 256)[..., 60:92, 90:122]
    expected, solver = denoise_guided(d, x, 0.1), ForwardBackward(d, sigma=0.05)
    solve = partial(Solver.solve, max_iter=3)
    with torch.inference_mode():
        assert torch.equal(denoise_guided(d, x, 0.1), expected)
        physics = Blur(gaussian_psf(1.0), (1, 32, 32))
        y = physics.A(x)
        results = refine(solver, y, physics, solve=solve)
    outside = refine(solver, y.clone(), Blur(gaussian_psf(1.0), (1, 32, 32)), solve=solve)
    assert all(torch.equal(p.x, q.x) for p, q in zip(results, outside, strict=True))
    g = guided(d, x)
    with torch.inference_mode():
        g(x, 0.1)
        physics.A(x)
    z = x.clone().requires_grad_(True)
    (g(z, 0.1).sum() + physics.A(z).sum()).backward()
    assert z.grad is not None and bool(torch.isfinite(z.grad).all())


def test_a_noise_level_of_another_batch_is_refused_before_the_first_solution() -> None:
    physics, calls = Blur(gaussian_psf(1.0), (1, 16, 16)), []
    d = guided_network()
    d.layers[0].forward = lambda *args: calls.append(0)  # type: ignore[method-assign, assignment]
    with pytest.raises(ShapeError, match="one per image"):
        refine(ForwardBackward(d, sigma=0.1), torch.rand(2, 1, 16, 16), physics, sigma=torch.tensor([0.1, 0.1, 0.1]))
    assert not calls


def test_a_guide_that_makes_no_limits_is_refused() -> None:
    denoiser = add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1,), kernel_size=3))
    with pytest.raises(InputError, match="limits that are not finite"), torch.no_grad():
        guided(denoiser, torch.full((1, 1, 8, 8), 3e38).mul(torch.randn(8, 8).sign()))(torch.rand(1, 1, 8, 8), 0.1)
