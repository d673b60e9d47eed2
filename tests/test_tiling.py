"""Large images window by window: the same map, at every border, in a fraction of the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pnp_lip import GradientFlowDenoiser, load_pretrained, save_denoiser
from pnp_lip.command_line import main
from pnp_lip.denoisers.tiling import cache_tile, map_windows, windows
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import PADDING_MODES, project
from pnp_lip.pictures import write_image


def network(padding: str = "zeros", **changes: object) -> GradientFlowDenoiser:
    torch.manual_seed(0)
    config = {"channels": 8, "hidden_channels": 8, "kernel_size": 3, "dilations": (1, 2), **changes}
    return project(GradientFlowDenoiser(**config, padding_mode=padding)).eval().requires_grad_(False)


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("padding", PADDING_MODES)
@pytest.mark.parametrize("changes", [{}, {"channels": 1, "kernel_size": 5}, {"channels": 1, "dilations": (1, 3, 1)}])
@pytest.mark.parametrize("size", [(230, 201), (150, 300)])
def test_bit_for_bit_the_whole_images_result(padding: str, changes: dict[str, object], size: tuple[int, int]) -> None:
    denoiser, x = network(padding, **changes), image(1, 1, *size)
    tiled, whole = denoiser.tiled(x, 0.1, tile=148), denoiser(x, 0.1)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)
    assert torch.equal(tiled, whole) or not torch.cpu._is_avx512_supported()


def test_bit_for_bit_with_the_shipped_weights() -> None:
    denoiser, x = load_pretrained("grey"), image(1, 1, 90, 121)
    assert torch.equal(denoiser.tiled(x, 0.05, tile=40), denoiser(x, 0.05))


@pytest.mark.parametrize("padding", PADDING_MODES)
def test_to_rounding_in_double_precision_and_in_tiny_windows(padding: str) -> None:
    x = image(2, 1, 41, 37, dtype=torch.float64)
    denoiser, sigma = network(padding).double(), torch.tensor([0.02, 0.2])
    for tile in (3, 16, 40):
        torch.testing.assert_close(denoiser.tiled(x, sigma, tile=tile), denoiser(x, sigma), rtol=0, atol=1e-14)
    single = denoiser.float()
    torch.testing.assert_close(single.tiled(x.float(), 0.1, tile=9), single(x.float(), 0.1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"kernel_size": 5, "dilations": (1, 3)}])
def test_the_reach_is_that_of_the_network(changes: dict[str, object]) -> None:
    denoiser = network(**changes).double()
    reach = sum(denoiser.reaches)
    x, at = image(1, 1, 61, 61, dtype=torch.float64), 30
    moved = x.clone()
    moved[..., at, at] += 0.5
    rows = (denoiser(moved, 10.0) - denoiser(x, 10.0)).abs().amax((0, 1, 3)).nonzero()[:, 0]
    assert (at - int(rows.min()), int(rows.max()) - at) == (reach, reach)
    short = map_windows(lambda z: denoiser(z, 10.0), x, tile=(15, 15), reach=reach - 1, circular=False)
    assert (short - denoiser(x, 10.0)).abs().max() > 1e-12


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("size", "tile", "reach"), [(10, 3, 1), (10, 3, 0), (11, 4, 3), (5, 1, 1), (7, 100, 2)])
def test_windows_are_equal_cover_all_and_see_what_they_need(size: int, tile: int, reach: int, circular: bool) -> None:
    found = windows(size, tile, reach, circular)
    given = [i for kept, seen in found for i in seen[kept]]
    assert given == list(range(size))
    assert {len(seen) for _, seen in found} == {min(size, tile + 2 * reach)}
    for kept, seen in found:
        if len(seen) < size:
            needed = range(seen[kept].start - reach, seen[kept].stop + reach)
            assert set(seen) >= (set(needed) if circular else set(needed) & set(range(size)))
            assert circular or (seen.start >= 0 and seen.stop <= size)


def test_bad_input_is_refused() -> None:
    for tile in (0, -3):
        with pytest.raises(InputError, match="at least 1"):
            network().tiled(image(1, 1, 8, 8), 0.1, tile=tile)
    with pytest.raises(ShapeError, match=r"\(B, 1, H, W\)"):
        network().tiled(image(1, 3, 8, 8), 0.1)
    with pytest.raises(ShapeError, match=r"\(B, C, H, W\)"):
        network().tiled(torch.zeros(8), 0.1)
    with pytest.raises(InputError, match="not negative"):
        network().tiled(image(1, 1, 8, 8), -0.1)


def test_no_graph_is_kept() -> None:
    assert not network().requires_grad_(True).tiled(image(1, 1, 20, 20), 0.1, tile=8).requires_grad


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    size = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.size = max(self.size, result.numel() if isinstance(result, Tensor) else 0)
        return result


def test_memory_is_that_of_a_window() -> None:
    denoiser, x = network(channels=1, hidden_channels=32), image(1, 1, 600, 600)
    denoiser.requires_grad_(True)
    with Largest() as whole:
        denoiser(x, 0.1)
    denoiser.requires_grad_(False)
    with Largest() as layerwise:
        denoiser(x, 0.1)
    with Largest() as tiled:
        denoiser.tiled(x, 0.1, tile=50)
    assert whole.size >= 32 * 600 * 600  # the hidden channels
    assert layerwise.size < 1.5 * 2**20
    assert tiled.size == 600 * 600  # the result


@pytest.mark.parametrize("padding", PADDING_MODES)
@pytest.mark.parametrize("changes", [{}, {"channels": 1, "kernel_size": 5}, {"channels": 1, "dilations": (1, 3, 1)}])
@pytest.mark.parametrize("size", [(300, 600), (517, 203), (20, 30)])
def test_with_and_without_a_graph_the_same_map(padding: str, changes: dict[str, object], size: tuple[int, int]) -> None:
    denoiser, x = network(padding, hidden_channels=16, **changes), image(1, 1, *size)
    with_graph = denoiser(x.requires_grad_(), 0.1)
    assert with_graph.requires_grad
    with torch.no_grad():
        without = denoiser(x, 0.1)
    torch.testing.assert_close(without, with_graph, rtol=0, atol=1e-6)


def test_tiles_of_the_cache_are_alike_and_small_enough() -> None:
    for height, width, channels in [(256, 256, 32), (511, 4099, 64), (8, 9000, 16), (64, 64, 320)]:
        rows, columns = cache_tile(channels, height, width)
        assert rows % 8 == columns % 8 == 0
        assert channels * rows * columns <= 1.3 * 2**20 or rows <= 40
        for size, tile in ((height, rows), (width, columns)):
            assert -(-size // tile) * tile - size < 8 * -(-size // tile)  # no part is much smaller than the others


def test_the_command_denoises_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_denoiser(network(), tmp_path / "d.safetensors")
    write_image(tmp_path / "y.png", image(1, 3, 70, 90))
    shapes = []
    # A patched method would be refused: what a forward asks of its image is not one.
    spy = lambda denoiser, z: shapes.append(tuple(z.shape))  # noqa: E731
    monkeypatch.setattr("pnp_lip.denoisers.gradient_flow_denoiser.require_image", spy)
    command = [
        "denoise",
        str(tmp_path / "y.png"),
        "--noise",
        "0.1",
        "--denoiser",
        str(tmp_path / "d.safetensors"),
        "-o",
    ]
    assert main([*command, str(tmp_path / "whole.npy")]) == 0 and shapes == [(3, 1, 70, 90)]
    assert main([*command, str(tmp_path / "tiled.npy"), "--tile", "60"]) == 0
    assert set(shapes[1:]) == {(3, 1, 70, 60 + 2 * sum(network().reaches))}
    whole, tiled = (np.load(tmp_path / f"{name}.npy") for name in ("whole", "tiled"))
    assert np.array_equal(whole, tiled)
    assert main([*command, str(tmp_path / "x.png"), "--tile", "0"]) == 2
