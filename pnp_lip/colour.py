"""Colour images along three orthogonal axes, each of which a prior of grey images understands."""

import torch
from torch import Tensor

from pnp_lip.errors import InputError

__all__ = ["from_planes", "planes"]

# Rows: the mean of red, green and blue; red against blue; green against both. They are orthogonal, so that white noise of the
# channels is white along the axes, too, and independent. Each axis fills [0, 1] once OFFSET is added.
AXES = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 0, -1 / 2], [1 / 4, -1 / 2, 1 / 4]], dtype=torch.float64)
OFFSET = torch.tensor([0, 1 / 2, 1 / 2], dtype=torch.float64)[:, None, None]
NOISE_OF_AXES = AXES.norm(dim=1)  # of each axis in units of that of the channels: 0.58, 0.71, 0.61


def planes(x: Tensor, in_channels: int) -> tuple[Tensor, Tensor | float]:
    """Images (B, C, H, W) on [0, 1] as a prior takes them, and the noise of each in units of that of x.

    A prior of grey images takes three channels as 3B images (3B, 1, H, W) on [0, 1], Mx + o, and others one by one. Raises
    InputError unless the prior is one of grey images or of C channels.

    >>> images, noise = planes(torch.tensor([1.0, 0.5, 0.5]).reshape(1, 3, 1, 1), 1)
    >>> [round(v, 3) for v in images.flatten().tolist()], [round(v, 2) for v in noise.tolist()]
    ([0.667, 0.75, 0.625], [0.58, 0.71, 0.61])
    """
    if in_channels not in (1, x.shape[1]):
        raise InputError(f"this denoiser takes {in_channels} channels; the image has {x.shape[1]}. Use --denoiser grey.")
    if in_channels == 1 and x.shape[1] == 3:
        z = torch.einsum("ac,bchw->bahw", AXES.to(x), x).add_(OFFSET.to(x))
        return z.reshape(-1, 1, *x.shape[2:]), NOISE_OF_AXES.to(x).repeat(len(x))
    return x.reshape(-1, in_channels, *x.shape[2:]), 1.0


def from_planes(z: Tensor, channels: int) -> Tensor:
    """The inverse of ``planes``: images of ``channels`` channels; in colour M⁻¹(z − o).

    >>> x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    >>> torch.allclose(from_planes(planes(x, 1)[0], 3), x)
    True
    """
    if z.shape[1] == 1 and channels == 3:
        z = z.reshape(-1, 3, *z.shape[2:]) - OFFSET.to(z)
        return torch.einsum("ca,bahw->bchw", torch.linalg.inv(AXES).to(z), z)
    return z.reshape(-1, channels, *z.shape[2:])
