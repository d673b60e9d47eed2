"""What examples say of a potential without a certificate: its gradient, its smoothness, its stated curvature (refute only)."""

import math

import torch
from torch import Tensor, nn

from pnp_lip.certificates.calculus import CurvatureBound
from pnp_lip.errors import InputError
from pnp_lip.solvers.energy import Energy, least_of
from pnp_lip.solvers.examiner import CONVEXITY, SLACK, WRONG_CONVEXITY, signs
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.maps import Maps

__all__ = ["examine_convexity", "examine_gradient", "examine_potential", "examine_smoothness"]

DIRECTIONS = 3
REACH = {torch.float64: 1e-5, torch.float32: 1e-2}  # of the image's size: the step of differences of values
LIMITS = {torch.float64: 1e-4, torch.float32: 3e-3}  # of them against the gradient, relative to all that enters
HALVINGS = 30  # of a segment: the quotient of a smooth map stays bounded, across one kink of N it grows 2³⁰/N-fold
SMOOTH = 1e3  # times the difference quotient of the whole segment, beyond which a part of it holds a kink
POWER_STEPS = 4
KINKED = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink,
    nn.Threshold, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d,
)  # fmt: skip
ASSUME = 'Pass guarantee="assume" to run on your word.'

Hypotheses = tuple[Hypothesis, ...]


def examine_potential(energy: Energy, x: Tensor, potential: object) -> Hypotheses:
    """R is finite and repeatable, takes each image on its own, and has the gradient of its value.

    x (1, C, H, W) lies in the box. Raises InputError where the value is not finite.
    """
    level = energy.level
    first, again = level.value(x), level.value(x)
    g, repeated = level.grad(x), level.grad(x)
    if not bool(torch.isfinite(first).all() and torch.isfinite(g).all()):
        raise InputError("the potential or its gradient is NaN or infinite at the first image.")
    limit = 1e-9 if x.dtype == torch.float64 else 1e-5
    spread = max(gap(first, again), gap(g, repeated))
    why = "The potential draws at random or keeps a state between calls."
    found = [Hypothesis("relative change of R(x) between two calls", spread, f"be at most {limit:.0e}", spread <= limit, why)]
    two = torch.cat([x, x.flip(-1).mul(0.5)])
    mixed = max(gap(level.value(two)[:1], first), gap(level.grad(two)[:1], g))
    why = "The potential mixes the images of a batch, and is no sum over them."
    found.append(Hypothesis("change of R(x) by the other images of a batch", mixed, "be at most 1e-3", mixed <= 1e-3, why))
    found.append(examine_gradient(energy, x))
    kinked = [] if not isinstance(potential, nn.Module) else [n for n, m in potential.named_modules() if isinstance(m, KINKED)]
    what = f"`{kinked[0] or 'itself'}`, a {type(potential.get_submodule(kinked[0])).__name__}" if kinked else "none"  # type: ignore[attr-defined]
    found.append(Hypothesis("a layer with a kink", what, "be absent: use smooth activations", not kinked, ASSUME))
    return tuple(found)


def examine_gradient(energy: Energy, x: Tensor) -> Hypothesis:
    """R changes along d as the mean of ⟨∇R, d⟩ (Simpson's rule) says, for random d and for d = ∇R(x)."""
    e = energy.precision
    fine, generator, worst = x.to(e.maps.y), torch.Generator().manual_seed(3), 0.0
    slope, value = e.level.grad(fine), float(e.level.value(fine))
    t = REACH[fine.dtype] * max(float(fine.double().square().mean().sqrt()), 1e-2)
    size = float(slope.norm())
    directions = [*(signs(fine, generator) for _ in range(DIRECTIONS)), slope * (math.sqrt(x.numel()) / max(size, 1e-30))]
    for d in directions:
        values = [float(e.level.value(fine + s * t * d).double()) for s in (-1, 1)]
        slopes = [float((e.level.grad(fine + s * t * d) * d).double().sum()) for s in (-1, 0, 1)]
        across, along = (values[1] - values[0]) / (2 * t), (slopes[0] + 4 * slopes[1] + slopes[2]) / 6
        rounding = 4 * torch.finfo(fine.dtype).eps * abs(value) / t
        worst = max(worst, (abs(across - along) - rounding) / max(*map(abs, slopes), abs(across), size, 1e-30))
    limit = LIMITS.get(fine.dtype, 3e-3)
    why = f"The gradient is not that of the value. {ASSUME}"
    name = "relative difference of <grad R, d> from the change of R along d"
    return Hypothesis(name, worst, f"be at most {limit:.0e}", worst <= limit, why)


def examine_convexity(maps: Maps) -> Hypotheses:
    """A stated convexity of f held against the smallest eigenvalue of AᵀA, where that is known: masks and circular blurs."""
    stated, least = maps.data_term.convexity, least_of(maps) if maps.data_term.convexity else None
    if least is None or stated <= least:
        return ()
    bound = f"be at most {least:.6g}, the smallest eigenvalue of AᵀA"
    return (Hypothesis(CONVEXITY, stated, bound, False, WRONG_CONVEXITY),)


def gap(a: Tensor, b: Tensor) -> float:
    """‖a − b‖/‖a‖."""
    return float((a - b).double().norm() / a.double().norm().clamp_min(1e-30))


def examine_smoothness(energy: Energy, x: Tensor, curvature: CurvatureBound | None) -> Hypotheses:
    """The difference quotient of ∇R on a segment that is halved towards where ∇R changes most: at a kink it doubles each time.

    A stated ``curvature`` is held against secants, turned towards steep and towards flat directions.
    """
    e = energy.precision
    fine = x.to(e.maps.y)
    t = max(float(fine.double().square().mean().sqrt()), 1e-2)
    d = signs(fine, torch.Generator().manual_seed(4))
    a, b = fine - 0.1 * t * d, fine + 0.1 * t * d
    ga, gb = e.level.grad(a), e.level.grad(b)
    whole = worst = float((gb - ga).norm() / (b - a).norm())
    floor = 64 * torch.finfo(fine.dtype).eps * float(ga.norm())
    for _ in range(HALVINGS):
        middle = 0.5 * (a + b)
        g = e.level.grad(middle)
        left = float((g - ga).norm()) > float((gb - g).norm())
        a, ga, b, gb = (a, ga, middle, g) if left else (middle, g, b, gb)
        if float((gb - ga).norm()) < floor:
            break
        worst = max(worst, float((gb - ga).norm() / (b - a).norm()))
    steep = worst / max(whole, 1e-30)
    why = f"The gradient jumps: the potential has a kink, such as ReLU makes. {ASSUME}"
    name = "growth of the gradient's difference quotient as a segment is halved"
    found = [Hypothesis(name, steep, f"be at most {SMOOTH:g}", steep <= SMOOTH, why)]
    if curvature is None:
        return tuple(found)
    most, least, step, base = 0.0, math.inf, 1e-2 * t, e.level.grad(fine)
    for flatter in (0.0, 1.0):  # power steps with ∇²R, and with upper − ∇²R
        d = d if not flatter else torch.ones_like(d)  # along which differences vanish
        for _ in range(POWER_STEPS):
            d = d / d.double().square().mean().sqrt().clamp_min(1e-30).to(d)
            change = (e.level.grad(fine + step * d) - base) / step
            bend = float((change * d).double().sum() / d.double().square().sum())
            most, least = max(most, float(change.norm() / d.norm())), min(least, bend)
            d = change + flatter * (curvature.upper * d - 2 * change)
    stated = max(curvature.upper, curvature.rho)
    fits = most <= stated * (1 + SLACK) and least >= curvature.lower - SLACK * stated
    bound = "hold for the secants that were tried (stated by the user)"
    value = f"[{curvature.lower:.6g}, {curvature.upper:.6g}], secants in [{least:.6g}, {most:.6g}]"
    found.append(Hypothesis("curvature of the potential", value, bound, fits, "The stated one is wrong.", stated=True))
    return tuple(found)
