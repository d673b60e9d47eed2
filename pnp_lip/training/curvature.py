"""The constraint of a potential in training: ‖W‖ ≤ 1, falls that add up to ρ, rises that add up to at most L."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pnp_lip.errors import InputError
from pnp_lip.potentials import RidgePotential
from pnp_lip.spectral import norm_bound

__all__ = ["CappedRise", "FixedFall", "UnitFilters", "compose", "constrain_curvature", "release_curvature"]

GRID = 48  # frequencies along each axis at which filters of at most 9×9 are measured; wider ones at 5 for each tap
NORM_SLACK = 5e-4  # about what the norm exceeds its largest value on that grid by: 0.04 to 0.12 % in trained potentials
ROUNDING = 1e-6  # what sums of slopes stay below their limits, so that their rounded terms do too
LEAST_SLOPE = 1e-4  # of those that training starts from: it learns logarithms
LEAST_NORM = 1e-20  # by which filters are divided


class UnitFilters(nn.Module):
    """V ↦ W = U/max_ω ‖Û(ω)‖, U the filters V less their means; the maximum over a grid of the torus is an estimate of ‖U‖.

    V is given, or the composition of ``factors``, convolutions that are learned in its place, as Goujon, Neumayer & Unser (2024)
    do: after 1,000 steps they are 0.05 to 0.18 dB ahead (docs/training.md). V starts with the size that the learning rates are
    made for. ``norm_bound`` takes as long as a step of training, so that it has its say at the end, in ``release_curvature``.
    """

    def __init__(self, factors: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.factors = tuple(factors)

    def forward(self, *free: Tensor) -> Tensor:
        filters = compose(*free)
        centred = filters - filters.mean((2, 3), keepdim=True)
        points = max(GRID, 5 * filters.shape[-1])
        symbol = torch.fft.rfft2(centred, s=(points, points)).flatten(2)
        gram = torch.einsum("cin,cjn->nij", symbol.conj(), symbol)
        norm = torch.linalg.eigvalsh(gram)[:, -1].amax().sqrt()
        unit: Tensor = centred / (norm * (1 + NORM_SLACK)).clamp_min(LEAST_NORM)
        return unit

    def right_inverse(self, weight: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.factors or weight / weight.square().sum().div(len(weight)).sqrt().clamp_min(LEAST_NORM)


class CappedRise(nn.Module):
    """m ↦ μ = exp(m), scaled down where its sum exceeds ``limit``."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, free: Tensor) -> Tensor:
        rise = free.exp()
        return rise * (self.limit * (1 - ROUNDING) / rise.sum()).clamp_max(1)

    def right_inverse(self, rise: Tensor) -> Tensor:
        return rise.clamp_min(LEAST_SLOPE).log()


class FixedFall(nn.Module):
    """a ↦ s = ρ softmax(a)."""

    def __init__(self, rho: float) -> None:
        super().__init__()
        self.rho = rho

    def forward(self, free: Tensor) -> Tensor:
        return self.rho * (1 - ROUNDING) * free.softmax(0)

    def right_inverse(self, fall: Tensor) -> Tensor:
        return fall.clamp_min(LEAST_SLOPE).log()


def compose(*kernels: Tensor) -> Tensor:
    """The kernel of one convolution that does what these do one after the other, the first one first."""
    first, *others = kernels
    for kernel in others:  # (c, b, k, k) after (b, a, m, m): the correlation of a with the kernels turned round
        turned = first.flip(-1, -2).transpose(0, 1)
        first = F.conv2d(turned, kernel, padding=kernel.shape[-1] - 1).flip(-1, -2).transpose(0, 1)
    return first


def random_factors(weight: Tensor) -> list[Tensor]:
    """Three random convolutions over 4 and 8 channels for each of the image's, whose composition has the shape of ``weight``."""
    filters, channels, width, _ = weight.shape
    outputs, wide = (4 * channels, 8 * channels, filters), (width - 1) // 2
    factors = []
    for i, out in enumerate(outputs):
        kernel = 2 * ((wide + i) // 3) + 1
        factors.append(torch.randn(out, channels, kernel, kernel).to(weight) / (kernel * math.sqrt(channels)))
        channels = out
    return factors


def constrain_curvature(
    potential: RidgePotential, *, rho: float = 0.8, limit: float = 32.0, anew: bool = False
) -> RidgePotential:
    """Reparametrise ``potential`` in place so that its curvature stays in [−ρ, L] whatever an optimiser does.

    0 ≤ ``rho`` < 1, ``limit`` = L > 0; its filters and slopes are brought there first, or with ``anew`` its filters become
    the composition of three random convolutions. ``release_curvature`` makes them plain.
    Raises InputError for other numbers, and for a potential that is constrained already.
    """
    if not 0 <= rho < 1:
        raise InputError(f"`rho` must lie in [0, 1), so that denoising has one minimiser; got {rho}.")
    if not 0 < limit < math.inf:
        raise InputError(f"the limit of the curvature must be positive and finite; got {limit}.")
    if parametrize.is_parametrized(potential):
        raise InputError("this potential is constrained (parametrised) already.")
    clip = potential.activation
    parametrize.register_parametrization(
        potential, "weight", UnitFilters(random_factors(potential.weight.detach()) if anew else ())
    )
    parametrize.register_parametrization(clip, "rise", CappedRise(limit))
    parametrize.register_parametrization(clip, "fall", FixedFall(rho))
    return potential


@torch.no_grad()
def release_curvature(potential: RidgePotential) -> RidgePotential:
    """Undo ``constrain_curvature`` in place, keeping its values as plain weights, with ‖W‖ ≤ 1 proved."""
    parametrize.remove_parametrizations(potential, "weight")
    for name in ("rise", "fall"):
        parametrize.remove_parametrizations(potential.activation, name)
    upper = norm_bound(potential.weight, padding_mode=potential.padding_mode).upper
    potential.weight.div_(max(1.0, upper) * (1 + ROUNDING))
    return potential
