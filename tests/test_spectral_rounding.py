"""The bound of the float execution error against executions in float32 and float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import Activation, Clip, GradientFlowConv2d, GradientFlowLinear, ReLU, SoftThreshold, project
from pnp_lip.spectral.rounding import execution_error_upper


def observed_error(network: nn.Module, x: Tensor) -> float:
    """The largest ‖fl(D)(x) − D(x)‖₂/√(HW) in the batch, D executed in float64."""
    with torch.no_grad():
        difference = network(x).double() - copy.deepcopy(network).double()(x.double())
    return float(difference.flatten(1).norm(dim=1).max()) / math.sqrt(x[0, 0].numel())


@pytest.mark.parametrize("activation", [ReLU, Clip, SoftThreshold])
@pytest.mark.parametrize("depth", [1, 6])
def test_bounds_what_float32_does(activation: type[Activation], depth: int) -> None:
    torch.manual_seed(depth)
    layers = []
    for _ in range(depth):
        act = ReLU() if activation is ReLU else activation(12)  # λ = exp(0) = 1 in both precisions
        if isinstance(act, Clip):
            act.shift.data = 0.1 * torch.randn(12)
        layers.append(GradientFlowConv2d(6, 12, 3, activation=act))
    network = project(nn.Sequential(*layers), limit=0.99)
    shifts = [layer.activation.shift if isinstance(layer.activation, Clip) else None for layer in layers]
    x = torch.rand(8, 6, 24, 24) * 2 - 1
    bound = execution_error_upper(
        [layer.weight for layer in layers],
        [float(layer.tau.detach()) for layer in layers],
        shifts=shifts,
        input_bound=math.sqrt(6),
    )
    error = observed_error(network, x)
    assert 0 < error <= bound
    assert bound < 1e-3 * depth  # the worst case over all roundings, but no empty statement


def test_dense_layers_and_float64() -> None:
    torch.manual_seed(0)
    layer = project(GradientFlowLinear(20, 30, bias=False))
    arguments = ([layer.weight], [float(layer.tau.detach())])
    x = torch.randn(50, 20)
    x = x / x.norm(dim=1, keepdim=True)
    with torch.no_grad():
        error = float((layer(x).double() - copy.deepcopy(layer).double()(x.double())).norm(dim=1).max())
    bound = execution_error_upper(*arguments)
    assert 0 < error <= bound
    assert execution_error_upper(*arguments, dtype=torch.float64) == pytest.approx(bound * 2.0**-29, rel=1e-3)


def test_linear_in_the_input_and_increasing_in_everything() -> None:
    w, tau = [torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 10] * 3, [1.0] * 3
    one = execution_error_upper(w, tau)
    assert execution_error_upper(w, tau, input_bound=7.0) == pytest.approx(7 * one, rel=1e-12)
    assert execution_error_upper(w[:2], tau[:2]) < one < execution_error_upper(w, tau, shifts=[torch.ones(4)] * 3)
    assert execution_error_upper([], []) == 0
    assert execution_error_upper([torch.zeros(2, 2)], [1.0]) < 1e-6


def test_bfloat16_has_no_bound_for_long_sums() -> None:
    assert execution_error_upper([torch.ones(4, 16, 3, 3)], [1e-3], dtype=torch.bfloat16) == math.inf


def test_refusals() -> None:
    w = [torch.eye(2)]
    with pytest.raises(ShapeError):
        execution_error_upper(w, [1.0, 1.0])
    with pytest.raises(InputError):
        execution_error_upper(w, [-1.0])
    with pytest.raises(InputError):
        execution_error_upper(w, [1.0], input_bound=math.inf)
    with pytest.raises(InputError):
        execution_error_upper([torch.full((2, 2), math.nan)], [1.0])
