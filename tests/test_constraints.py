"""The parametrisation and the projection keep the constraint while an off-the-shelf optimiser works against it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pnp_lip import GradientFlowDenoiser, certify, load_denoiser, save_denoiser
from pnp_lip.errors import InputError
from pnp_lip.layers import GradientFlowConv2d, GradientFlowLinear, constrain, project, release
from pnp_lip.layers.constraints import UnitNorm
from pnp_lip.spectral import norm_bound


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        GradientFlowConv2d(2, 3, 3),
        GradientFlowConv2d(2, 4, 5, dilation=2, padding_mode="circular"),
        GradientFlowConv2d(2, 1, 1),
    )


def expansion(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The negative of a loss that wants the network to be as expansive as possible."""
    return (module(x + 1e-2 * torch.ones_like(x)) - module(x)).norm() - 10 * sum(
        p.square().sum() for n, p in module.named_parameters() if "tau" in n
    )


def made_plain(module: nn.Module) -> nn.Module:
    """A copy with plain weights: parametrised ones may change from call to call, and are not certified."""
    plain = network()
    for layer, given in zip(plain, module, strict=True):
        layer.weight.data, layer.tau.data = given.weight.detach(), given.tau.detach()
    return plain


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("kind", ["parametrisation", "projection"])
def test_constraint_survives_an_adversarial_loss(kind: str, optimiser: type[torch.optim.Optimizer]) -> None:
    module = network()
    if kind == "parametrisation":
        constrain(module, limit=0.97)
    x = torch.randn(2, 2, 12, 12)
    descent = optimiser(module.parameters(), lr=0.1)
    for _ in range(8):
        descent.zero_grad()
        (-expansion(module, x)).backward()
        descent.step()
        if kind == "projection":
            project(module, limit=0.97)
        certificate = certify(made_plain(module))
        assert certificate.nonexpansive, certificate.failures
        assert all(layer.averagedness <= 0.97 * (1 + 2e-3) for layer in certificate.layers)
    release(module)
    assert not any("parametrizations" in name for name in module.state_dict())
    assert certify(module).nonexpansive


def test_without_a_constraint_the_same_loss_breaks_it() -> None:
    module = network()
    descent = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(8):
        descent.zero_grad()
        (-expansion(module, torch.randn(2, 2, 12, 12))).backward()
        descent.step()
    assert not certify(module).nonexpansive


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (1, 4, 5, 5), (6, 1, 1, 3), (4, 5)])
def test_unit_norm_is_at_most_one_and_close_to_it(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    unit = UnitNorm().eval()(torch.randn(*shape, dtype=torch.float64))
    bound = norm_bound(unit, rtol=1e-6)
    assert bound.lower <= 1 + 1e-12 and bound.upper >= 0.98


def test_release_keeps_the_map_and_zero_mean_filters_do_not_see_constants() -> None:
    module = constrain(nn.Sequential(GradientFlowConv2d(1, 4, padding_mode="circular")), zero_mean_channels=1).eval()
    x = torch.rand(1, 1, 8, 8)
    before = module(x)
    assert torch.allclose(module(x + 0.3), before + 0.3, atol=1e-5)
    assert torch.allclose(release(module)(x), before, atol=1e-6)


def test_projection_leaves_admissible_steps_alone_and_lifts_negative_ones() -> None:
    layer = GradientFlowLinear(3, step_fraction=0.5)
    tau = layer.tau.item()
    assert project(layer).tau.item() == tau
    with torch.no_grad():
        layer.tau.fill_(-1.0)
    assert project(layer).tau.item() == 0.0


def test_bad_settings_are_refused() -> None:
    for call in (lambda: constrain(network(), limit=0.0), lambda: project(network(), limit=1.1)):
        with pytest.raises(InputError, match="limit"):
            call()
    with pytest.raises(InputError, match="UnitNorm needs"):
        UnitNorm(every=0)


def test_no_filters_are_no_reason_for_nan() -> None:
    for layer in (GradientFlowLinear(2, 2), GradientFlowConv2d(1, 2, 3)):
        layer.weight.data.zero_()
        project(layer)
        assert bool(torch.isfinite(layer.tau)) and certify(layer).nonexpansive
    pointwise = GradientFlowDenoiser(kernel_size=1, hidden_channels=4, dilations=(1,))
    constrained = constrain(pointwise, zero_mean_channels=1)  # a filter of one tap has nothing left without its mean
    x = torch.rand(1, 1, 6, 6)
    assert torch.equal(constrained(x, 0.1), x)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_what_is_constrained_cannot_be_constrained_again_or_saved(padding_mode: str, tmp_path: Path) -> None:
    d = GradientFlowDenoiser(kernel_size=3, hidden_channels=4, dilations=(1,), padding_mode=padding_mode)
    constrain(d)
    with pytest.raises(InputError, match=r"`layers.0` is constrained"):
        constrain(d)
    with pytest.raises(InputError, match=r"constrained.*release"):
        save_denoiser(d, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())
    save_denoiser(release(d), tmp_path / "d.safetensors")  # type: ignore[arg-type]
    assert constrain(load_denoiser(tmp_path / "d.safetensors").requires_grad_(True)) is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_saved_and_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    d = project(GradientFlowDenoiser(kernel_size=3, hidden_channels=4, dilations=(1,)), limit=0.9).eval().to(dtype)
    save_denoiser(d, tmp_path / "d.safetensors")  # type: ignore[arg-type]
    loaded = load_denoiser(tmp_path / "d.safetensors")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in d.state_dict().items())
    assert next(loaded.parameters()).dtype == dtype
