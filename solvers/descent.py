"""Descent with a theorem: quasi-Newton candidates, each tested before it is accepted, and otherwise plain gradient steps.

J = f + λR + ι_C with a gradient g of f + λR that is L-Lipschitz, C a box or everything. Both parts enter by
their gradients: where a prior matters λL_R outweighs L_f, so that the prox of f would not allow longer steps.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from pnp_lip.solvers.checkpoint import require
from pnp_lip.solvers.energy import Energy
from pnp_lip.solvers.maps import Box
from pnp_lip.solvers.scheme import norms

__all__ = ["State", "advance", "begin", "outcome", "restored", "stationary_part"]

EVERY = 20  # inner steps between two tests, each of which costs one value in float64, about as much as one gradient in float32
# (H1) J(x⁺) ≤ J(x) − a‖x⁺ − x‖², in units of L: along a valley of curvature κ the exact minimiser gains κ/2 ‖x⁺ − x‖². In
# deblurring κ falls to 1e-5 L; below 2e-6 L a candidate fails and costs one plain step.
DECREASE = 1e-6
RELATIVE = 100.0  # (H2) ‖x⁺ − z‖ ≤ c‖x⁺ − x‖: any c serves the theorem; twenty steps together are seldom shorter than one
SHARE = 0.99  # γ in units of 1/L, below 1: the plain step then gains at least L/2 ‖x⁺ − x‖² (any γ < 2/L would descend)
MEMORY = 5  # pairs of the quasi-Newton direction: 5, 10 and 20 differ by a tenth on blurs and photographs of 128²
SHORTENED = 3  # times that a step is shortened before the memory is dropped
CURVED = 1e-10  # ⟨s, y⟩/(‖s‖‖y‖) from which a pair counts as convex
VALUE_ROUNDING = 256.0  # units of rounding of J by which two values may differ; sums are in float64
GROWTH = 2.0  # of an unknown L by backtracking
STATUSES = ("running", "converged", "diverged", "rounding")
# In units of the gradient's measured rounding: runs in float32 end at 0.8 to 2 (λ from 0.15 to 1000, denoising and a blur).
FLOOR = 3.0
KINK = 1e3  # times its first value and that of f: an L by backtracking that grows so far shows a kink
LARGEST = 1e12  # times its first value: an L that grows so far belongs to no gradient


@dataclasses.dataclass
class State:
    """The run of one image: the last accepted x with J(x), the candidate z with g(z), and the pairs (S, Y) of the memory.

    ``sharp`` is the shortest element of g(z) + N_C(z), ``found`` the stationarity of x as ``finish`` computed it. Once that of
    z is at most ``trigger``, z is tested and x is examined. ``L`` bounds the Lipschitz constant of g; it is ``known``, or raised
    from ``first`` on by backtracking. ``tested`` candidates, ``refused`` of them failed; ``broken`` is what contradicts L or g.
    Without ``values`` no candidate is tested, and J is NaN until it is needed.
    """

    x: Tensor
    J: float
    z: Tensor
    g: Tensor
    sharp: Tensor
    L: float
    known: bool
    goal: float
    S: list[Tensor] = dataclasses.field(default_factory=list)
    Y: list[Tensor] = dataclasses.field(default_factory=list)
    values: bool = True
    since: int = 0
    trigger: float = 0.0
    first: float = 0.0
    tested: int = 0
    refused: int = 0
    status: str = "running"
    broken: str | None = None
    found: float = math.inf

    def forget(self, *, going_on: bool) -> None:
        """Keep what a run that ends here needs: x, and where it may be ``going_on`` later the candidate and the memory."""
        if not going_on:
            self.z = self.x
        if not going_on or self.status != "running":
            self.S, self.Y = [], []
        self.g = self.sharp = self.z  # computed anew from z

    @property
    def residual(self) -> float:
        """dist(0, ∂J(z)), as computed."""
        return float(norms(self.sharp)[0])

    @property
    def size(self) -> float:
        """The same per pixel (root mean square)."""
        return self.residual / math.sqrt(self.x.numel())


def dot(a: Tensor, b: Tensor) -> float:
    """⟨a, b⟩."""
    return float(torch.dot(a.flatten(), b.flatten()))


def project(x: Tensor, box: Box) -> Tensor:
    """P_C(x), in place."""
    return x if box is None else x.clamp_(*box)


def stationary_part(g: Tensor, x: Tensor, box: Box) -> Tensor:
    """The shortest element of g + N_C(x): g inside, min(g, 0) at the lower end of the box, max(g, 0) at the upper one."""
    if box is None:
        return g
    return torch.where(((x <= box[0]) & (g > 0)) | ((x >= box[1]) & (g < 0)), 0.0, g)


def begin(o: Energy, x: Tensor, L: float | None, goal: float, values: bool = True) -> State:
    """The state at x in C, with L the Lipschitz constant of g, None if unknown; ``goal`` bounds the stationarity (rms).

    Where J is strongly convex no ``values`` of J are needed: the gradient says how near any candidate is.
    """
    g = o.gradient(x)
    known, first = L is not None, 1.0
    if L is None:
        d = g * (1e-3 * max(float(x.norm()), 1.0) / max(float(g.norm()), 1e-30))
        first = float((o.gradient(x + d) - g).norm()) / max(float(d.norm()), 1e-30)
    L = max(first, 1e-6) if L is None else L
    s = State(x, o.value(x) if values else math.nan, x, g, stationary_part(g, x, o.box), L, known, goal, values=values)
    s.trigger, s.first = goal, s.L
    if not ((math.isfinite(s.J) or not values) and math.isfinite(s.residual)):
        s.status, s.broken = "diverged", "the objective or its gradient overflows at the start"
    elif s.size <= goal:
        finish(o, s)
    return s


def advance(o: Energy, s: State) -> None:
    """Move the candidate once; test it after EVERY moves, or earlier where it seems to be stationary."""
    if s.known or s.since > 0 or s.tested > 0:
        move(o, s)
    else:  # an L that is only guessed
        plain(o, s)
    s.since += 1
    size = s.size
    if not math.isfinite(size):
        back(o, s)
    elif size <= s.trigger or s.since >= EVERY:
        test(o, s)
        if size <= s.trigger and s.status == "running" and not finish(o, s):
            s.trigger = 0.5 * min(size, s.goal)
        if s.status == "running" and at_floor(o, s):
            s.status = "rounding"


def move(o: Energy, s: State) -> None:
    """z ← P_C(z − Hg), H by Nocedal's two loops (1980) on the free variables (Bertsekas 1982), shortened where J would grow.

    By the trapezoidal rule J changes by ½⟨g(z) + g(z⁺), z⁺ − z⟩ along a step: this needs no value.
    """
    for attempt in range(SHORTENED + 1):
        if attempt == SHORTENED:
            s.S, s.Y = [], []
        step = project(s.z - direction(o, s), o.box).sub_(s.z)
        slope = dot(s.g, step)
        if slope < 0:
            break
        s.S, s.Y = [], []
    for attempt in range(SHORTENED + 1):
        trial = project(s.z + step, o.box)
        g = o.gradient(trial)
        end = dot(g, step)
        remember(s, step, g - s.g)
        if not slope + end > 0 or attempt == SHORTENED:
            break
        share = min(max(slope / (slope - end), 0.1), 0.5)
        step, slope = step * share, slope * share
    s.z, s.g, s.sharp = trial, g, stationary_part(g, trial, o.box)


def direction(o: Energy, s: State) -> Tensor:
    """H g on the variables that are free to move, and g/L on the others, which the projection puts back.

    The loops begin with M, the objective's ``preconditioner``, in the scale of the last pair.
    """
    M, free = o.preconditioner if s.S else torch.positive, s.sharp == s.g
    q, shares = s.sharp.clone(), []
    for step, change in zip(reversed(s.S), reversed(s.Y), strict=True):
        curvature = dot(step, change)
        a = dot(step, q) / curvature
        shares.append((a, curvature))
        q.sub_(change, alpha=a)
    size = dot(s.S[-1], s.Y[-1]) / dot(s.Y[-1], M(s.Y[-1])) if s.S else SHARE / s.L
    q = M(torch.where(free, q, 0.0)).mul_(size)
    for step, change, (a, curvature) in zip(s.S, s.Y, reversed(shares), strict=True):
        q.add_(step, alpha=a - dot(change, q) / curvature)
    return torch.where(free, q, s.g / s.L)


def remember(s: State, step: Tensor, change: Tensor) -> None:
    """Keep the pair where it shows a positive curvature."""
    if dot(step, change) > CURVED * math.sqrt(dot(step, step) * dot(change, change)):
        s.S, s.Y = [*s.S[1 - MEMORY :], step], [*s.Y[1 - MEMORY :], change]


def test(o: Energy, s: State) -> None:
    """x⁺ = P_C(z − γg(z)) becomes x if (H1) and (H2) hold; otherwise x makes a plain step and the memory is dropped.

    An unknown L is doubled until ‖g(x⁺) − g(z)‖ ≤ L‖x⁺ − z‖, which a Lipschitz constant would give.
    """
    s.tested, s.since = s.tested + 1, 0
    plus = project(s.z - s.g * (SHARE / s.L), o.box)
    if not s.values:
        s.x = plus
        return
    while not s.known and steeper(s, s.z, plus, o.gradient(plus)):
        s.L *= GROWTH
        plus = project(s.z - s.g * (SHARE / s.L), o.box)
    seek_kink(o, s)
    J, moved = o.value(plus), distance(plus, s.x)
    if s.J - DECREASE * s.L * moved**2 >= J and distance(plus, s.z) <= RELATIVE * moved:
        s.x, s.J = plus, J
    else:
        back(o, s)


def steeper(s: State, x: Tensor, plus: Tensor, g: Tensor) -> bool:
    """Whether ``g`` = g(x⁺) differs from ``s.g`` = g(x) by more than L‖x⁺ − x‖ and rounding, while a larger L may be right."""
    return float((g - s.g).norm()) > s.L * distance(plus, x) + rounding_of(s, plus) and LARGEST * s.first >= s.L


def rounding_of(s: State, x: Tensor) -> float:
    """What rounding may add to a difference of gradients."""
    return 16 * torch.finfo(x.dtype).eps * (float(s.g.norm()) + s.L * float(x.norm()))


def back(o: Energy, s: State) -> None:
    """Forget the candidate and the memory, and make a plain step from x."""
    s.refused, s.since, s.S, s.Y = s.refused + 1, 0, [], []
    s.z, s.g, s.J = s.x, o.gradient(s.x), s.J if s.values else o.value(s.x)
    plain(o, s)


def plain(o: Energy, s: State) -> None:
    """x ← P_C(x − γg(x)), held against the descent lemma J(x⁺) ≤ J(x) + ⟨g, d⟩ + L/2 ‖d‖², d = x⁺ − x.

    A known L that violates it beyond the rounding of J is wrong, or g is; an unknown one is doubled. A change of J below its
    rounding decides nothing: then the lemma, which is proved, stands for it.
    """
    slack = VALUE_ROUNDING * o.unit * abs(s.J)
    while True:
        plus = project(s.x - s.g * (SHARE / s.L), o.box)
        d = plus - s.x
        J, g = o.value(plus), o.gradient(plus)
        length, slope = float(d.double().norm()), float((s.g.double() * d.double()).sum())
        fits = s.J + slope + s.L / 2 * length**2 + slack + rounding_of(s, s.x) * length >= J
        if s.known or (fits and not steeper(s, s.x, plus, g)) or not LARGEST * s.first >= s.L:
            break
        s.L *= GROWTH
    if not math.isfinite(J):
        s.status, s.broken = "diverged", "the objective became NaN or infinite"
        return
    seek_kink(o, s)
    if not fits and s.broken is None:
        excess = J - (s.J + slope + s.L / 2 * length**2)
        wrong = "the stated Lipschitz constant or the gradient is wrong" if s.known else "the gradient is not that of the value"
        s.broken = f"a gradient step raised the objective {excess:.3g} above the descent lemma with L = {s.L:.6g}: {wrong}"
    s.x, s.J, s.z, s.g = plus, J, plus, g
    s.sharp = stationary_part(g, plus, o.box)


def seek_kink(o: Energy, s: State) -> None:
    """An L by backtracking far above its first value, and above that of f, contradicts a Lipschitz gradient."""
    if not s.known and KINK * max(s.first, o.scales[1]) < s.L and s.broken is None:
        s.broken = f"the gradient looks kinked: its Lipschitz constant grew from {s.first:.3g} to {s.L:.3g}"


def finish(o: Energy, s: State) -> bool:
    """Whether x is stationary to the goal, by its gradient in float64; then it has converged."""
    s.found = stationarity(o, s.x)
    s.status = "converged" if s.found <= s.goal else "running"
    return s.status == "converged"


def at_floor(o: Energy, s: State) -> bool:
    """Whether rounding hides the goal, and what is left of the gradient at z is as small.

    The error of g(z) is measured against float64, where z and the goal are within what is allowed for it beforehand.
    """
    pixels, entering = math.sqrt(s.z.numel()), o.entering(s.z, s.L)
    size, goal, unit = s.size * pixels, s.goal * pixels, torch.finfo(s.z.dtype).eps * entering
    if not (size <= max(unit, goal) and goal <= max(unit, o.allowance * entering)):
        return False
    g, rounding = o.precise(s.z)
    return max(size, goal) <= FLOOR * float((s.g - g).norm()) + rounding


def outcome(o: Energy, s: State) -> float:
    """The stationarity of x at the end of a run."""
    return s.found if s.status == "converged" else stationarity(o, s.x)


def stationarity(o: Energy, x: Tensor) -> float:
    """An upper bound of dist(0, ∂J(x))/√n, computed in float64."""
    g, rounding = o.precise(x)
    return (float(stationary_part(g, x.to(g), o.box).norm()) + rounding) / math.sqrt(x.numel())


def restored(o: Energy, fresh: State, stored: dict[str, Any]) -> State:
    """The state of a checkpoint: x, z and the memory are taken from it, and what follows from them is computed anew.

    Raises InputError where it cannot be one of the run that starts at ``fresh``.
    """
    s = State(**stored)
    counts = all(type(n) is int and n >= 0 for n in (s.since, s.tested, s.refused))
    require(s.known is fresh.known and s.status in STATUSES and counts and len(s.S) == len(s.Y) <= MEMORY, "its numbers")
    for t in (s.x, s.z, *s.S, *s.Y):
        require(t.shape == fresh.x.shape and t.dtype == fresh.x.dtype and bool(t.isfinite().all()), "its images")
    inside = o.box is None or all(bool(((t >= o.box[0]) & (t <= o.box[1])).all()) for t in (s.x, s.z))
    require(inside and all(dot(a, b) > 0 for a, b in zip(s.S, s.Y, strict=True)), "its images")
    require(s.values is fresh.values and (s.broken is None or type(s.broken) is str), "its tests")
    require(s.known or 0 < s.L < math.inf, "its Lipschitz constant")
    s.L, s.first, s.goal = fresh.L if s.known else s.L, fresh.first, fresh.goal
    s.J, s.g, s.trigger = o.value(s.x), o.gradient(s.z), s.trigger if 0 <= s.trigger <= s.goal else s.goal
    s.sharp = stationary_part(s.g, s.z, o.box)
    seek_kink(o, s)
    if s.status == "converged":
        finish(o, s)
    if s.status == "rounding" and not at_floor(o, s):
        s.status = "running"
    return s


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖."""
    return float((a - b).double().norm())
