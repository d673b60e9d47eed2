"""Training potentials: the implicit gradient is that of the converged loss, the constraint holds, a killed run resumes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from skimage import data
from torch.nn.utils import parametrize

from pnp_lip import GradientFlowDenoiser, certify, load_denoiser, save_denoiser
from pnp_lip.command_line.main import main
from pnp_lip.errors import InputError
from pnp_lip.layers import project
from pnp_lip.operators import Blur
from pnp_lip.pictures import write_image
from pnp_lip.potentials import RidgePotential
from pnp_lip.spectral import norm_bound
from pnp_lip.training import (
    PatchSettings,
    ProblemSettings,
    TrainingSettings,
    constrain_curvature,
    new_potential,
    train,
)
from pnp_lip.training.curvature import UnitFilters, compose, release_curvature
from pnp_lip.training.potential_training import IDENTITY, PotentialRun, gradient_product, implicit_loss, minimise, solve_adjoint
from pnp_lip.training.problems import TrainingProblem

TINY = TrainingSettings(steps=6, patches=PatchSettings(batch=4, size=16), checkpoint_every=3, validate_every=6)


def images(channels: int = 1) -> list[torch.Tensor]:
    camera = torch.from_numpy(data.camera()[::4, ::4].copy()).float()[None].expand(channels, -1, -1) / 255
    return [camera[:, :64, :64], camera[:, 64:, :80]]


def potential(channels: int = 1, seed: int = 0) -> RidgePotential:
    torch.manual_seed(seed)
    return new_potential(in_channels=channels, filters=6, kernel_size=3)


def problem(physics: Blur | None, dtype: torch.dtype = torch.float64) -> TrainingProblem:
    """Four patches of 12 pixels with noise 0.1, and with this blur."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(4, 1, 12, 12, generator=generator, dtype=dtype)
    y = x if physics is None else physics.A(x)
    y = y + 0.1 * torch.randn(x.shape, generator=generator, dtype=dtype)
    return TrainingProblem(x, y, physics or IDENTITY, 0.1, y)


@pytest.mark.parametrize(
    ("padding_mode", "blurred", "weight"), [("circular", False, 1.0), ("circular", False, 1.6), ("zeros", True, 0.7)]
)
def test_the_implicit_gradient_is_that_of_the_converged_loss(padding_mode: str, blurred: bool, weight: float) -> None:
    torch.manual_seed(0)
    p = constrain_curvature(new_potential(filters=4, kernel_size=3), rho=0.5, limit=8.0).double()
    p.padding_mode = padding_mode
    psf = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    psf[..., 1, 1], psf[..., 1, 2] = 0.9, 0.1  # |â|² ≥ 0.64 > ρ: the minimiser is unique and depends smoothly on θ
    given = problem(Blur(psf, (1, 12, 12)).to(torch.float64) if blurred else None)
    given.weight = weight

    def loss() -> torch.Tensor:
        return implicit_loss(p, given, (300, 120, 60))  # later calls go on from the first one's minimiser

    loss().backward()
    generator, h = torch.Generator().manual_seed(2), 1e-6
    for name, parameter in p.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h * direction
            values.append(float(loss().detach()))
            with torch.no_grad():
                parameter -= sign * h * direction
        assert parameter.grad is not None
        slope = float((parameter.grad * direction).sum())
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=2e-4, abs=1e-7), name


def test_the_gradient_product_is_that_of_the_potential() -> None:
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 2, 3, 11, 9, generator=generator, dtype=torch.float64)
    for padding_mode in ("circular", "zeros"):
        p = potential(3).double()
        p.padding_mode = padding_mode
        assert gradient_product(p, x, v, 0.2).item() == pytest.approx((v * p.grad(x, 0.2)).sum().item(), rel=1e-6)


def test_minimise_and_its_adjoint_solve_their_equations() -> None:
    p = release_curvature(constrain_curvature(potential(), rho=0.8)).double()
    given, level = problem(None), p.at(0.1)
    x = minimise(level, IDENTITY, given.y, given.y, 800)
    assert float((x - given.y + level.grad(x)).abs().max()) < 1e-12
    v = solve_adjoint(level, IDENTITY, x, given.y, 150)
    assert float((v + level.hessian_product(x, v) - given.y).abs().max()) < 1e-9
    assert torch.equal(level.hessian(x)(v), level.hessian_product(x, v))


def test_an_image_stops_where_the_curvature_is_negative() -> None:
    """A = 0: AᵀA + R'' has negative curvature along all filters' responses that are on a falling slope."""
    p = release_curvature(constrain_curvature(potential(), rho=0.8)).double()

    class Nothing:
        def A(self, x: torch.Tensor, /) -> torch.Tensor:
            return 0 * x

        A_adjoint = A

    g = torch.ones(2, 1, 12, 12, dtype=torch.float64).cumsum(3)
    far = torch.stack([torch.zeros(1, 12, 12), 0.07 * torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(0))])
    v = solve_adjoint(p.at(0.1), Nothing(), far.double(), g, 30)
    assert bool(v.isfinite().all()) and float(v[0].abs().max()) > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_constraint_holds_after_every_step(channels: int, tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, learning_rate=0.3)  # at which one step would leave it
    run = PotentialRun(constrain_curvature(potential(channels), rho=0.6, limit=5.0), images(channels), settings)
    for _ in range(3):
        run.advance()
        for p in (run.denoiser, run.averaged.module):
            clip = p.activation
            assert norm_bound(p.weight.detach(), rtol=1e-5).upper <= 1.002
            assert clip.fall.sum().item() == pytest.approx(0.6, rel=1e-5) and clip.rise.sum().item() <= 5
            assert float(p.weight.detach().mean((2, 3)).abs().max()) < 1e-7
    found = certify(run.result()).curvature
    assert found is not None and found.rho <= 0.6 and found.upper <= 5


def test_the_norm_of_wide_and_of_zero_filters() -> None:
    weight = UnitFilters()(torch.randn(2, 1, 13, 13, generator=torch.Generator().manual_seed(0)))
    assert 0.995 < norm_bound(weight).upper < 1.02
    assert bool((UnitFilters()(torch.zeros(2, 1, 3, 3)) == 0).all())


def test_training_starts_from_the_potential_as_it_is() -> None:
    p = release_curvature(constrain_curvature(potential(), rho=0.7, limit=20.0))
    again = release_curvature(constrain_curvature(copy.deepcopy(p), rho=0.7, limit=20.0))
    for name, value in p.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=2e-3, atol=1e-6)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_a_killed_run_resumes_to_the_same_potential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr("pnp_lip.training.problems.FEWEST", 3)
    for name in ("DENOISING", "RECONSTRUCTION"):
        monkeypatch.setattr(f"pnp_lip.training.potential_training.{name}", (6, 3, 3))
    patches = PatchSettings(batch=4, size=24)
    settings = dataclasses.replace(TINY, steps=12, checkpoint_every=7, patches=patches, problems=ProblemSettings(share))
    whole = train(potential(), images(), images()[:1], tmp_path / "whole", settings)

    def kill(step: int, loss: float) -> None:
        if step == 10:
            raise KilledError

    with pytest.raises(KilledError):
        train(potential(), images(), images()[:1], tmp_path / "killed", settings, progress=kill)
    resumed = train(potential(seed=9), images(), images()[:1], tmp_path / "killed", settings, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not any(parametrize.is_parametrized(m) for m in whole.modules())
    found = certify(whole).curvature
    assert found is not None and 0.79 < found.rho <= 0.8 and found.upper <= 32


@pytest.mark.parametrize(
    ("share", "steps", "size", "rate"), [(0.0, 15, 24, 2e-2), pytest.param(1.0, 25, 32, 1e-2, marks=pytest.mark.slow)]
)
def test_training_lowers_the_loss(monkeypatch: pytest.MonkeyPatch, share: float, steps: int, size: int, rate: float) -> None:
    monkeypatch.setattr("pnp_lip.training.potential_training.WARM_UP", 2)
    monkeypatch.setattr("pnp_lip.training.training_run.SIGMA_RANGE", (0.1, 0.1))
    settings = dataclasses.replace(
        TINY, steps=steps, patches=PatchSettings(4, size), problems=ProblemSettings(share, scans=0.0), learning_rate=rate
    )
    run = PotentialRun(potential(), images(), settings)
    problems = [run.problem(run.sampler()) for _ in range(4)]

    def loss() -> float:
        return sum(float(implicit_loss(run.averaged.module, given).detach()) for given in problems) / 4

    before = loss()
    for _ in range(steps):
        run.advance()
    assert len(run.pool) < steps and loss() < before - (0.3 if share == 0 else 0.1), (before, loss())


def test_scans_take_part() -> None:
    settings = dataclasses.replace(TINY, patches=PatchSettings(batch=4, size=24), problems=ProblemSettings(1.0, scans=1.0))
    run = PotentialRun(potential(), images(), settings)
    loss = run.loss()
    loss.backward()
    assert bool(loss.isfinite()) and run.pool[0].visited
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in run.denoiser.parameters())


def test_the_command_trains_saves_and_trains_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, image in enumerate(images(3)):
        write_image(tmp_path / f"{i}.png", image[None, :, :48, :48])
    command = ["train", "--images", str(tmp_path), "--steps", "2", "--potential", "--patch", "27", "--device", "cpu"]
    out = tmp_path / "run"
    assert main([*command, "--out", str(out), "--size", "4,5", "--rho", "0.5", "--curvature-limit", "8", "--colour"]) == 0
    trained = load_denoiser(out / "potential.safetensors")
    assert isinstance(trained, RidgePotential) and trained.weight.shape == (4, 3, 5, 5)
    found = certify(trained).curvature
    assert found is not None and 0.49 < found.rho <= 0.5 and found.upper <= 8
    settings = (out / "settings.json").read_text()
    assert '"rho": 0.5' in settings and '"curvature_limit": 8.0' in settings and '"learning_rate": 0.004' in settings
    assert (out / "log.csv").read_text().startswith("step,seconds,loss,psnr_1")
    start = str(out / "potential.safetensors")
    on = [*command, "--out", str(tmp_path / "on"), "--start", start, "--colour", "--equilibrium", "0.5"]
    assert main(on) == 0
    assert "wrote" in capsys.readouterr().out
    assert main([*on[:-2], "--size", "4,5", "--resume"]) != 0
    assert "keeps its filters" in capsys.readouterr().err


def test_options_that_do_not_belong_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_denoiser(release_curvature(constrain_curvature(potential())), tmp_path / "p.safetensors")
    save_denoiser(project(GradientFlowDenoiser(hidden_channels=4, dilations=(1,))), tmp_path / "d.safetensors")
    command = ["train", "--images", str(tmp_path), "--out", str(tmp_path / "run")]
    for options, words in {
        ("--rho", "0.5"): "pass --potential too",
        ("--curvature-limit", "9"): "pass --potential too",
        ("--potential", "--rho", "1"): "must lie in [0, 1)",
        ("--potential", "--curvature-limit", "0"): "must be positive",
        ("--potential", "--size", "4,8,9"): "filters and their width, two integers",
        ("--potential", "--start", str(tmp_path / "d.safetensors")): "starts from a potential",
        ("--potential", "--colour", "--start", str(tmp_path / "p.safetensors")): "takes 1 channels, not 3",
        ("--start", str(tmp_path / "p.safetensors")): "pass --potential",
    }.items():
        assert main([*command, *options]) != 0, options
        assert words in capsys.readouterr().err, options
    with pytest.raises(SystemExit):
        main([*command, "--potential", "--gradient-step", "4,3,2"])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: constrain_curvature(potential(), rho=-0.1), "rho"),
        (lambda: constrain_curvature(potential(), rho=float("nan")), "rho"),
        (lambda: constrain_curvature(potential(), limit=float("inf")), "positive and finite"),
        (lambda: PotentialRun(potential(), images(), TINY, lambda *_: torch.zeros(())), "without a penalty"),
        (lambda: PotentialRun(potential(), images(), dataclasses.replace(TINY, patches=PatchSettings(4, 8))), "at least 9"),
        (lambda: constrain_curvature(constrain_curvature(potential())), "already"),
    ],
)
def test_what_cannot_be_trained_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_a_checkpoint_of_another_potential_is_refused(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, steps=1)
    train(potential(), images(), images()[:1], tmp_path, settings)
    with pytest.raises(InputError, match="another network"):
        wide = new_potential(filters=7, kernel_size=3)
        train(wide, images(), images()[:1], tmp_path, dataclasses.replace(settings, steps=2), resume=True)


@pytest.mark.parametrize("size", [3, 5, 9, 13])
@pytest.mark.parametrize("channels", [1, 3])
def test_new_filters_are_a_composition_of_three(channels: int, size: int) -> None:
    p = constrain_curvature(new_potential(in_channels=channels, filters=5, kernel_size=size), anew=True)
    factors = [q.detach() for n, q in p.named_parameters() if "weight" in n]
    assert [f.shape[0] for f in factors] == [4 * channels, 8 * channels, 5]
    x = torch.rand(1, channels, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    out = x
    for f in factors:
        out = torch.nn.functional.conv2d(out, f)
    filters = compose(*factors)
    assert filters.shape == p.weight.shape
    torch.testing.assert_close(torch.nn.functional.conv2d(x, filters), out, rtol=1e-4, atol=1e-4)
    centred = filters - filters.mean((2, 3), keepdim=True)
    torch.testing.assert_close(p.weight.detach() / p.weight.detach().norm(), centred / centred.norm())
    assert norm_bound(release_curvature(p).weight).upper <= 1
