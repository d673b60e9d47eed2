"""deepinv.distributed with tiles that leave the denoiser what it is; its own tiling is the control that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from deepinv.distributed import DistributedContext, distribute
from torch import Tensor, nn

from pnp_lip import GradientFlowDenoiser, attack, firm, load_pretrained
from pnp_lip.denoisers import ClippedDenoiser, ExactTiling
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import project


@pytest.fixture(scope="module")
def processes() -> Iterator[DistributedContext]:
    with DistributedContext() as context:
        yield context


class Distributed(nn.Module):
    """``distribute(denoiser, ...)``, made anew for each call: deepinv's context cannot be copied, and an attack copies D."""

    def __init__(self, denoiser: nn.Module, spread: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.denoiser, self.spread = denoiser, spread

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.spread(self.denoiser)(x, sigma)


def network(padding: str = "zeros") -> GradientFlowDenoiser:
    torch.manual_seed(0)
    made = GradientFlowDenoiser(channels=8, hidden_channels=8, kernel_size=3, dilations=(1, 2), padding_mode=padding)
    return project(made).eval().requires_grad_(False)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("wrap", [lambda d: d, firm, ClippedDenoiser])
def test_distributed_is_the_denoiser_itself(processes: DistributedContext, padding: str, wrap: Callable[..., nn.Module]) -> None:
    denoiser, x = wrap(network(padding)), torch.rand(2, 1, 201, 230, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.02, 0.2])  # one for each image
    spread = distribute(denoiser, processes, type_object="denoiser", tiling_strategy=ExactTiling(denoiser, x.shape, tile=148))
    found, expected = spread(x, sigma), denoiser(x, sigma)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(found, expected) or not torch.cpu._is_avx512_supported()


def test_the_shares_of_two_processes_add_up_to_the_image() -> None:
    denoiser, x = network(), torch.rand(1, 1, 70, 50)
    tiling, whole = ExactTiling(denoiser, x.shape, tile=24), torch.zeros(1, 1, 70, 50)
    for rank in range(2):
        mine = range(rank, tiling.get_num_patches(), 2)
        share = torch.zeros(1, 1, 70, 50)
        tiling.reduce_patches(share, [(i, denoiser(patch, 0.1)) for i, patch in tiling.get_local_patches(x, list(mine))])
        assert not share.all()
        whole += share
    torch.testing.assert_close(whole, denoiser(x, 0.1), rtol=0, atol=1e-6)


def test_an_attack_refutes_the_stock_tiling_and_not_ours(processes: DistributedContext) -> None:
    torch.manual_seed(0)
    denoiser = project(GradientFlowDenoiser(hidden_channels=8, kernel_size=5, dilations=(1,))).eval().requires_grad_(False)
    x, exact = torch.rand(1, 1, 24, 24), {"tiling_strategy": ExactTiling(denoiser, (1, 1, 24, 24), tile=12)}
    stock = {"patch_size": 12, "overlap": sum(denoiser.reaches), "tiling_dims": (-2, -1)}
    ours, theirs = (
        Distributed(denoiser, lambda d, t=t: distribute(d, processes, type_object="denoiser", **t)) for t in (exact, stock)
    )
    assert torch.equal(ours(x, 0.1), denoiser(x, 0.1))
    assert (theirs(x, 0.1) - denoiser(x, 0.1)).abs().max() > 1e-3
    found = attack(ours, x, sigma=0.1, steps=4)
    assert found.ratio <= 1 and not found.exceeds
    found = attack(theirs, x, sigma=0.1, steps=4)
    assert found.ratio > 1.001 and found.exceeds


class Wider(GradientFlowDenoiser):
    """What its layers say of its reach is too little."""

    def forward(self, x: Tensor, *others: Any, **options: Any) -> Tensor:
        return super().forward(x - x.mean(), *others, **options)


def test_other_denoisers_images_and_tiles_are_refused() -> None:
    tiling = ExactTiling(network(), (1, 1, 70, 50))
    with pytest.raises(ShapeError, match=r"images of \(70, 50\) pixels; got \(1, 1, 70, 51\)"):
        tiling.get_local_patches(torch.rand(1, 1, 70, 51), [0])
    with pytest.raises(InputError, match="got GradientStepPotential"):
        ExactTiling(load_pretrained("gradient-step"), (1, 1, 70, 50))
    with pytest.raises(InputError, match="got Wider"):
        ExactTiling(Wider(), (1, 1, 70, 50))
    for tile in (0, 1.5):
        with pytest.raises(InputError, match=f"at least 1; got {tile}"):
            ExactTiling(network(), (1, 1, 70, 50), tile=tile)  # type: ignore[arg-type]
