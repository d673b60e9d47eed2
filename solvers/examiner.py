"""The examiner: what is proved of D, A and f before a run, and what examples say of A, A*, f and prox_γf (refute only)."""

import contextlib
import dataclasses
import math
from fractions import Fraction

import torch
from torch import Tensor

from pnp_lip.certificates import certify
from pnp_lip.certificates.calculus import MapBound
from pnp_lip.certificates.certificate import Certificate
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.fingerprint import recognised, replaced
from pnp_lip.operators import CertifiedPhysics, certify_norm, stated_norm
from pnp_lip.operators.conjugate_gradient import image_norm
from pnp_lip.operators.norm_rules import is_known
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.data_terms import is_ours
from pnp_lip.solvers.hypothesis import Hypothesis
from pnp_lip.solvers.known import FIRM, Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.witness import DOT_LIMIT, Pairs, Witness
from pnp_lip.spectral import norm_lower

__all__ = ["examine", "examine_code", "examine_data", "verify_dual_prox", "verify_prox"]

MAGNITUDE = 1e3  # between the inputs on which A is compared with itself: noise, offsets, limits show at one end or the other
PROX_LIMIT = {torch.float32: 1e-3, torch.float64: 1e-8}  # of the error of a prox, relative to its image
# Rounding that honest operators of other packages show, of the worst entry relative to the mean; see DOT_LIMIT, too.
ENTRY_LIMIT = {torch.float32: 1e-3, torch.float64: 1e-8}
SLACK = 1e-3  # of a stated constant, for the rounding of the examples that are held against it
POWER_STEPS = 3  # for a stated norm; with what else is known this finds two thirds of ‖A‖ and more (blurs, projectors)

WRONG_ADJOINT = (
    "A_adjoint is not the adjoint of A, so A_adjoint(Ax - y) is the gradient of nothing: use the exact adjoint "
    "(for deepinv's Tomography, adjoint_via_backprop=True)."
)
CONVEXITY = "convexity μ of f"
WRONG_CONVEXITY = "The stated convexity= is wrong; 0 is always true."

Hypotheses = tuple[Hypothesis, ...]


def examine(maps: Maps, start: Tensor, denoiser: object, guarantee: str) -> tuple[Known, Witness]:
    """Certify the denoiser, bound ‖A‖, and hold examples against what the user states and against A and A_adjoint.

    ``denoiser`` is the one that the user passed, of which ``maps`` holds a version without a state of its own; ``start``
    (B, C, H, W) an image. Raises CertificateError for a denoiser without a certificate where ``guarantee`` is "require".
    """
    try:
        certificate, reason = certify(denoiser), ""  # type: ignore[arg-type]  # whatever else it is, it refuses
    except CertificateError as error:
        certificate, reason = None, str(error)
    bound, nonexpansive = judge_denoiser(certificate, reason, guarantee)
    known, pairs = examine_data(maps, start)
    shared = (nonexpansive, *judge_certificate(certificate, start), *known.hypotheses)
    if certificate is None:  # a certified map is a fixed one by its structure
        shared += (examine_repeatability(maps, start),)
    record = {
        **known.record,
        "denoiser_lipschitz_upper": None if certificate is None else certificate.lipschitz_upper,
        "denoiser_averagedness": None if certificate is None else certificate.averagedness,
    }
    known = dataclasses.replace(known, denoiser=bound, hypotheses=shared, record=record)
    return known, Witness.of(certificate, maps, pairs)


def examine_data(maps: Maps, start: Tensor) -> tuple[Known, Pairs]:
    """The same of A and f alone, and (u, A u, v, A*v) of ``examine_operator``."""
    norm, method, asked, missing = find_norm(maps, start)
    term = maps.data_term
    L = None if norm is None else term.lipschitz_upper(norm)
    scale = term.lipschitz_upper(norm_estimate(maps.physics, start)) if L is None else L
    if not scale > 0:
        raise InputError("the forward model is zero, so the data say nothing about the image.")
    pairs, operator = examine_operator(maps.physics, start, None if missing or asked[0].stated else norm)
    known = Known(
        denoiser=None,
        L=None if L is None else Fraction(L),
        μ=Fraction(term.convexity),
        scale=scale,
        norm_upper=norm,
        hypotheses=(*operator, *asked, *examine_term(maps, start, L)),
        needs_norm=missing,
        record={"norm_upper": norm, "norm_method": method, "lipschitz_upper": L},
    )
    return known, pairs


def judge_denoiser(certificate: Certificate | None, reason: str, guarantee: str) -> tuple[MapBound | None, Hypothesis]:
    """What is known of D, and the hypothesis that D is nonexpansive.

    An uncertified D is refused under "require", naming the layer and the numbers; firm on the user's word under "assume".
    """
    name, bound = "Lipschitz constant of the denoiser", "be at most 1, by certificate"
    if certificate is not None and certificate.nonexpansive:
        return certificate.bound, Hypothesis(name, certificate.lipschitz_upper, bound, True)
    if certificate is not None and certificate.curvature is not None:
        certificate.require_nonexpansive()  # a potential is no map of images, also on nobody's word
    if guarantee == "require":
        try:
            if certificate is not None:
                certificate.require_nonexpansive()
        except CertificateError as error:
            reason = f"{str(error).rstrip('.')}."
        raise CertificateError(f'{reason} Pass guarantee="assume" to run it without any proof.')
    found: float | str = "unknown" if certificate is None else certificate.lipschitz_upper
    why = reason if certificate is None else "; ".join(certificate.failures)
    if guarantee == "report":
        return None, Hypothesis(name, found, bound, False, why)
    found = f"{found}, assumed to be at most 1"
    return FIRM, Hypothesis(name, found, bound, False, why, waived='guarantee="assume"')


def judge_certificate(certificate: Certificate | None, x: Tensor) -> Hypotheses:
    """That the image is one for which the certificate speaks, where that asks for a size, and what it rests on."""
    if certificate is None:
        return ()
    found = []
    (h, w), (rows, columns), (m, n) = x.shape[-2:], certificate.smallest_image, certificate.divisible_by
    if (rows, columns, m, n) != (1, 1, 1, 1):
        fits = h >= rows and w >= columns and h % m == 0 and w % n == 0
        bound = f"be at least {rows} x {columns}, with sides divisible by {m} and {n}, for which the certificate speaks"
        found.append(Hypothesis("the image", f"{h} x {w}", bound, fits, "Crop or extend the image."))
    if certificate.stated:
        text = "; ".join(certificate.stated)
        found.append(Hypothesis("what the certificate rests on", text, "hold (stated by the user)", True, stated=True))
    return tuple(found)


def find_norm(maps: Maps, x: Tensor) -> tuple[float | None, str, Hypotheses, Hypotheses]:
    """An upper bound of ‖A‖, how it was found, what is said of it, and what is missing where there is none."""
    stated = maps.data_term.norm_upper
    if stated is not None:
        method = "stated by the user"
        least = norm_lower(maps.physics.A, maps.physics.A_adjoint, x, iterations=POWER_STEPS)[0] * (1 - SLACK)
        with contextlib.suppress(CertificateError):  # of a subclass without a rule
            proved = getattr(maps.physics, "norm_lower", None)
            least = max(least, proved) if isinstance(proved, float) else least
        possible = stated >= least
        bound = f"be bounded ({method})" if possible else f"be at least {least:.6g}, a lower bound of ‖A‖"
        advice = "The stated norm_upper= is wrong; leave it out."
        return stated, method, (Hypothesis("‖A‖", stated, bound, possible, advice, stated=True),), ()
    try:
        found = certify_norm(maps.physics, img_size=tuple(x.shape[1:]))
    except CertificateError as error:
        advice = f"{error} Pass data_term=LeastSquares(norm_upper=...) if you can vouch for a bound."
        return None, "none", (), (Hypothesis("an upper bound of ‖A‖", "none", "be known", False, advice),)
    norm, method, vouched = float(found.upper), found.method.value, stated_norm(maps.physics)
    return norm, method, (Hypothesis("‖A‖", norm, f"be bounded ({method})", norm < math.inf, stated=vouched),), ()


def signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """An image of random signs."""
    return torch.randint(2, like.shape, generator=generator, dtype=torch.int8).to(like).mul_(2).sub_(1)


@torch.no_grad()
def examine_operator(physics: PhysicsLike, x: Tensor, norm: float | None) -> tuple[Pairs, Hypotheses]:
    """What examples say of A and A*, called as the solver calls them; (u, A u, v, A*v) of random signs u and v.

    - ⟨A u, v⟩ = ⟨u, A*v⟩ for random signs u and v, relative to ‖A u‖, which any entry of A*v outweighs that is wrong by
      more than the limit times √n.

    For operators other than ours also the following. A class of which nothing is known then counts as the user's word.

    - ⟨A w, r⟩ = ⟨w, A*r⟩ for a positive image w and r = 1000 A w, relative to ‖A w‖‖r‖: no error averages out.
    - A*v against the derivative of ⟨A·, v⟩, entry by entry, where torch can differentiate A.
    - A(1000 u + w) = 1000 A u + A w, entry by entry, with A w taken from w/1000; w vanishes in all images but the first.
    - ‖A u‖ and ‖A w‖ against ``norm``, a bound of ‖A‖ that is not stated.
    """
    generator, known = torch.Generator().manual_seed(0), is_known(physics)
    ours = known and isinstance(physics, CertifiedPhysics)
    dot, entry = DOT_LIMIT.get(x.dtype, 1e-4), ENTRY_LIMIT.get(x.dtype, 1e-3)
    u = signs(x, generator)
    given = u.clone()
    image, derivative = (physics.A(u), None) if ours else with_derivative(physics, u)
    v = signs(image, generator)
    kept = v.clone()
    back = physics.A_adjoint(v)
    if not (torch.equal(u, given) and torch.equal(v, kept)):
        name, found_so, bound = "A or A_adjoint", "a map that overwrites it", "leave its argument as it is"
        return (given, image, kept, back), (Hypothesis(name, found_so, bound, False, "Return a new tensor."),)
    gap = relative_gap(image, v, u, back, torch.maximum(image_norm(image), image_norm(back)))
    found = []
    if not ours:
        w = torch.rand(x.shape, generator=generator).to(x)
        w[1:] = 0
        small = MAGNITUDE * physics.A(w / MAGNITUDE)
        r = MAGNITUDE * small
        gap = max(gap, relative_gap(small[:1], r[:1], w[:1], physics.A_adjoint(r)[:1], image_norm(small[:1]) * image_norm(r[:1])))
        both = physics.A(MAGNITUDE * u + w)
        spread = max(worst(both - (MAGNITUDE * image + small), both), worst(small[1:], small[:1]) if len(x) > 1 else 0.0)
        name = "largest difference of A(1000 u + w) from 1000 Au + Aw, relative to their mean"
        why = "A is not a fixed linear map of each image: it draws at random, clips, adds something or mixes the batch."
        found.append(Hypothesis(name, spread, f"be at most {entry:.0e}", spread <= entry, why, stated=not known))
        if derivative is not None:
            wrong = worst(back - derivative(v), back)
            name = "largest difference of A_adjoint v from the derivative of <Ax, v>, relative to its mean"
            found.append(Hypothesis(name, wrong, f"be at most {entry:.0e}", wrong <= entry, WRONG_ADJOINT))
        stretch = max(float((image_norm(image) / image_norm(u)).max()), float(image_norm(small[:1]) / image_norm(w[:1])))
        if norm is not None and not stretch <= norm * (1 + SLACK):
            bound = f"be at least {stretch:.6g}, as an image is stretched so much"
            found.append(Hypothesis("‖A‖", norm, bound, False, "The bound of ‖A‖ is wrong."))
    text = f"be at most {dot:.0e} ({str(x.dtype).removeprefix('torch.')} rounding)"
    adjoint = Hypothesis("relative gap between <Ax, v> and <x, A_adjoint v>", gap, text, gap <= dot, WRONG_ADJOINT)
    return (u, image, v, back), (*found, adjoint)


def with_derivative(physics: PhysicsLike, u: Tensor) -> tuple[Tensor, "Derivative | None"]:
    """A u, and v ↦ the derivative of ⟨A u, v⟩ by u where torch can form it."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = u.clone().requires_grad_()
        try:
            image = physics.A(leaf)
        except RuntimeError:  # A writes into its argument, or leaves torch
            return physics.A(u), None
    return image.detach(), Derivative(leaf, image) if image.requires_grad else None


@dataclasses.dataclass(frozen=True)
class Derivative:
    """v ↦ ∇_u ⟨A u, v⟩."""

    leaf: Tensor
    image: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        return torch.autograd.grad(self.image, self.leaf, v)[0]


def relative_gap(image: Tensor, v: Tensor, u: Tensor, back: Tensor, scale: Tensor) -> float:
    """The largest |⟨image, v⟩ − ⟨u, back⟩|/scale over the batch."""
    left, right = (a.double().mul(b.double()).flatten(1).sum(1) for a, b in ((image, v), (u, back)))
    return float(((left - right).abs() / scale.clamp_min(1e-300)).max())


def worst(difference: Tensor, like: Tensor) -> float:
    """The largest entry of a difference, relative to the root mean square of what is compared."""
    return float(difference.abs().max() / like.double().square().mean().sqrt().clamp_min(1e-300))


def examine_term(maps: Maps, x: Tensor, L: float | None) -> Hypotheses:
    """What the user states of f, held against examples.

    For a direction d of random signs, turned thrice towards small curvature, and b = x + t d with t the mean size of x:
    μ‖b − x‖² ≤ ⟨∇f(b) − ∇f(x), b − x⟩ ≤ L‖b − x‖². For terms other than ours also ``examine_gradient``.
    """
    term = maps.data_term
    stated, own = list(term.stated()), not is_ours(term)
    if own and not any(h.stated for h in stated if h.name != CONVEXITY):
        name, value = "Lipschitz constant of the gradient of the convex f", "unknown" if L is None else L
        stated.append(Hypothesis(name, value, f"be at most that (stated by {type(term).__name__})", True, stated=True))
    if L is not None and term.convexity > L:
        bound = f"be at most L = {L:.6g}, the bound of the gradient's Lipschitz constant"
        return (*stated, Hypothesis(CONVEXITY, term.convexity, bound, False, WRONG_CONVEXITY))
    if not (own or term.convexity):
        return tuple(stated)
    d = signs(x, torch.Generator().manual_seed(1))
    t = float(x.double().square().mean().sqrt()) or 1.0
    first, steepest, flattest = maps.grad(x), 0.0, math.inf
    for k in range(POWER_STEPS + 1):
        b = x + t * d
        change = (maps.grad(b) - first) / t
        curvature = float((change * d).double().sum() / d.double().square().sum())
        steepest, flattest = max(steepest, float(change.double().norm() / d.double().norm())), min(flattest, curvature)
        if own and k == 0:
            stated.append(examine_gradient(maps, b))
        turned = d - change / (L if L else steepest)
        d = turned / turned.double().square().mean().sqrt().clamp_min(1e-30).to(x)
    rounding = ENTRY_LIMIT.get(x.dtype, 1e-3) * steepest
    if L is not None and not steepest <= L * (1 + SLACK):
        bound = f"be at least {steepest:.6g}, by which two gradients differ"
        stated.append(Hypothesis("the Lipschitz constant L of the gradient of f", L, bound, False, "The stated one is wrong."))
    if term.convexity and not term.convexity <= flattest + rounding:
        bound = f"be at most {flattest:.6g}, the curvature along some direction"
        stated.append(Hypothesis(CONVEXITY, term.convexity, bound, False, WRONG_CONVEXITY))
    return tuple(stated)


def examine_gradient(maps: Maps, x: Tensor) -> Hypothesis:
    """∇f is the gradient of a convex f: ⟨∇f(x), b − x⟩ ≤ f(b) − f(x) ≤ ⟨∇f(b), b − x⟩, b a hundredth of x up the slope."""
    slope = maps.grad(x)
    b = x + slope * (0.01 * x.norm() / slope.norm().clamp_min(torch.finfo(x.dtype).tiny))
    low, high = ((g.double() * (b - x).double()).sum() for g in (slope, maps.grad(b)))
    first, second = maps.misfit(x).double().sum(), maps.misfit(b).double().sum()
    size = first.abs() + second.abs() + low.abs() + high.abs()
    gap = float(torch.maximum(low - second + first, second - first - high) / size.clamp_min(1e-300))
    limit = 100 * torch.finfo(x.dtype).eps
    name = "violation of convexity by f and its gradient, relative"
    advice = "The data term's gradient is not that of its value, or f is not convex."
    return Hypothesis(name, gap, f"be at most {limit:.0e}", gap <= limit, advice)


def examine_code(*parts: object) -> Hypotheses:
    """That solver, scheme and data term are ours as they are; a class of the user's is the user's word for its theorem."""
    found = []
    for part in parts:
        if (name := replaced(part)) is not None:
            found.append(Hypothesis(f"`{name}`", "replaced", "be what its class defines", False, "Undo what replaces it."))
        elif not recognised(part):
            kind = type(part).__qualname__
            found.append(
                Hypothesis(f"the class {kind}", "your own", "do what its theorem asks (stated by the user)", True, stated=True)
            )
    return tuple(found)


def examine_repeatability(maps: Maps, x: Tensor) -> Hypothesis:
    """The hypothesis that D is a fixed map: the same image twice gives the same answer, to rounding."""
    first, second = maps.D(x), maps.D(x)
    if first.shape != x.shape:
        raise ShapeError(f"the denoiser turned an image of shape {tuple(x.shape)} into {tuple(first.shape)}.")
    gap = float((first - second).norm() / x.norm().clamp_min(torch.finfo(x.dtype).tiny))
    limit = 1e-9 if x.dtype == torch.float64 else 1e-5
    advice = "The denoiser draws at random or keeps a state between calls, so that there is no map to iterate."
    return Hypothesis("relative change of D(x) between two calls", gap, f"be at most {limit:.0e}", gap <= limit, advice)


def verify_prox(maps: Maps, x: Tensor, step: float) -> Hypothesis:
    """That prox_γf is computed: its error, bounded by its equation's residual, relative to what it takes and gives."""
    maps.errors.clear()
    maps.prox(x, step)
    gap = float(maps.errors.pop()[1].max())
    limit = PROX_LIMIT.get(x.dtype, 1e-3)
    advice = "The prox of f is not solved: take a smaller step" + ("." if x.dtype == torch.float64 else ", or float64.")
    return Hypothesis("error of prox_γf relative to its image", gap, f"be at most {limit:.0e}", gap <= limit, advice)


def verify_dual_prox(maps: Maps, x: Tensor, s: float) -> Hypotheses:
    """That p = prox_{sh*}(v) solves p = ∇h((v − p)/s), for a data term of the user: ∇h is ∇f for A = Id."""
    term = maps.data_term
    if is_ours(term):
        return ()
    v = s * maps.physics.A(x) + signs(maps.y, torch.Generator().manual_seed(2)) * maps.y.abs().mean()
    p = term.dual_prox(v, maps.y, s)
    gap = float((term.gradient((v - p) / s, maps.y, Identity()) - p).norm() / p.norm().clamp_min(1e-300))
    limit = ENTRY_LIMIT.get(x.dtype, 1e-3)
    advice = "dual_prox of the data term (prox_d_conjugate of a fidelity) does not solve its problem."
    return (Hypothesis("relative error of the prox of h*", gap, f"be at most {limit:.0e}", gap <= limit, advice),)


class Identity:
    """A = Id."""

    def A(self, x: Tensor) -> Tensor:
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y


def norm_estimate(physics: PhysicsLike, x: Tensor) -> float:
    """‖A‖ by power iteration, from below: an estimate for runs that claim nothing, never a bound."""
    start = torch.ones_like(x[:1]) + 0.1 * torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x)
    return norm_lower(physics.A, physics.A_adjoint, start.expand_as(x), iterations=30)[0]
