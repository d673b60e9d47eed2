"""The base of every solver: settings checked once, evidence collected before the first step, and the run."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import InputError
from pnp_lip.solvers.checkpoint import Checkpoint, origin_of
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares
from pnp_lip.solvers.evidence import (
    Evidence,
)
from pnp_lip.solvers.guarantee import Guarantee, Hypothesis
from pnp_lip.solvers.krasnoselskii_mann import KrasnoselskiiMann
from pnp_lip.solvers.loop import Callback, run
from pnp_lip.solvers.preparation import prepare
from pnp_lip.solvers.problem import Box, Problem, check_box, check_like
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.scheme import Scheme

__all__ = ["Solver", "positive_step", "step_below_limit"]

MODES = ("require", "report")


@dataclasses.dataclass(frozen=True, eq=False)
class Solver(abc.ABC):
    """Settings shared by every solver; a subclass gives the fixed-point map T and the theorem that makes it converge.

    ``denoiser`` D(x, σ), or any callable (x, σ) ↦ x; ``sigma`` its noise level on the scale of [0, 1], None for the
    denoiser's own default; ``step`` γ, None to derive it from the certified bound; ``tol`` stops an image once
    ‖v − T v‖ ≤ tol ‖v‖; ``box`` = (low, high) constrains the image; ``guarantee`` "require" refuses to run where no
    theorem applies, "report" runs and says what failed; ``assume_nonexpansive`` runs an uncertified denoiser, and the
    result says that nothing was proved; ``data_term`` f, least squares by default; ``scheme`` the scheme by which
    T is iterated, the plain iteration by default; ``norm_upper`` an upper bound of ‖A‖ that you vouch for, where
    ``certify_norm`` knows none.
    """

    denoiser: Any
    _: dataclasses.KW_ONLY
    sigma: float | Tensor | None = None
    step: float | None = None
    tol: float = 1e-5
    max_iter: int = 1000
    box: Box = None
    guarantee: str = "require"
    assume_nonexpansive: bool = False
    data_term: DataTerm = dataclasses.field(default_factory=LeastSquares)
    scheme: Scheme = dataclasses.field(default_factory=KrasnoselskiiMann)
    norm_upper: float | None = None

    theorem: ClassVar[str]
    equation: ClassVar[str]
    uses_prox: ClassVar[bool] = False  # of f; otherwise ∇f, whose Lipschitz constant must then be known
    takes_box: ClassVar[bool] = True
    watched: ClassVar[bool] = True  # whether ``norm`` is the norm in which T is nonexpansive

    def __post_init__(self) -> None:
        if not callable(self.denoiser):
            raise InputError(f"`denoiser` must be callable as denoiser(x, sigma); got {type(self.denoiser).__name__}.")
        if self.guarantee not in MODES:
            raise InputError(f"`guarantee` must be one of {MODES}; got {self.guarantee!r}.")
        if not isinstance(self.scheme, Scheme):
            raise InputError(f"`scheme` must be a scheme such as Anderson(); got {self.scheme!r}.")
        if not 0 <= self.tol < 1:
            raise InputError(f"`tol` bounds the relative residual and must lie in [0, 1); got {self.tol}.")
        if not isinstance(self.max_iter, int) or self.max_iter < 1:
            raise InputError(f"`max_iter` must be a positive integer; got {self.max_iter}.")
        for name in ("step", "norm_upper"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"`{name}` must be positive and finite; got {value}. Pass None to derive it.")
        if self.sigma is not None:
            s = torch.as_tensor(self.sigma)
            if not bool(torch.isfinite(s).all() and (s >= 0).all()):
                raise InputError(f"`sigma` must be finite and not negative; got {self.sigma}.")
        check_box(self.box)
        if self.box is not None and not self.takes_box:
            raise InputError(
                f"{type(self).__name__} takes no box, because clipping would cost the denoiser its firmness. Use DavisYin."
            )

    # what a subclass says of itself

    @abc.abstractmethod
    def update(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        """T v, and the image that belongs to the state v."""

    @abc.abstractmethod
    def hypotheses(self, e: Evidence) -> tuple[Hypothesis, ...]:
        """What the theorem asks, so that T is nonexpansive."""

    @abc.abstractmethod
    def map_bound(self, e: Evidence) -> MapBound:
        """T's Lipschitz constant and averagedness when the hypotheses hold."""

    @abc.abstractmethod
    def existence(self, e: Evidence) -> str | None:
        """Why T has a fixed point, or None."""

    def contraction(self, e: Evidence) -> float | None:
        """An upper bound q < 1 of T's Lipschitz constant, where there is one."""
        return None

    def derived_step(self, e: Evidence) -> float:
        """γ from L: 1.9/L, inside (0, 2/L)."""
        return 1.9 / e.scale

    def derived_weight(self, e: Evidence) -> float:
        """RED's λ; 0 for the solvers that have none."""
        return 0.0

    def derived_dual_step(self, e: Evidence) -> float:
        """PrimalDual's s; 0 for the solvers that have none."""
        return 0.0

    def initial(self, p: Problem, x: Tensor) -> Tensor:
        """The first state from the first image."""
        return x

    def norm(self, p: Problem, v: Tensor) -> Tensor:
        """The norm of a state, one number per image; T is nonexpansive in it where ``watched``."""
        norms: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
        return norms

    # the run

    def solve(
        self,
        y: Tensor,
        physics: Any,
        *,
        x0: Tensor | None = None,
        reference: Tensor | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: Checkpoint | str | Path | None = None,
    ) -> Result:
        """Reconstruct the images behind ``y``.

        ``y`` (B, ...) are the data of ``physics``, a deepinv linear physics or any object with A and A_adjoint; ``x0``
        (B, C, H, W) the start, by default a scaled Aᵀy; ``reference`` the true images, for the PSNR curve; ``progress``
        shows a bar; ``callback(iteration, x, relative_residuals)`` is called after every update; ``checkpoint`` a file
        from which an interrupted run goes on.

        Raises InputError or ShapeError for unusable data, CertificateError for a denoiser that is not certified and
        GuaranteeError when no convergence theorem applies, unless ``guarantee="report"``.
        """
        with torch.no_grad(), evaluating(self.denoiser):
            problem, guarantee, x, settings = prepare(self, y, physics, x0)
            if reference is not None:
                reference = check_like("reference", reference, x)
            store = Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
            origin = {} if store is None else origin_of(self, problem, x0, x, settings)
            return run(self, problem, x, guarantee, settings, reference, progress, callback, store, origin)

    def check(self, y: Tensor, physics: Any) -> Guarantee:
        """As ``require``, but that no theorem applies is reported, and not refused."""
        return dataclasses.replace(self, guarantee="report").require(y, physics)

    def require(self, y: Tensor, physics: Any) -> Guarantee:
        """The guarantee that ``solve`` would run under, after one pass of the denoiser; raises what ``solve`` would at once."""
        with torch.no_grad(), evaluating(self.denoiser):
            problem, guarantee, x, _ = prepare(self, y, physics, None)
            problem.denoise(x)  # which refuses, say, other channels or another dtype
            return guarantee

    def look(self, e: Evidence, p: Problem, x: Tensor) -> Evidence:
        """Evidence that takes evaluating a map: where the prox is used, that it is one."""
        if not self.uses_prox:
            return e
        z = p.prox(x)
        size = (1 + e.gamma * e.scale) * x.norm()  # of the terms that cancel, and so of their rounding
        gap = float((z - x + p.gamma * p.gradient(z)).norm() / size.clamp_min(torch.finfo(x.dtype).tiny))
        limit = 1e-9 if x.dtype == torch.float64 else 1e-4
        advice = "physics.prox_l2 does not solve its problem; set physics.closed_form_prox = False to replace it."
        tested = Hypothesis("relative optimality gap of prox_γf", gap, f"be at most {limit:.0e}", gap <= limit, advice)
        return dataclasses.replace(e, shared=(*e.shared, tested))

    def minimises(self, e: Evidence) -> bool:
        """Whether T is a proximal gradient step of an objective with γ ≤ 1/L, as momentum asks."""
        return False


def step_below_limit(e: Evidence, limit: str = "2/||A||^2", curvature: Fraction | None = None) -> Hypothesis:
    """0 < γ < 2/K, where K is L unless a ``curvature`` is given, and ``limit`` is how 2/K is written."""
    k = curvature if curvature is not None or e.lipschitz is None else Fraction(e.lipschitz)
    if k is None:
        return Hypothesis("`step`", e.gamma, f"lie in (0, {limit}), for which no bound is known", False)
    number = f"{float(2 / k):.6g}" if k > 0 else "inf"
    inside = Fraction(e.gamma) * k < 2
    bound = f"lie in (0, {limit}) = (0, {number})"
    return Hypothesis("`step`", e.gamma, bound, inside, "Pass step=None to derive it.")


def positive_step(e: Evidence) -> Hypothesis:
    """γ > 0, which the constructor has checked."""
    return Hypothesis("`step`", e.gamma, "be positive", e.gamma > 0)


@contextlib.contextmanager
def evaluating(denoiser: Any) -> Iterator[None]:
    """The denoiser in evaluation mode, put back afterwards."""
    modules = [m for m in denoiser.modules() if m.training] if isinstance(denoiser, nn.Module) else []
    for m in modules:
        m.training = False
    try:
        yield
    finally:
        for m in modules:
            m.training = True
