"""The attacker: searches for a pair of images that a denoiser drives apart, refuting a claimed Lipschitz constant.

A ratio that it finds is a lower bound of the Lipschitz constant, checked by evaluating the map twice. What it does not
find proves nothing: ``pnp_lip.certify`` proves.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError, ShapeError

__all__ = ["Violation", "attack"]

Map = Callable[[Tensor], Tensor]
SIZES = (1.0, 0.3, 0.1, 0.1)  # of y − x, root mean square per pixel; large ones see which kinks to move across
SCALES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the secants compared along each direction
PROBE = 1e-3  # root mean square of the central differences; float32 leaves them four digits
KEPT = 2  # of the starting images, once their directions are known
RATE = 0.1  # of the ascent, in units of the image's range


@dataclasses.dataclass(frozen=True)
class Violation:
    """The pair of images that a denoiser was found to drive apart most: ``ratio`` = ‖D(x) − D(y)‖/‖x − y‖ in float64.

    ``exceeds`` says whether the ratio is above the attacked bound by more than the rounding of its evaluation; ``dx`` =
    D(x), ``dy`` = D(y); all are float64 and of batch size one.
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


@torch.no_grad()
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

    From each image, its noisy version, its mean, zero and noise alone, with differences of decreasing size: the direction
    that the Jacobian J stretches most, by ``steps`` steps of Lanczos' method on JᵀJ, then ``steps`` steps of gradient
    ascent on log‖D(x) − D(y)‖ − log‖x − y‖ in x and y. All this for D, then for D − Id, which leads past a local maximum
    at ratio 1 where D reflects too far. The search runs in float32; what is returned was evaluated in float64. x and y may
    leave [0, 1], since a Lipschitz constant is claimed for all inputs.

    Parameters: ``images`` (B, ...) with values about [0, 1], at least one; ``denoiser`` is called as D(x) when
    ``sigma`` is None and as D(x, sigma) otherwise, one noise level for all. ``bound`` is the claimed constant. Raises
    InputError for non-finite images or outputs and settings out of range, ShapeError for images without a batch axis.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.5, 0.0], [0.0, 0.5]]))
    >>> violation = attack(layer, torch.zeros(1, 2), steps=20)
    >>> violation.exceeds, round(violation.ratio, 6)
    (True, 1.5)
    """
    if images.ndim < 2 or images.numel() == 0 or not images.is_floating_point():
        raise ShapeError(f"expected floating-point images (B, ...), B >= 1; got {tuple(images.shape)} {images.dtype}.")
    if not bool(torch.isfinite(images).all()):
        raise InputError("the images hold NaN or infinite values; repair them first.")
    if steps < 1 or not bound > 0:
        raise InputError(f"`steps` must be at least 1 and `bound` positive; got {steps} and {bound}.")
    f, rough = (evaluation_copy(denoiser, images, sigma, dtype) for dtype in (torch.float64, torch.float32))
    generator = torch.Generator().manual_seed(seed)
    clean = images.detach().cpu().float()
    level = 0.1 if sigma is None else float(torch.as_tensor(sigma).max())
    noise = torch.randn(clean.shape, generator=generator)
    mean = clean.mean(tuple(range(1, clean.ndim)), keepdim=True).expand_as(clean)
    starts = torch.cat([clean, clean + level * noise, mean, 0 * clean[:1], noise])  # clips are inactive at zero
    best = evaluate(f, rough, starts[:1], torch.ones_like(starts[:1]), bound)
    objectives = (rough, lambda x: rough(x) - x) if best.dx.shape == best.x.shape else (rough,)
    for objective in objectives:
        x = starts
        for size in SIZES:
            d = stretched_direction(objective, x, steps, generator)
            kept = log_ratio(objective, x, PROBE * d).topk(min(KEPT, len(x))).indices
            pairs = [(x[kept], d[kept]), ascend(objective, x[kept], d[kept], size, steps)]
            x = pairs[1][0]
            for pair in pairs:
                best = max(best, evaluate(f, rough, *pair, bound), key=lambda v: (v.exceeds, v.ratio))
    return best


def evaluation_copy(denoiser: nn.Module, images: Tensor, sigma: float | Tensor | None, dtype: torch.dtype) -> Map:
    """The denoiser's copy in ``dtype`` as a function of the image; parameters are constants."""
    model = copy.deepcopy(denoiser).to(dtype).eval().requires_grad_(False)
    tensor = next(iter((*model.parameters(), *model.buffers())), images)

    def f(x: Tensor) -> Tensor:
        x = x.to(tensor.device, dtype)
        value: Tensor = model(x) if sigma is None else model(x, sigma)
        return value.cpu()

    try:
        output = f(images[:1])
    except TypeError as error:
        raise InputError(f"the denoiser could not be called ({error}); pass sigma if it needs one.") from error
    if not isinstance(output, Tensor) or not bool(torch.isfinite(output).all()):
        raise InputError("the denoiser must return a finite tensor for the first image.")
    return f


def stretched_direction(f: Map, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Lanczos' method on JᵀJ at each image, unit root mean square; Jv is a central difference, Jᵀw a gradient."""
    with torch.enable_grad():
        z = x.clone().requires_grad_()
        y = f(z)
    n = x[0].numel()
    step = PROBE * math.sqrt(n)
    basis = rms_normalised(torch.randn(x.shape, generator=generator)).flatten(1)[..., None] / math.sqrt(n)
    images = basis[..., :0]  # JᵀJ applied to the basis
    for k in range(min(steps, n)):
        h = step * basis[..., k].reshape(x.shape)
        ahead, behind = f(torch.cat([x + h, x - h])).chunk(2)
        (w,) = torch.autograd.grad(y, z, (ahead - behind) / (2 * step), retain_graph=True)
        images = torch.cat([images, w.flatten(1)[..., None]], 2)
        basis = torch.cat([basis, torch.linalg.qr(torch.cat([basis, images[..., -1:]], 2))[0][..., -1:]], 2)
    basis = basis[..., :-1]
    projected = basis.mT @ images
    ritz = torch.linalg.eigh(projected + projected.mT)[1][..., -1:]
    return rms_normalised((basis @ ritz).reshape(x.shape))


def rms_normalised(v: Tensor) -> Tensor:
    """v divided by its root mean square per image; left alone where it vanishes."""
    return nn.functional.normalize(v.flatten(1)).reshape(v.shape) * math.sqrt(v[0].numel())


def log_ratio(f: Map, x: Tensor, difference: Tensor) -> Tensor:
    """log‖D(x + d) − D(x)‖ − log‖d‖, one number per image."""
    ahead, here = f(torch.cat([x + difference, x])).chunk(2)
    change, distance = (v.flatten(1).norm(dim=1).clamp_min(1e-18) for v in (ahead - here, difference))
    return torch.log(change) - torch.log(distance)


def ascend(f: Map, x: Tensor, direction: Tensor, size: float, steps: int) -> tuple[Tensor, Tensor]:
    """Gradient ascent (Adam) on the log ratio in x and in the direction of y − x = size·direction: the last pairs."""
    z, shape = x.clone().requires_grad_(), direction.clone().requires_grad_()
    optimiser = torch.optim.Adam([z, shape], lr=RATE, maximize=True)
    for _ in range(steps):
        with torch.enable_grad():
            value = log_ratio(f, z, size * rms_normalised(shape)).sum()
        z.grad, shape.grad = torch.autograd.grad(value, [z, shape])
        optimiser.step()
    return z.detach(), size * rms_normalised(shape.detach())


def evaluate(f: Map, rough: Map, x: Tensor, direction: Tensor, bound: float) -> Violation:
    """The pair x, x + scale·direction with the largest ratio by ``rough``, measured by ``f`` up to a relative 1e-13."""
    found = torch.stack([log_ratio(rough, x, scale * direction) for scale in SCALES])
    scale, i = divmod(int(found.argmax()), len(x))
    x = x[i : i + 1].double()
    y = x + SCALES[scale] * direction[i : i + 1].double()
    dx, dy = f(x), f(y)
    distance = float((x - y).norm())
    if not bool(torch.isfinite(dx + dy).all()):
        raise InputError("the denoiser returned NaN or infinite values for a finite image: it bounds nothing.")
    ratio = float((dx - dy).norm()) / distance if distance > 0 else 0.0
    # Numbers on the way may be larger than the images: float32 shows by how much, as its rounding is 2²⁹ times as coarse.
    coarse = sum(float((rough(at.float()).double() - value).norm()) for at, value in ((x, dx), (y, dy)))
    rounding = (1e-13 * float(sum(v.norm() for v in (x, y, dx, dy))) + 2.0**-25 * coarse) / max(distance, 1e-300)
    exceeds = ratio > bound + rounding
    note = f"the largest ratio found is {ratio:.6f}, {100 * ratio / bound:.2f} % of {bound:.6g}; this proves nothing"
    if exceeds:
        note = f"‖D(x) − D(y)‖/‖x − y‖ = {ratio:.6f} > {bound:.6g}: the claimed bound is false"
    return Violation(x, y, dx, dy, ratio, exceeds, note)
