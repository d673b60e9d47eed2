"""The symbol of a convolution, the matrix-valued trigonometric polynomial whose supremum is the operator's norm."""

import math

import torch
from torch import Tensor

from pnp_lip.errors import ShapeError

__all__ = ["grid_factor", "half_torus", "symbol"]


def symbol(weight: Tensor, frequencies: Tensor) -> Tensor:
    """K̂(ω) = Σ_ab K[:, :, a, b] exp(−i(a ω₁ + b ω₂)), one matrix per frequency, differentiable in the weight.

    Shapes: ``weight`` (out, in, k₁, k₂), ``frequencies`` (n, 2) in radians; gives complex (n, out, in). Taps count from
    the kernel's first entry; counting from its centre would change K̂ by a phase, hence not its norm. Dilation by d
    replaces ω by dω, which leaves the supremum over the torus as it is. In floating point the result carries rounding
    errors of the working precision.

    >>> symbol(torch.ones(1, 1, 1, 2), torch.zeros(1, 2)).real.item()
    2.0
    """
    if weight.ndim != 4:
        raise ShapeError(f"a convolution's weight has shape (out, in, k1, k2); got {tuple(weight.shape)}.")
    real = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
    frequencies = frequencies.to(weight.device, real)
    rows = torch.arange(weight.shape[2], device=weight.device, dtype=real)
    columns = torch.arange(weight.shape[3], device=weight.device, dtype=real)
    angles = frequencies[:, :1, None] * rows[None, :, None] + frequencies[:, 1:, None] * columns[None, None, :]
    angles = angles.flatten(1)  # (n, taps)
    taps = weight.to(real).flatten(2)  # (out, in, taps)
    with torch.autocast(weight.device.type, enabled=False):  # a symbol rounded to bfloat16 would bound nothing
        real_part = torch.einsum("oit,nt->noi", taps, angles.cos())
        imaginary_part = torch.einsum("oit,nt->noi", taps, -angles.sin())
    return torch.complex(real_part, imaginary_part)


def half_torus(grid: int) -> Tensor:
    """Frequencies 2πj/grid, j = (j₁, j₂), up to conjugate symmetry: K̂(−ω) is the conjugate of K̂(ω) for real weights."""
    angles = torch.arange(grid, dtype=torch.float64) * (2 * math.pi / grid)
    half = angles[: grid // 2 + 1]
    return torch.cartesian_prod(angles, half)


def grid_factor(kernel_size: tuple[int, int], grid: int) -> float:
    """Π cos(π r / grid)⁻¹, r = (k − 1)/2 per axis: what turns the grid maximum of ‖K̂‖ into a bound on the whole torus.

    Valid for grid > 2r. Source: Ehlich & Zeller (1964) for trigonometric polynomials, applied to uᴴ K̂(ω) v.

    >>> round(grid_factor((3, 3), 64), 4)
    1.0024
    """
    reach = [(k - 1) / 2 for k in kernel_size]
    if grid <= 2 * max(reach):
        raise ShapeError(f"a kernel of size {kernel_size} needs a grid finer than {2 * max(reach):g}; got {grid}.")
    return math.prod(1 / math.cos(math.pi * r / grid) for r in reach)
