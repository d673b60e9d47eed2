"""The attacker: searches for a pair of images that a denoiser drives apart, refuting a claimed Lipschitz constant.

A ratio that it finds is a lower bound of the Lipschitz constant, checked by evaluating the map twice. What it does not
find proves nothing: ``pnp_lip.certify`` proves.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError

__all__ = ["Violation", "attack"]

Map = Callable[[Tensor], Tensor]
SIZES = (1.0, 0.1, 1e-3)  # of y − x, root mean square per pixel; large ones see which kinks to move across
SCALES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the secants compared in the end
RATE = 0.1  # of the ascent, in units of the image's range


@dataclasses.dataclass(frozen=True)
class Violation:
    """The pair of images that a denoiser was found to drive apart most: ``ratio`` = ‖D(x) − D(y)‖/‖x − y‖ in float64.

    ``exceeds`` says whether the ratio is above the attacked bound by more than the rounding of its evaluation; ``x``,
    ``y``, ``dx`` = D(x), ``dy`` = D(y) are float64 and of batch size one; ``note`` says it in words.
    """

    x: Tensor
    y: Tensor
    dx: Tensor
    dy: Tensor
    ratio: float
    exceeds: bool
    note: str

    def save(self, path: str | Path) -> None:
        """Write x, y, dx, dy and the ratio to an .npz file, from which three lines of numpy check the ratio."""
        path = Path(path)
        if path.suffix != ".npz":
            raise InputError(f"{path}: a violation is saved as an .npz file.")
        arrays = {name: getattr(self, name).cpu().numpy() for name in ("x", "y", "dx", "dy")}
        np.savez_compressed(path, ratio=np.float64(self.ratio), **arrays)


def attack(
    denoiser: nn.Module,
    images: Tensor,
    *,
    sigma: float | Tensor | None = None,
    steps: int = 50,
    seed: int = 0,
    bound: float = 1.0,
) -> Violation:
    """Search for x, y with ‖D(x) − D(y)‖ > ``bound``·‖x − y‖, on a float64 copy of ``denoiser`` in evaluation mode.

    From each image, its noisy version, its mean and noise alone: the direction that the Jacobian stretches most by
    ``steps`` power iterations, then ``steps`` steps of gradient ascent on log‖D(x) − D(y)‖ − log‖x − y‖ in x and y; so
    in turn for differences of decreasing size; at last a comparison of sizes along the directions found. All this for
    D, then for D − Id, which leads past a local maximum at ratio 1 where D reflects too far. x and y may leave [0, 1],
    since a Lipschitz constant is claimed for all inputs.

    Parameters: ``images`` (B, ...) with values about [0, 1], at least one; ``denoiser`` is called as D(x) when
    ``sigma`` is None and as D(x, sigma) otherwise, one noise level for all. ``bound`` is the claimed constant. Raises
    InputError for non-finite images or outputs and settings out of range, ShapeError for images without a batch axis.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.5, 0.0], [0.0, 0.5]]))
    >>> violation = attack(layer, torch.zeros(1, 2), steps=20)
    >>> violation.exceeds, round(violation.ratio, 6)
    (True, 1.5)
    """
    check(images, steps, bound)
    f = double_copy(denoiser, images, sigma)
    generator = torch.Generator().manual_seed(seed)
    images = images.detach().double()
    best = evaluate(f, images[:1], images[:1] + 1e-3, bound)
    for objective in (f, lambda x: f(x) - x) if best.dx.shape == best.x.shape else (f,):
        fresh = starts(images, generator, noise=sigma)
        chain = fresh[:0]
        for size in SIZES:
            x = torch.cat([fresh, chain])
            x, difference = ascend(objective, x, size * stretched_direction(objective, x, steps, generator), steps)
            ratios = log_ratio(f, x, difference)
            i, chain = int(ratios.argmax()), x[ratios.topk(len(images)).indices]
            for scale in SCALES:
                found = evaluate(f, x[i : i + 1], x[i : i + 1] + scale * difference[i : i + 1], bound)
                best = max(best, found, key=lambda v: (v.exceeds, v.ratio))
    return best


def double_copy(denoiser: nn.Module, images: Tensor, sigma: float | Tensor | None) -> Map:
    """The denoiser's float64 copy as a function of the image; parameters are constants."""
    model = copy.deepcopy(denoiser).double().eval().requires_grad_(False)
    tensor = next(iter((*model.parameters(), *model.buffers())), images)

    def f(x: Tensor) -> Tensor:
        x = x.to(tensor.device)
        value: Tensor = model(x) if sigma is None else model(x, sigma)
        return value

    try:
        with torch.no_grad():
            output = f(images[:1].double())
    except TypeError as error:
        raise InputError(f"the denoiser could not be called ({error}); pass sigma if it needs one.") from error
    if not isinstance(output, Tensor) or not bool(torch.isfinite(output).all()):
        raise InputError("the denoiser must return a finite tensor for the first image.")
    return f


def starts(images: Tensor, generator: torch.Generator, noise: float | Tensor | None) -> Tensor:
    """Where the search begins: images, noisy images, their means and zero (where clips are inactive), and noise."""
    level = 0.1 if noise is None else float(torch.as_tensor(noise).max())
    n = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    mean = images.flatten(1).mean(1).reshape(-1, *[1] * (images.ndim - 1)).expand_as(images)
    return torch.cat([images, images + level * n, mean, torch.zeros_like(images[:1]), n])


def stretched_direction(f: Map, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Power iteration on JᵀJ at each image, unit root mean square; Jv is a central difference, Jᵀw a gradient."""
    v = rms_normalised(torch.randn(x.shape, generator=generator, dtype=torch.float64))
    for _ in range(steps):
        with torch.no_grad():
            w = (f(x + 1e-6 * v) - f(x - 1e-6 * v)) / 2e-6
        with torch.enable_grad():
            z = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad((f(z) * w).sum(), z)
        v = rms_normalised(gradient.to(x.device))
    return v


def rms_normalised(v: Tensor) -> Tensor:
    """v divided by its root mean square per image; left alone where it vanishes."""
    rms = v.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (v.ndim - 1))
    return torch.where(rms > 0, v / rms.clamp_min(1e-300), v)


def log_ratio(f: Map, x: Tensor, difference: Tensor) -> Tensor:
    """log‖D(x + d) − D(x)‖ − log‖d‖, one number per image."""
    change = (f(x + difference) - f(x)).to(difference.device)
    lengths = [v.flatten(1).square().sum(1).clamp_min(1e-300).log() / 2 for v in (change, difference)]
    return lengths[0] - lengths[1]


def ascend(f: Map, x: Tensor, difference: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Gradient ascent (Adam) on the log ratio in x and in the shape of y − x; the best pair of each image."""
    size = difference.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (x.ndim - 1))
    z = x.clone().requires_grad_()
    shape = rms_normalised(difference).requires_grad_()
    optimiser = torch.optim.Adam([z, shape], lr=RATE, maximize=True)
    top = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    best_x, best_difference = x.clone(), difference.clone()
    for _ in range(steps):
        with torch.enable_grad():
            d = size * rms_normalised(shape)
            values = log_ratio(f, z, d)
            optimiser.zero_grad()
            values.sum().backward()  # type: ignore[no-untyped-call]
        better = values.detach() > top
        top[better] = values.detach()[better]
        best_x[better], best_difference[better] = z.detach()[better], d.detach()[better]
        optimiser.step()
    return best_x, best_difference


@torch.no_grad()
def evaluate(f: Map, x: Tensor, y: Tensor, bound: float) -> Violation:
    """The ratio of one pair; it exceeds the bound only by more than 1e-13 of the numbers that are subtracted."""
    dx, dy = f(x).to(x.device), f(y).to(x.device)
    distance = float((x - y).norm())
    if not bool(torch.isfinite(dx).all() and torch.isfinite(dy).all()):
        raise InputError("the denoiser returned NaN or infinite values for a finite image: it bounds nothing.")
    ratio = float((dx - dy).norm()) / distance if distance > 0 else 0.0
    rounding = 1e-13 * float(sum(v.norm() for v in (x, y, dx, dy))) / max(distance, 1e-300)
    exceeds = ratio > bound + rounding
    note = (
        f"‖D(x) − D(y)‖/‖x − y‖ = {ratio:.6f} > {bound:.6g}: the claimed bound is false"
        if exceeds
        else f"the largest ratio found is {ratio:.6f}, {100 * ratio / bound:.2f} % of {bound:.6g}; this proves nothing"
    )
    return Violation(x, y, dx, dy, ratio, exceeds, note)


def check(images: Tensor, steps: int, bound: float) -> None:
    """Refuse what the search cannot use."""
    if images.ndim < 2 or images.numel() == 0 or not images.is_floating_point():
        raise ShapeError(f"expected floating-point images (B, ...), B >= 1; got {tuple(images.shape)} {images.dtype}.")
    if not bool(torch.isfinite(images).all()):
        raise InputError("the images hold NaN or infinite values; repair them first.")
    if steps < 1 or not bound > 0:
        raise InputError(f"`steps` must be at least 1 and `bound` positive; got {steps} and {bound}.")
