"""Training what denoisers are guided with: guidance, its centres, and the network that improves guides."""

from __future__ import annotations

import copy
import dataclasses
import statistics
from pathlib import Path

import pytest
import torch
from guided_cases import guided_network, plain_network

from pnp_lip import GradientFlowDenoiser, guided, load_denoiser, load_pretrained, save_denoiser
from pnp_lip.command_line.main import main
from pnp_lip.command_line.scene import photograph
from pnp_lip.denoisers import add_guidance
from pnp_lip.errors import InputError
from pnp_lip.images import psnr, write_image
from pnp_lip.layers import project
from pnp_lip.training import TrainingSettings, train
from pnp_lip.training.equilibrium import Equilibrium
from pnp_lip.training.guides import EXAMPLES, Example, ExampleSet, random_example
from pnp_lip.training.patches import PatchSampler, turned


def without(d: GradientFlowDenoiser) -> GradientFlowDenoiser:
    """The same one without its guide network."""
    plain = copy.deepcopy(d)
    plain.guide_network = None
    return plain


@pytest.mark.parametrize("equilibrium", [0.0, 1.0])
def test_training_guidance_leaves_the_denoiser_as_it_is(tmp_path: Path, equilibrium: float) -> None:
    camera = photograph("camera", 256)[0, :, ::2, ::2]
    plain = plain_network()
    settings = TrainingSettings(
        steps=4, batch=4, patch=32, refresh=2, warm_up=1, checkpoint_every=2, validate_every=4, guidance=True,
        equilibrium=equilibrium,
    )  # fmt: skip
    trained = train(add_guidance(copy.deepcopy(plain), centred=True), [camera], [camera], tmp_path / "run", settings)
    for name, value in plain.state_dict().items():
        assert torch.equal(trained.state_dict()[name], value)
    untrained = add_guidance(copy.deepcopy(plain), centred=True).state_dict()
    assert any(not torch.equal(trained.state_dict()[n], v) for n, v in untrained.items() if n.startswith("guidance"))
    with pytest.raises(InputError, match="guidance"):
        train(plain, [camera], [camera], tmp_path / "other", settings)


def test_centres_can_be_trained_alone(tmp_path: Path) -> None:
    camera = photograph("camera", 256)[0, :, ::2, ::2]
    settings = TrainingSettings(
        steps=3, batch=4, patch=32, warm_up=1, checkpoint_every=3, validate_every=3, guidance=True, centres=True
    )
    d = add_guidance(guided_network(), centred=True)
    trained = train(
        add_guidance(guided_network(), centred=True), [camera], [camera], tmp_path / "run", settings
    ).state_dict()
    changed = {name for name, value in d.state_dict().items() if not torch.equal(trained[name], value)}
    assert changed == {f"guidance.{i}.share_{part}" for i in (0, 1) for part in ("mixing", "offset")}
    halfway = dataclasses.replace(settings, steps=6)
    with pytest.raises(InputError, match="trains another part"):
        other = dataclasses.replace(halfway, centres=False)
        train(add_guidance(guided_network(), centred=True), [camera], [camera], tmp_path / "run", other, resume=True)
    with pytest.raises(InputError, match="is of another network"):
        train(
            add_guidance(guided_network(in_channels=3), centred=True),
            [camera],
            [camera],
            tmp_path / "run",
            halfway,
            resume=True,
        )
    with pytest.raises(InputError, match="have no centres"):
        train(guided_network(), [camera], [camera], tmp_path / "other", settings)
    with pytest.raises(InputError, match="takes `guidance`"):
        TrainingSettings(centres=True)


def test_training_guidance_improves_the_second_pass(tmp_path: Path) -> None:
    x = photograph("camera", 256)[0]
    d = guided_network()
    settings = TrainingSettings(
        steps=40, batch=4, patch=32, warm_up=2, checkpoint_every=40, validate_every=40, guidance=True, average=0.5,
        learning_rate=1e-2, sigma_range=(0.1, 0.1),
    )  # fmt: skip
    trained = train(add_guidance(copy.deepcopy(d), centred=True), [x], [x], tmp_path, settings)
    y = x[None] + 0.1 * torch.randn(x[None].shape, generator=torch.Generator().manual_seed(5))
    first = d(y, 0.1)
    assert (
        psnr(guided(trained, first)(y, 0.1), x[None])
        > max(psnr(guided(d, first)(y, 0.1), x[None]), psnr(first, x[None])) + 0.05
    )


SETTINGS = TrainingSettings(
    steps=240, batch=4, patch=32, warm_up=5, checkpoint_every=240, validate_every=240, average=0.5, learning_rate=3e-3,
    guide_network=True, sigma_range=(0.1, 0.1),
)  # fmt: skip


def test_training_improves_guides_and_changes_nothing_else(tmp_path: Path) -> None:
    camera = photograph("camera", 256)[0]
    start = add_guidance(load_pretrained("tiny"), network=(8, 4))
    trained = train(
        add_guidance(load_pretrained("tiny"), network=(8, 4)), [camera], [camera], tmp_path / "run", SETTINGS
    )
    for name, value in start.state_dict().items():
        changed = not torch.equal(trained.state_dict()[name], value)
        assert changed == name.startswith("guide_network."), name
    sampler = PatchSampler([camera], 64, torch.Generator().manual_seed(5))
    gains = []
    for seed in range(6, 10):
        example = random_example(start, sampler(8), SETTINGS, Equilibrium(), torch.Generator().manual_seed(seed))
        improved = trained.guide_network(example.guide, torch.tensor([example.sigma]))
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
    d = guided_network(network=(5, 3))
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
