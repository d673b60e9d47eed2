"""The network that improves guides: what it changes, that the certificate takes no notice of it, and its training."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from guided_cases import guided_network

from pnp_lip import GradientFlowDenoiser, attack, certify, guided, load_denoiser, save_denoiser
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.benchmarks.priors import prior_of, with_guide
from pnp_lip.denoisers import add_guidance, denoiser_from_config
from pnp_lip.denoisers.tiling import improve
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.layers import GuideNetwork


def network(channels: int = 1, *, random: bool = True, centred: bool = False) -> GradientFlowDenoiser:
    """A denoiser whose thresholds matter, with a guide network that does something if ``random``."""
    d = guided_network(channels, centred=centred, network=(5, 3))
    if random:
        for conv in d.guide_network.convolutions:
            torch.nn.init.normal_(conv.weight, std=0.2)
        for guidance in d.guidance if centred else ():
            torch.nn.init.normal_(guidance.share_mixing, std=0.2)
    return d


def without(d: GradientFlowDenoiser) -> GradientFlowDenoiser:
    """The same one without its guide network."""
    plain = copy.deepcopy(d)
    plain.guide_network = None
    return plain


def image(height: int = 31, width: int = 40, channels: int = 1) -> torch.Tensor:
    return photograph("camera", 256)[..., 60 : 60 + height, 90 : 90 + width].repeat(1, channels, 1, 1)


def test_untrained_it_changes_nothing() -> None:
    d, x = network(random=False), image()
    assert torch.equal(improve(d.guide_network, x, sigma=torch.tensor([0.1])), x)
    assert torch.equal(guided(d, x)(x, 0.1), guided(without(d), x)(x, 0.1))


def test_the_image_that_it_sees_is_cut_into_blocks_of_two_by_two() -> None:
    torch.manual_seed(1)
    u = GuideNetwork(1, width=4, depth=3)
    torch.nn.init.normal_(u.convolutions[-1].weight)
    g = torch.rand(1, 1, 5, 6)
    even = torch.cat([g, g[:, :, -1:]], dim=2)  # one row more, as the last one is
    s = torch.tensor([0.03])
    assert torch.equal(improve(u, g, sigma=s), u(even, s)[:, :, :5])
    blocks = torch.stack([even[0, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    t = torch.cat([blocks, torch.full_like(blocks[:1], 0.3)])[None]
    first, second, last = u.convolutions
    t = first(t).relu()
    r = last(t + second(t).relu())[0]
    expected = even.clone()
    for k in range(4):
        expected[0, 0, k // 2 :: 2, k % 2 :: 2] += r[k]
    assert torch.allclose(u(even, s), expected, atol=1e-6)


@pytest.mark.parametrize("depth", [2, 4])
def test_it_sees_as_far_as_it_says(depth: int) -> None:
    torch.manual_seed(2)
    u = GuideNetwork(1, width=3, depth=depth).double()
    torch.nn.init.normal_(u.convolutions[-1].weight)
    g = torch.rand(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    y, seen = u(g, torch.tensor([0.1])), 0
    for place in range(32, 32 + u.block):
        (slope,) = torch.autograd.grad(y[0, 0, place, place], g, retain_graph=True)
        rows = slope[0, 0].abs().sum(1).nonzero().flatten()
        seen = max(seen, 32 - int(rows.min()), int(rows.max()) - 32 - u.block + 1)
    assert u.reach - u.block < seen <= u.reach and u.reach % u.block == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_thresholds_follow_the_improved_guide(channels: int) -> None:
    d, x = network(channels).double(), image(channels=channels).double()
    expected = guided(without(d), improve(d.guide_network, x, sigma=torch.tensor([0.1])))(x, 0.1)
    assert torch.allclose(guided(d, x)(x, 0.1), expected, atol=1e-12)
    assert (guided(without(d), x)(x, 0.1) - expected).abs().max() > 1e-3
    two, levels = torch.cat([x, x.flip(-1)]), torch.tensor([0.1, 0.2])
    apart = torch.cat([guided(d, x)(two[i : i + 1], levels[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(guided(d, x)(two, levels), apart, atol=1e-12)


def test_centres_follow_what_the_guide_network_has_changed() -> None:
    d, x = network(centred=True).double(), image().double()
    improved = improve(d.guide_network, x, sigma=torch.tensor([0.1]))
    unchanged = guided(without(d), improved)(x, 0.1)  # the same guide, which nothing has changed
    assert (guided(d, x)(x, 0.1) - unchanged).abs().max() > 1e-3
    for guidance in d.guidance:
        guidance.share_mixing[:, 6:] = 0
    assert torch.allclose(guided(d, x)(x, 0.1), guided(without(d), improved)(x, 0.1), atol=1e-12)


def test_the_improved_guide_is_kept_until_something_changes() -> None:
    d, x = network(), image()
    calls = []
    d.guide_network.register_forward_hook(lambda *_: calls.append(0))
    g = guided(d, x)
    first = g(x, 0.1)
    assert torch.equal(g(x, 0.1), first) and len(calls) == 1
    g(x, 0.2)
    assert len(calls) == 2
    d.guide_network.convolutions[-1].bias.add_(0.2)
    changed = g(x, 0.1)
    assert len(calls) == 3 and not torch.equal(changed, first)
    g.guide.mul_(0.5)  # type: ignore[operator]
    assert not torch.equal(g(x, 0.1), changed) and len(calls) == 4


@pytest.mark.parametrize("centred", [False, True])
def test_windows_of_a_large_image_give_the_same(monkeypatch: pytest.MonkeyPatch, centred: bool) -> None:
    d, x = network(centred=centred), image(90, 101)
    whole = guided(d, x)(x, 0.1)
    monkeypatch.setattr("pnp_lip.denoisers.tiling.BLOCK_TILE", (16, 24))
    assert torch.allclose(guided(d, x)(x, 0.1), whole, atol=1e-6)
    monkeypatch.setattr("pnp_lip.denoisers.gradient_flow_denoiser.cache_tile", lambda *a: (24, 32))
    monkeypatch.setattr("pnp_lip.denoisers.guided_denoiser.most_kept", lambda: 0)
    assert torch.allclose(guided(d, x)(x, 0.1), whole, atol=1e-6)


def test_the_certificate_is_that_of_the_denoiser_and_no_violation_is_found() -> None:
    d, x = network(), image(32)
    for p in d.guide_network.parameters():
        p.mul_(5)  # a guide network far from nonexpansive
    s = torch.tensor([0.2])
    assert (d.guide_network(x + 1e-3, s) - d.guide_network(x, s)).norm() > 2 * 1e-3 * x.numel() ** 0.5
    mine, plain = certify(guided(d, x)), certify(without(d))
    assert mine.nonexpansive
    assert (mine.lipschitz_upper, mine.averagedness) == (plain.lipschitz_upper, plain.averagedness)
    assert attack(guided(d, image(16, 16)).double(), image(16, 16).double(), sigma=0.2, steps=15).ratio <= 1 + 1e-9
    d.layers[0].weight *= 1.01 * (2 / (d.layers[0].tau * plain.layers[0].norm.upper ** 2)) ** 0.5
    with pytest.raises(CertificateError):
        certify(guided(d, x)).require_nonexpansive()


def test_it_is_saved_with_the_weights_and_counted_where_it_is_used(tmp_path: Path) -> None:
    d, x = network(), image()
    save_denoiser(d, tmp_path / "d.safetensors")
    again = load_denoiser(tmp_path / "d.safetensors")
    assert again.config == d.config and torch.equal(guided(again, x)(x, 0.1), guided(d, x)(x, 0.1))
    mine, other = (prior_of("own", network_) for network_ in (d, without(d)))
    assert mine.describe()["weights_sha256"] == other.describe()["weights_sha256"]  # of one pass
    assert with_guide(mine).describe()["weights_sha256"] != with_guide(other).describe()["weights_sha256"]
    more = sum(p.numel() for p in d.guide_network.parameters())
    assert with_guide(mine).describe()["parameters"] == with_guide(other).describe()["parameters"] + more


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"guide_network": [8, 3]}, "belong to guidance"),
        ({"guide_network": [8], "guidance": True}, "the width and the depth"),
        ({"guide_network": [8, 3, 2], "guidance": True}, "the width and the depth"),
        ({"guide_network": [0, 3], "guidance": True}, "width of at least 1"),
        ({"guide_network": [8, 1], "guidance": True}, "depth of at least 2"),
    ],
)
def test_sizes_that_make_no_network_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        denoiser_from_config({"hidden_channels": 2, "dilations": [1], **config})


def test_a_new_one_replaces_the_old_one_which_stays_otherwise() -> None:
    other = add_guidance(network(), network=(7, 4))
    new = other.guide_network
    assert other.config["guide_network"] == [7, 4] and add_guidance(other).guide_network is new


def test_add_guidance_keeps_a_plain_denoiser_plain() -> None:
    d = add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1,)))
    assert d.guide_network is None and "guide_network" not in d.config
