"""Training: the constraint holds, a killed run resumes to the same weights, bad settings and folders are refused."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from skimage.io import imsave

from pnp_lip import GradientFlowDenoiser, certify
from pnp_lip.command_line.train import chosen_device
from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.potentials import GradientStepPotential
from pnp_lip.training import (
    PatchSettings,
    ProblemSettings,
    TrainingSettings,
    load_photographs,
    train,
)
from pnp_lip.training.patches import PER_IMAGE, PatchSampler
from pnp_lip.training.training_run import LIMIT, TrainingRun, log_error, make_optimisers

TINY = TrainingSettings(steps=6, patches=PatchSettings(batch=4, size=16), checkpoint_every=3, validate_every=6)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants that fit a run of a few steps."""
    run = "pnp_lip.training.training_run."
    for name, value in {"WARM_UP": 2, "REFRESH": 2, "SIGMA_RANGE": (0.05, 0.05)}.items():
        monkeypatch.setattr(run + name, value)


def images() -> list[torch.Tensor]:
    camera = torch.from_numpy(data.camera()[::4, ::4].copy()).float()[None] / 255
    return [camera[:, :64, :64], camera[:, 64:, :80]]


def network() -> GradientFlowDenoiser:
    torch.manual_seed(0)
    return GradientFlowDenoiser(channels=4, hidden_channels=8, dilations=(1, 2), kernel_size=5)


class KilledError(Exception):
    pass


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(network(), images(), images()[:1], tmp_path / "whole", TINY)

    def kill(step: int, loss: float) -> None:
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(network(), images(), images()[:1], tmp_path / "killed", TINY, progress=kill)
    torch.manual_seed(99)  # the global generator must not matter
    resumed = train(network(), images(), images()[:1], tmp_path / "killed", TINY, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert certify(whole).nonexpansive


def test_training_denoises_and_stays_certified(tmp_path: Path) -> None:
    settings = dataclasses.replace(
        TINY, steps=60, patches=PatchSettings(batch=4, size=32), learning_rate=1e-2, checkpoint_every=60
    )
    denoiser = train(network(), images(), images(), tmp_path, settings)
    certificate = certify(denoiser)
    assert certificate.averaged and all(layer.averagedness <= LIMIT * 1.001 for layer in certificate.layers)
    x = images()[0][None]
    y = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert psnr(denoiser(y, 0.05), x) > psnr(y, x) + 2
    assert (tmp_path / "log.csv").read_text().startswith("step,seconds,loss,psnr_1")
    assert '"steps": 60' in (tmp_path / "settings.json").read_text()


def test_a_diverging_run_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    pictures = [image.clone() for image in images()]
    for image in pictures:
        image[:, 20:40, 20:40] = float("nan")
    with pytest.raises(InputError, match="loss became nan"):
        train(network(), pictures, images(), tmp_path, dataclasses.replace(TINY, steps=50, patches=PatchSettings(size=16)))


def test_the_log_forgets_what_is_written_again(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, steps=8, validate_every=2)

    def kill(step: int, loss: float) -> None:
        if step == 6:
            raise KilledError  # after the checkpoint of step 3 and the row of step 4

    with pytest.raises(KilledError):
        train(network(), images(), images()[:1], tmp_path / "killed", settings, progress=kill)
    train(network(), images(), images()[:1], tmp_path / "killed", settings, resume=True)
    train(network(), images(), images()[:1], tmp_path / "whole", settings)
    killed, whole = (list(csv.DictReader((tmp_path / d / "log.csv").open())) for d in ("killed", "whole"))
    assert [row.pop("step") for row in killed] == ["2", "4", "6", "8"]
    for row, other in zip(killed, whole, strict=True):
        assert row["loss"] == other["loss"] and row["psnr_25"] == other["psnr_25"]
    train(network(), images(), images()[:1], tmp_path / "killed", dataclasses.replace(settings, steps=2))
    assert len((tmp_path / "killed" / "log.csv").read_text().splitlines()) == 2  # a new run in an old place


def test_noise_levels_are_spread_evenly_over_any_stretch_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnp_lip.training.training_run.SIGMA_RANGE", (0.01, 0.1))
    run = TrainingRun(network(), images(), TINY)
    shares = []
    for run.step in range(1000, 1100):
        sigma, y = run.corrupt(torch.zeros(1, 1, 64, 64))
        assert 0.01 <= sigma <= 0.1 and abs(float(y.std()) / sigma - 1) < 0.1
        shares.append(math.log10(sigma) + 2)
    tenths = torch.histc(torch.tensor(shares), 10, 0, 1)
    assert tenths.min() >= 9 and tenths.max() <= 11  # of independent draws it would be 10 ± 3
    other = TrainingRun(network(), images(), dataclasses.replace(TINY, seed=1))
    assert other.first_sigma != run.first_sigma


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch sees no such accelerator here; use cpu"):
        chosen_device("cuda")
    assert chosen_device("auto") == chosen_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device("auto") == "cuda" and chosen_device("cuda:1") == "cuda:1"


def test_texture_prefers_what_has_some() -> None:
    half = torch.cat([torch.zeros(1, 64, 64), torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))], dim=2)
    every, rule = (
        PatchSampler([half], PatchSettings(size=16, scales=(1,), texture_rule=rule), torch.Generator()) for rule in (False, True)
    )
    smooth = [(torch.cat(s.places)[:, 1] <= 48).sum().item() for s in (every, rule)]
    assert len(torch.cat(every.places)) == 7 * 15 and 0 < smooth[1] < smooth[0] / 4
    rough = [(torch.cat(s.places)[:, 1] > 48).sum().item() for s in (every, rule)]
    assert rough[0] == rough[1] > 0


def test_patches_come_from_the_images_in_all_eight_orientations() -> None:
    image = torch.arange(40 * 40).reshape(1, 40, 40).float()
    settings = PatchSettings(batch=200, size=16, scales=(1,))
    sampler = PatchSampler([image], settings, torch.Generator().manual_seed(0))
    kinds = set()
    for patch in sampler():
        assert len(patch.unique()) == 256
        kinds.add((int(patch[0, 0, 1] - patch[0, 0, 0]), int(patch[0, 1, 0] - patch[0, 0, 0])))
    assert kinds == {(a, b) for a in (1, -1) for b in (40, -40)} | {(b, a) for a in (1, -1) for b in (40, -40)}
    with pytest.raises(InputError, match="smaller patches"):
        PatchSampler([image], PatchSettings(), torch.Generator())


def test_folders_are_split_by_name(tmp_path: Path) -> None:
    for i in range(5):
        imsave(tmp_path / f"{i}.png", np.full((8, 9, 3), 10 * i, dtype=np.uint8), check_contrast=False)
    training, validation = load_photographs(tmp_path, hold_out=4)
    assert [round(float(x.mean()) * 25.5) for x in validation] == [0, 4]
    assert len(training) == 3 and training[0].shape == (1, 8, 9)
    assert load_photographs(tmp_path, colour=True)[0][0].shape == (3, 8, 9)
    with pytest.raises(InputError, match="no such folder"):
        load_photographs(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="at least two images; found 0"):
        load_photographs(tmp_path / "empty")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainingSettings(steps=0),
        lambda: TrainingSettings(validate_every=0),
        lambda: TrainingSettings(learning_rate=0.0),
        lambda: PatchSettings(size=4),
        lambda: PatchSettings(batch=0),
        lambda: ProblemSettings(equilibrium=-0.1),
        lambda: ProblemSettings(equilibrium=1.1),
        lambda: ProblemSettings(scans=1.1),
        lambda: TrainingSettings(problems=ProblemSettings(equilibrium=0.5), patches=PatchSettings(size=16)),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()


def test_images_count_alike_and_their_patches_are_averaged_first() -> None:
    error = torch.tensor([0.01, 0.03, 0.01, 0.03, 1.0, 3.0, 3.0, 1.0])[:, None, None, None].expand(8, 1, 4, 4)
    of_images = [(1e-4 + 9e-4) / 2, (1.0 + 9.0) / 2]
    expected = torch.tensor(of_images).log().mean().item()
    assert log_error(error, torch.zeros_like(error)).item() == pytest.approx(expected)


def test_a_batch_holds_several_patches_of_each_of_its_images() -> None:
    pictures = [torch.full((1, 40 + 8 * i, 40), float(i)) for i in range(5)]
    settings = PatchSettings(batch=400, size=16, scales=(1,))
    values = PatchSampler(pictures, settings, torch.Generator().manual_seed(0))().flatten(1)
    assert bool((values == values[:, :1]).all())
    groups = values[:, 0].reshape(100, PER_IMAGE)
    assert bool((groups == groups[:, :1]).all()) and min((groups[:, 0] == i).sum() for i in range(5)) >= 10
    with pytest.raises(InputError, match="a multiple of 4"):
        PatchSettings(batch=6)


def test_photographs_take_part_at_several_scales() -> None:
    image, small = torch.arange(256.0).reshape(1, 16, 16), torch.zeros(1, 15, 40)
    sampler = PatchSampler([image, small], PatchSettings(size=8, scales=(1, 2)), torch.Generator())
    same, _, half = sampler.images  # the other's half is too small
    assert torch.equal(same, image) and torch.equal(half, image.reshape(1, 8, 2, 8, 2).mean((2, 4)))
    with pytest.raises(InputError, match="scales"):
        PatchSettings(scales=())


def test_muon_moves_kernels_as_matrices_and_adam_the_rest() -> None:
    torch.manual_seed(0)
    network = GradientStepPotential(size=(5, 3, 2))
    kernels = [p for p in network.parameters() if p.ndim == 4]
    biases = [p for p in network.parameters() if p.ndim != 4]
    before = [p.detach().clone() for p in kernels]
    matrices = [torch.nn.Parameter(p.reshape(len(p), -1).clone()) for p in before]
    copies = [torch.nn.Parameter(p.detach().clone()) for p in biases]
    ours = make_optimisers(network)
    assert [group["rate"] for o in ours for group in o.param_groups] == [1.0, 1.0]
    muon = torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam(copies, lr=2e-3)
    for group in (group for optimiser in ours for group in optimiser.param_groups):
        group["lr"] = 2e-3
    for k in range(3):
        network.zero_grad()
        network.denoise(torch.full((1, 1, 4, 4), 0.5 + k), 0.1).square().sum().backward()
        for p, copy in zip((*kernels, *biases), (*matrices, *copies), strict=True):
            copy.grad = p.grad.reshape(copy.shape).clone()
        for optimiser in (*ours, muon, adam):
            optimiser.step()
        for p, copy in zip((*kernels, *biases), (*matrices, *copies), strict=True):
            assert torch.equal(p.reshape(copy.shape), copy)
    assert all((p - q).abs().max() > 0 for p, q in zip(kernels, before, strict=True))
    other = make_optimisers(GradientStepPotential(size=(5, 3, 2)))
    for mine, theirs in zip(ours, other, strict=True):
        theirs.load_state_dict(mine.state_dict())
        for k, state in mine.state_dict()["state"].items():
            assert all(
                torch.equal(torch.as_tensor(v), torch.as_tensor(theirs.state_dict()["state"][k][n])) for n, v in state.items()
            )


def test_a_denoiser_does_not_learn_from_reconstructions(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, problems=ProblemSettings(0.5), patches=PatchSettings(batch=4, size=24))
    with pytest.raises(InputError, match="only potentials learn from reconstructions"):
        train(network(), images(), images(), tmp_path, settings)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, steps=3)
    train(network(), images(), images(), tmp_path, settings)
    wide = GradientFlowDenoiser(channels=4, hidden_channels=6, dilations=(1, 2), kernel_size=5)
    with pytest.raises(InputError, match="another network"):
        train(wide, images(), images(), tmp_path, dataclasses.replace(settings, steps=6), resume=True)


def test_only_passes_with_gradients_use_the_fourier_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    class TransformError(Exception): ...

    def refuse(*_: object) -> None:
        raise TransformError

    run, x = TrainingRun(network(), images(), TINY), torch.rand(1, 1, 24, 24)
    monkeypatch.setattr("pnp_lip.layers.gradient_flow_conv2d.correlate", refuse)
    with torch.no_grad():
        run.denoiser(x, 0.1)
    with pytest.raises(TransformError):
        run.denoiser(x, 0.1)
