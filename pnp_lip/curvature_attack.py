"""The attacker of potentials: searches for two images between which a gradient turns more than a curvature bound allows.

What it finds is checked by evaluating the gradient twice; what it does not find proves nothing: ``pnp_lip.certify`` proves.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.certificates.calculus import CurvatureBound
from pnp_lip.errors import InputError
from pnp_lip.potentials import RidgePotential

__all__ = ["CurvatureViolation", "attack_curvature"]

Gradient = Callable[[Tensor], Tensor]
At = Callable[[float, Tensor], Tensor]  # ∇R by σ and x
LEVELS = tuple(s / 255 for s in (0.5, 1.5, 5.0, 15.0, 55.0))  # noise levels that are tried where none is given
STEP = 1e-6  # of a secant, root mean square in units of σ: kinks lie at 1e-3 σ and more, and rounding is 1e-10 of it
AMPLITUDES = [0.0, *np.geomspace(0.03, 300, 33).tolist()]  # of the waves, in units of σ
LEAST_SIDE = 24  # of the images, in pixels
FINE = 256  # frequencies an axis among which the steepest are looked for
NEARLY = 0.05  # how much less than the steepest wave another may answer
WAVES = 24  # so many of them are tried, besides the STEEPEST: of these, some filters may answer too little or too much
STEEPEST = 6
ROUND = 20  # steps in x before v is turned
RATE = 0.05  # of the first steps in x, in units of its size
TURN = 8  # steps of Lanczos' method


@dataclasses.dataclass(frozen=True)
class CurvatureViolation:
    """x and y, gx = ∇R(x) and gy = ∇R(y), at the noise level ``sigma``, all in float64 and of batch size one.

    ``curvature`` = ⟨gy − gx, y − x⟩/‖y − x‖²; ``exceeds`` says whether it is outside of the attacked bound by more than the
    rounding of its evaluation; ``share`` is the curvature divided by that end of the bound (None without a bound).
    """

    x: Tensor
    y: Tensor
    gx: Tensor
    gy: Tensor
    sigma: float
    curvature: float
    share: float | None
    exceeds: bool

    def __str__(self) -> str:
        if self.exceeds:
            return f"a curvature of {self.curvature:.9g} at the noise level {self.sigma:.3g}: the claimed bound is false"
        share = "" if self.share is None else f", {100 * self.share:.3f} % of the bound"
        return f"the extreme curvature found is {self.curvature:.9g}{share}; this proves nothing"

    def save(self, path: str | Path) -> None:
        """Write x, y, gx, gy, the noise level and the curvature to an .npz file, from which numpy checks the curvature."""
        path = Path(path)
        if path.suffix != ".npz":
            raise InputError(f"{path}: a violation is saved as an .npz file.")
        arrays = {name: getattr(self, name).cpu().numpy() for name in ("x", "y", "gx", "gy")}
        np.savez_compressed(path, sigma=np.float64(self.sigma), curvature=np.float64(self.curvature), **arrays)


@torch.no_grad()
def attack_curvature(
    potential: nn.Module,
    *,
    sigma: float | None = None,
    channels: int | None = None,
    size: int = 64,
    steps: int = 10,
    bound: CurvatureBound | None = None,
) -> tuple[CurvatureViolation, CurvatureViolation]:
    """The pairs x, y found with the least and the largest ⟨∇R(x) − ∇R(y), x − y⟩/‖x − y‖², in float64.

    Both begin with waves v that the Hessian at x = 0 stretches most, or least. Their frequencies are read from the response
    of ∇R to one bright pixel; the sides of the image are chosen so that its grid comes close to them. x is a multiple of v,
    tried from zero to 300 σ. For the least curvature ``steps`` rounds follow: 20 steps in x lower the curvature along v, its
    gradient smoothed by a random width h, (∇R(x + hv) − 2∇R(x) + ∇R(x − hv))/h²; then Lanczos' method at x turns v.

    Parameters: ``potential``, any module with ``grad(x, sigma)`` for images (1, ``channels``, H, W) of 24 to ``size`` pixels
    a side; ``channels`` by default its ``in_channels``. ``sigma``: one noise level, None for several. ``bound``: the claimed
    curvature. Raises InputError for settings out of range, a module without ``grad`` and gradients that are not finite.

    >>> from pnp_lip.potentials import RidgePotential
    >>> potential = RidgePotential(filters=2, kernel_size=3)
    >>> least, largest = attack_curvature(potential, sigma=0.1, size=24, steps=0)
    >>> bool(0 <= least.curvature < largest.curvature)
    True
    """
    if not callable(getattr(potential, "grad", None)):
        raise InputError(f"a {type(potential).__name__} has no method `grad(x, sigma)`, whose curvature could be attacked.")
    channels = getattr(potential, "in_channels", None) if channels is None else channels
    levels = LEVELS if sigma is None else (float(sigma),)
    if type(channels) is not int or channels < 1 or size < LEAST_SIDE or steps < 0 or not all(0 < s < math.inf for s in levels):
        raise InputError(f"expected channels >= 1, size >= 24, steps >= 0, sigma > 0; got {channels}, {size}, {steps}, {sigma}.")
    exact, rough = (evaluation_copy(potential, dtype) for dtype in (torch.float64, torch.float32))
    lower, upper = (None, None) if bound is None else (bound.lower, bound.upper)
    found: list[tuple[float, float, Tensor, Tensor]] = []
    for s in levels:
        for v in steep_waves(partial(exact, s), channels, size, s):
            x = s * torch.tensor(AMPLITUDES, dtype=torch.float64)[:, None, None, None] * v
            found += [(value, s, x[i : i + 1], v) for i, value in enumerate(secant(partial(exact, s), x, v, s).tolist())]
    _, s, x, v = min(found, key=lambda pair: pair[0])
    least = evaluate(exact, rough, *descend(partial(exact, s), x, v, s, steps), s, lower, 1.0)
    _, s, x, v = max(found, key=lambda pair: pair[0])
    largest = evaluate(exact, rough, *descend(lambda x: -exact(s, x), x, v, s, 0), s, upper, -1.0)
    return least, largest


def evaluation_copy(potential: nn.Module, dtype: torch.dtype) -> At:
    """∇R of a copy in ``dtype`` as a function of σ and images; parameters are constants."""
    model = copy.deepcopy(potential).to(dtype).eval().requires_grad_(False)
    like = next(iter((*model.parameters(), *model.buffers())), torch.zeros(1, dtype=dtype))
    blank = torch.zeros(1, getattr(model, "in_channels", 1), 1, 1)
    prepared = cache(lambda sigma: model.levels(blank, sigma)[0][0]) if type(model) is RidgePotential else None

    def grad(sigma: float, x: Tensor) -> Tensor:
        x = x.to(like.device, dtype)
        value = prepared(sigma).grad(x) if prepared else model.grad(x, sigma)  # type: ignore[operator]
        if not isinstance(value, Tensor) or value.shape != x.shape or not bool(torch.isfinite(value).all()):
            raise InputError("`grad(x, sigma)` must return finite numbers in the shape of x.")
        return value.cpu().double()

    return grad


def steep_waves(grad: Gradient, channels: int, size: int, sigma: float) -> list[Tensor]:
    """Waves of unit root mean square which the Hessian at zero stretches most, and least, if it is nearly a convolution."""
    m, h = size // 2, STEP * sigma
    dots = h * torch.eye(channels, dtype=torch.float64)[:, None, :, None, None]
    at = torch.zeros(size, size, dtype=torch.float64)
    at[m, m] = 1
    answers = torch.cat([(grad(dot * at) - grad(-dot * at)) / (2 * h) for dot in dots])  # [input, output, row, column]
    side = max(FINE, size)
    symbol = torch.fft.fft2(F.pad(answers, (0, side - size, 0, side - size)).roll((-m, -m), (2, 3))).permute(2, 3, 1, 0)
    symbol = (symbol + symbol.mH) / 2
    values = torch.linalg.eigvalsh(symbol)[: side // 2 + 1]  # a frequency and its negative are one wave
    order = values[..., -1].flatten().sort(descending=True)
    steep = order.indices[order.values >= (1 - NEARLY) * order.values[0]]
    spread = torch.linspace(0, len(steep) - 1, WAVES).long()
    kept = [(k, -1) for k in steep[torch.unique(torch.cat([torch.arange(len(steep))[:STEEPEST], spread]))].tolist()]
    waves = []
    for (i, j), which in ((divmod(k, side), end) for k, end in (*kept, (int(values[..., 0].argmin()), 0))):
        rows, columns = (
            min(range(LEAST_SIDE, size + 1), key=lambda n: abs(k * n / side - round(k * n / side)) / n) for k in (i, j)
        )
        turns = [torch.arange(n, dtype=torch.float64) * round(k * n / side) / n for n, k in ((rows, i), (columns, j))]
        phase = torch.exp(2j * math.pi * (turns[0][:, None] + turns[1]))
        v = (torch.linalg.eigh(symbol[i, j])[1][:, which, None, None] * phase).real[None]
        waves.append(unit(v))
    return waves


def unit(v: Tensor) -> Tensor:
    """v with a root mean square of one."""
    return v / v.square().mean().sqrt().clamp_min(1e-300)


def secant(grad: Gradient, x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """The curvature along v at each image."""
    h = STEP * sigma
    return ((grad(x + h * v) - grad(x - h * v)) * v).flatten(1).mean(1) / (2 * h)


def descend(grad: Gradient, x: Tensor, v: Tensor, sigma: float, steps: int) -> tuple[Tensor, Tensor]:
    """x and v of less curvature: rounds of steps in x with momentum, after each of which v is turned; the best is kept."""
    v = turned(grad, x, v, sigma)
    best, kept = float(secant(grad, x, v, sigma)), (x, v)
    generator, size = np.random.default_rng(0), float(x.square().mean().sqrt()) or sigma
    momentum, power = torch.zeros_like(x), 0.0
    for k in range(ROUND * steps):
        h = size * 10 ** generator.uniform(-2.3, -0.3)
        slope = (grad(x + h * v) - 2 * grad(x) + grad(x - h * v)) / h**2
        momentum = 0.9 * momentum + 0.1 * slope
        power = 0.99 * power + 0.01 * float(slope.square().mean())
        scale = math.sqrt(power / (1 - 0.99 ** (k + 1))) * (1 - 0.9 ** (k + 1))
        x = x - RATE * (1 - k / (ROUND * steps)) * size * momentum / max(scale, 1e-300)
        v = turned(grad, x, v, sigma) if k % ROUND == ROUND - 1 else v
        value = float(secant(grad, x, v, sigma))
        if value < best:
            best, kept = value, (x, v)
    return kept


def turned(grad: Gradient, x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """The direction of least curvature at x in the Krylov space of the Hessian and v."""
    h, n = STEP * sigma, math.sqrt(v.numel())
    images: list[Tensor] = []
    basis = [v / v.norm()]
    while len(images) < TURN:
        e = n * basis[-1]
        images.append((grad(x + h * e) - grad(x - h * e)) / (2 * h * n))
        w = images[-1]
        for b in (*basis, *basis):
            w = w - (w * b).sum() * b
        if not float(w.norm()) > 1e-9 * float(images[-1].norm()):
            break
        basis.append(w / w.norm())
    q, hq = (torch.stack(part[: len(images)]).flatten(1) for part in (basis, images))
    matrix = q @ hq.T
    weights = torch.linalg.eigh((matrix + matrix.T) / 2)[1][:, 0]
    return unit((weights @ q).reshape(v.shape))


def evaluate(exact: At, rough: At, centre: Tensor, v: Tensor, sigma: float, end: float | None, sign: float) -> CurvatureViolation:
    """The pair about ``centre`` along v, and whether its curvature is below (sign 1) or above (−1) ``end``."""
    x, y = centre - STEP * sigma * v, centre + STEP * sigma * v
    gx, gy = exact(sigma, x), exact(sigma, y)
    distance = float((y - x).norm())
    curvature = float(((gy - gx) * (y - x)).sum()) / distance**2
    # Numbers on the way may be larger than the gradients: float32 shows by how much, as its rounding is 2²⁹ times as coarse.
    coarse = sum(float((rough(sigma, at) - value).norm()) for at, value in ((x, gx), (y, gy)))
    rounding = (1e-13 * float(gx.norm() + gy.norm()) + 2.0**-25 * coarse) / max(distance, 1e-300)
    exceeds = end is not None and sign * (end - curvature) > rounding
    return CurvatureViolation(x, y, gx, gy, sigma, curvature, curvature / end if end else None, exceeds)
