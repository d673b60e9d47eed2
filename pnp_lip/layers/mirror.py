"""Banks of filters that contain their own mirror images, which is what symmetric padding asks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MirrorPairs", "Repeated", "mirror_pairs"]


def mirror_pairs(v: Tensor) -> Tensor:
    """V_j ↦ W_2j, its part that a half turn leaves alone (j even) or negates (j odd), and W_2j+1, W_2j mirrored.

    Every mirror image of such a bank is the bank again up to order and signs, to the bit: what ``mirror_closed`` asks for, so
    that under symmetric padding the bank's norm is that of the torus. Ridges and edges, which are even and odd, lose nothing.

    Shapes: V is (n, channels, k, k) and W (2n, channels, k, k).

    >>> mirror_pairs(torch.tensor([[[[1.0, 2.0]]], [[[1.0, 2.0]]]])).flatten(1)
    tensor([[ 1.5000,  1.5000],
            [ 1.5000,  1.5000],
            [-0.5000,  0.5000],
            [ 0.5000, -0.5000]])
    """
    turned = v.flip(-2, -1)
    turned[1::2] *= -1
    w = (v + turned) / 2
    return torch.stack([w, w.flip(-1)], dim=1).flatten(0, 1)


class MirrorPairs(nn.Module):
    """``mirror_pairs`` as a parametrisation of a weight."""

    def forward(self, v: Tensor) -> Tensor:
        return mirror_pairs(v)


class Repeated(nn.Module):
    """Every number of the last axis twice: what the two filters of a pair have in common."""

    def forward(self, v: Tensor) -> Tensor:
        return v.repeat_interleave(2, -1)

    def right_inverse(self, values: Tensor) -> Tensor:
        return values[..., ::2].clone()
