"""Layers against their definition: exact adjoints, dense truth, nonexpansiveness under attack, every error."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from pnp_lip.certificates.settings import check_slopes
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import (
    PADDING_MODES,
    Activation,
    Clip,
    GradientFlowConv2d,
    GradientFlowLinear,
    Identity,
    IsometricLift,
    NoiseClip,
    ReLU,
    SoftThreshold,
)
from pnp_lip.layers.gradient_flow_conv2d import pad

ACTIVATIONS = {
    "relu": lambda c: ReLU(),
    "identity": lambda c: Identity(),
    "clip": lambda c: Clip(c, threshold=0.3),
    "soft": lambda c: SoftThreshold(c, threshold=0.3),
    "noise": lambda c: NoiseClip(c, threshold=2.0),
}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "tau" not in name:
                p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def dense(layer: GradientFlowConv2d, shape: tuple[int, int, int]) -> torch.Tensor:
    """W as a matrix, column by column."""
    columns = torch.eye(shape[0] * shape[1] * shape[2], dtype=torch.float64).reshape(-1, *shape)
    return layer.conv(columns, layer.weight).flatten(1).T.detach()


def attack_ratio(layer: nn.Module, x: torch.Tensor, steps: int = 40) -> float:
    """The largest ‖Φx − Φy‖/‖x − y‖ that gradient ascent on the pair finds."""
    generator = torch.Generator().manual_seed(1)
    u = x.clone().requires_grad_(True)
    v = (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)).requires_grad_(True)
    optimiser = torch.optim.Adam([u, v], lr=0.05)
    best = 0.0
    for _ in range(steps):
        ratio = (layer(u, torch.tensor([0.1])) - layer(v, torch.tensor([0.1]))).norm() / (u - v).norm()
        best = max(best, ratio.item())
        optimiser.zero_grad()
        (-ratio).backward()
        optimiser.step()
    return best


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activations_are_monotone_with_slopes_in_the_unit_interval(activation: str) -> None:
    sigma = randomise(ACTIVATIONS[activation](3)).double()
    t = torch.linspace(-3, 3, 20001, dtype=torch.float64).repeat(3, 1).T
    for level in (1e-3, 0.05, 0.5):
        values = sigma(t, torch.tensor([level]))
        slopes = (values[1:] - values[:-1]) / (t[1:] - t[:-1])
        low, high = check_slopes(sigma, "")
        assert low - 1e-9 <= slopes.min() and slopes.max() <= high + 1e-9
        assert slopes.max() > 0.5  # and the activation does something


@pytest.mark.parametrize(
    ("shape", "padding", "k", "dilation", "activation"),
    [
        *itertools.product([(2, 7, 6)], PADDING_MODES, (1, 3, 5), (1, 2), ("relu", "noise")),
        *itertools.product([(1, 8, 6), (1, 5, 7), (5, 6, 4)], PADDING_MODES, (3, 5), (1, 2), ("relu", "noise")),
        ((2, 7, 6), "zeros", 3, 3, "clip"),
        ((1, 9, 6), "zeros", 3, 3, "clip"),
    ],
)
def test_convolution_layer_equals_its_dense_definition(
    shape: tuple[int, int, int], padding: str, k: int, dilation: int, activation: str
) -> None:
    torch.manual_seed(0)
    layer = GradientFlowConv2d(
        shape[0], 4, k, dilation=dilation, padding_mode=padding, activation=ACTIVATIONS[activation](4), bias=True
    ).double()
    randomise(layer)
    x = torch.randn(4, *shape, dtype=torch.float64)
    for level in (torch.tensor([0.1]), torch.tensor([0.1, 0.01, 0.2, 0.05])):
        matrix = dense(layer, shape)
        z = (x.flatten(1) @ matrix.T).reshape(4, 4, *shape[1:]) + layer.bias[:, None, None]
        s = layer.activation(z, level)
        expected = x - layer.tau * (s.flatten(1) @ matrix).reshape(x.shape)
        assert torch.allclose(layer(x, level), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (4, 4), (5, 9), (12, 10)])
@pytest.mark.parametrize("reach", [0, 1, 3, 7])
def test_padding_is_numpys(size: tuple[int, int], reach: int) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mode, name in {"zeros": "constant", "circular": "wrap"}.items():
        assert np.array_equal(pad(x, reach, mode), np.pad(x, ((0, 0), (0, 0), (reach,) * 2, (reach,) * 2), mode=name))


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_adjoint_is_exact_by_convolution_and_by_the_fourier_transform(mode: str, dilation: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in [(1, 1), (1, 4), (2, 3), (5, 9), (12, 10)]:
        layer = GradientFlowConv2d(3, 4, 5, dilation=dilation, padding_mode=mode).double()
        x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
        z = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
        for fourier in (False, True):
            layer.fourier = fourier
            forth, back = layer.conv(x, layer.weight), layer.conv_adjoint(z, layer.weight)
            assert abs((forth * z).sum() - (x * back).sum()) <= 1e-12 * forth.norm() * z.norm()


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_fourier_transform_gives_the_same_layer_and_gradients(mode: str, dilation: int) -> None:
    torch.manual_seed(0)
    found = GradientFlowConv2d(
        2, 4, 3, dilation=dilation, padding_mode=mode, activation=Clip(4, threshold=0.1), bias=True
    ).double()
    x = torch.randn(3, 2, 9, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for fourier in (False, True):
        found.fourier = fourier
        loss = found(x).square().sum()
        results.append((loss, *torch.autograd.grad(loss, [x, *found.parameters()])))
    for direct, transformed in zip(*results, strict=True):
        torch.testing.assert_close(direct, transformed, rtol=1e-10, atol=1e-10)


def test_circular_padding_wider_than_the_image_wraps_more_than_once() -> None:
    layer = GradientFlowConv2d(1, 1, 5, dilation=2, padding_mode="circular", activation=Identity()).double()
    x = torch.randn(1, 1, 3, 2, dtype=torch.float64)
    tiled = layer(x.repeat(1, 1, 5, 7))
    assert torch.allclose(layer(x), tiled[..., :3, :2], atol=1e-12)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_layers_at_the_limit_resist_attack_and_layers_beyond_it_do_not(activation: str) -> None:
    torch.manual_seed(0)
    layer = GradientFlowLinear(6, 6, activation=ACTIVATIONS[activation](6), step_fraction=1.0).double()
    x = 0.1 * torch.randn(8, 6, dtype=torch.float64)
    assert attack_ratio(layer, x) <= 1 + 1e-5  # the initial W is orthogonal to float32 precision
    with torch.no_grad():
        layer.tau.mul_(1.25)  # τ‖W‖² = 2.5: a worst case of 1.5
    assert attack_ratio(layer, x) > 1.2


def test_small_noise_level_gives_the_identity() -> None:
    layer = randomise(GradientFlowConv2d(1, 4, activation=NoiseClip(4)))
    x = torch.rand(1, 1, 9, 9)
    assert (layer(x, torch.tensor([0.0])) - x).abs().max() < 1e-4


def test_homogeneity_when_the_noise_curves_are_constant() -> None:
    layer = GradientFlowConv2d(1, 4, activation=NoiseClip(4, threshold=0.7)).double()
    x = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    scaled = layer(3 * x, torch.tensor([0.3], dtype=torch.float64))
    assert torch.allclose(scaled, 3 * layer(x, torch.tensor([0.1], dtype=torch.float64)), atol=1e-12)


def test_lift_is_an_isometry_and_its_adjoint_is_exact() -> None:
    lift = IsometricLift(2, 5)
    x, z = torch.randn(3, 2, 4, 5).double(), torch.randn(3, 5, 4, 5).double()
    assert torch.equal(lift.adjoint(lift(x)), x)
    assert abs((lift(x) * z).sum() - (x * lift.adjoint(z)).sum()) < 1e-12


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GradientFlowConv2d(1, 2, 4), "must be odd"),
        (lambda: GradientFlowConv2d(1, 2, 3, dilation=0), "at least 1"),
        (lambda: GradientFlowConv2d(1, 2, 3, padding_mode="reflect"), "norm above one"),
        (lambda: GradientFlowConv2d(1, 2, 3, padding_mode="symmetric"), "must be one of"),
        (lambda: GradientFlowConv2d(0, 2), "at least one state"),
        (lambda: GradientFlowLinear(2, 0), "at least one state"),
        (lambda: GradientFlowLinear(2, step_fraction=1.1), "step_fraction"),
        (lambda: IsometricLift(3, 2), "in_channels <= channels"),
        (lambda: Clip(2, threshold=0.0), "threshold"),
        (lambda: NoiseClip(2, threshold=-1.0), "threshold"),
        (lambda: NoiseClip(2)(torch.zeros(1, 2)), "needs the noise level"),
    ],
)
def test_bad_settings_are_refused(build, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"takes \(B, 2, H, W\)"):
        GradientFlowConv2d(2, 2)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"takes \(B, 2\)"):
        GradientFlowLinear(2)(torch.zeros(1, 3))
    with pytest.raises(TypeError, match=r"abstract method.* unit"):
        Activation()  # type: ignore[abstract]


def test_an_odd_clip_stays_odd_because_its_shift_is_no_parameter_to_learn():
    activation = NoiseClip(3)
    t, sigma = torch.randn(2, 3, 4, 4), torch.tensor([0.1])
    assert torch.equal(activation(-t, sigma), -activation(t, sigma))
    assert not activation.shift.requires_grad and activation.log_scale.requires_grad


@pytest.mark.parametrize("levels", [[0.1], [0.1, 0.2]])
def test_thresholds_of_another_number_of_channels_are_not_broadcast(levels: list[float]) -> None:
    """One filter and three thresholds would act like three filters, with √3 times the norm."""
    layer = GradientFlowConv2d(1, 1, 3, activation=NoiseClip(3))
    with pytest.raises(ShapeError, match="1 hidden channels; its activation has 3"):
        layer(torch.zeros(2, 1, 8, 8), torch.tensor(levels))
