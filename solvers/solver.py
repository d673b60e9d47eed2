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
from pnp_lip.certificates.certificate import Certificate
from pnp_lip.errors import CertificateError, GuaranteeError, InputError
from pnp_lip.solvers.acceleration import Acceleration, averagedness_of
from pnp_lip.solvers.bounds import FIRM
from pnp_lip.solvers.checkpoint import Checkpoint
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares
from pnp_lip.solvers.evidence import (
    Evidence,
    examine_adjoint,
    examine_denoiser,
    examine_norm,
    examine_repeatability,
    norm_estimate,
)
from pnp_lip.solvers.guarantee import NOTHING, Guarantee, Hypothesis
from pnp_lip.solvers.loop import Callback, run
from pnp_lip.solvers.problem import Box, Problem, check_box, check_data, check_like, starting_point
from pnp_lip.solvers.relaxed import Relaxed
from pnp_lip.solvers.result import Result

__all__ = ["Solver", "positive_step", "step_below_limit"]

MODES = ("require", "report")


@dataclasses.dataclass(frozen=True, eq=False)
class Solver(abc.ABC):
    """Settings shared by every solver; a subclass gives the fixed-point map T and the theorem that makes it converge.

    ``denoiser`` D(x, σ), or any callable (x, σ) ↦ x; ``sigma`` its noise level on the scale of [0, 1], None for the
    denoiser's own default; ``step`` γ, None to derive it from the certified bound; ``tol`` stops an image once
    ‖v − T v‖ ≤ tol ‖v‖; ``box`` = (low, high) constrains the image; ``guarantee`` "require" refuses to run where no
    theorem applies, "report" runs and says what failed; ``assume_nonexpansive`` runs an uncertified denoiser, and the
    result says that nothing was proved; ``data_term`` f, least squares by default; ``acceleration`` the scheme by which
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
    acceleration: Acceleration = dataclasses.field(default_factory=Relaxed)
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
            problem, guarantee, x, settings = self.prepare(y, physics, x0)
            if reference is not None:
                reference = check_like("reference", reference, x)
            store = Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
            return run(self, problem, x, guarantee, settings, reference, progress, callback, store)

    def check(self, y: Tensor, physics: Any) -> Guarantee:
        """The guarantee that ``solve`` would run under, without running and without refusing."""
        with torch.no_grad(), evaluating(self.denoiser):
            return dataclasses.replace(self, guarantee="report").prepare(y, physics, None)[1]

    def prepare(self, y: Tensor, physics: Any, x0: Tensor | None) -> tuple[Problem, Guarantee, Tensor, dict[str, Any]]:
        """Check the data, collect the evidence, derive the parameters, and decide which theorem applies."""
        from pnp_lip.solvers.interop import fixed_map  # interop knows the solvers in turn

        check_data(y)
        self.data_term.check(y)
        start = starting_point(y, physics)
        x = start if x0 is None else check_like("x0", x0, start)
        certificate, why = examine_denoiser(self.denoiser)
        self.require_certificate(certificate, why)
        bound, denoiser_hypothesis = self.judge(certificate, why)
        norm, norm_hypothesis, method = self.find_norm(physics, tuple(x.shape[1:]))
        lipschitz = None if norm is None else self.data_term.lipschitz_upper(norm)
        shared = (denoiser_hypothesis, *norm_hypothesis, *self.data_term.stated(), examine_adjoint(physics, start))
        e = Evidence(bound, norm, lipschitz, self.data_term.convexity_lower(), self.box, shared)
        e = self.derive(e, physics, start)
        maps = (y, physics, fixed_map(self.denoiser), self.sigma, self.data_term)
        problem = Problem(*maps, self.box, e.gamma, tuple(x.shape[1:]), e.weight, e.dual_step)
        if certificate is None:  # a certified map is one by its structure
            e = dataclasses.replace(e, shared=(*e.shared, examine_repeatability(problem.denoise, start)))
        e = self.look(e, problem, start)
        guarantee = self.decide(e)
        refused = next((h for h in guarantee.hypotheses if not excused(h)), None)
        if self.guarantee == "require" and refused is not None:
            raise GuaranteeError(f"{type(self).__name__}: {refused}")
        return problem, guarantee, problem.project(x), self.describe(e, certificate, method, y)

    def require_certificate(self, certificate: Certificate | None, why: str) -> None:
        """Refuse an uncertified denoiser, naming the layer and the numbers, unless told to go on."""
        if self.guarantee == "report" or self.assume_nonexpansive:
            return
        if certificate is None:
            raise CertificateError(f"{why} Pass assume_nonexpansive=True to run it without any proof.")
        try:
            certificate.require_nonexpansive()
        except CertificateError as error:
            raise CertificateError(f"{error} Pass assume_nonexpansive=True to run it without any proof.") from None

    def judge(self, certificate: Certificate | None, why: str) -> tuple[MapBound | None, Hypothesis]:
        """What is known of D, and the hypothesis that D is nonexpansive."""
        name, bound = "Lipschitz constant of the denoiser", "be at most 1, by certificate"
        if certificate is not None and certificate.nonexpansive:
            alpha = None if certificate.averagedness is None else Fraction(certificate.averagedness)
            known = MapBound(Fraction(certificate.lipschitz_upper), alpha, certificate.proximal, certificate.box)
            return known, Hypothesis(name, certificate.lipschitz_upper, bound, True)
        found: float | str = "unknown" if certificate is None else certificate.lipschitz_upper
        reason = why if certificate is None else "; ".join(certificate.failures)
        if self.assume_nonexpansive:
            return FIRM, Hypothesis(name, f"{found}, {ASSUMED}", bound, False, reason)
        return None, Hypothesis(name, found, bound, False, reason)

    def find_norm(self, physics: Any, img_size: tuple[int, ...]) -> tuple[float | None, tuple[Hypothesis, ...], str]:
        """An upper bound of ‖A‖, the hypothesis that there is one where the theorem asks for it, and its proof."""
        if self.norm_upper is not None:
            method = "stated by the user"
            return self.norm_upper, (Hypothesis("‖A‖", self.norm_upper, f"be bounded ({method})", True),), method
        norm, method, why = examine_norm(physics, img_size)
        if norm is None:
            advice = f"{why} Pass norm_upper= if you can vouch for a bound."
            missing = Hypothesis("an upper bound of ‖A‖", "none", "be known", False, advice)
            return None, () if self.uses_prox else (missing,), "none"
        return norm, (Hypothesis("‖A‖", norm, f"be bounded ({method})", norm < math.inf),), method

    def derive(self, e: Evidence, physics: Any, x: Tensor) -> Evidence:
        """Fill in the step and RED's weight, given or derived; without a bound of ‖A‖ they rest on an estimate of it."""
        scale = e.lipschitz
        if scale is None:
            scale = self.data_term.lipschitz_upper(norm_estimate(physics, x))
        if not scale > 0:
            raise InputError("the forward model is zero, so the data say nothing about the image.")
        e = dataclasses.replace(e, scale=scale)
        e = dataclasses.replace(e, weight=self.derived_weight(e))
        e = dataclasses.replace(e, gamma=self.derived_step(e) if self.step is None else float(self.step))
        return dataclasses.replace(e, dual_step=self.derived_dual_step(e))

    def look(self, e: Evidence, p: Problem, x: Tensor) -> Evidence:
        """Evidence that takes evaluating a map: where the prox is used, that it is one."""
        if not self.uses_prox:
            return e
        z = p.prox(x)
        gap = float((z - x + p.gamma * p.gradient(z)).norm() / x.norm().clamp_min(torch.finfo(x.dtype).tiny))
        limit = 1e-9 if x.dtype == torch.float64 else 1e-4
        advice = "physics.prox_l2 does not solve its problem; set physics.closed_form_prox = False to replace it."
        tested = Hypothesis("relative optimality gap of prox_γf", gap, f"be at most {limit:.0e}", gap <= limit, advice)
        return dataclasses.replace(e, shared=(*e.shared, tested))

    def decide(self, e: Evidence) -> Guarantee:
        """Which theorem applies, or the first hypothesis that failed."""
        bound = self.map_bound(e)
        own = (*e.shared, *self.hypotheses(e))
        every = own
        if all(excused(h) for h in own):  # otherwise nothing is known of T, and what the scheme asks is moot
            every = (*own, *self.acceleration.hypotheses(bound, proximal=self.minimises(e)))
        failed = next((h for h in every if not h.met), None)
        existence, q = self.existence(e), self.contraction(e)
        if q is not None:
            existence = "unique, as T is a contraction (Banach)"
        statement = f"x_k converges to a fixed point of {self.equation}{'' if existence else ', if there is one'}"
        rate = self.acceleration.rate(bound) if q is None else self.acceleration.linear_rate(q, bound)
        proved = failed is None
        return Guarantee(
            proved=proved,
            theorem=f"{self.theorem}; {self.acceleration.theorem}",
            statement=statement if proved else NOTHING,
            hypotheses=every,
            existence=existence
            or f"assumed; {'pass' if self.takes_box else 'DavisYin with'} box=(0, 1) to have it proved",
            rate=rate if proved else "none",
            failure=None if failed is None else str(failed),
        )

    def minimises(self, e: Evidence) -> bool:
        """Whether T is a proximal gradient step of an objective with γ ≤ 1/L, as momentum asks."""
        return False

    def describe(self, e: Evidence, certificate: Certificate | None, method: str, y: Tensor) -> dict[str, Any]:
        """Every parameter of the run in plain data."""
        sigma = self.sigma.tolist() if isinstance(self.sigma, Tensor) else self.sigma
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        plain = {k: v for k, v in fields.items() if v is None or isinstance(v, (bool, int, float, str))}
        return {
            "solver": type(self).__name__,
            "denoiser": type(self.denoiser).__name__,
            **plain,
            "sigma": sigma,
            "step": e.gamma,
            "step_derived": self.step is None,
            "weight": e.weight,
            "dual_step": e.dual_step,
            "box": self.box,
            "acceleration": repr(self.acceleration),
            "data_term": type(self.data_term).__name__,
            "norm_upper": e.norm_upper,
            "norm_method": method,
            "lipschitz_upper": e.lipschitz,
            "denoiser_lipschitz_upper": None if certificate is None else certificate.lipschitz_upper,
            "denoiser_averagedness": None if certificate is None else certificate.averagedness,
            "map_averagedness": averagedness_of(self.map_bound(e)),
            "dtype": str(y.dtype).removeprefix("torch."),
        }


ASSUMED = "assumed to be at most 1"


def excused(hypothesis: Hypothesis) -> bool:
    """Whether a hypothesis is met, or is the denoiser's certificate, which the user told us to do without."""
    return hypothesis.met or ASSUMED in str(hypothesis.value)


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
