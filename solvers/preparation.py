"""What happens before the first step: evidence collected, parameters derived, and the theorem decided upon."""

from __future__ import annotations

import dataclasses
import math
import warnings
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.certificates.certificate import Certificate
from pnp_lip.errors import CertificateError, GuaranteeError, InputError
from pnp_lip.solvers.bounds import FIRM
from pnp_lip.solvers.evidence import (
    Evidence,
    examine_adjoint,
    examine_denoiser,
    examine_norm,
    examine_repeatability,
    norm_estimate,
)
from pnp_lip.solvers.guarantee import NOTHING, Guarantee, Hypothesis
from pnp_lip.solvers.problem import Problem, check_data, check_like, starting_point
from pnp_lip.solvers.scheme import averagedness_of

if TYPE_CHECKING:
    from pnp_lip.solvers.solver import Solver

__all__ = ["prepare"]


def prepare(
    solver: Solver, y: Tensor, physics: Any, x0: Tensor | None
) -> tuple[Problem, Guarantee, Tensor, dict[str, Any]]:
    """Check the data, collect the evidence, derive the parameters, and decide which theorem applies."""
    from pnp_lip.solvers.interop import fixed_map  # interop knows the solvers in turn

    check_data(y)
    solver.data_term.check(y)
    start = starting_point(y, physics)
    x = start if x0 is None else check_like("x0", x0, start)
    warn_of_units(solver, start)
    certificate, why = examine_denoiser(solver.denoiser)
    require_certificate(solver, certificate, why)
    bound, denoiser_hypothesis = judge(solver, certificate, why)
    norm, norm_hypothesis, method = find_norm(solver, physics, tuple(x.shape[1:]))
    lipschitz = None if norm is None else solver.data_term.lipschitz_upper(norm)
    convexity = solver.data_term.convexity_lower()
    stated = solver.data_term.stated()
    if lipschitz is not None and convexity > lipschitz:
        stated = (*stated, impossible_convexity(convexity, lipschitz))
    sizes = judge_size(certificate, start)
    shared = (denoiser_hypothesis, *sizes, *norm_hypothesis, *stated, examine_adjoint(physics, start))
    e = Evidence(bound, norm, lipschitz, convexity, solver.box, shared)
    e = derive(solver, e, physics, start)
    maps = (y, physics, fixed_map(solver.denoiser), solver.sigma, solver.data_term)
    problem = Problem(*maps, solver.box, e.gamma, tuple(x.shape[1:]), e.weight, e.dual_step)
    if certificate is None:  # a certified map is one by its structure
        e = dataclasses.replace(e, shared=(*e.shared, examine_repeatability(problem.denoise, start)))
    e = solver.look(e, problem, start)
    guarantee = decide(solver, e)
    refused = next((h for h in guarantee.hypotheses if not excused(h)), None)
    if solver.guarantee == "require" and refused is not None:
        raise GuaranteeError(f"{type(solver).__name__}: {refused}")
    return problem, guarantee, problem.project(x), describe(solver, e, certificate, method, y)


def warn_of_units(solver: Solver, start: Tensor) -> None:
    """Say so when the data are those of images far outside of the box, which then cuts everything off."""
    if solver.box is None:
        return
    size, reach = float(start.abs().mean()), max(map(abs, solver.box))
    if size > FAR * reach:
        warnings.warn(
            f"the data are those of images of about {size:.3g}, far outside of box={solver.box}: divide them and the noise "
            "level by 255 if they are 8-bit levels, or rescale them otherwise.",
            stacklevel=4,
        )


def require_certificate(solver: Solver, certificate: Certificate | None, why: str) -> None:
    """Refuse an uncertified denoiser, naming the layer and the numbers, unless told to go on."""
    if solver.guarantee == "report" or solver.assume_nonexpansive:
        return
    if certificate is None:
        raise CertificateError(f"{why} Pass assume_nonexpansive=True to run it without any proof.")
    try:
        certificate.require_nonexpansive()
    except CertificateError as error:
        raise CertificateError(
            f"{str(error).rstrip('.')}. Pass assume_nonexpansive=True to run it without any proof."
        ) from None


def judge(solver: Solver, certificate: Certificate | None, why: str) -> tuple[MapBound | None, Hypothesis]:
    """What is known of D, and the hypothesis that D is nonexpansive."""
    name, bound = "Lipschitz constant of the denoiser", "be at most 1, by certificate"
    if certificate is not None and certificate.nonexpansive:
        alpha = None if certificate.averagedness is None else Fraction(certificate.averagedness)
        known = MapBound(Fraction(certificate.lipschitz_upper), alpha, certificate.proximal, certificate.box)
        return known, Hypothesis(name, certificate.lipschitz_upper, bound, True)
    found: float | str = "unknown" if certificate is None else certificate.lipschitz_upper
    reason = why if certificate is None else "; ".join(certificate.failures)
    if solver.assume_nonexpansive:
        return FIRM, Hypothesis(name, f"{found}, {ASSUMED}", bound, False, reason)
    return None, Hypothesis(name, found, bound, False, reason)


def judge_size(certificate: Certificate | None, x: Tensor) -> tuple[Hypothesis, ...]:
    """The hypothesis that the image is large enough for the certificate, where that asks for a size."""
    if certificate is None or certificate.smallest_image == (1, 1):
        return ()
    least, size = certificate.smallest_image, (x.shape[-2], x.shape[-1])
    bound = f"be at least {least[0]} x {least[1]}, for which the certificate speaks"
    met = size[0] >= least[0] and size[1] >= least[1]
    return (Hypothesis("the image", f"{size[0]} x {size[1]}", bound, met, "Take a larger image."),)


def find_norm(
    solver: Solver, physics: Any, img_size: tuple[int, ...]
) -> tuple[float | None, tuple[Hypothesis, ...], str]:
    """An upper bound of ‖A‖, the hypothesis that there is one where the theorem asks for it, and its proof."""
    if solver.norm_upper is not None:
        method = "stated by the user"
        least = getattr(physics, "norm_lower", None)
        possible = not isinstance(least, float) or solver.norm_upper >= least
        bound = f"be bounded ({method})" if possible else f"be at least {least:.6g}, the proved lower bound of ‖A‖"
        advice = "The stated norm_upper= is wrong; leave it out."
        return solver.norm_upper, (Hypothesis("‖A‖", solver.norm_upper, bound, possible, advice),), method
    norm, method, why = examine_norm(physics, img_size)
    if norm is None:
        advice = f"{why} Pass norm_upper= if you can vouch for a bound."
        missing = Hypothesis("an upper bound of ‖A‖", "none", "be known", False, advice)
        return None, () if solver.uses_prox else (missing,), "none"
    return norm, (Hypothesis("‖A‖", norm, f"be bounded ({method})", norm < math.inf),), method


def impossible_convexity(convexity: float, lipschitz: float) -> Hypothesis:
    """The hypothesis μ ≤ L, which a stated μ may contradict."""
    bound = f"be at most L = {lipschitz:.6g}, the bound of the gradient's Lipschitz constant"
    return Hypothesis("convexity μ of f", convexity, bound, False, "The stated convexity= is wrong; 0 is always true.")


def derive(solver: Solver, e: Evidence, physics: Any, x: Tensor) -> Evidence:
    """Fill in the step and RED's weight, given or derived; without a bound of ‖A‖ they rest on an estimate of it."""
    scale = e.lipschitz
    if scale is None:
        scale = solver.data_term.lipschitz_upper(norm_estimate(physics, x))
    if not scale > 0:
        raise InputError("the forward model is zero, so the data say nothing about the image.")
    e = dataclasses.replace(e, scale=scale)
    e = dataclasses.replace(e, weight=solver.derived_weight(e))
    e = dataclasses.replace(e, gamma=solver.derived_step(e) if solver.step is None else float(solver.step))
    return dataclasses.replace(e, dual_step=solver.derived_dual_step(e))


def decide(solver: Solver, e: Evidence) -> Guarantee:
    """Which theorem applies, or the first hypothesis that failed."""
    bound = solver.map_bound(e)
    own = (*e.shared, *solver.hypotheses(e))
    every = own
    if all(excused(h) for h in own):  # otherwise nothing is known of T, and what the scheme asks is moot
        every = (*own, *solver.scheme.hypotheses(bound, proximal=solver.minimises(e)))
    failed = next((h for h in every if not h.met), None)
    holds = all(h.met for h in own)
    existence, q = (solver.existence(e), solver.contraction(e)) if holds else (None, None)
    if q is not None:
        existence = "unique, as T is a contraction (Banach)"
    statement = f"x_k converges to a fixed point of {solver.equation}{'' if existence else ', if there is one'}"
    rate = solver.scheme.rate(bound) if q is None else solver.scheme.linear_rate(q, bound)
    proved = failed is None
    return Guarantee(
        proved=proved,
        theorem=f"{solver.theorem}; {solver.scheme.theorem}",
        statement=statement if proved else NOTHING,
        hypotheses=every,
        existence=existence or (NOT_GIVEN if not holds else BOX if solver.takes_box else BOX_ELSEWHERE),
        rate=rate if proved else "none",
        failure=None if failed is None else str(failed),
    )


def describe(solver: Solver, e: Evidence, certificate: Certificate | None, method: str, y: Tensor) -> dict[str, Any]:
    """Every parameter of the run in plain data."""
    sigma = solver.sigma.tolist() if isinstance(solver.sigma, Tensor) else solver.sigma
    fields = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver) if f.init}
    plain = {k: v for k, v in fields.items() if v is None or isinstance(v, (bool, int, float, str))}
    return {
        "solver": type(solver).__name__,
        "denoiser": type(solver.denoiser).__name__,
        **plain,
        "sigma": sigma,
        "step": e.gamma,
        "step_derived": solver.step is None,
        "weight": e.weight,
        "dual_step": e.dual_step,
        "box": solver.box,
        "scheme": repr(solver.scheme),
        "data_term": type(solver.data_term).__name__,
        "norm_upper": e.norm_upper,
        "norm_method": method,
        "lipschitz_upper": e.lipschitz,
        "denoiser_lipschitz_upper": None if certificate is None else certificate.lipschitz_upper,
        "denoiser_averagedness": None if certificate is None else certificate.averagedness,
        "map_averagedness": averagedness_of(solver.map_bound(e)),
        "dtype": str(y.dtype).removeprefix("torch."),
    }


FAR = 3.0  # times the box: what no image inside it looks like
BOX = "assumed; pass box=(0, 1) to have it proved"
BOX_ELSEWHERE = "assumed; DavisYin with box=(0, 1) to have it proved"
NOT_GIVEN = "assumed; nothing proves it where a hypothesis fails"
ASSUMED = "assumed to be at most 1"


def excused(hypothesis: Hypothesis) -> bool:
    """Whether a hypothesis is met, or is the denoiser's certificate, which the user told us to do without."""
    return hypothesis.met or ASSUMED in str(hypothesis.value)
