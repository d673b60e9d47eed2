"""The network that improves guides: what it changes, that the certificate takes no notice of it, and its training."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from guided_cases import guided_network

from pnp_lip import GradientFlowDenoiser, attack, certify, guided, load_denoiser, load_pretrained, save_denoiser
from pnp_lip.benchmarks.priors import prior_of, with_guide
from pnp_lip.command_line.main import main
from pnp_lip.command_line.scene import photograph
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.images import psnr, write_image
from pnp_lip.layers import GuideNetwork, project
from pnp_lip.training import TrainingSettings, add_guidance, add_guide_network, train
from pnp_lip.training.equilibrium import Equilibrium
from pnp_lip.training.guides import EXAMPLES, Example, ExampleSet, random_example
from pnp_lip.training.patches import PatchSampler, turned


def network(
    channels: int = 1, *, random: bool = True, size: tuple[int, ...] = (5, 3), centred: bool = False
) -> GradientFlowDenoiser:
    """A denoiser whose thresholds matter, with a guide network that does something if ``random``."""
    d = guided_network(in_channels=channels, centred=centred, guide_network=size)
    if random:
        for conv in d.guide_network.convolutions:
            torch.nn.init.normal_(conv.weight, std=0.2)
        for guidance in d.guidance if centred else ():
            torch.nn.init.normal_(guidance.share_mixing, std=0.2)
    return d


def without(d: GradientFlowDenoiser) -> GradientFlowDenoiser:
    """The same one without its guide network."""
    plain = GradientFlowDenoiser(**{k: v for k, v in d.config.items() if k != "guide_network"})
    plain.load_state_dict({k: v for k, v in d.state_dict().items() if not k.startswith("guide_network.")})
    return plain.to(next(d.parameters())).eval().requires_grad_(False)


def image(height: int = 31, width: int = 40, channels: int = 1) -> torch.Tensor:
    return photograph("camera", 256)[..., 60 : 60 + height, 90 : 90 + width].repeat(1, channels, 1, 1)


def test_untrained_it_changes_nothing() -> None:
    d, x = network(random=False), image()
    assert torch.equal(d.guide_network(x, torch.tensor([0.1])), x)
    assert torch.equal(guided(d, x)(x, 0.1), guided(without(d), x)(x, 0.1))


def test_the_image_that_it_sees_is_cut_into_blocks_of_two_by_two() -> None:
    torch.manual_seed(1)
    u = GuideNetwork(1, width=4, depth=3)
    torch.nn.init.normal_(u.convolutions[-1].weight)
    g = torch.rand(1, 1, 5, 6)
    even = torch.cat([g, g[:, :, -1:]], dim=2)  # one row more, as the last one is
    s = torch.tensor([0.03])
    assert torch.equal(u(g, s), u(even, s)[:, :, :5])
    blocks = torch.stack([even[0, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    t = torch.cat([blocks, torch.full_like(blocks[:1], 0.3)])[None]
    first, second, last = u.convolutions
    t = first(t).relu()
    r = last(t + second(t).relu())[0]
    expected = even.clone()
    for k in range(4):
        expected[0, 0, k // 2 :: 2, k % 2 :: 2] += r[k]
    assert torch.allclose(u(even, s), expected, atol=1e-6)


def test_with_two_scales_it_is_a_u_net() -> None:
    torch.manual_seed(1)
    u = GuideNetwork(1, width=4, depth=3, scales=2).double()
    torch.nn.init.normal_(u.convolutions[-1].weight)
    g, s = torch.rand(2, 1, 8, 12, dtype=torch.float64), torch.tensor([0.03, 0.05], dtype=torch.float64)
    first, fine, last = u.convolutions
    level = (10 * s).reshape(2, 1, 1, 1).expand(2, 1, 4, 6)
    t = first(torch.cat([torch.nn.functional.pixel_unshuffle(g, 2), level], 1)).relu()
    t = t + fine(t).relu()
    below = torch.einsum("oiab,nihawb->nohw", u.shrinking[0].weight, t.reshape(2, 4, 2, 2, 3, 2))
    below = below + u.shrinking[0].bias[:, None, None]
    below = below + u.coarse[0][0](below).relu()
    up = (
        torch.einsum("iocd,nihw->nohcwd", u.growing[0].weight, below).reshape(2, 4, 4, 6)
        + u.growing[0].bias[:, None, None]
    )
    t = t + up
    t = t + u.back[0][0](t).relu()
    assert torch.allclose(u(g, s), g + torch.nn.functional.pixel_shuffle(last(t), 2), atol=1e-12)
    odd = torch.nn.functional.pad(g[..., :7, :9], (0, 3, 0, 1), mode="replicate")  # whole blocks of 4 x 4
    assert torch.allclose(u(g[..., :7, :9], s), u(odd, s)[..., :7, :9], atol=1e-12)
    assert sum(p.numel() for p in GuideNetwork(1, width=4, depth=3).parameters()) == 5 * 36 + 4 + 148 + 4 * 36 + 4


@pytest.mark.parametrize(("depth", "scales"), [(2, 1), (4, 1), (3, 2), (6, 2), (4, 3)])
def test_it_sees_as_far_as_it_says(depth: int, scales: int) -> None:
    torch.manual_seed(2)
    u = GuideNetwork(1, width=3, depth=depth, scales=scales).double()
    torch.nn.init.normal_(u.convolutions[-1].weight)
    g = torch.rand(1, 1, 192, 192, dtype=torch.float64, requires_grad=True)
    y, seen = u(g, torch.tensor([0.1])), 0
    for place in range(96, 96 + u.block):
        (slope,) = torch.autograd.grad(y[0, 0, place, place], g, retain_graph=True)
        rows = slope[0, 0].abs().sum(1).nonzero().flatten()
        seen = max(seen, 96 - int(rows.min()), int(rows.max()) - 96 - u.block + 1)
    assert u.reach - u.block < seen <= u.reach and u.reach % u.block == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_thresholds_follow_the_improved_guide(channels: int) -> None:
    d, x = network(channels).double(), image(channels=channels).double()
    s = torch.tensor([0.1])
    expected = guided(without(d), d.guide_network(x, s))(x, 0.1)
    assert torch.allclose(guided(d, x)(x, 0.1), expected, atol=1e-12)
    assert (guided(without(d), x)(x, 0.1) - expected).abs().max() > 1e-3
    two, levels = torch.cat([x, x.flip(-1)]), torch.tensor([0.1, 0.2])
    apart = torch.cat([guided(d, x)(two[i : i + 1], levels[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(guided(d, x)(two, levels), apart, atol=1e-12)


def test_centres_follow_what_the_guide_network_has_changed() -> None:
    d, x = network(centred=True).double(), image().double()
    improved = d.guide_network(x, torch.tensor([0.1]))
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
@pytest.mark.parametrize("size", [(5, 3), (5, 3, 2)])
def test_windows_of_a_large_image_give_the_same(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, ...], centred: bool
) -> None:
    d, x = network(size=size, centred=centred), image(90, 101)
    whole = guided(d, x)(x, 0.1)
    monkeypatch.setattr("pnp_lip.denoisers.guided_denoiser.GUIDE_TILE", (16, 24))
    assert torch.allclose(guided(d, x)(x, 0.1), whole, atol=1e-6)
    monkeypatch.setattr("pnp_lip.denoisers.guided_denoiser.cache_tile", lambda *a: (24, 32))
    monkeypatch.setattr("pnp_lip.denoisers.guided_denoiser.KEPT_NUMBERS", 0)
    assert torch.allclose(guided(d, x)(x, 0.1), whole, atol=1e-6)


def test_the_certificate_is_that_of_the_denoiser_and_no_violation_is_found() -> None:
    d, x = network(), image()
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
    ("options", "message"),
    [
        ({"guide_network": (8, 3)}, "takes `guidance`"),
        ({"guide_network": (8,), "guidance": True}, "a width, a depth and"),
        ({"guide_network": (8, 3, 2, 1), "guidance": True}, "a width, a depth and"),
        ({"guide_network": (8, 3, 0), "guidance": True}, "one to 9 scales"),
        ({"guide_network": (0, 3), "guidance": True}, "width of at least 1"),
        ({"guide_network": (8, 1), "guidance": True}, "depth of at least 2"),
    ],
)
def test_sizes_that_make_no_network_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GradientFlowDenoiser(hidden_channels=2, dilations=(1,), **options)  # type: ignore[arg-type]


def test_it_is_added_new_or_taken_from_another_denoiser() -> None:
    d = network()
    plain = without(d)
    assert add_guide_network(plain, (7, 4)).config["guide_network"] == [7, 4]
    taken, x = add_guide_network(add_guide_network(plain, (7, 4)), d), image()
    assert taken.config == d.config
    assert torch.equal(guided(taken.requires_grad_(False), x)(x, 0.1), guided(d, x)(x, 0.1))
    with pytest.raises(InputError, match="that has one"):
        add_guide_network(d, plain)
    with pytest.raises(InputError, match="got one of 3 channels"):
        add_guide_network(d, network(3))


SETTINGS = TrainingSettings(
    steps=240, batch=4, patch=32, warm_up=5, checkpoint_every=240, validate_every=240, average=0.5, learning_rate=3e-3,
    guide_network=True, sigma_range=(0.1, 0.1),
)  # fmt: skip


@pytest.mark.parametrize("size", [(8, 4), (8, 3, 2)])
def test_training_improves_guides_and_changes_nothing_else(tmp_path: Path, size: tuple[int, ...]) -> None:
    camera = photograph("camera", 256)[0]
    start = add_guide_network(load_pretrained("tiny"), size)
    trained = train(add_guide_network(load_pretrained("tiny"), size), [camera], [camera], tmp_path / "run", SETTINGS)
    for name, value in start.state_dict().items():
        changed = not torch.equal(trained.state_dict()[name], value)
        assert changed == name.startswith("guide_network."), name
    sampler = PatchSampler([camera], 64, torch.Generator().manual_seed(5))
    gains = []
    for seed in range(6, 10):
        example = random_example(start, sampler(8), SETTINGS, Equilibrium(), torch.Generator().manual_seed(seed))
        improved = trained.guide_network(example.guide, torch.tensor([example.sigma]), example.residual)
        gains.append(psnr(improved, example.x) - psnr(example.guide, example.x))
    assert statistics.fmean(gains) > 0.05
    with pytest.raises(InputError, match="choose one"):
        TrainingSettings(guidance=True, guide_network=True)
    with pytest.raises(InputError, match="no guide network"):
        train(without(load_pretrained("tiny")), [camera], [camera], tmp_path / "none", SETTINGS)
    with pytest.raises(InputError, match="learned no guidance"):
        train(GradientFlowDenoiser(hidden_channels=2), [camera], [camera], tmp_path / "none", SETTINGS)


def test_examples_depend_on_their_number_alone() -> None:
    camera = photograph("camera", 256)[0]
    made: list[int] = []

    def make(x: torch.Tensor, generator: torch.Generator) -> Example:
        made.append(0)
        noise = torch.randn(x.shape, generator=generator)
        return Example(x, x + noise, -noise, 0.1)

    def examples() -> ExampleSet:
        return ExampleSet(make, PatchSampler([camera], 16, torch.Generator()), 4, "cpu", 3)

    one, other = examples(), examples()
    forth, back = [one[i] for i in range(5)], [other[i] for i in reversed(range(5))]
    assert all(torch.equal(a.guide, b.guide) for a, b in zip(forth, reversed(back), strict=True))
    assert not torch.equal(forth[0].x, forth[1].x)
    assert one[2] is forth[2] and len(made) == 10
    d = network()
    for step, available in ((0, 48), (1_000, 168), (10**6, EXAMPLES)):
        chosen = examples()
        generator = torch.Generator().manual_seed(step)
        for _ in range(100):
            x_hat, x = chosen(d, step, generator)
        assert max(chosen.examples) < available and max(chosen.examples) > 0.9 * available - 2
        assert x_hat.shape == x.shape == (8, 1, 16, 16)


def test_an_example_is_a_problem_that_was_solved_once_or_twice() -> None:
    camera = photograph("camera", 256)
    x, tiny = camera[..., 60:108, 90:138], load_pretrained("tiny")
    for share in (0.0, 1.0):
        settings = TrainingSettings(equilibrium=share, guide_network=True, patch=48)
        once, twice = (
            random_example(tiny, x, settings, Equilibrium(scans=0.0, later=later), torch.Generator().manual_seed(0))
            for later in (0.0, 1.0)
        )
        assert torch.equal(once.x, x) and 0 < once.sigma < 0.3
        assert 20 < psnr(once.guide, x) < psnr(twice.guide, x) < 45


def test_turns_are_the_symmetries_of_the_square() -> None:
    x = torch.arange(9.0).reshape(1, 3, 3)
    turns = [turned(x, i) for i in range(8)]
    assert torch.equal(turns[0], x) and len({tuple(t.flatten().tolist()) for t in turns}) == 8
    assert {float(t[0, 1, 1]) for t in turns} == {4.0}


def test_the_command_trains_it_and_passes_it_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        write_image(tmp_path / "photos" / f"{i}.png", photograph("camera", 256)[..., 60 * i : 60 * i + 60, 70:130])
    plain = str(tmp_path / "plain.safetensors")
    save_denoiser(without(load_pretrained("tiny")), plain)
    arguments = ["train", "--images", str(tmp_path / "photos"), "--start", plain, "--steps", "2", "--batch", "4"]
    arguments += ["--patch", "16", "--device", "cpu"]
    assert main([*arguments, "--guide-network", "5,3", "--out", str(tmp_path / "u")]) == 0
    made = tmp_path / "u" / "denoiser.safetensors"
    u = load_denoiser(made)
    assert u.config["guide_network"] == [5, 3]
    assert main([*arguments, "--guidance", "--guide-network", str(made), "--out", str(tmp_path / "g")]) == 0
    both = load_denoiser(tmp_path / "g" / "denoiser.safetensors")
    for name, value in u.state_dict().items():
        assert torch.equal(value, both.state_dict()[name]) != name.startswith("guidance."), name
    again = [*arguments[:3], "--start", str(made), *arguments[5:], "--guide-network", "--out", str(tmp_path / "more")]
    assert main(again) == 0
    assert load_denoiser(tmp_path / "more" / "denoiser.safetensors").config == u.config
    centred = [*arguments[:3], "--start", str(tmp_path / "g" / "denoiser.safetensors"), *arguments[5:]]
    assert main([*centred, "--guidance", "centres", "--out", str(tmp_path / "c")]) == 0
    trained = load_denoiser(tmp_path / "c" / "denoiser.safetensors").state_dict()
    assert all(torch.equal(trained[name], value) != ("share" in name) for name, value in both.state_dict().items())
    capsys.readouterr()
    unguided = tmp_path / "unguided.safetensors"
    save_denoiser(project(GradientFlowDenoiser(hidden_channels=2, dilations=(1,))), unguided)
    start = [*arguments[:3], "--start", str(unguided), *arguments[5:]]
    assert main([*start, "--guidance", "centres", "--out", str(tmp_path / "other")]) == 2
    assert "has learned no guidance that centres could join" in capsys.readouterr().err
    for options, message in ((["--guide-network"], "say --guide-network"), (["--guide-network", plain], "has one")):
        assert main([*arguments, *options, "--out", str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err
    assert main([*arguments[:3], *arguments[5:], "--guide-network", "5,3", "--out", str(tmp_path / "other")]) == 2
    assert "no guidance" in capsys.readouterr().err


def test_add_guidance_keeps_a_plain_denoiser_plain() -> None:
    d = add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1,)))
    assert d.guide_network is None and "guide_network" not in d.config
