"""The gradient-step potential: its value, its gradient, what the solver knows of it, files, commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip import Variational, certify, deblur, denoise, load_denoiser, save_denoiser
from pnp_lip.command_line import main
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.layers import UNet
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.potentials import GradientStepPotential


def potential(in_channels: int = 1) -> GradientStepPotential:
    torch.manual_seed(0)
    return GradientStepPotential(in_channels=in_channels, size=(4, 3, 2)).eval().requires_grad_(False)


def image(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(8, 12), (9, 7), (1, 5)])  # whole blocks of four pixels, and not
@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_is_that_of_the_value(size: tuple[int, int], channels: int) -> None:
    R, x = potential(channels).double(), image(2, channels, *size).double()
    sigma = torch.tensor([0.02, 0.1], dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(R(leaf, sigma).sum(), leaf)
    assert torch.allclose(R.grad(x, sigma), expected, rtol=1e-12, atol=1e-14)
    d, t = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 1e-6
    change = (R(x + t * d, sigma) - R(x - t * d, sigma)) / (2 * t)
    assert torch.allclose(change, (expected * d).flatten(1).sum(1), rtol=1e-6)
    assert torch.allclose(R.denoise(x, sigma), x - expected, rtol=1e-12, atol=1e-14)


def test_each_image_stands_alone_and_the_default_noise_level_counts() -> None:
    R, x = potential(), image(2, 1, 8, 8)
    assert R(x).dtype == torch.float64 and torch.equal(R(x), R(x, R.default_sigma))
    both = R(x, torch.tensor([0.02, 0.1]))
    assert torch.allclose(both, torch.cat([R(x[:1], 0.02), R(x[1:], 0.1)]))
    assert not torch.allclose(R(x, 0.02), R(x, 0.1))


@pytest.mark.parametrize("size", [(64, 48), (61, 50)])
def test_windows_change_nothing(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    R, x = potential().double(), image(2, 1, *size).double()
    sigma = torch.tensor([0.02, 0.1], dtype=torch.float64)
    with torch.no_grad():
        value, gradient = R(x, sigma), R.grad(x, sigma)
        seen = []
        monkeypatch.setattr(R.network, "forward", lambda z, f=R.network.forward, **how: (seen.append(z.shape), f(z, **how))[1])
        monkeypatch.setattr("pnp_lip.potentials.gradient_step_potential.TILE", 8)
        assert torch.allclose(R(x, sigma), value, rtol=1e-12)
        assert torch.allclose(R.grad(x, sigma), gradient, rtol=1e-10, atol=1e-13)
    assert len(seen) > 10 and all(shape[-1] < size[1] or shape[-2] < size[0] for shape in seen)


def test_the_derivative_does_not_jump() -> None:
    """Along a line the second differences of the value shrink with the square of the step, as no kink lets them."""
    R, x = potential().double(), image(1, 1, 8, 8).double()
    d = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t = torch.linspace(-1, 1, 401, dtype=torch.float64).tolist()
    slopes = torch.stack([(R.grad(x + s * d, 0.1) * d).sum() for s in t])
    whole, halved = slopes[::2].diff(n=2).abs().max(), slopes.diff(n=2).abs().max()
    assert float(halved) < 0.3 * float(whole)


def test_variational_knows_that_it_is_smooth() -> None:
    R, physics = potential(), Blur(gaussian_psf(1.0), (1, 16, 16))
    y = physics.A(image(1, 1, 16, 16))
    result = Variational(R, sigma=0.1, weight=0.1, tol=1e-5).solve(y, physics)
    assert result.status == "converged" and result.guarantee.title == "proved" and result.guarantee.kind == "critical point"
    R.network.forward = lambda *images, sigma: images[0]  # type: ignore[method-assign]
    judged = Variational(R, sigma=0.1, weight=0.1).check(y, physics)
    assert judged.title != "proved"


class Other(GradientStepPotential):
    """A class of which nothing is known."""


def test_of_another_class_the_user_states_it() -> None:
    torch.manual_seed(0)
    other = Other(size=(4, 3, 2)).eval().requires_grad_(False)
    y = image(1, 1, 16, 16)
    physics = Blur(gaussian_psf(1.0), (1, 16, 16))
    assert Variational(other, sigma=0.1, weight=0.1).check(y, physics).title == "proved given your statement"


def test_files_keep_it_and_no_certificate_speaks_of_it(tmp_path: Path) -> None:
    R, x = potential(), image(1, 1, 9, 8)
    path = tmp_path / "step.safetensors"
    assert save_denoiser(R, path) is None and not path.with_suffix(".certificate.json").exists()
    found = load_denoiser(path)
    assert isinstance(found, GradientStepPotential) and found.config == R.config
    assert torch.equal(found.grad(x, 0.1), R.grad(x, 0.1))
    with pytest.raises(CertificateError, match="GradientStepPotential, for which no rule is known"):
        certify(R)


def test_one_call_restores_with_it() -> None:
    R, y = potential(), image(1, 1, 20, 20)
    found = deblur(y, "gaussian:0.6", 0.1, denoiser=R, tol=1e-3, device="cpu")
    assert found.result is not None and found.result.guarantee.title == "proved"
    with pytest.raises(InputError, match="too flat to remove noise alone"):
        denoise(y, 0.1, denoiser=R, device="cpu")


def test_wrong_settings_and_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="the width, the depth and the number of scales"):
        GradientStepPotential(size=(4, 3))
    with pytest.raises(ShapeError, match=r"\(B, 1, H, W\)"):
        potential()(image(1, 3, 8, 8))


def test_it_is_trained_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    photographs, out = tmp_path / "photographs", tmp_path / "run"
    photographs.mkdir()
    for i in range(2):
        pixels = (255 * torch.rand(40, 40, generator=torch.Generator().manual_seed(i))).byte().numpy()
        Image.fromarray(pixels).save(photographs / f"{i}.png")
    settings = ["--batch", "4", "--patch", "16", "--scales", "1"]
    common = ["train", "--images", str(photographs), "--device", "cpu", *settings]
    assert main([*common, "--out", str(out), "--gradient-step", "4,3,2", "--steps", "3"]) == 0
    weights = str(out / "potential.safetensors")
    assert isinstance(load_denoiser(weights), GradientStepPotential)
    assert main(["certify", weights]) == 2
    further = [*common, "--start", weights, "--steps", "1", "--out"]
    assert main([*further, str(tmp_path / "other"), "--gradient-step", "4,3,2"]) == 0
    for wrong in (["--gradient-step", "6,3,2"], ["--gradient-step", "4,3,2", "--size", "4,3"], ["--potential"], []):
        assert main([*further, str(tmp_path / "wrong"), *wrong]) == 2
    assert "gradient-step" in capsys.readouterr().err


def test_the_implicit_gradient_is_that_of_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    from pnp_lip.solvers.examiner import Identity
    from pnp_lip.training import gradient_step_training as training
    from pnp_lip.training.problems import TrainingProblem

    monkeypatch.setattr(training, "FIRST", 60)
    monkeypatch.setattr(training, "ADJOINT", 60)
    monkeypatch.setattr(training, "STEEPEST", 1e3)
    R = potential().double().requires_grad_(True)
    x = image(4, 1, 20, 20).double()
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    kernel = R.network.convolutions[1].weight  # type: ignore[union-attr]

    def loss() -> Tensor:
        problem = TrainingProblem(x, y, Identity(), 0.1, y, weight=0.5)
        assert training.approach(R, problem) < 1e-9
        return training.implicit_loss(R, problem, torch.Generator().manual_seed(0))

    (found,) = torch.autograd.grad(loss(), kernel)  # type: ignore[arg-type]
    d = torch.randn(found.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    values = []
    for t in (1e-4, -2e-4):
        kernel.data.add_(t * d)  # type: ignore[operator]
        values.append(float(loss().detach()))
    assert abs((values[0] - values[1]) / 2e-4 / float((found * d).sum()) - 1) < 1e-5


def test_steep_curvature_has_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    from pnp_lip.solvers.examiner import Identity
    from pnp_lip.training import gradient_step_training as training
    from pnp_lip.training.problems import TrainingProblem

    R, x = potential().double().requires_grad_(True), image(4, 1, 20, 20).double()
    losses = []
    for steepest in (1e3, 0.0):
        monkeypatch.setattr(training, "STEEPEST", steepest)
        problem = TrainingProblem(x, x, Identity(), 0.1, 0.9 * x, weight=0.5)
        losses.append(float(training.implicit_loss(R, problem, torch.Generator().manual_seed(0)).detach()))
    leaf = (0.9 * x).requires_grad_()
    slope = R.differentiable_grad(leaf, 0.1)
    u = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    for _ in range(training.POWER_STEPS + 1):
        u = torch.autograd.grad(slope, leaf, u / training.sizes(u), retain_graph=True)[0]
    assert losses[1] - losses[0] == pytest.approx(float(training.sizes(u).square().mean()), rel=1e-6)


def test_a_run_on_reconstructions_resumes_exactly(tmp_path: Path) -> None:
    from pnp_lip.training import PatchSettings, ProblemSettings, TrainingSettings, train

    photographs = [image(1, 48, 48), image(1, 40, 56)]
    settings = TrainingSettings(
        steps=6, patches=PatchSettings(batch=4, size=32, scales=(1,)), problems=ProblemSettings(0.7), checkpoint_every=3
    )
    whole = train(potential().requires_grad_(True), photographs, photographs, tmp_path / "whole", settings)

    class KilledError(Exception):
        pass

    def kill(step: int, loss: float) -> None:
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(potential().requires_grad_(True), photographs, photographs, tmp_path / "run", settings, progress=kill)
    again = train(potential().requires_grad_(True), photographs, photographs, tmp_path / "run", settings, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert not torch.equal(whole.network.convolutions[0].weight, potential().network.convolutions[0].weight)  # type: ignore[arg-type]


def test_the_network_is_a_u_net() -> None:
    torch.manual_seed(1)
    u = UNet(1, width=4, depth=3, scales=2).double()
    x, s = torch.rand(2, 1, 8, 12, dtype=torch.float64), torch.tensor([0.03, 0.05], dtype=torch.float64)
    first, fine, last = u.convolutions
    level = (10 * s).reshape(2, 1, 1, 1).expand(2, 1, 4, 6)
    t = F.silu(first(torch.cat([F.pixel_unshuffle(x, 2), level, level.log() / 4], 1)))
    t = t + F.silu(fine(t))
    below = torch.einsum("oiab,nihawb->nohw", u.shrinking[0].weight, t.reshape(2, 4, 2, 2, 3, 2))
    below = below + u.shrinking[0].bias[:, None, None]
    below = below + F.silu(u.coarse[0][0](below))
    up = torch.einsum("iocd,nihw->nohcwd", u.growing[0].weight, below).reshape(2, 4, 4, 6) + u.growing[0].bias[:, None, None]
    t = t + up
    t = t + F.silu(u.back[0][0](t))
    expected = x + (s / 10).sqrt()[:, None, None, None] * F.pixel_shuffle(last(t), 2)
    assert torch.allclose(u(x, sigma=s), expected, atol=1e-12)


@pytest.mark.parametrize(("depth", "scales"), [(2, 1), (4, 1), (3, 2), (6, 2), (4, 3)])
def test_it_sees_as_far_as_it_says(depth: int, scales: int) -> None:
    torch.manual_seed(2)
    u = UNet(1, width=3, depth=depth, scales=scales).double()
    x = torch.rand(1, 1, 192, 192, dtype=torch.float64, requires_grad=True)
    y, seen = u(x, sigma=torch.tensor([0.1])), 0
    for place in range(96, 96 + u.block):
        (slope,) = torch.autograd.grad(y[0, 0, place, place], x, retain_graph=True)
        rows = slope[0, 0].abs().sum(1).nonzero().flatten()
        seen = max(seen, 96 - int(rows.min()), int(rows.max()) - 96 - u.block + 1)
    assert u.reach - u.block < seen <= u.reach and u.reach % u.block == 0


def test_the_image_is_not_rounded_where_others_are() -> None:
    seen = []
    u = UNet(1, width=3, depth=3, scales=1)
    for conv in u.convolutions[:2]:
        conv.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        u(torch.rand(1, 1, 8, 8), sigma=torch.tensor([0.1]))
    assert seen == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]


def test_sizes_that_make_no_network_are_refused() -> None:
    for size, words in (((4, 3), "number of scales of a U-net"), ((4, 3, 10), "one to 9 scales"), ((0, 3, 1), "width")):
        with pytest.raises(InputError, match=words):
            GradientStepPotential(size=size)
