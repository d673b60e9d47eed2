"""Training what denoisers are guided with: guidance, and the network that improves guides."""

from __future__ import annotations

import copy
import dataclasses
import statistics
from pathlib import Path

import pytest
import torch
from guided_cases import guided_network, plain_network

from pnp_lip import GradientFlowDenoiser, guided, load_denoiser, load_pretrained, save_denoiser
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.command_line.main import main
from pnp_lip.denoisers import add_guidance
from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.layers import project
from pnp_lip.pictures import write_image
from pnp_lip.training import PatchSettings, ProblemSettings, TrainingSettings, train
from pnp_lip.training.equilibrium import Equilibrium, noisy_guide
from pnp_lip.training.patches import PatchSampler

SHORT = TrainingSettings(steps=4, part="guidance", patches=PatchSettings(batch=4, size=32), checkpoint_every=2, validate_every=4)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants that fit a run of a few steps."""
    for name, value in {"WARM_UP": 2, "AVERAGE": 0.5, "SIGMA_RANGE": (0.1, 0.1)}.items():
        monkeypatch.setattr(f"pnp_lip.training.training_run.{name}", value)


def without(d: GradientFlowDenoiser) -> GradientFlowDenoiser:
    """The same one without its guide network."""
    plain = copy.deepcopy(d)
    plain.guide_network = None
    return plain


@pytest.mark.parametrize("equilibrium", [0.0, 1.0])
def test_training_guidance_leaves_the_denoiser_as_it_is(tmp_path: Path, equilibrium: float) -> None:
    camera = photograph("camera", 256)[0, :, ::2, ::2]
    plain = plain_network()
    settings = dataclasses.replace(SHORT, problems=ProblemSettings(equilibrium))
    trained = train(add_guidance(copy.deepcopy(plain), centred=True), [camera], [camera], tmp_path / "run", settings)
    for name, value in plain.state_dict().items():
        assert torch.equal(trained.state_dict()[name], value)
    untrained = add_guidance(copy.deepcopy(plain), centred=True).state_dict()
    assert any(not torch.equal(trained.state_dict()[n], v) for n, v in untrained.items() if n.startswith("guidance"))
    with pytest.raises(InputError, match="guidance"):
        train(plain, [camera], [camera], tmp_path / "other", settings)


def test_training_guidance_improves_the_second_pass(tmp_path: Path) -> None:
    x = photograph("camera", 256)[0]
    d = guided_network()
    settings = dataclasses.replace(SHORT, steps=40, learning_rate=1e-2, checkpoint_every=40, validate_every=40)
    trained = train(add_guidance(copy.deepcopy(d), centred=True), [x], [x], tmp_path, settings)
    y = x[None] + 0.1 * torch.randn(x[None].shape, generator=torch.Generator().manual_seed(5))
    first = d(y, 0.1)
    assert (
        psnr(guided(trained, first)(y, 0.1), x[None]) > max(psnr(guided(d, first)(y, 0.1), x[None]), psnr(first, x[None])) + 0.05
    )


NETWORK = dataclasses.replace(SHORT, part="guide network", steps=240, checkpoint_every=240, validate_every=240)


def test_training_improves_guides_and_changes_nothing_else(tmp_path: Path) -> None:
    camera = photograph("camera", 256)[0]
    start = add_guidance(load_pretrained("tiny"), network=(8, 4))
    trained = train(add_guidance(load_pretrained("tiny"), network=(8, 4)), [camera], [camera], tmp_path / "run", NETWORK)
    for name, value in start.state_dict().items():
        changed = not torch.equal(trained.state_dict()[name], value)
        assert changed == name.startswith("guide_network."), name
    sampler = PatchSampler([camera], PatchSettings(), torch.Generator().manual_seed(5))
    gains = []
    for seed in range(6, 10):
        x, generator = sampler(), torch.Generator().manual_seed(seed)
        y = x + 0.1 * torch.randn(x.shape, generator=generator)
        guide = noisy_guide(start, y, 0.1, generator)
        gains.append(psnr(trained.guide_network(guide, torch.tensor([0.1])), x) - psnr(guide, x))
    assert statistics.fmean(gains) > 0.05
    with pytest.raises(InputError, match="no guide network"):
        train(without(load_pretrained("tiny")), [camera], [camera], tmp_path / "none", NETWORK)
    with pytest.raises(InputError, match="learned no guidance"):
        train(GradientFlowDenoiser(hidden_channels=2), [camera], [camera], tmp_path / "none", NETWORK)


def test_a_guide_network_remembers_problems_longer() -> None:
    x, tiny = photograph("camera", 256)[..., 60:92, 90:122], load_pretrained("tiny")
    new = []
    for remembered in (False, True):
        equilibrium = Equilibrium(guidance=True, scans=0.0, free=1, remembered=remembered)
        generator = torch.Generator().manual_seed(0)
        new.append(len({id(equilibrium.take(tiny, x, generator)) for _ in range(60)}))
    assert 12 < new[1] < 25 < new[0] < 50


def test_guides_are_first_solutions_and_passes_over_images_of_more_noise() -> None:
    x, tiny = photograph("camera", 256)[..., 60:108, 90:138], load_pretrained("tiny")
    problem = Equilibrium(guidance=True, scans=0.0).problem(tiny, x, torch.Generator().manual_seed(0))
    assert problem.guide is problem.x_hat and torch.equal(problem.x, x) and 0 < problem.sigma < 0.3
    assert 20 < psnr(problem.guide, x) < 45
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    once, more = (noisy_guide(tiny, y, 0.1, torch.Generator().manual_seed(seed)) for seed in (3, 1))
    assert torch.equal(once, tiny(y, 1.1 * 0.1)) != torch.equal(more, tiny(y, 1.1 * 0.1))
    assert 20 < psnr(more, x) < psnr(once, x) < 35


def test_the_command_trains_a_guide_network_and_then_guidance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        write_image(tmp_path / "photos" / f"{i}.png", photograph("camera", 256)[..., 60 * i : 60 * i + 60, 70:130])
    plain = str(tmp_path / "plain.safetensors")
    save_denoiser(without(load_pretrained("tiny")), plain)

    def command(start: str | Path | None, *options: str, out: str) -> int:
        arguments = ["train", "--images", str(tmp_path / "photos"), "--steps", "2", "--batch", "4", "--patch", "16"]
        begin = [] if start is None else ["--start", str(start)]
        return main([*arguments, *begin, "--device", "cpu", *options, "--out", str(tmp_path / out)])

    assert command(plain, "--guide-network", "5,3", out="u") == 0
    made = tmp_path / "u" / "denoiser.safetensors"
    u = load_denoiser(made)
    assert u.config["guide_network"] == [5, 3]
    assert command(made, "--guidance", out="g") == 0
    both = load_denoiser(tmp_path / "g" / "denoiser.safetensors")
    for name, value in u.state_dict().items():
        assert torch.equal(value, both.state_dict()[name]) != name.startswith("guidance."), name
    assert command(made, "--guide-network", "5,3", "--rate", "1e-12", out="more") == 0
    more = load_denoiser(tmp_path / "more" / "denoiser.safetensors").state_dict()
    assert all(torch.allclose(value, more[name], atol=1e-4) for name, value in u.state_dict().items())  # trained on
    capsys.readouterr()
    unguided = tmp_path / "unguided.safetensors"
    save_denoiser(project(GradientFlowDenoiser(hidden_channels=2, dilations=(1,))), unguided)
    assert command(unguided, "--guidance", out="new") == 0
    assert load_denoiser(tmp_path / "new" / "denoiser.safetensors").centred
    assert command(plain, "--guide-network", "5,3,2", out="other") == 2 and "width and the depth" in capsys.readouterr().err
    for part in (["--guidance"], ["--guide-network", "5,3"]):
        assert command(None, *part, out="other") == 2 and "--start" in capsys.readouterr().err
