"""Shortening steps by the least amount: certified afterwards, nothing else touched, one part in 10⁵ more fails."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pnp_lip import GradientFlowDenoiser, certify, enforce
from pnp_lip.certificates import Change
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.layers import GradientFlowConv2d, GradientFlowLinear, constrain, release


def too_long() -> GradientFlowDenoiser:
    """Three layers: a step far too long, a negative one, a short one."""
    torch.manual_seed(0)
    denoiser = GradientFlowDenoiser(channels=3, hidden_channels=6, dilations=(1, 2, 1)).requires_grad_(False)
    for layer, tau in zip(denoiser.layers, (50.0, -0.5, 1e-3), strict=True):
        layer.tau.fill_(tau)
    return denoiser


def test_certified_afterwards_and_only_the_wrong_steps_change() -> None:
    denoiser = too_long()
    before = copy.deepcopy(denoiser.state_dict())
    assert not certify(denoiser).nonexpansive
    changes = enforce(denoiser)
    assert certify(denoiser).nonexpansive
    assert [c.path for c in changes] == ["layers.0", "layers.1"]
    assert changes[0] == Change("layers.0", 50.0, float(denoiser.layers[0].tau))
    assert changes[1] == Change("layers.1", -0.5, 0.0)
    changed = {n for n, t in denoiser.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"layers.0.tau", "layers.1.tau"}
    assert enforce(denoiser) == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("build", [lambda: GradientFlowLinear(4, 6), lambda: GradientFlowConv2d(2, 3, 3)])
def test_the_least_amount(build: type, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = build().to(dtype).requires_grad_(False)
    layer.tau.fill_(100.0)
    (change,) = enforce(layer)
    assert change.path == "" and change.tau_before == 100
    assert certify(layer).nonexpansive
    layer.tau.mul_(1 + 1e-5)
    assert not certify(layer, rtol=1e-9).nonexpansive


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_steps_are_rounded_downwards(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    layer = GradientFlowLinear(3, 5).to(dtype).requires_grad_(False)
    layer.tau.fill_(7.0)
    (change,) = enforce(layer)
    assert certify(layer).nonexpansive and 1.9 < change.tau_after < 2.1


def test_a_limit_below_one_gives_averaged_layers() -> None:
    denoiser = too_long()
    enforce(denoiser, limit=0.5)
    certificate = certify(denoiser, rtol=1e-6)
    assert certificate.averaged and all(layer.averagedness <= 0.5 for layer in certificate.layers)
    assert certificate.layers[0].averagedness > 0.5 - 1e-5


def test_nothing_to_do() -> None:
    assert enforce(nn.Sequential(nn.Identity())) == ()
    zero = GradientFlowLinear(2).requires_grad_(False)
    zero.weight.zero_()
    zero.tau.fill_(1e30)
    assert enforce(zero) == ()


def test_refusals_change_nothing() -> None:
    denoiser = too_long()
    constrain(denoiser)
    with pytest.raises(CertificateError, match="release"):
        enforce(denoiser)
    release(denoiser)
    for value in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="limit"):
            enforce(denoiser, limit=value)
    denoiser.requires_grad_(False).layers[0].tau.fill_(9.0)
    denoiser.layers[2].tau.fill_(float("nan"))
    with pytest.raises(CertificateError, match=r"`layers\.2`: the step"):
        enforce(denoiser)
    assert float(denoiser.layers[0].tau) == 9.0
