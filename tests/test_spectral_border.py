"""Convolutions whose border repeats pixels: against unrolled operators on the smallest images that the bounds speak of."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.spectral import Method, border_norm_bound, norm_bound


def kernel(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unrolled(f: Callable[[Tensor], Tensor], channels: int, rows: int, columns: int) -> float:
    basis = torch.eye(channels * rows * columns, dtype=torch.float64).reshape(-1, channels, rows, columns)
    return float(torch.linalg.matrix_norm(f(basis).flatten(1), 2))


BORDERS = [
    ((3, 2, 3, 3), (1, 1), {}),
    ((1, 1, 5, 5), (2, 2), {}),
    ((2, 2, 3, 5), (1, 2), {"groups": 1}),
    ((2, 1, 3, 3), (2, 2), {"dilation": 2, "groups": 2}),
    ((2, 2, 3, 3), (1, 1), {"stride": 2}),
    ((1, 2, 4, 2), (2, 0), {}),
]


@pytest.mark.parametrize(("shape", "padding", "settings"), BORDERS)
@pytest.mark.parametrize("mode", ["replicate", "reflect"])
@pytest.mark.parametrize("positive", [False, True])
def test_repeating_borders(
    mode: str, shape: tuple[int, ...], padding: tuple[int, int], settings: dict[str, int], positive: bool
) -> None:
    """Dense truth on several sizes, the smallest that the bound names among them, for wavy and for blurring kernels."""
    w = kernel(10, *shape).abs() if positive else kernel(10, *shape)
    bound = border_norm_bound(w, mode, (padding[0], *padding, padding[1]), rtol=1e-6, **settings)
    pads = (padding[1], padding[1], padding[0], padding[0])
    channels = shape[1] * settings.get("groups", 1)
    least = (2, 2) if mode == "replicate" else (2 + 2 * padding[0], 2 + 2 * padding[1])
    assert bound.smallest_image == least and bound.padding_mode == mode
    reach = [settings.get("dilation", 1) * (k - 1) - 2 * p for k, p in zip(shape[2:], padding, strict=True)]
    for rows, columns in (least, (9, 9)):
        size = (max(rows, 1 + reach[0]), max(columns, 1 + reach[1]))  # so that there is a pixel of output
        truth = unrolled(lambda x: F.conv2d(F.pad(x, pads, mode=mode), w, **settings), channels, *size)
        assert truth <= bound.upper
    assert bound.upper <= bound.lower * math.prod(math.sqrt(1 + p) for p in padding) * (1 + 2e-6)
    assert (
        f"at least {least[0]} x {least[1]} pixels" in bound.scope
        and mode in bound.scope
        and bound.upper >= norm_bound(w, rtol=1e-6, **settings).lower
    )


def test_a_blur_that_repeats_its_border_exceeds_one_and_the_schur_test_knows_by_how_much() -> None:
    box = torch.full((1, 1, 5, 5), 1 / 25, dtype=torch.float64)
    truth = unrolled(lambda x: F.conv2d(F.pad(x, (2,) * 4, mode="replicate"), box), 1, 12, 12)
    bound = border_norm_bound(box, "replicate", (2,) * 4)
    assert 1.01 < truth <= bound.upper <= 1.2 + 1e-9 and bound.method is Method.SCHUR
    shear = kernel(11, 2, 2, 3, 3)
    assert border_norm_bound(shear, "replicate", (1, 1, 0, 2)).method is Method.EXTENSION


def test_border_refusals() -> None:
    weight = kernel(0, 3, 2, 3, 3)
    with pytest.raises(InputError, match="padding_mode"):
        border_norm_bound(weight, "symmetric", (1,) * 4)
    with pytest.raises(InputError, match="not negative"):
        border_norm_bound(weight, "reflect", (1, 1, -1, 1))
    with pytest.raises(InputError, match="four numbers"):
        border_norm_bound(weight, "reflect", (1, 1, 1))
    with pytest.raises(ShapeError, match="k1, k2"):
        border_norm_bound(torch.ones(2, 2), "reflect", (1,) * 4)
