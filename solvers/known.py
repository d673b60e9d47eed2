"""What is proved of the denoiser, the forward model and the data term, found once, before a solver is bound to them."""

import dataclasses
import math
from fractions import Fraction

import torch
from torch import Tensor

from pnp_lip.certificates import certify
from pnp_lip.certificates.calculus import MapBound, round_up
from pnp_lip.certificates.certificate import Certificate
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.operators import certify_norm
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.hypothesis import Hypothesis, interval
from pnp_lip.solvers.maps import Box, Maps, Settings
from pnp_lip.spectral import norm_lower

__all__ = ["FIRM", "TYPICAL", "Known", "examine"]

FIRM = MapBound(Fraction(1), Fraction(1, 2))  # a prox, a resolvent; a denoiser that the user vouches for
TYPICAL = 1.9  # derived steps are this in units of 1/K, inside (0, 2/K)


@dataclasses.dataclass(frozen=True)
class Known:
    """What is proved, in numbers.

    ``denoiser`` bounds D, None when nothing is known; ``norm_upper`` bounds ‖A‖, and ``L`` is the bound of ∇f's Lipschitz
    constant that follows, None without one; ``scale`` is L or an estimate of it, from which free parameters are derived;
    ``μ`` bounds the strong convexity of f from below; ``hypotheses`` are those of every solver, and ``needs_norm`` asks for
    the bound of ‖A‖ where a solver uses one that is missing; ``record`` says how the numbers were found.
    """

    denoiser: MapBound | None
    L: Fraction | None
    μ: Fraction
    scale: float
    norm_upper: float | None
    hypotheses: tuple[Hypothesis, ...] = ()
    needs_norm: tuple[Hypothesis, ...] = ()
    record: Settings = dataclasses.field(default_factory=dict)

    @property
    def α(self) -> Fraction | None:
        """D's averagedness: 1 when D is only nonexpansive, None when not even that is known."""
        if self.denoiser is None or self.denoiser.lipschitz > 1:
            return None
        return Fraction(1) if self.denoiser.averagedness is None else self.denoiser.averagedness

    @property
    def default_step(self) -> float:
        """1.9/L, inside (0, 2/L)."""
        return TYPICAL / self.scale

    def step_below(self, step: float) -> Hypothesis:
        """0 < γ < 2/L."""
        return interval("`step`", step, self.L, "2/||A||^2")

    def firm_denoiser(self) -> Hypothesis:
        """D is firmly nonexpansive: α ≤ 1/2."""
        name, bound = "averagedness α of the denoiser", "be at most 1/2, that is D firmly nonexpansive"
        if self.α is None:
            return Hypothesis(name, "unknown", bound, False)
        theta = int(5000 / max(float(self.α), 0.5)) / 10000  # 1/(2α), rounded down
        advice = f"Pass relax(denoiser, {theta:g}) or firm(denoiser) as the denoiser."
        return Hypothesis(name, round_up(self.α), bound, self.α <= Fraction(1, 2), advice)

    @property
    def is_proximal(self) -> bool:
        """Whether D is the prox of a convex function."""
        return self.denoiser is not None and self.denoiser.proximal

    @property
    def range_of_denoiser(self) -> Box:
        """The box that holds D's range, where one is proved."""
        return None if self.denoiser is None else self.denoiser.box


def examine(maps: Maps, start: Tensor, denoiser: object, guarantee: str) -> Known:
    """Certify the denoiser, bound ‖A‖, and test by examples that A_adjoint is the adjoint and D a fixed map.

    ``denoiser`` is the one that the user passed, of which ``maps`` holds a version without a state of its own; ``start``
    (B, C, H, W) an image. Raises CertificateError for a denoiser without a certificate where ``guarantee`` is "require".
    """
    try:
        certificate, reason = certify(denoiser), ""  # type: ignore[arg-type]  # whatever else it is, it refuses
    except CertificateError as error:
        certificate, reason = None, str(error)
    bound, nonexpansive = judge_denoiser(certificate, reason, guarantee)
    norm, method, asked, missing = find_norm(maps, tuple(start.shape[1:]))
    term = maps.data_term
    L = None if norm is None else term.lipschitz_upper(norm)
    scale = term.lipschitz_upper(norm_estimate(maps.physics, start)) if L is None else L
    if not scale > 0:
        raise InputError("the forward model is zero, so the data say nothing about the image.")
    stated = term.stated()
    if L is not None and term.convexity > L:
        bound_of_μ = f"be at most L = {L:.6g}, the bound of the gradient's Lipschitz constant"
        advice = "The stated convexity= is wrong; 0 is always true."
        stated = (*stated, Hypothesis("convexity μ of f", term.convexity, bound_of_μ, False, advice))
    shared = [nonexpansive, *judge_size(certificate, start), *asked, *stated, examine_adjoint(maps.physics, start)]
    if certificate is None:  # a certified map is a fixed one by its structure
        shared.append(examine_repeatability(maps, start))
    return Known(
        denoiser=bound,
        L=None if L is None else Fraction(L),
        μ=Fraction(term.convexity),
        scale=scale,
        norm_upper=norm,
        hypotheses=tuple(shared),
        needs_norm=missing,
        record={
            "norm_upper": norm,
            "norm_method": method,
            "lipschitz_upper": L,
            "denoiser_lipschitz_upper": None if certificate is None else certificate.lipschitz_upper,
            "denoiser_averagedness": None if certificate is None else certificate.averagedness,
        },
    )


def judge_denoiser(certificate: Certificate | None, reason: str, guarantee: str) -> tuple[MapBound | None, Hypothesis]:
    """What is known of D, and the hypothesis that D is nonexpansive.

    An uncertified D is refused under "require", naming the layer and the numbers; firm on the user's word under "assume".
    """
    name, bound = "Lipschitz constant of the denoiser", "be at most 1, by certificate"
    if certificate is not None and certificate.nonexpansive:
        return certificate.bound, Hypothesis(name, certificate.lipschitz_upper, bound, True)
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


def judge_size(certificate: Certificate | None, x: Tensor) -> tuple[Hypothesis, ...]:
    """The hypothesis that the image is large enough for the certificate, where that asks for a size."""
    if certificate is None or certificate.smallest_image == (1, 1):
        return ()
    (h, w), (rows, columns) = x.shape[-2:], certificate.smallest_image
    bound = f"be at least {rows} x {columns}, for which the certificate speaks"
    return (Hypothesis("the image", f"{h} x {w}", bound, h >= rows and w >= columns, "Take a larger image."),)


Hypotheses = tuple[Hypothesis, ...]


def find_norm(maps: Maps, img_size: tuple[int, ...]) -> tuple[float | None, str, Hypotheses, Hypotheses]:
    """An upper bound of ‖A‖, how it was found, what is said of it, and what is missing where there is none."""
    stated = maps.data_term.norm_upper
    if stated is not None:
        method = "stated by the user"
        least = getattr(maps.physics, "norm_lower", None)
        possible = not isinstance(least, float) or stated >= least
        bound = f"be bounded ({method})" if possible else f"be at least {least:.6g}, the proved lower bound of ‖A‖"
        advice = "The stated norm_upper= is wrong; leave it out."
        return stated, method, (Hypothesis("‖A‖", stated, bound, possible, advice),), ()
    try:
        found = certify_norm(maps.physics, img_size=img_size)
    except CertificateError as error:
        advice = f"{error} Pass data_term=LeastSquares(norm_upper=...) if you can vouch for a bound."
        return None, "none", (), (Hypothesis("an upper bound of ‖A‖", "none", "be known", False, advice),)
    norm, method = float(found.upper), found.method.value
    return norm, method, (Hypothesis("‖A‖", norm, f"be bounded ({method})", norm < math.inf),), ()


@torch.no_grad()
def examine_adjoint(physics: PhysicsLike, x: Tensor) -> Hypothesis:
    """The hypothesis that A_adjoint is the adjoint of A, to rounding: a check by examples, not a proof.

    The largest |⟨Au, v⟩ − ⟨u, A*v⟩| / (‖Au‖‖v‖) over three pairs (u, v): random with random, random with v = Au, and a
    positive image with v = Au, which a relative error of the adjoint cannot average out.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x[:1].shape, generator=generator, dtype=torch.float64).to(x.device, x.dtype)
    gap = 0.0
    for u in (noise.expand_as(x), noise.abs().expand_as(x)):
        image = physics.A(u)
        other = torch.randn(image[:1].shape, generator=generator, dtype=torch.float64).to(x.device, x.dtype)
        for v in (image, other.expand_as(image)):
            left = (image.double() * v.double()).sum()
            right = (u.double() * physics.A_adjoint(v).double()).sum()
            scale = image.double().norm() * v.double().norm()
            gap = max(gap, float((left - right).abs() / scale.clamp_min(1e-300)))
    limit = 1e-10 if x.dtype == torch.float64 else 1e-4
    return Hypothesis(
        "relative gap between <Ax, v> and <x, A_adjoint v>",
        gap,
        f"be at most {limit:.0e} ({str(x.dtype).removeprefix('torch.')} rounding)",
        gap <= limit,
        "A_adjoint is not the adjoint of A, so A_adjoint(Ax - y) is the gradient of nothing: use the exact adjoint "
        "(for deepinv's Tomography, adjoint_via_backprop=True).",
    )


def examine_repeatability(maps: Maps, x: Tensor) -> Hypothesis:
    """The hypothesis that D is a fixed map: the same image twice gives the same answer, to rounding."""
    first, second = maps.D(x), maps.D(x)
    if first.shape != x.shape:
        raise ShapeError(f"the denoiser turned an image of shape {tuple(x.shape)} into {tuple(first.shape)}.")
    gap = float((first - second).norm() / x.norm().clamp_min(torch.finfo(x.dtype).tiny))
    limit = 1e-9 if x.dtype == torch.float64 else 1e-5
    advice = "The denoiser draws at random or keeps a state between calls, so that there is no map to iterate."
    return Hypothesis("relative change of D(x) between two calls", gap, f"be at most {limit:.0e}", gap <= limit, advice)


def norm_estimate(physics: PhysicsLike, x: Tensor) -> float:
    """‖A‖ by power iteration, from below: an estimate for runs that claim nothing, never a bound."""
    start = torch.ones_like(x[:1]) + 0.1 * torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x)
    return norm_lower(physics.A, physics.A_adjoint, start.expand_as(x), iterations=30)[0]
