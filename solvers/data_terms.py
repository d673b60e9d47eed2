"""Data terms f(x) = h(Ax): their gradient, their proximal map, and the constants that the theorems ask for."""

import abc
import dataclasses
import math
from fractions import Fraction
from typing import Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import round_up
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators.certified_physics import CertifiedPhysics
from pnp_lip.operators.conjugate_gradient import ProxResult, conjugate_gradient, image_norm
from pnp_lip.operators.norm_rules import is_known
from pnp_lip.protocols import ClosedFormProx, FidelityLike, PhysicsLike, ProxAnswer
from pnp_lip.solvers.hypothesis import Hypothesis, check_positive, is_number

__all__ = ["DataTerm", "HasProx", "LeastSquares", "UserFidelity", "WeightedLeastSquares", "is_ours", "require_prox"]


CLOSE = 64.0  # times the goal of conjugate gradients: a closed form this near needs none


@dataclasses.dataclass(frozen=True)
class DataTerm(abc.ABC):
    """A convex function f(x) = h(Ax) of the image, with ∇f Lipschitz.

    ``convexity`` is a lower bound of f's strong convexity μ and ``norm_upper`` an upper bound of ‖A‖ that you vouch for;
    0 and None, the defaults, claim nothing. A subclass with a method ``prox`` serves the solvers that need prox_γf.

    Raises InputError for a ``convexity`` that is negative or not finite and a ``norm_upper`` that is not positive.
    """

    _: dataclasses.KW_ONLY
    convexity: float = 0.0
    norm_upper: float | None = None

    def __post_init__(self) -> None:
        if not (is_number(self.convexity) and 0 <= self.convexity < math.inf):
            raise InputError(f"`convexity` bounds the strong convexity of f, a plain number >= 0; got {self.convexity!r}.")
        check_positive("norm_upper", self.norm_upper)

    @abc.abstractmethod
    def lipschitz_upper(self, norm_upper: float) -> float:
        """An upper bound L of the Lipschitz constant of ∇f when ‖A‖ ≤ norm_upper."""

    @abc.abstractmethod
    def value(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        """f(x), one number per image."""

    @abc.abstractmethod
    def gradient(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        """∇f(x)."""

    @abc.abstractmethod
    def dual_prox(self, v: Tensor, y: Tensor, s: float) -> Tensor:
        """argmin_u s h*(u) + ½‖u − v‖², in the space of the data."""

    def check(self, y: Tensor) -> None:  # noqa: B027 (most terms fit all data)
        """Raise InputError or ShapeError when the term does not fit the data."""

    def fitted(self, y: Tensor) -> "DataTerm":
        """The term with what its constants take from the data. Solvers ask for it first."""
        return self

    def linearised(self, y: Tensor) -> Tensor:
        """Data of the model Ax = y near these, for a start."""
        return y

    def magnitude(self, y: Tensor) -> float:
        """m such that all that ∇f(0) adds up is at most L m/‖A‖ in the 2-norm: what its rounding is relative to."""
        return float(y.double().norm())

    def stated(self) -> tuple[Hypothesis, ...]:
        """What a guarantee says of f: what nobody but the user vouches for, the norm of A excepted, and constants."""
        stated = Hypothesis("convexity μ of f", self.convexity, "be a lower bound (stated by the user)", True, stated=True)
        return (stated,) if self.convexity else ()

    def part(self, images: list[int], y: Tensor) -> "DataTerm":
        """The term of these images alone, out of those behind ``y``."""
        return self


@runtime_checkable
class HasProx(Protocol):
    """A data term whose proximal map can be computed, to an accuracy that is known afterwards."""

    def prox(self, z: Tensor, y: Tensor, physics: PhysicsLike, gamma: float, /) -> ProxAnswer:
        """argmin_x γ f(x) + ½‖x − z‖², and how far each image may be off."""


@dataclasses.dataclass(frozen=True)
class LeastSquares(DataTerm):
    """f(x) = ½‖Ax − y‖², with L = ‖A‖² and μ the smallest eigenvalue of AᵀA.

    A ``convexity`` that you can vouch for gives linear rates. The proximal map uses ``solve_prox`` of our operators,
    ``physics.prox_l2`` where a physics declares a closed form (see ``has_closed_form``) and conjugate gradients
    otherwise, each to rounding accuracy and with a bound of the error that remains.

    >>> LeastSquares().lipschitz_upper(2.0)
    4.0
    """

    @property
    def w(self) -> float | Tensor:
        """The weight of each datum."""
        return 1.0

    def lipschitz_upper(self, norm_upper: float) -> float:
        return round_up(Fraction(norm_upper) ** 2 * Fraction(float(torch.as_tensor(self.w).max())))

    def value(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        return 0.5 * (self.w * (physics.A(x) - y).square()).flatten(1).sum(1)

    def gradient(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        return physics.A_adjoint(self.w * (physics.A(x) - y))

    def prox(self, z: Tensor, y: Tensor, physics: PhysicsLike, gamma: float) -> ProxAnswer:
        w = gamma * self.w
        if isinstance(physics, CertifiedPhysics) and is_known(physics) and not isinstance(w, Tensor):
            sizes = z.flatten(1).norm(dim=1).nan_to_num(1.0)
            return physics.solve_prox(z, y, gamma, tol=4 * torch.finfo(z.dtype).eps * max(float(sizes.min()), 1e-30))
        closed = physics.prox_l2(z, y, gamma) if not isinstance(w, Tensor) and has_closed_form(physics) else None
        return quadratic_prox(z, y, physics, w, closed)

    def dual_prox(self, v: Tensor, y: Tensor, s: float) -> Tensor:
        return self.w * (v - s * y) / (self.w + s)


@dataclasses.dataclass(frozen=True)
class WeightedLeastSquares(LeastSquares):
    """f(x) = ½ Σ_i w_i ((Ax)_i − y_i)², w ≥ 0, with L = max w · ‖A‖².

    ``weights`` broadcasts against y. In transmission tomography with Poisson noise w_i is the photon count of ray i, the
    inverse variance of its logarithm (Sauer & Bouman 1993). Raises InputError for negative, non-finite or all-zero weights.

    >>> WeightedLeastSquares(torch.tensor([0.5, 2.0])).lipschitz_upper(1.0)
    2.0
    """

    weights: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        w = self.weights
        if not bool(torch.isfinite(w).all() and (w >= 0).all() and (w > 0).any()):
            raise InputError("`weights` must be finite, not negative and not all zero.")

    @property
    def w(self) -> Tensor:
        """The weight of each datum."""
        return self.weights

    def check(self, y: Tensor) -> None:
        require_broadcast("weights", self.weights, y)

    def part(self, images: list[int], y: Tensor) -> "WeightedLeastSquares":
        return dataclasses.replace(self, weights=taken_from(self.weights, images, y))


@dataclasses.dataclass(frozen=True)
class UserFidelity(DataTerm):
    """Any deepinv ``DataFidelity`` d(Ax, y), convex in Ax, with ∇d Lipschitz with the constant ``curvature_upper`` you state.

    L = curvature_upper · ‖A‖². Examples can refute the constant and the convexity, and not prove them: where they do not, the
    guarantee is titled "proved given your statement".
    The dual prox is deepinv's ``prox_d_conjugate``; f's own prox has no reliable general form, so there is none.
    """

    fidelity: FidelityLike
    curvature_upper: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_number(self.curvature_upper) and 0 < self.curvature_upper < math.inf):
            raise InputError(f"`curvature_upper` must be positive and finite; got {self.curvature_upper}.")

    def lipschitz_upper(self, norm_upper: float) -> float:
        return round_up(Fraction(norm_upper) ** 2 * Fraction(self.curvature_upper))

    def stated(self) -> tuple[Hypothesis, ...]:
        name = "Lipschitz constant of the gradient of the convex data distance"
        bound = "be at most that (stated by the user)"
        return (Hypothesis(name, self.curvature_upper, bound, True, stated=True), *super().stated())

    def value(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        return self.fidelity.fn(x, y, physics).reshape(-1)

    def gradient(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        return physics.A_adjoint(self.fidelity.d.grad(physics.A(x), y))

    def dual_prox(self, v: Tensor, y: Tensor, s: float) -> Tensor:
        return self.fidelity.prox_d_conjugate(v, y, gamma=s)


OURS: set[type[DataTerm]] = {LeastSquares, WeightedLeastSquares}  # and those of ``photon_counts``


def is_ours(term: DataTerm) -> bool:
    """Whether the term is one of this package that needs nobody's word; a subclass may compute something else."""
    return type(term) in OURS


Values = TypeVar("Values", float | Tensor, Tensor)


def require_broadcast(name: str, values: float | Tensor, y: Tensor) -> None:
    """Raise ShapeError unless values are a number, or a tensor of y's dtype that broadcasts against y."""
    if not isinstance(values, Tensor):
        return
    sides = zip(reversed(values.shape), reversed(y.shape), strict=False)
    if values.ndim > y.ndim or not all(w in (1, n) for w, n in sides) or values.dtype != y.dtype:
        raise ShapeError(
            f"`{name}` must broadcast to the data's shape {tuple(y.shape)} with dtype {y.dtype}; "
            f"got {tuple(values.shape)} of {values.dtype}."
        )


def taken_from(values: Values, images: list[int], y: Tensor) -> Values:
    """Of values that broadcast against y those of these images."""
    return values[images] if isinstance(values, Tensor) and values.ndim == y.ndim and len(values) == len(y) else values


def require_prox(term: DataTerm, who: str, advice: str) -> HasProx:
    """The term as one with a proximal map. Raises InputError, naming who needs it and what to do, for one without."""
    if not isinstance(term, HasProx):
        raise InputError(f"{who} needs the proximal map of f, and {type(term).__name__} has none. {advice}")
    return term


def quadratic_prox(z: Tensor, y: Tensor, physics: PhysicsLike, w: float | Tensor, x: Tensor | None = None) -> ProxResult:
    """argmin_x ½⟨Ax − y, w(Ax − y)⟩ + ½‖x − z‖² by conjugate gradients, to rounding accuracy, from ``x`` or ``z``.

    With H = Id + AᵀwA ≥ Id the error is at most ‖b − Hx‖, b = z + Aᵀwy, which is driven to 4 roundings of ‖b‖, and computed
    anew at the end; an ``x`` within CLOSE times that is left as it is. Below that the recursion only stirs rounding errors,
    so an image also stops when its residual has not halved in 30 steps.
    """

    def residual(x: Tensor) -> Tensor:
        return z - x + physics.A_adjoint(w * (y - physics.A(x)))

    steps, goal = 0, 4 * torch.finfo(z.dtype).eps * image_norm(z + physics.A_adjoint(w * y))
    given, x = x is not None, z if x is None else x
    r = residual(x)
    if not (given and bool((image_norm(r) <= CLOSE * goal).all())):
        d, steps = conjugate_gradient(lambda d: d + physics.A_adjoint(w * physics.A(d)), r, goal, 500, patience=30)
        x = x + d
        r = residual(x)
    error = image_norm(r).nan_to_num(nan=math.inf)
    return ProxResult(x, error, steps, bool((error <= goal).all()))


def has_closed_form(physics: object) -> TypeGuard[ClosedFormProx]:
    """Whether ``physics.prox_l2`` is a closed form: deepinv's decomposable physics, or a physics that says so itself.

    deepinv's general ``prox_l2`` is fifty conjugate gradient steps with an error floor (10 % at γ = 1e4), so it is not
    used. A physics of one's own sets ``closed_form_prox = True``.
    """
    from deepinv.physics import DecomposablePhysics

    if isinstance(physics, CertifiedPhysics):  # a subclass, whose A need not be that of the formula that it inherits
        return False
    declared = getattr(physics, "closed_form_prox", None)
    return isinstance(physics, DecomposablePhysics) if declared is None else bool(declared)
