"""Bounds of the norm of somebody else's operator, of which only A, Aᵀ and the size of its images are known."""

from __future__ import annotations

import dataclasses

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from pnp_lip.errors import CertificateError
from pnp_lip.operators.collatz_wielandt import collatz_wielandt
from pnp_lip.spectral import Method, NormBound, norm_bound
from pnp_lip.spectral.power_iteration import norm_lower

__all__ = ["blank_image", "dense_norm", "nonnegative_norm", "rayleigh_lower"]

PROBES = 4  # entries of A that are compared with those of A_adjoint
POWER_STEPS = 30  # of a power iteration for a lower bound

# The rounding, relative and per entry, that a foreign implementation is allowed. Interpolating projectors recompute their
# weights in either direction from coordinates of up to 2¹⁰ pixels, which in float32 are wrong by 2⁻¹⁴ = 6e-5 of a pixel;
# hence a slack much wider than the unit of rounding.
SLACK = {torch.float32: 1e-3, torch.float64: 1e-9}
# Parts of the slack, of the largest quantity compared: for a dot product or a sign (in which many errors average out), for
# one entry, and for what counts as zero.
DOT_PART, ENTRY_PART, ZERO_PART = 0.05, 0.5, 1e-6


def blank_image(physics: LinearPhysics, img_size: tuple[int, ...] | None) -> Tensor:
    """Zeros (1, C, H, W) of the dtype and on the device in which the physics computes, read off its buffers."""
    if img_size is None:
        raise CertificateError(f"{type(physics).__name__} does not store its image size; pass img_size=(C, H, W).")
    named = physics.named_buffers()
    buffers = [b for n, b in named if b.is_floating_point() and not n.endswith("_device_holder")]
    dtype = getattr(physics, "dtype", None) or (buffers[0].dtype if buffers else torch.float32)
    return torch.zeros(1, *img_size, dtype=dtype, device=buffers[0].device if buffers else "cpu")


@torch.no_grad()
def dense_norm(physics: LinearPhysics, blank: Tensor) -> NormBound:
    """The matrix of the columns A eᵢ, verified, for images like ``blank``."""
    columns = physics.A(torch.eye(blank.numel(), dtype=blank.dtype, device=blank.device).reshape(-1, *blank.shape[1:]))
    parts = [columns] if isinstance(columns, Tensor) else list(columns)
    real = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
    bound = norm_bound(torch.cat([part.flatten(1).cpu() for part in real], 1))
    return dataclasses.replace(bound, method=Method.COLUMNS)


@torch.no_grad()
def nonnegative_norm(physics: LinearPhysics, blank: Tensor) -> NormBound:
    """Collatz-Wielandt bounds of ‖A‖ for a nonnegative operator, after checking that A_adjoint is the transpose.

    Compares single columns of A with single rows of A_adjoint and both sides of ⟨Ax, y⟩ = ⟨x, Aᵀy⟩ for signed random
    x, y. Raises CertificateError where they disagree or an entry is negative: ‖A‖² could then not be read off AᵀA.
    """
    slack = slack_of(blank)
    check_transpose(physics, blank)

    def gram(v: Tensor) -> Tensor:
        w: Tensor = physics.A_adjoint(physics.A(v))
        # Entries that are zero up to rounding may come out as tiny negative numbers of a fast transform.
        return torch.where(w.abs() < ZERO_PART * slack * w.abs().max(), torch.zeros_like(w), w)

    return collatz_wielandt(gram, torch.ones_like(blank), rounding=slack).bound()


def check_transpose(physics: LinearPhysics, blank: Tensor) -> None:
    """Raise CertificateError unless sampled entries and dot products say that A ≥ 0 and A_adjoint = Aᵀ."""
    slack, generator = slack_of(blank), torch.Generator().manual_seed(0)
    x = torch.randn(blank.shape, generator=generator).to(blank)
    ax = physics.A(x)
    y = torch.randn(ax.shape, generator=generator).to(blank)
    difference = abs(float((ax * y).sum(dtype=torch.float64) - (x * physics.A_adjoint(y)).sum(dtype=torch.float64)))
    if difference > DOT_PART * slack * float(ax.norm()) * float(y.norm()):
        raise CertificateError(
            f"⟨Ax, y⟩ and ⟨x, Aᵀy⟩ differ by {difference:.3g}: A_adjoint is not the transpose of A, so that no "
            "bound of ‖A‖ follows from it. Use an operator with an exact adjoint (adjoint_via_backprop=True, say)."
        )
    for pixel in torch.randint(blank.numel(), (PROBES,), generator=generator).tolist():
        unit = torch.zeros_like(x)
        unit.view(-1)[pixel] = 1
        column = physics.A(unit).flatten()
        largest = float(column.abs().max())
        if float(column.min()) < -DOT_PART * slack * largest:
            raise CertificateError("A has negative entries; the nonnegative route does not apply.")
        row = torch.zeros_like(ax).flatten()
        row[int(column.argmax())] = 1
        entry = float(physics.A_adjoint(row.reshape(ax.shape)).flatten()[pixel])
        if abs(entry - largest) > ENTRY_PART * slack * largest:
            raise CertificateError(
                f"an entry of A is {largest:.6g} but {entry:.6g} in A_adjoint: not its transpose, no bound follows."
            )


def rayleigh_lower(physics: LinearPhysics, blank: Tensor) -> float:
    """max ‖Av‖/‖v‖ over a short power iteration, less a slack for rounding; true whatever A_adjoint does."""
    start = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0)).to(blank)
    return norm_lower(physics.A, physics.A_adjoint, start, iterations=POWER_STEPS)[0] * (1 - slack_of(blank))


def slack_of(blank: Tensor) -> float:
    """See ``SLACK``; as for float64 in other dtypes."""
    return SLACK.get(blank.dtype, SLACK[torch.float64])
