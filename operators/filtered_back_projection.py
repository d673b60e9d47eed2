"""Filtered back-projection for initial guesses and baselines."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.operators.scan_geometry import Grid

__all__ = ["back_projected", "balanced", "bridged", "fan_weights", "filtered", "sampled", "view_angles_weight"]

SAME_VIEW = 1e-9  # degrees; views closer than this repeat one another
DISPLACED = 0.1  # of the image's radius; a detector shifted less is filtered as if its rows merely ended early
WIDEST_ARC = 0.75 * math.pi  # radians; no two bins of a detector lie so far apart, and sin γ vanishes at π
EDGE = 1e-9  # radians; how far Parker's formula stays from its 0/0 at the rim of the fan


def filtered(y: Tensor, spacing: float, name: str, radius: float = math.inf) -> Tensor:
    """Convolve every view (…, bins, views) with the band-limited ramp filter (Kak & Slaney 1988, eq. 3.61), windowed.

    The kernel is sampled in space, 1/(4Δ²) at 0 and −1/(πkΔ)² at odd k: sampling |f| would lose the image's mean.
    On an arc of that ``radius`` around the source it is multiplied by (γ/sin γ)², γ = kΔ/radius (section 3.4.1).
    Rows that do not end at 0, since the object is wider than the detector, fall to 0 as cos² over half its length.
    """
    bins = y.shape[-2]
    beyond = bins // 2
    fall = torch.cos(0.5 * math.pi * torch.arange(1, beyond + 1, dtype=torch.float64) / (beyond + 1)).square().to(y)[:, None]
    y = torch.cat([y[..., :1, :] * fall.flip(0), y, y[..., -1:, :] * fall], dim=-2)
    size = 2 ** math.ceil(math.log2(2 * (bins + beyond)))
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    odd = torch.round(k).to(torch.int64) % 2 == 1
    ramp = torch.where(odd, -1 / (math.pi * torch.where(odd, k, torch.ones_like(k)) * spacing).square(), 0.0)
    ramp[0] = 1 / (4 * spacing**2)
    angle = k * spacing / radius
    ramp = torch.where(angle.abs() < WIDEST_ARC, ramp / torch.sinc(angle / math.pi).square(), 0.0)
    response = torch.fft.rfft(ramp).real * spacing
    frequency = torch.fft.rfftfreq(size, dtype=torch.float64)
    windows = {"ramp": 1.0, "shepp-logan": torch.sinc(frequency), "hann": torch.cos(math.pi * frequency).square()}
    if name not in windows:
        raise InputError(f"`filter` must be one of {', '.join(windows)}; got {name!r}.")
    response = (response * windows[name]).to(y.device, y.dtype)[:, None]
    convolved: Tensor = torch.fft.irfft(torch.fft.rfft(y, n=size, dim=-2) * response, n=size, dim=-2)
    return convolved[..., beyond : beyond + bins, :]


def bridged(y: Tensor, measured: Tensor) -> Tensor:
    """Bins (…, bins, views) that were not ``measured`` (bins, views): interpolated linearly within their view.

    Beyond the last measured bin its value is held; a view without any is 0.

    >>> bridged(torch.tensor([[1.0], [9.0], [3.0]]), torch.tensor([[True], [False], [True]])).flatten().tolist()
    [1.0, 2.0, 3.0]
    """
    bins = len(measured)
    number = torch.arange(bins, device=y.device)[:, None]
    before = torch.where(measured, number, -1).cummax(0).values
    after = torch.where(measured, number, bins).flip(0).cummin(0).values.flip(0)
    before, after = torch.where(before < 0, after, before), torch.where(after == bins, before, after)
    part = ((number - before) / (after - before).clamp_min(1)).to(y)
    known = torch.where(measured, y, 0.0)  # what was not measured may be NaN
    left, right = (known.gather(-2, index.clamp(0, bins - 1).expand(y.shape)) for index in (before, after))
    return torch.where(measured, y, left + part * (right - left))


def balanced(y: Tensor, t: Tensor, radius: float, angles: Tensor) -> Tensor | None:
    """Rows of a displaced detector, weighted and with zeros at the short end until centred; None for other detectors.

    Displaced is a detector one end of which misses the circle of ``radius``. With views over the full turn, bins at t (for
    a fan the angle in it) count 1 + sin(πt/2d) for |t| ≤ d, the short end, and 2 beyond: each line counts twice over its
    two views, as it does elsewhere, and no row has a step. The zeros are where the filter's tails are wanted.

    Raises InputError where such a detector sees lines through the image from no side.

    Source: Wang (2002), X-ray micro-CT with a displaced detector array, Med. Phys. 29.
    """
    spacing = float(t[-1] - t[0]) / max(1, len(t) - 1)
    low, high = -float(t[0]) + 0.5 * spacing, float(t[-1]) + 0.5 * spacing
    short = min(low, high)
    if short >= radius or abs(high - low) <= DISPLACED * radius:
        return None
    turned = torch.remainder(angles, 360.0).sort().values
    gaps = torch.diff(turned, append=turned[:1] + 360.0)
    positive = gaps[gaps > SAME_VIEW]
    if short <= 0 or float(gaps.max()) > 2 * float(positive.median()) or len(angles) < 3:
        raise InputError(
            "filtered back-projection with a displaced detector needs views over a full turn and a detector that reaches past "
            "the axis; others miss lines. Reconstruct iteratively: `solve_prox` or a solver."
        )
    share = 1 + torch.sin(0.5 * math.pi * (math.copysign(1.0, high - low) * t / short).clamp(-1, 1))
    more = math.ceil(abs(high - low) / spacing)
    return F.pad(y * share.to(y)[:, None], (0, 0, more, 0) if high > low else (0, 0, 0, more))


def back_projected(
    views: Tensor, angles: Tensor, first: float, spacing: float, grid: Grid, source: float = math.inf, *, curved: bool = False
) -> Tensor:
    """Σ over the views (B, C, bins, views) of their values at (x · e_θ)/U, over U²: linear interpolation, (B, C, H, W).

    U = 1 + (x · towards)/``source``; on a ``curved`` detector U is the pixel's distance from the source over ``source``,
    and the place source · γ. Bin 0 lies at ``first``; ``angles`` in degrees.
    """
    rows = views.flatten(0, -3)
    x, up = grid.x.to(views), grid.y.to(views)
    total = views.new_zeros(len(rows), len(x))
    for number, angle in enumerate(torch.deg2rad(angles).tolist()):
        cosine, sine = math.cos(angle), math.sin(angle)
        depth = 1 + (up * cosine - x * sine) / source
        place = x * cosine + up * sine
        if curved:
            place, depth = source * torch.atan(place / (source * depth)), torch.hypot(depth, place / source)
        else:
            place = place / depth
        total += sampled(rows[:, :, number], (place - first) / spacing) / depth.square()
    return total.reshape(*views.shape[:2], *grid.size)


def view_angles_weight(angles: Tensor, period: float) -> Tensor:
    """The angle (radians) that each view stands for: half the gaps to its neighbours modulo ``period`` degrees.

    Gaps beyond twice the median are missing wedges, credited to no view.

    >>> view_angles_weight(torch.tensor([0.0, 90.0], dtype=torch.float64), 180.0).tolist() == [math.pi / 2, math.pi / 2]
    True
    """
    order = torch.argsort(torch.remainder(angles, period))
    sorted_angles = torch.remainder(angles, period)[order]
    gaps = torch.diff(sorted_angles, append=sorted_angles[:1] + period)
    positive = gaps[gaps > SAME_VIEW]
    gaps = gaps.clamp_max(2 * float(positive.median())) if len(positive) else gaps
    weight = torch.empty_like(gaps)
    weight[order] = 0.5 * (gaps + gaps.roll(1))
    return torch.deg2rad(weight)


def fan_weights(angles: Tensor, fan: Tensor, seen: float) -> tuple[Tensor, Tensor]:
    """The angle (radians) that each view stands for, and w (bins, views) for rays at the angles ``fan`` in the fan.

    Views around the full turn see every line twice: w = ½. Views over an arc of π + 2Δ, Δ ≥ ``seen`` (the largest |γ| that
    meets the image), get the weights of Parker (1982): the line (β, γ) is also (β + π − 2γ, −γ), and over both
    w = sin² + cos² = 1. A smaller arc misses lines: InputError.
    """
    order = torch.argsort(torch.remainder(angles, 360.0))
    sorted_angles = torch.remainder(angles, 360.0)[order]
    gaps = torch.diff(sorted_angles, append=sorted_angles[:1] + 360.0)
    positive = gaps[gaps > SAME_VIEW]
    typical, widest = float(positive.median()), int(gaps.argmax())
    if float(gaps[widest]) <= 2 * typical:
        return view_angles_weight(angles, 360.0), torch.full((len(fan), len(angles)), 0.5, dtype=torch.float64)
    gaps[widest] = typical  # the arc ends half a step beyond its last view
    beta = torch.deg2rad(torch.remainder(angles - sorted_angles[(widest + 1) % len(angles)], 360.0) + 0.5 * typical)
    step = torch.empty_like(gaps)
    step[order] = torch.deg2rad(0.5 * (gaps + gaps.roll(1)))
    half = 0.5 * (math.radians(float(gaps.sum())) - math.pi)
    if half < seen - math.radians(0.5 * typical):
        needed = 180 + 2 * math.degrees(seen)
        raise InputError(
            f"fan-beam filtered back-projection needs views over a full turn or at least {needed:.0f}° (180° and the fan's "
            f"opening); these cover {float(gaps.sum()):.0f}°. Reconstruct iteratively: `solve_prox` or a solver."
        )
    gamma = fan.clamp(EDGE - half, half - EDGE)[:, None] if half > 0 else torch.zeros(len(fan), 1, dtype=fan.dtype)
    rising = beta / (half + gamma).clamp_min(EDGE)
    falling = (math.pi + 2 * half - beta) / (half - gamma).clamp_min(EDGE)
    return step, torch.sin(0.25 * math.pi * torch.minimum(rising, falling).clamp(0, 2)).square()


def sampled(rows: Tensor, position: Tensor) -> Tensor:
    """Linear interpolation of rows (k, bins) at fractional positions, zero beyond the detector."""
    bins = rows.shape[1]
    left = position.floor()
    part = position - left
    index = left.to(torch.int64)
    low = torch.where((index >= 0) & (index < bins), rows[:, index.clamp(0, bins - 1)], 0.0)
    high = torch.where((index >= -1) & (index < bins - 1), rows[:, (index + 1).clamp(0, bins - 1)], 0.0)
    return low * (1 - part) + high * part
