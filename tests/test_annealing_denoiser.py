"""The annealer: a first result and a U-net that looks at what it took away; no certificate."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from guided_cases import annealing_network, guided_network, plain_network

from pnp_lip import AnnealingDenoiser, certify, load_denoiser, load_pretrained, save_denoiser
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.denoisers.tiling import improve
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.layers import UNet
from pnp_lip.pretrained import load_annealer

S = torch.tensor([0.1])


def images(height: int = 31, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """An image and a remainder."""
    x = photograph("camera", 256)[..., 60 : 60 + height, 90 : 90 + width]
    return x, 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def test_it_is_what_the_network_makes_of_a_first_pass_and_of_what_that_took_away() -> None:
    d, (x, noise) = annealing_network(), images()
    y = torch.cat([x + noise, x.flip(-1) + 2 * noise])
    sigma = torch.tensor([0.05])
    g = d.first(y, 1.1 * sigma)
    assert torch.allclose(d(y, 0.05), improve(d.network, g, y - g, sigma=sigma), atol=1e-6)
    assert (d(y, 0.05) - g).abs().max() > 1e-3  # the network does something
    assert torch.equal(d(y), d(y, d.default_sigma))
    assert torch.allclose(d(y, torch.tensor([0.05, 0.1]))[1:], d(y[1:], 0.1), atol=1e-6)
    untrained = AnnealingDenoiser(plain_network(), (5, 3, 2))
    with torch.no_grad():
        assert torch.equal(untrained(y, 0.05), g)


def test_at_one_scale_it_is_a_residual_network_on_both_images_and_on_two_forms_of_the_noise_level() -> None:
    g, r = images(6, 8)
    u = annealing_network().network
    assert not torch.allclose(u(g, r, sigma=S), u(g, 0 * r, sigma=S), atol=1e-3)
    first, second, last = u.convolutions
    parts = [torch.nn.functional.pixel_unshuffle(image, 2) for image in (g, r)]
    levels = [torch.full_like(parts[0][:, :1], level) for level in (0.5, math.log(0.5) / 4)]
    t = first(torch.cat([*parts, *levels], 1)).relu()
    expected = g + 0.005**0.5 * torch.nn.functional.pixel_shuffle(last(t + second(t).relu()), 2)
    assert torch.equal(u(g, r, sigma=torch.zeros(1)), g)
    assert torch.allclose(u(g, r, sigma=torch.tensor([0.05])), expected, atol=1e-6)
    assert torch.allclose(u(g, torch.cat([r, -r]), sigma=S), torch.cat([u(g, r, sigma=S), u(g, -r, sigma=S)]), atol=1e-6)


def test_with_two_scales_it_is_a_u_net() -> None:
    torch.manual_seed(1)
    u = UNet(1, width=4, depth=3, scales=2).double()
    torch.nn.init.normal_(u.convolutions[-1].weight)
    g, s = torch.rand(2, 1, 8, 12, dtype=torch.float64), torch.tensor([0.03, 0.05], dtype=torch.float64)
    r = 0.1 * torch.rand(2, 1, 8, 12, dtype=torch.float64)
    first, fine, last = u.convolutions
    level = (10 * s).reshape(2, 1, 1, 1).expand(2, 1, 4, 6)
    parts = [torch.nn.functional.pixel_unshuffle(image, 2) for image in (g, r)]
    t = first(torch.cat([*parts, level, level.log() / 4], 1)).relu()
    t = t + fine(t).relu()
    below = torch.einsum("oiab,nihawb->nohw", u.shrinking[0].weight, t.reshape(2, 4, 2, 2, 3, 2))
    below = below + u.shrinking[0].bias[:, None, None]
    below = below + u.coarse[0][0](below).relu()
    up = torch.einsum("iocd,nihw->nohcwd", u.growing[0].weight, below).reshape(2, 4, 4, 6) + u.growing[0].bias[:, None, None]
    t = t + up
    t = t + u.back[0][0](t).relu()
    expected = g + (s / 10).sqrt()[:, None, None, None] * torch.nn.functional.pixel_shuffle(last(t), 2)
    assert torch.allclose(u(g, r, sigma=s), expected, atol=1e-12)
    odd = [torch.nn.functional.pad(v[..., :7, :9], (0, 3, 0, 1), mode="replicate") for v in (g, r)]
    assert torch.allclose(improve(u, g[..., :7, :9], r[..., :7, :9], sigma=s), u(*odd, sigma=s)[..., :7, :9], atol=1e-12)


@pytest.mark.parametrize(("depth", "scales"), [(2, 1), (4, 1), (3, 2), (6, 2), (4, 3)])
def test_it_sees_as_far_as_it_says(depth: int, scales: int) -> None:
    torch.manual_seed(2)
    u = UNet(1, width=3, depth=depth, scales=scales).double()
    torch.nn.init.normal_(u.convolutions[-1].weight)
    g = torch.rand(1, 1, 192, 192, dtype=torch.float64, requires_grad=True)
    y, seen = u(g, 0 * g.detach(), sigma=torch.tensor([0.1])), 0
    for place in range(96, 96 + u.block):
        (slope,) = torch.autograd.grad(y[0, 0, place, place], g, retain_graph=True)
        rows = slope[0, 0].abs().sum(1).nonzero().flatten()
        seen = max(seen, 96 - int(rows.min()), int(rows.max()) - 96 - u.block + 1)
    assert u.reach - u.block < seen <= u.reach and u.reach % u.block == 0


def test_the_image_is_not_rounded_where_others_are() -> None:
    seen = []
    u, (g, r) = annealing_network().network, images(8, 8)
    for conv in u.convolutions[:2]:
        conv.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        u(g, r, sigma=S)
    assert seen == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]


def test_images_are_cut_into_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    d, (x, noise) = annealing_network((5, 3, 2)), images(90, 101)
    y = torch.cat([x + noise, x.flip(-1)])
    whole = d(y, 0.1)
    monkeypatch.setattr("pnp_lip.denoisers.tiling.BLOCK_TILE", (16, 24))
    assert torch.allclose(d(y, 0.1), whole, atol=1e-6)


def test_gradients_reach_the_network_and_the_image() -> None:
    d, (x, noise) = annealing_network((5, 3, 2)), images()
    d.network.requires_grad_(True)
    y = (x + noise).requires_grad_(True)
    d(y, 0.1).square().sum().backward()
    assert y.grad is not None and all(p.grad is not None for p in d.network.parameters())
    assert all(p.grad is None for p in d.first.parameters())


def test_it_is_saved_without_a_certificate_and_loaded_again(tmp_path: Path) -> None:
    d, (x, _), path = annealing_network((5, 3, 2)), images(), tmp_path / "a.safetensors"
    assert save_denoiser(d, path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    again = load_denoiser(path, require_certified=False)
    assert again.config == d.config == {"first": plain_network().config, "network": [5, 3, 2]}
    assert torch.equal(again(x, 0.1), d(x, 0.1)) and not again.training
    with pytest.raises(InputError, match="an annealer has no certificate"):
        load_denoiser(path)
    with pytest.raises(CertificateError, match="AnnealingDenoiser, for which no rule is known"):
        certify(again)


def test_one_ships_for_grey_and_one_for_colour() -> None:
    for channels, name in ((1, "annealer"), (3, "annealer-colour")):
        found = load_annealer(channels)
        assert isinstance(found, AnnealingDenoiser) and found.in_channels == channels
        layers = load_pretrained({1: "tiny", 3: "colour"}[channels]).layers.state_dict()
        assert all(torch.equal(value, layers[k]) for k, value in found.first.layers.state_dict().items())
        assert torch.equal(load_pretrained(name).network.convolutions[0].weight, found.network.convolutions[0].weight)
    with pytest.raises(InputError, match="for images of 1 and of 3 channels; got 2"):
        load_annealer(2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="without guidance"):
        AnnealingDenoiser(guided_network())
    for size, words in (
        ((4, 3), "number of scales of the U-net"),
        ((4, 3, 10), "one to 9 scales"),
        ((0, 3, 1), "width"),
    ):
        with pytest.raises(InputError, match=words):
            AnnealingDenoiser(plain_network(), size)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"\(B, 1, H, W\)"):
        annealing_network()(torch.zeros(1, 3, 8, 8), 0.1)
    with pytest.raises(InputError, match="not negative"):
        annealing_network()(torch.zeros(1, 1, 8, 8), -0.1)
