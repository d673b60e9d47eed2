"""Volumes by their slices: a denoiser of images applied along the axes of a volume, and the mean of what it gives."""

from collections.abc import Sequence

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma
from pnp_lip.errors import InputError, ShapeError

__all__ = ["SlicedDenoiser", "check_slicing", "slices_of", "volume_of"]

Pieces = list[tuple[Tensor, Sigma]]


class SlicedDenoiser(Denoiser):  # type: ignore[misc]
    """x ↦ (1/k) Σ_a D_a(x, σ) for volumes (B, C, D, H, W), D_a the denoiser D of images in every slice across axis a.

    D_a is a direct sum of copies of D, so it has D's Lipschitz constant and averagedness; so has the mean of the k maps
    (Bauschke & Combettes 2017, Proposition 4.42). If D is the prox of a convex function, so is the mean: it is nonexpansive
    and the gradient of a convex function (Moreau 1965). ``certify`` says which of this holds.

    ``axes``: of depth, height and width, 0, 1, 2; all three by default. ``at_once`` slices are held by D together.
    σ is a number or one for each volume. Raises InputError for other axes, ShapeError for other shapes.
    """

    def __init__(self, denoiser: nn.Module, *, axes: Sequence[int] = (0, 1, 2), at_once: int = 16) -> None:
        super().__init__()
        self.axes, self.at_once = check_slicing(axes, at_once)
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: object) -> Tensor:
        """The mean over the axes of the denoised slices."""
        total = torch.zeros_like(x)
        for axis in self.axes:
            pieces = slices_of(x, axis, sigma, self.at_once)
            parts: list[Tensor] = [self.denoiser(part, s, **kwargs) for part, s in pieces]
            total = total + volume_of(parts, pieces, x, axis)
        return total / len(self.axes)


def check_slicing(axes: Sequence[int], at_once: int) -> tuple[tuple[int, ...], int]:
    """Both, or InputError."""
    found = tuple(axes)
    if not found or not set(found) <= {0, 1, 2} or len(set(found)) < len(found):
        raise InputError(f"`axes` must be some of 0, 1, 2 (depth, height, width), each once; got {axes!r}.")
    if type(at_once) is not int or at_once < 1:
        raise InputError(f"`at_once` must be a positive integer; got {at_once!r}.")
    return found, at_once


def slices_of(x: Tensor, axis: int, sigma: Sigma, at_once: int) -> Pieces:
    """The slices of volumes (B, C, D, H, W) across an axis, as batches of at most ``at_once`` images with their σ."""
    if x.ndim != 5 or x.numel() == 0:
        raise ShapeError(f"expected volumes (B, C, D, H, W); got {tuple(x.shape)}.")
    slices = x.movedim(2 + axis, 1).flatten(0, 1)
    parts = torch.split(slices, at_once)
    if not isinstance(sigma, Tensor) or sigma.numel() == 1:
        return [(part, sigma) for part in parts]
    if sigma.numel() != len(x):
        raise ShapeError(f"`sigma` must be one number or one for each of the {len(x)} volumes; got {tuple(sigma.shape)}.")
    levels = sigma.reshape(-1).repeat_interleave(x.shape[2 + axis])
    return list(zip(parts, torch.split(levels, at_once), strict=True))


def volume_of(parts: list[Tensor], pieces: Pieces, like: Tensor, axis: int) -> Tensor:
    """The volume of what a map made of these slices, whose shape it must keep."""
    for part, (slices, _) in zip(parts, pieces, strict=True):
        if part.shape != slices.shape:
            raise ShapeError(f"slices must keep their shape {tuple(slices.shape)}; the map gives {tuple(part.shape)}.")
    whole = torch.cat(parts)
    return whole.reshape(len(like), -1, *whole.shape[1:]).movedim(1, 2 + axis)
