"""The certified norm of somebody else's operator that is known only through A and Aᵀ but is entrywise nonnegative."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pnp_lip.errors import CertificateError
from pnp_lip.operators.collatz_wielandt import collatz_wielandt
from pnp_lip.spectral import Method, NormBound

__all__ = ["nonnegative_norm", "rayleigh_lower", "relative_slack"]

PROBES = 4


def relative_slack(dtype: torch.dtype) -> float:
    """What we allow for rounding in a foreign implementation: 1e-3 in float32, 1e-9 in float64 (relative, per entry).

    Interpolating projectors recompute their weights in either direction from coordinates of up to 2¹⁰ pixels, which in
    float32 are wrong by 2⁻¹⁴ = 6e-5 of a pixel; hence a slack much wider than the unit of rounding.
    """
    return 1e-3 if dtype == torch.float32 else 1e-9


def nonnegative_norm(physics: Any, img_size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> NormBound:
    """Collatz-Wielandt bounds of ‖A‖ for a nonnegative operator, after checking that A_adjoint is the transpose.

    Compares single columns of A with single rows of A_adjoint and both sides of ⟨Ax, y⟩ = ⟨x, Aᵀy⟩ for signed random
    x, y. Raises CertificateError where they disagree or an entry is negative: ‖A‖² could then not be read off AᵀA.
    """
    slack = relative_slack(dtype)
    shape = (1, *img_size)
    generator = torch.Generator().manual_seed(0)
    check_transpose(physics, shape, dtype, device, generator, slack)

    def gram(v: Tensor) -> Tensor:
        w: Tensor = physics.A_adjoint(physics.A(v))
        # Entries that are zero up to rounding may come out as tiny negative numbers of a fast transform.
        return torch.where(w.abs() < 1e-6 * slack * w.abs().max(), torch.zeros_like(w), w)

    with torch.no_grad():
        found = collatz_wielandt(gram, torch.ones(shape, dtype=dtype, device=device), rounding=slack)
    return NormBound(
        math.sqrt(found.upper_sq) * (1 + 1e-15),
        math.sqrt(found.lower_sq) * (1 - 1e-15),
        Method.COLLATZ_WIELANDT,
    )


def check_transpose(
    physics: Any,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
    slack: float,
) -> None:
    """Raise CertificateError unless sampled entries and dot products say that A ≥ 0 and A_adjoint = Aᵀ."""
    with torch.no_grad():
        x = torch.randn(shape, generator=generator).to(device, dtype)
        ax = physics.A(x)
        y = torch.randn(ax.shape, generator=generator).to(device, dtype)
        difference = abs(float((ax * y).sum(dtype=torch.float64) - (x * physics.A_adjoint(y)).sum(dtype=torch.float64)))
        if difference > 0.05 * slack * float(ax.norm()) * float(y.norm()):
            raise CertificateError(
                f"⟨Ax, y⟩ and ⟨x, Aᵀy⟩ differ by {difference:.3g}: A_adjoint is not the transpose of A, so that no "
                "bound of ‖A‖ follows from it. Use an operator with an exact adjoint (adjoint_via_backprop=True, say)."
            )
        for pixel in torch.randint(math.prod(shape), (PROBES,), generator=generator).tolist():
            unit = torch.zeros(shape, dtype=dtype, device=device)
            unit.view(-1)[pixel] = 1
            column = physics.A(unit).flatten()
            largest = float(column.abs().max())
            if float(column.min()) < -0.05 * slack * largest:
                raise CertificateError("A has negative entries; the nonnegative route does not apply.")
            row = torch.zeros_like(ax).flatten()
            row[int(column.argmax())] = 1
            entry = float(physics.A_adjoint(row.reshape(ax.shape)).flatten()[pixel])
            if abs(entry - largest) > 0.5 * slack * largest:
                raise CertificateError(
                    f"an entry of A is {largest:.6g} but {entry:.6g} in A_adjoint: not its transpose, no bound follows."
                )


def rayleigh_lower(
    physics: Any, img_size: tuple[int, ...], dtype: torch.dtype, device: torch.device, iterations: int = 30
) -> float:
    """max ‖Av‖/‖v‖ over a short power iteration, less a slack for rounding; true whatever A_adjoint does."""
    v = torch.randn((1, *img_size), generator=torch.Generator().manual_seed(0)).to(device, dtype)
    lower = 0.0
    with torch.no_grad():
        for _ in range(iterations):
            size = float(v.double().norm())
            if not (math.isfinite(size) and size > 0):
                break
            v = v / size
            y = physics.A(v)
            parts = [y] if isinstance(y, Tensor) else list(y)
            norm_sq = sum(float(part.abs().double().square().sum()) for part in parts)
            lower = max(lower, math.sqrt(norm_sq) / float(v.double().norm()))
            v = physics.A_adjoint(y)
    return lower * (1 - relative_slack(dtype))
