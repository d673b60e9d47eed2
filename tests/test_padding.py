"""Padding, for images smaller than the filters too, and a layer by the Fourier transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pnp_lip.layers import PADDING_MODES, Clip, GradientFlowConv2d
from pnp_lip.layers.padding import pad

SIZES = [(1, 1), (1, 4), (2, 3), (4, 4), (5, 9), (12, 10)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reach", [0, 1, 3, 7])
def test_padding_is_numpys(size: tuple[int, int], reach: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    names = {"zeros": "constant", "circular": "wrap"}
    for mode in PADDING_MODES:
        assert np.array_equal(
            pad(x, reach, mode), np.pad(x, ((0, 0), (0, 0), (reach,) * 2, (reach,) * 2), mode=names[mode])
        )


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
