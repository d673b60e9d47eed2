"""Data terms for counts of photons: the Poisson likelihoods of emission and of transmission, and their proximal maps."""

import abc
import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import round_up
from pnp_lip.errors import InputError
from pnp_lip.operators.conjugate_gradient import ProxResult, conjugate_gradient, image_norm
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.data_terms import CLOSE, OURS, DataTerm, require_broadcast, taken_from
from pnp_lip.solvers.hypothesis import Hypothesis, is_number

__all__ = ["PoissonLikelihood", "TransmissionLikelihood"]

Values = float | Tensor
NEWTON_STEPS, HALVINGS = 50, 30  # of the prox: ten steps and no halving are usual
LAMBERT_STEPS = 10  # of Newton's method from below, which doubles the digits each time
QUOTIENT_SLACK = 1 + Fraction(1, 2**50)  # covers three roundings of float64
FLOOR = 0.5  # counts that a logarithm takes zero for


@dataclasses.dataclass(frozen=True)
class PhotonCounts(DataTerm):
    """f(x) = Σ_i h_i((Ax)_i), h_i(u) convex, of which a subclass says the value and two derivatives for u ≥ 0.

    Below 0, where no mean count can lie, h is continued by its parabola at 0. h then is convex with 0 ≤ h'' ≤ ``curvature``
    everywhere, so that ∇f is Lipschitz with L = ``curvature`` · ‖A‖². f is the negative log-likelihood wherever Ax ≥ 0: for
    A ≥ 0 on every box (low, high) with low ≥ 0.

    ``scale`` a > 0 multiplies Ax. prox_γf by Newton's method with conjugate gradients; as γf + ½‖· − z‖² is 1-strongly convex,
    the error is at most the norm of the gradient that is left.
    """

    scale: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_number(self.scale) and 0 < self.scale < math.inf):
            raise InputError(f"`scale` multiplies Ax and must be a plain number, positive and finite; got {self.scale!r}.")

    @property
    @abc.abstractmethod
    def curvature(self) -> Fraction:
        """An upper bound of h''."""

    @abc.abstractmethod
    def parts(self, u: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, h' and h'' for u ≥ 0, entry by entry; h ≥ 0."""

    @abc.abstractmethod
    def prox_inside(self, w: Tensor, y: Tensor, t: float) -> Tensor:
        """argmin t h(u) + ½(u − w)² where that is ≥ 0; elsewhere anything finite."""

    def lipschitz_upper(self, norm_upper: float) -> float:
        return round_up(Fraction(norm_upper) ** 2 * self.curvature)

    def continued(self, u: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, h' and h'' for every u."""
        value, slope, curvature = self.parts(u.clamp_min(0), y)
        below = u.clamp_max(0)
        return value + below * (slope + 0.5 * curvature * below), slope + curvature * below, curvature

    def value(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        return self.continued(physics.A(x), y)[0].flatten(1).sum(1)

    def gradient(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        return physics.A_adjoint(self.continued(physics.A(x), y)[1])

    def dual_prox(self, v: Tensor, y: Tensor, s: float) -> Tensor:
        """v − s prox_{h/s}(v/s) (Moreau)."""
        w, t = v / s, 1 / s
        _, slope, curvature = self.parts(torch.zeros_like(w), y)
        inside = w - t * slope >= 0
        below = (w - t * slope) / (1 + t * curvature)
        return v - s * torch.where(inside, self.prox_inside(w, y, t), below)

    def prox(self, z: Tensor, y: Tensor, physics: PhysicsLike, gamma: float) -> ProxResult:
        """argmin_x γ f(x) + ½‖x − z‖², each image by itself."""

        def gradient(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
            _, slope, curvature = self.continued(u, y)
            return x - z + gamma * physics.A_adjoint(slope), curvature

        def objective(x: Tensor, u: Tensor) -> Tensor:
            return gamma * self.continued(u, y)[0].flatten(1).double().sum(1) + 0.5 * image_norm(x - z).square()

        x, u, steps = z, physics.A(z), 0
        g, curvature = gradient(x, u)
        first = image_norm(g).clamp_min(1e-300)
        previous = torch.full_like(first, math.inf)
        goal = 4 * torch.finfo(z.dtype).eps * (image_norm(z) + first)
        for _ in range(NEWTON_STEPS):
            size = image_norm(g)
            idle = (size <= goal) | ((size <= CLOSE * goal) & (size > 0.5 * previous))  # what is left is rounding
            if bool(idle.all()):
                break
            aim = torch.where(idle, math.inf, torch.maximum(0.5 * goal, size * (size / first).clamp_max(0.1)))
            d, taken = conjugate_gradient(hessian(physics, gamma * curvature), -g, aim, 500, patience=30)
            x, u = searched(objective, x, u, d, physics.A(d), (g * d).flatten(1).double().sum(1))
            g, curvature = gradient(x, u)
            steps, previous = steps + taken, size
        error = image_norm(gradient(x, physics.A(x))[0]).nan_to_num(nan=math.inf)
        return ProxResult(x, error, steps, bool((error <= goal).all()))

    def check(self, y: Tensor) -> None:
        if bool((y < 0).any()):
            raise InputError(f"`y` must hold counts, which are not negative; got {float(y.min()):.3g}. Pass them as measured.")

    def about(self, value: float, formula: str) -> tuple[Hypothesis, ...]:
        """The constant as a hypothesis, beside what every term states."""
        bound = f"be bounded by {formula} (below Ax = 0 the likelihood is continued by its parabola)"
        return (Hypothesis("curvature of the negative log-likelihood", value, bound, True), *super().stated())


@dataclasses.dataclass(frozen=True)
class PoissonLikelihood(PhotonCounts):
    """Counts y ~ Poisson(a Ax + b), a background b > 0: f(x) = Σ (m − y + y log(y/m)), m = a Ax + b.

    h'(u) = a(1 − y/m), h''(u) = a² y/m² ≤ a² max y/b² for u ≥ 0. ``background`` is a number or a tensor that broadcasts
    against y. Without a background the gradient has no Lipschitz constant: InputError.

    Source: Bertero, Boccacci, Desiderà & Vicidomini (2009), Image deblurring with Poisson data, Inverse Problems 25; the
    parabola: Chambolle, Ehrhardt, Richtárik & Schönlieb (2018), SIAM J. Optim. 28, section 6.

    >>> term = PoissonLikelihood(2.0).fitted(torch.tensor([[8.0, 4.0]]))
    >>> 2 <= term.lipschitz_upper(1.0) < 2.0000001
    True
    """

    background: Values
    peak: float | None = dataclasses.field(default=None, kw_only=True, repr=False)  # of y/b², from ``fitted``

    def __post_init__(self) -> None:
        super().__post_init__()
        if not positive(self.background):
            raise InputError(
                "`background` must be positive and finite: without one the likelihood's gradient has no Lipschitz constant. "
                f"Pass the mean count that the detector gives without a signal; got {self.background!r:.80}."
            )

    @property
    def curvature(self) -> Fraction:
        if self.peak is None:
            raise InputError("the curvature depends on the counts; call fitted(y) first, as the solvers do.")
        return Fraction(self.scale) ** 2 * Fraction(self.peak) * QUOTIENT_SLACK

    def fitted(self, y: Tensor) -> "PoissonLikelihood":
        """The term with the largest y/b² of these data."""
        b = torch.as_tensor(self.background, dtype=torch.float64, device=y.device)
        return dataclasses.replace(self, peak=float((y.double() / b.square()).max()))

    def linearised(self, y: Tensor) -> Tensor:
        return (y - self.background) / self.scale

    def magnitude(self, y: Tensor) -> float:
        b = torch.as_tensor(self.background, dtype=torch.float64, device=y.device)
        size = math.sqrt(y[0].numel()) + float((y.double() / b).norm())
        return size * self.scale / float(self.curvature)

    def parts(self, u: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.scale
        m = a * u + self.background
        quotient = y / m
        return m - y + torch.xlogy(y, quotient), a * (1 - quotient), a * a * quotient / m

    def prox_inside(self, w: Tensor, y: Tensor, t: float) -> Tensor:
        """m² + p m = a² t y with p = a² t − b − a w."""
        a = self.scale
        p = a * a * t - self.background - a * w
        root = torch.hypot(p, 2 * a * (t * y).sqrt())
        m = torch.where(p > 0, 2 * a * a * t * y / (p + root).clamp_min(torch.finfo(w.dtype).tiny), 0.5 * (root - p))
        return (m - self.background) / a

    def check(self, y: Tensor) -> None:
        super().check(y)
        if not bool((y > 0).any()):
            raise InputError("`y` holds no count at all, so it says nothing about the image.")
        require_broadcast("background", self.background, y)

    def stated(self) -> tuple[Hypothesis, ...]:
        return self.about(float(self.curvature), "a² max y/b²")

    def part(self, images: list[int], y: Tensor) -> "PoissonLikelihood":
        return dataclasses.replace(self, background=taken_from(self.background, images, y))


@dataclasses.dataclass(frozen=True)
class TransmissionLikelihood(PhotonCounts):
    """Counts y ~ Poisson(I₀ exp(−a Ax)), Beer and Lambert's law: f(x) = Σ (m − y + y log(y/m)), m = I₀ exp(−a Ax).

    h'(u) = a(y − m), h''(u) = a² m ≤ a² max I₀ for u ≥ 0. ``flat`` is I₀, the counts without an object, a number or a tensor
    that broadcasts against y. Counts of zero need no logarithm. Scatter beside m would make f nonconvex: subtracting it is
    up to you. Raises InputError for an I₀ that is not positive.

    Source: Lange & Carson (1984), EM reconstruction algorithms for emission and transmission tomography, J. Comput. Assist.
    Tomogr. 8.

    >>> TransmissionLikelihood(100.0).lipschitz_upper(2.0)
    400.0
    """

    flat: Values

    def __post_init__(self) -> None:
        super().__post_init__()
        if not positive(self.flat):
            raise InputError(f"`flat` must hold positive, finite counts without an object; got {self.flat!r:.80}.")

    @property
    def curvature(self) -> Fraction:
        return Fraction(self.scale) ** 2 * Fraction(float(torch.as_tensor(self.flat).max()))

    def linearised(self, y: Tensor) -> Tensor:
        return torch.log(self.flat / y.clamp_min(FLOOR)) / self.scale

    def magnitude(self, y: Tensor) -> float:
        flat = torch.as_tensor(self.flat, dtype=torch.float64, device=y.device).expand_as(y[:1])
        return (float(flat.norm()) + float(y.double().norm())) * self.scale / float(self.curvature)

    def parts(self, u: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.scale
        m = self.flat * torch.exp(-a * u)
        return m - y + torch.xlogy(y, y / self.flat) + a * u * y, a * (y - m), a * a * m

    def prox_inside(self, w: Tensor, y: Tensor, t: float) -> Tensor:
        """u = c + s/a with c = w − a t y and s + log s = log(a² t I₀) − a c, Lambert's equation."""
        a = self.scale
        c = w - a * t * y
        level = torch.log(a * a * t * torch.as_tensor(self.flat, dtype=w.dtype, device=w.device)) - a * c
        power = level.clamp_max(1.0).exp()
        s = torch.where(level > 1, level - level.clamp_min(1.0).log(), power / (1 + power)).clamp_min(torch.finfo(w.dtype).tiny)
        for _ in range(LAMBERT_STEPS):
            s = s * (1 + level - s.log()) / (1 + s)
        return c + s / a

    def check(self, y: Tensor) -> None:
        super().check(y)
        require_broadcast("flat", self.flat, y)

    def stated(self) -> tuple[Hypothesis, ...]:
        return self.about(float(self.curvature), "a² max I₀")

    def part(self, images: list[int], y: Tensor) -> "TransmissionLikelihood":
        return dataclasses.replace(self, flat=taken_from(self.flat, images, y))


def positive(values: Values) -> bool:
    """Whether a number, or every entry of a tensor, is positive and finite."""
    if isinstance(values, Tensor):
        return values.numel() > 0 and values.is_floating_point() and bool((torch.isfinite(values) & (values > 0)).all())
    return is_number(values) and 0 < values < math.inf


def hessian(physics: PhysicsLike, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """d ↦ d + Aᵀ(w ⊙ Ad)."""
    return lambda d: d + physics.A_adjoint(weight * physics.A(d))


def searched(
    objective: Callable[[Tensor, Tensor], Tensor], x: Tensor, u: Tensor, d: Tensor, Ad: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """x + t d and u + t A d, t halved for each image from 1 until the objective falls by 1e-4 t of its slope, or to rounding."""
    start = objective(x, u)
    slack = 64 * torch.finfo(x.dtype).eps * start.abs()
    t = torch.ones_like(start)
    for _ in range(HALVINGS):
        step, data_step = (t.to(v).reshape(-1, *[1] * (v.ndim - 1)) for v in (x, u))
        falls = objective(x + step * d, u + data_step * Ad) <= start + 1e-4 * t * slope + slack
        if bool(falls.all()):
            break
        t = torch.where(falls, t, 0.5 * t)
    return x + step * d, u + data_step * Ad


OURS.update((PoissonLikelihood, TransmissionLikelihood))
