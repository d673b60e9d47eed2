"""Other packages' denoisers as fixed maps: what they keep or draw from call to call is taken away."""

from typing import cast

import torch
from torch import Tensor, nn

from pnp_lip.protocols import DenoiserLike

__all__ = ["FixedMap", "fixed_map"]


class FixedMap(nn.Module):
    """A denoiser whose warm start is dropped before each call, so that D(x, σ) depends on x and σ alone.

    deepinv's TVDenoiser and TGVDenoiser otherwise begin where their last call ended.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """D(x, σ) from a cold start."""
        for module in self.denoiser.modules():
            if warm_starts(module):
                setattr(module, "restart", True)  # noqa: B010 (torch types attributes of modules as tensors)
        return cast(Tensor, self.denoiser(x, sigma))


def fixed_map(denoiser: DenoiserLike) -> DenoiserLike:
    """The denoiser as a map that does not change from call to call; itself when there is nothing to mend.

    Warm starts are dropped (``FixedMap``). An ``EquivariantDenoiser`` that draws its transformations at random averages over
    all eight rotations by 90° and reflections instead. Solvers apply this to every denoiser by themselves.
    """
    if not isinstance(denoiser, nn.Module):
        return denoiser
    if draws_transformations(denoiser):
        from deepinv.models import EquivariantDenoiser
        from deepinv.transform import Reflect, Rotate

        # Spelled out, because random=False of deepinv 0.5.0 passes a misnamed axis and still draws its reflections.
        group = Rotate(n_trans=4, multiples=90, positive=True) * Reflect(n_trans=2, dim=[-1])
        mended: DenoiserLike = EquivariantDenoiser(fixed_map(cast(DenoiserLike, denoiser.denoiser)), transform=group).eval()
        return mended
    return FixedMap(denoiser) if any(warm_starts(m) for m in denoiser.modules()) else denoiser


def warm_starts(module: nn.Module) -> bool:
    """Whether a module keeps a state from call to call, in deepinv's manner."""
    return isinstance(getattr(module, "restart", None), bool) and hasattr(module, "x2")


def draws_transformations(denoiser: nn.Module) -> bool:
    """Whether an equivariant denoiser uses other transformations at each call: several draws do not form the same set."""
    transform = getattr(denoiser, "eval_transform", None)
    if transform is None or not hasattr(transform, "get_params"):
        return False
    with torch.random.fork_rng(devices=[]):
        draws = [transform.get_params(torch.zeros(1, 1, 4, 4)) for _ in range(8)]
    sets = [{name: sorted(map(str, torch.as_tensor(draw[name]).tolist())) for name in draw} for draw in draws]
    return any(drawn != sets[0] for drawn in sets)
