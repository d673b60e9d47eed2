"""A clip that falls again beyond its limit: the derivative of a weakly convex potential, with slopes in [−s, μ]."""

import itertools
import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError
from pnp_lip.layers.activations import SIGMA_FLOOR, SIGMA_RANGE

__all__ = ["RedescendingClip"]


class RedescendingClip(nn.Module):
    """φ_c(t, σ) = κ_c φ(t/κ_c), φ(u) = Σ_j μ_j clip(u, ±λ_j) − Σ_j s_j clip(u, ±Λ_j), with μ_j, s_j ≥ 0.

    Each channel has the scale κ_c(σ) = σ exp(p_c(σ)). p_c, log λ_j and log Λ_j are linear in log σ between ``knots`` noise
    levels from 0.5/255 to 55/255, and constant beyond. φ_c is the derivative in t of κ_c² ψ(t/κ_c), ψ a combination of Huber
    functions. Its slopes are those of φ, whatever the scales; ``slope_bounds`` bounds them for every σ.

    ``channels``, ``rising``, ``falling`` and ``knots`` ≥ 2 are numbers. Raises InputError for one that is too small.

    >>> clip = RedescendingClip(1, rising=1, falling=1)
    >>> clip.set_profile([2.0], [0.5], [0.1], [0.4])
    >>> clip(torch.tensor([[0.01, 0.1, 0.3]]), torch.tensor(1.0)).detach()
    tensor([[0.0150, 0.1500, 0.0500]])
    >>> clip.slope_bounds()
    (Fraction(-1, 2), Fraction(3, 2))
    """

    log_range = (math.log(SIGMA_RANGE[0]), math.log(SIGMA_RANGE[1]))

    def __init__(self, channels: int, *, rising: int = 3, falling: int = 2, knots: int = 5) -> None:
        super().__init__()
        if channels < 1 or rising < 1 or falling < 0 or knots < 2:
            found = f"{channels}, {rising}, {falling}, {knots}"
            raise InputError(f"a clip needs channels >= 1, rising >= 1, falling >= 0 and knots >= 2; got {found}.")
        self.rise = nn.Parameter(torch.full((rising,), 1.0 / rising))  # μ_j
        self.fall = nn.Parameter(torch.zeros(falling))  # s_j
        self.log_rise_limit = nn.Parameter(torch.linspace(-3.0, -1.0, rising).repeat(knots, 1))  # log λ_j
        self.log_fall_limit = nn.Parameter(torch.linspace(0.0, 1.0, falling).repeat(knots, 1))  # log Λ_j
        self.log_scale = nn.Parameter(torch.zeros(knots, channels))  # p_c

    @torch.no_grad()
    def set_profile(self, rise: list[float], fall: list[float], rise_limit: list[float], fall_limit: list[float]) -> None:
        """Set μ_j, s_j and limits that are the same for every noise level, in units of κ."""
        self.rise.copy_(torch.tensor(rise))
        self.fall.copy_(torch.tensor(fall))
        self.log_rise_limit.copy_(torch.tensor(rise_limit).log().expand_as(self.log_rise_limit))
        self.log_fall_limit.copy_(torch.tensor(fall_limit).log().expand_as(self.log_fall_limit))

    def at(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """κ (channels,), λ and Λ for one noise level."""
        s = sigma.to(self.log_scale.dtype).clamp_min(SIGMA_FLOOR).reshape(())
        low, high = self.log_range
        last = len(self.log_scale) - 1
        position = ((s.log() - low) * (last / (high - low))).clamp(0, last)
        left = int(position.floor().clamp_max(last - 1))

        def level(rows: Tensor) -> Tensor:
            return torch.lerp(rows[left], rows[left + 1], position - left).exp()

        return s * level(self.log_scale), level(self.log_rise_limit), level(self.log_fall_limit)

    def forward(self, t: Tensor, sigma: Tensor) -> Tensor:
        """φ of ``t`` (B, channels, ...) for one noise level σ."""
        scale, rise_limit, fall_limit = self.at(sigma)
        scale = scale.reshape(-1, *([1] * (t.ndim - 2)))
        u, total = t / scale, torch.zeros_like(t)
        for slope, limit in [*zip(self.rise, rise_limit, strict=True), *zip(-self.fall, fall_limit, strict=True)]:
            total = total + slope * torch.minimum(torch.maximum(u, -limit), limit)
        return scale * total

    def slope_bounds(self) -> tuple[Fraction, Fraction]:
        """Bounds (−s, μ) of the slopes of φ for every σ, exact where the limits keep their order from knot to knot.

        Just below a limit those clips act whose limits are not smaller. Two limits that have the same order at both ends of an
        interval of log σ keep it in between; where the ends disagree, either order is allowed for.
        """
        limits = torch.cat([self.log_rise_limit, self.log_fall_limit], 1).detach().double()
        slopes = [*(Fraction(v) for v in self.rise.tolist()), *(-Fraction(v) for v in self.fall.tolist())]
        low = high = Fraction(0)
        for ends in itertools.pairwise(limits):
            above = torch.stack([row[:, None] >= row[None] for row in ends])  # [j, k]: the limit of j is at least that of k
            surely, perhaps = above.all(0), above.any(0)
            for k in range(len(slopes)):
                least = most = Fraction(0)
                for j, slope in enumerate(slopes):
                    sure, possible = bool(surely[j, k]), bool(perhaps[j, k])
                    most += slope if (possible if slope > 0 else sure) else 0
                    least += slope if (possible if slope < 0 else sure) else 0
                low, high = min(low, least), max(high, most)
        return low, high
