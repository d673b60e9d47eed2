"""Colour images along three orthogonal axes, each of which a prior of grey images understands."""

import torch
from torch import Tensor

__all__ = ["NOISE", "from_axes", "to_axes"]

# Rows: the mean of red, green and blue; red against blue; green against both. They are orthogonal, so white noise of the channels
# stays white and independent, and their sums of magnitudes make each axis fill [0, 1] once OFFSET is added.
AXES = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 0, -1 / 2], [1 / 4, -1 / 2, 1 / 4]], dtype=torch.float64)
OFFSET = torch.tensor([0, 1 / 2, 1 / 2], dtype=torch.float64)
NOISE = AXES.norm(dim=1)  # the standard deviation along each axis, in units of that of the channels: 0.58, 0.71, 0.61


def to_axes(x: Tensor) -> Tensor:
    """Colour images (B, 3, H, W) on [0, 1] as 3B grey ones (3B, 1, H, W) on [0, 1]: Mx + o.

    >>> to_axes(torch.tensor([1.0, 0.5, 0.5]).reshape(1, 3, 1, 1)).flatten().tolist()
    [0.6666666865348816, 0.75, 0.625]
    """
    z = torch.einsum("ac,bchw->bahw", AXES.to(x), x).add_(OFFSET.to(x)[:, None, None])
    return z.reshape(-1, 1, *x.shape[2:])


def from_axes(z: Tensor) -> Tensor:
    """The inverse of ``to_axes``: M⁻¹(z − o).

    >>> x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    >>> torch.allclose(from_axes(to_axes(x)), x)
    True
    """
    z = z.reshape(-1, 3, *z.shape[2:]) - OFFSET.to(z)[:, None, None]
    return torch.einsum("ca,bahw->bchw", torch.linalg.inv(AXES).to(z), z)
