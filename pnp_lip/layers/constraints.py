"""Both ways of keeping 0 ≤ τ ≤ 2/‖W‖² while an optimiser moves W and τ: a parametrisation, and a projection.

``constrain`` reparametrises each gradient-flow layer so that W is divided by a bound of its norm and τ = 2ρ·sigmoid(t):
whatever the optimiser does to the free variables, the layer stays nonexpansive. ``project`` is the paper's way: after
each optimiser step, shorten τ to at most 2ρ/‖W‖². Neither is a proof; ``certify`` is.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pnp_lip.errors import InputError
from pnp_lip.layers.gradient_flow_conv2d import GradientFlowConv2d
from pnp_lip.layers.gradient_flow_linear import GradientFlowLinear
from pnp_lip.spectral.torus import grid_factor, half_torus, symbol

__all__ = ["BoundedStep", "UnitNorm", "ZeroMean", "constrain", "gradient_flow_layers", "project", "release"]

GradientFlowLayer = GradientFlowConv2d | GradientFlowLinear
SMALLEST = 1e-20  # the least norm by which a weight is divided: filters that are all zero stay zero
PEAKS = 32  # frequencies that are looked at between two searches of the torus


class UnitNorm(nn.Module):
    """V ↦ V / ν(V), where ν(V) bounds the norm of V as an operator, so that ‖W‖ ≤ 1; zero stays zero.

    A matrix is divided by its largest singular value. A convolution is divided by the maximum of its symbol's norm over a
    grid on the torus times Π cos(πr/grid)⁻¹, an upper bound for every image size, at most 0.3 % above the norm. With
    ``every`` = n > 1 the whole grid is searched at every n-th evaluation in training mode, and between searches only the
    frequencies that were largest: n times cheaper and, until the next search, an estimate instead of a bound.
    """

    def __init__(self, *, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise InputError(f"UnitNorm needs every >= 1; got {every}.")
        self.every, self.age = every, 0
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.zeros(0, 2), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 2:
            unit: Tensor = weight / torch.linalg.matrix_norm(weight, 2).clamp_min(SMALLEST)
            return unit
        grid = 64 * max(1, max(weight.shape[2:]) // 2)  # 64 points for each tap on either side of the centre
        if self.age % self.every == 0 or not self.training or not len(self.frequencies):
            self.frequencies = loudest(weight.detach(), grid)
        self.age += self.training
        top: Tensor = torch.linalg.matrix_norm(symbol(weight, self.frequencies), 2).amax()
        return weight / (top * grid_factor((weight.shape[2], weight.shape[3]), grid)).clamp_min(SMALLEST)


@torch.no_grad()
def loudest(weight: Tensor, grid: int) -> Tensor:
    """The grid frequencies where the symbol is largest, (``PEAKS``, 2)."""
    frequencies = half_torus(grid).to(weight.device)
    matrices = symbol(weight, frequencies)
    matrices = matrices.mH if weight.shape[0] > weight.shape[1] else matrices
    values = torch.linalg.eigvalsh(matrices @ matrices.mH)[:, -1]
    return frequencies[values.topk(min(PEAKS, len(values))).indices]


class ZeroMean(nn.Module):
    """Take the mean from each filter on the first ``in_channels`` channels: a constant then passes, away from the border."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels

    def forward(self, weight: Tensor) -> Tensor:
        image, rest = weight[:, : self.in_channels], weight[:, self.in_channels :]
        return torch.cat([image - image.mean((-2, -1), keepdim=True), rest], dim=1)


class BoundedStep(nn.Module):
    """t ↦ τ = 2ρ·sigmoid(t), 0 < ρ ≤ 1."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, free: Tensor) -> Tensor:
        return 2 * self.limit * free.sigmoid()

    def right_inverse(self, tau: Tensor) -> Tensor:
        return torch.logit((tau / (2 * self.limit)).clamp(1e-3, 1 - 1e-3))


def gradient_flow_layers(module: nn.Module) -> Iterator[tuple[str, GradientFlowLayer]]:
    """Every gradient-flow layer inside ``module``, with its path."""
    for name, child in module.named_modules():
        if isinstance(child, GradientFlowLayer):
            yield name, child


def constrain(module: nn.Module, *, limit: float = 0.985, every: int = 1, zero_mean_channels: int = 0) -> nn.Module:
    """Reparametrise every gradient-flow layer of ``module`` in place so that τ‖W‖² ≤ 2·``limit`` at every step.

    Each layer then is ``limit``-averaged. ``every`` is as in UnitNorm; ``zero_mean_channels`` removes the mean of the filters
    on that many first channels. ``release`` turns the result back into plain weights. Raises InputError for a limit outside
    (0, 1] and for a module that is constrained already.
    """
    check_limit(limit)
    for name, layer in gradient_flow_layers(module):
        if parametrize.is_parametrized(layer):
            raise InputError(f"`{name}` is constrained (parametrised) already; `release` it before doing so anew.")
    for _, layer in gradient_flow_layers(module):
        if zero_mean_channels:
            parametrize.register_parametrization(layer, "weight", ZeroMean(zero_mean_channels))
        parametrize.register_parametrization(layer, "weight", UnitNorm(every=every))
        parametrize.register_parametrization(layer, "tau", BoundedStep(limit))
    return module


def release(module: nn.Module) -> nn.Module:
    """Undo ``constrain`` in place, keeping the constrained values as plain weights."""
    for _, layer in gradient_flow_layers(module):
        for name in list(getattr(layer, "parametrizations", ())):
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return module


@torch.no_grad()
def project(module: nn.Module, *, limit: float = 0.985) -> nn.Module:
    """Shorten every step τ of ``module`` in place to at most 2·``limit``/ν(W)², the projection after an optimiser step.

    ν bounds ‖W‖ as in UnitNorm, up to rounding. Negative steps become zero.
    Source: Murari, Furuya & Schönlieb (2025), Section 5, with an upper bound where they take power iterations.
    """
    check_limit(limit)
    for _, layer in gradient_flow_layers(module):
        unit = UnitNorm().eval()(layer.weight)
        norm = layer.weight.norm() / unit.norm().clamp_min(torch.finfo(unit.dtype).tiny)
        layer.tau.clamp_(0, float(2 * limit / norm.clamp_min(SMALLEST) ** 2))
    return module


def check_limit(limit: float) -> None:
    if not 0 < limit <= 1:
        raise InputError(f"`limit` bounds τ‖W‖²/2 and must lie in (0, 1]; got {limit}.")
