"""One objective J(x) = f(x) + λR_σ(x) on a box, minimised with a theorem; a proved distance where J is strongly convex."""

import dataclasses
import math
import time
from collections.abc import Hashable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from pnp_lip.certificates import certify
from pnp_lip.certificates.calculus import CurvatureBound, round_down, round_up
from pnp_lip.certificates.certificate import Certificate
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.fingerprint import fingerprint, require_unmodified
from pnp_lip.potentials import GradientStepPotential, RidgePotential
from pnp_lip.progress import Bar
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers import descent
from pnp_lip.solvers.checkpoint import Checkpoint, Origin, origin_of
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares
from pnp_lip.solvers.energy import VALUES, Energies, Energy, Named, doubled, margin_of
from pnp_lip.solvers.examiner import examine_code, examine_data, judge_certificate
from pnp_lip.solvers.guarantee import NOT_GIVEN, NOTHING, Guarantee
from pnp_lip.solvers.hypothesis import Hypothesis, check_max_iter, check_positive
from pnp_lip.solvers.known import Known
from pnp_lip.solvers.loop import Callback, psnr_of
from pnp_lip.solvers.maps import Box, Maps, Settings, check_like, check_settings, rounded_inwards
from pnp_lip.solvers.minimisation import Problem, Run, record
from pnp_lip.solvers.potential_examiner import examine_convexity, examine_potential, examine_smoothness
from pnp_lip.solvers.potential_prior import PotentialPrior
from pnp_lip.solvers.proximal_denoiser import ProximalDenoiser
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.solver import evaluating, refuse, starts
from pnp_lip.solvers.witness import Witness

__all__ = ["NOISE_FACTOR", "WEIGHT", "Variational"]

# The noise level that a potential assumes in reconstructions, in units of the data's. With 1 it is flat where noise is amplified,
# and a little less weight leaves all of it; with 2 fewer iterations suffice, and the best weight is as good (blurs of photographs
# of scikit-image).
NOISE_FACTOR = 2.0
WEIGHT = 0.15  # λ there
# σ in units of the data's noise and λ, in reconstructions. A gradient-step potential was trained at these numbers.
SUGGESTED: dict[type, tuple[float, float]] = {RidgePotential: (NOISE_FACTOR, WEIGHT), GradientStepPotential: (1.0, 0.5)}

# Of the gradient, root mean square: a tenth of it changes the PSNR by at most 0.0064 dB in 42 deblurring problems (photographs
# of scikit-image, 128², shakes, noise 0.01 and 0.03, weight 0.15). 5e-6 changes it by up to 0.023 dB and 1e-5 by up to 0.038 dB.
# Tests of the quasi-Newton step or of the decrease of J are no cheaper.
TOL = 3e-6

V = "descent with tested candidates (Attouch, Bolte & Svaiter 2013, Theorem 2.9)"
U = "strong convexity: ‖x − x*‖ ≤ dist(0, ∂J(x))/m"
EQUATION = "J = f + λR_σ + ι_C"
DIFFERENTIABLE = "have a Lipschitz gradient on the box and be definable"

SEARCHED = Hypothesis("Lipschitz constant of ∇f + λ∇R", "found along the run", "be known, or found by backtracking", True)


@dataclasses.dataclass(frozen=True, eq=False)
class Variational:
    """A minimiser or critical point of J(x) = f(x) + λR_σ(x) over the box C, with the theorem that holds and its numbers.

    Quasi-Newton steps give candidates z. x⁺ = P_C(z − γ∇g(z)), g = f + λR, is accepted iff J(x⁺) ≤ J(x) − a‖x⁺ − x‖² and
    ‖x⁺ − z‖ ≤ c‖x⁺ − x‖; otherwise x makes the plain step x⁺ = P_C(x − γ∇g(x)), γ < 1/L. The accepted x_k converge to one
    critical point (V). If f is μ_f-strongly convex, R ρ-weakly convex and m = μ_f − λρ > 0, it is the unique minimiser x*, and
    ‖x − x*‖ ≤ dist(0, ∂J(x))/m (U). Circular blurs may have a larger m (see ``margin_of``). Proofs: docs/guarantees.md.

    Parameters: ``potential`` R is a RidgePotential, a GradientStepPotential, or any object with a value (``fn``,
    ``potential`` or the call, each of (x, σ)) and a gradient (``grad``, ``potential_grad``, or by autograd), such as a
    deepinv prior. ``sigma`` is σ on the scale of [0, 1], None for the potential's default; ``weight`` is λ; ``box`` =
    (low, high) or None. An image stops once dist(0, ∂J(x))/√n ≤ ``tol``, n its numbers, in float64. ``accuracy`` asks for a
    proved distance to the minimiser instead (rms), and is refused where U fails. ``curvature`` states that of an R without a
    certificate. Where no curvature or no bound of ‖A‖ is known, backtracking finds L. A PotentialPrior or ProximalDenoiser
    stands for its potential.

    Raises InputError for a setting out of its range.
    """

    potential: object
    _: dataclasses.KW_ONLY
    sigma: float | Tensor | None = None
    weight: float = 1.0
    box: Box = (0.0, 1.0)
    data_term: DataTerm = dataclasses.field(default_factory=LeastSquares)
    tol: float = TOL
    accuracy: float | None = None
    curvature: CurvatureBound | None = None

    theorem: ClassVar[str] = V
    equation: ClassVar[str] = EQUATION

    def __post_init__(self) -> None:
        object.__setattr__(self, "potential", unwrapped(self.potential))
        if not any(callable(getattr(self.potential, name, None)) for name in (*VALUES, "__call__")):
            raise InputError(f"`potential` needs a value: `fn`, `potential` or a call; got {type(self.potential).__name__}.")
        if not isinstance(self.data_term, DataTerm):
            raise InputError(f"`data_term` must be a data term such as LeastSquares(); got {self.data_term!r:.80}.")
        if not isinstance(self.curvature, CurvatureBound | None):
            raise InputError(f"`curvature` must be a CurvatureBound(lower, upper) or None; got {self.curvature!r:.80}.")
        check_positive("weight", self.weight)
        check_positive("accuracy", self.accuracy)
        check_settings(self.tol, self.sigma, self.box)

    def solve(
        self,
        y: Tensor,
        physics: PhysicsLike,
        *,
        x0: Tensor | None = None,
        reference: Tensor | None = None,
        max_iter: int = 1000,
        guarantee: str = "require",
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: Checkpoint | str | Path | None = None,
    ) -> Result:
        """Minimise for the data ``y`` (B, ...) of ``physics``; arguments as in ``Solver.solve``.

        ``x0`` may come from anything, also from an unproved network. It decides which critical point of a weakly convex J
        is found, and nothing else. ``guarantee="assume"`` runs on your word where examples refute what V asks of the
        potential. Images are solved one after another, at most ``max_iter`` updates each, so that a batch needs little more
        memory than one of them. ``callback(updates, x, stationarity)`` follows each update, x the accepted images; inf stands
        for an image that has not begun.

        Raises InputError or ShapeError for unusable data, GuaranteeError where no theorem holds, unless ``guarantee`` allows.
        """
        check_max_iter(max_iter)
        with torch.no_grad(), evaluating(self.potential):
            p = self.prepare(y, physics, x0=x0, guarantee=guarantee)
            reference = None if reference is None else check_like("reference", reference, p.x)
            store = Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
            origin = None if store is None else self.origin(p, x0)
            run = Run(p, store, origin, time.perf_counter())
            for i, track in enumerate(run.tracks):
                name = "Variational" + (f", {i + 1} of {len(run.tracks)}" if len(run.tracks) > 1 else "")
                truth = None if reference is None else reference[i : i + 1]
                with Bar(name, progress=progress, tol=self.tol, most=max_iter, start=len(track.residual)) as shown:
                    for s, e in run.updates(i, max_iter):
                        record(track, s, e, psnr_of(s.x, truth)[0])
                        shown.update(s.size)
                        if callback is not None:
                            callback(run.k, torch.cat(run.x), tuple(run.sizes))
            run.save()
            return self.result(p, run)

    def check(self, y: Tensor, physics: PhysicsLike) -> Guarantee:
        """The guarantee that ``solve`` would run under; if no theorem applies, it says so and raises nothing."""
        return self.require(y, physics, guarantee="report")

    def require(self, y: Tensor, physics: PhysicsLike, *, guarantee: str = "require") -> Guarantee:
        """The guarantee that ``solve`` would run under; raises what ``solve`` would at once."""
        with torch.no_grad(), evaluating(self.potential):
            return self.prepare(y, physics, guarantee=guarantee).guarantee

    def prepare(self, y: Tensor, physics: PhysicsLike, *, x0: Tensor | None = None, guarantee: str = "require") -> Problem:
        """Examine and judge: everything before the first update. Raises what ``solve`` raises."""
        if isinstance(y, Tensor) and y.is_floating_point() and y.dtype not in (torch.float32, torch.float64):
            raise InputError(f"`y` must be of float32 or float64; got {str(y.dtype).removeprefix('torch.')}: use y.float().")
        start, x = starts(y, physics, x0, guarantee, self.box, self.data_term)
        gradient = Named(doubled(self.potential) if y.dtype == torch.float64 else self.potential, None)
        maps = Maps(y, physics, lambda v, s: dataclasses.replace(gradient, sigma=s).grad(v), self.sigma, self.data_term.fitted(y),
                    rounded_inwards(self.box, y.dtype), tuple(start.shape[1:]))  # fmt: skip
        x = maps.project(x).clone()
        certificate, curvature = self.bound_potential()
        known, pairs = examine_data(maps, start)
        L, m, how = None, -math.inf, "no curvature of R is known"
        steep = None if curvature is None else Fraction(self.weight) * Fraction(max(curvature.upper, curvature.rho))
        if known.L is not None and steep is not None:
            L = round_up(known.L + steep)
        if curvature is not None:
            margin, how = margin_of(maps, self.potential, certificate, curvature, self.weight)
            m = round_down(margin)
        scales = (
            known.scale / max(known.norm_upper or known.scale**0.5, 1e-30),
            L or known.scale + float(steep or 0),
        )
        own = own_smooth(self.potential)
        known_to_copy = own is not None or certificate is not None
        parts = Energies(maps, self.potential, self.weight, scales, own=known_to_copy)
        hypotheses = [*known.hypotheses, *examine_convexity(maps), *examine_code(self, self.data_term)]
        hypotheses += self.examine_prior(parts[0], x, certificate, curvature, own is not None, guarantee)
        hypotheses += [] if L is not None else [SEARCHED]
        judged = self.judge(tuple(hypotheses), m, how, L)
        refuse(self, judged, guarantee)
        goal = self.accuracy * m if self.accuracy is not None and m > 0 else self.tol
        settings = self.describe(known, L, m, curvature, x0 is not None, y)
        return Problem(maps, parts, L, m, goal, judged, x, settings, Witness.of(certificate, maps, pairs), own)

    def bound_potential(self) -> tuple[Certificate | None, CurvatureBound | None]:
        """The potential's certificate, and its curvature, by certificate or as stated."""
        try:
            certificate = certify(self.potential)  # type: ignore[arg-type]  # whatever it is else, it refuses
        except CertificateError:
            return None, self.curvature
        return (certificate, certificate.curvature) if certificate.curvature is not None else (None, self.curvature)

    def examine_prior(
        self, energy: Energy, x: Tensor, certificate: Certificate | None, curvature: CurvatureBound | None, own: bool,
        guarantee: str,
    ) -> list[Hypothesis]:  # fmt: skip
        """What is proved of R, or stated and held against examples at the start of the first image."""
        if certificate is not None and curvature is not None:
            text = f"[{curvature.lower:.6g}, {curvature.upper:.6g}]"
            known = Hypothesis("curvature of the potential", text, "be bounded, by certificate", True)
            return [known, *judge_certificate(certificate, x)]
        if own and curvature is None:
            return [Hypothesis("the potential", "of convolutions and SiLU", DIFFERENTIABLE, True)]
        stated = Hypothesis(
            "the potential", type(self.potential).__name__, f"{DIFFERENTIABLE} (stated by the user)", True, stated=True
        )
        found = [stated, *examine_potential(energy, x[:1], self.potential)]
        found += examine_smoothness(energy, x[:1], self.curvature)
        waived = 'guarantee="assume"' if guarantee == "assume" else None
        return [h if h.met else dataclasses.replace(h, waived=waived) for h in found]

    def judge(self, hypotheses: tuple[Hypothesis, ...], m: float, how: str, L: float | None) -> Guarantee:
        """Theorem V, and U where J is convex."""
        if self.accuracy is not None:
            name, advice = f"convexity m = {how} of J", "Leave `accuracy` out, or lower the weight."
            hypotheses += (Hypothesis(name, m, "be positive, as an `accuracy` was asked for", m > 0, advice),)
        failed = next((h for h in hypotheses if not h.met), None)
        unique, convex = m > 0, m >= 0
        aim = "the unique global minimiser" if unique else "one global minimiser" if convex else "one critical point"
        bounded = "" if unique or self.box is not None else ", if it stays bounded"
        statement = f"x_k converges to {aim} of {EQUATION}{bounded}"
        statement += f", and ‖x − x*‖ ≤ dist(0, ∂J(x))/{m:.6g}, m = {how}" if unique else ""
        existence = "proved: J is continuous on a compact box (Weierstrass)"
        if self.box is None:
            existence = "proved: J is strongly convex" if unique else "assumed; pass box=(0, 1) to have it proved"
        a = f"{descent.DECREASE * L:.3g}" if L is not None else f"{descent.DECREASE:g} L"
        return Guarantee(
            proved=failed is None,
            theorem=f"{V}; {U}" if unique and not failed else V,
            statement=NOTHING if failed else statement,
            hypotheses=hypotheses,
            existence=NOT_GIVEN if failed else existence,
            rate="none" if failed else f"min over K accepted x of ‖x_k+1 − x_k‖² ≤ (J(x_0) − min J)/(aK), a = {a}",
            failure=None if failed is None else str(failed),
            kind="global minimiser" if convex else "critical point",
        )

    def describe(
        self, known: Known, L: float | None, m: float, curvature: CurvatureBound | None, given: bool, y: Tensor
    ) -> Settings:
        """Every parameter of the run in plain data."""
        return {
            "solver": type(self).__name__, "potential": type(self.potential).__name__,
            "sigma": self.sigma.tolist() if isinstance(self.sigma, Tensor) else self.sigma,
            "weight": self.weight, "box": self.box, "tol": self.tol, "accuracy": self.accuracy,
            "data_term": type(self.data_term).__name__, **known.record, "lipschitz_upper": L,
            "convexity_lower": m if math.isfinite(m) else None,
            "curvature": None if curvature is None else (curvature.lower, curvature.upper),
            "start": "given" if given else "a scaled Aᵀy", "dtype": str(y.dtype).removeprefix("torch."),
        }  # fmt: skip

    def origin(self, p: Problem, x0: Tensor | None) -> Origin:
        """Where a run comes from, for its checkpoint."""
        chosen = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        chosen |= {"solver": type(self).__name__, "denoiser": self.potential, "scheme": self.curvature}
        return origin_of(chosen, p.maps, x0, p.x, p.settings)

    def result(self, p: Problem, run: "Run") -> Result:
        """The result of a finished run; what its images contradict is no longer claimed."""
        broken = next((f"image {i}: {end.broken}" for i, end in enumerate(run.ends) if end.broken is not None), None)
        if p.guarantee.proved:
            broken = self.changed(p) or broken
        judged = p.guarantee if broken is None or not p.guarantee.proved else p.guarantee.broken(broken)
        found, J = tuple(end.found for end in run.ends), tuple(s.J for s in run.states)
        distance = tuple(v / p.m * (1 + 1e-9) for v in found) if judged.proved and p.m > 0 else None
        histories = tuple(t.close(end.misfit) for t, end in zip(run.tracks, run.ends, strict=True))
        parameters: Mapping[str, float] = {"lipschitz": run.states[0].L, "convexity": p.m, "weight": self.weight}
        settings = {**p.settings, "objective_start": [end.start for end in run.ends]}
        return Result(torch.cat(run.x), histories, judged, settings, parameters, p.maps, run.seconds, J, found, distance)

    def changed(self, p: Problem) -> str | None:
        """What is no longer the same as before the run, None if nothing is."""
        if (found := p.witness.moved(p.maps)) is not None:
            return found
        certified = p.witness.certificate is None or self.bound_potential()[0] == p.witness.certificate
        same = certified and (p.own is None or own_smooth(self.potential) == p.own)
        return None if same else "the potential changed during the run"


def own_smooth(potential: object) -> Hashable | None:
    """The fingerprint of our own network of smooth activations; None if it is another, or if something replaces a part of it."""
    if type(potential) is not GradientStepPotential:
        return None
    try:
        require_unmodified(potential)
    except CertificateError:
        return None
    return fingerprint(potential)


def unwrapped(potential: object) -> object:
    """The potential inside of one of our wrappers, if nothing replaces a part of that."""
    if type(potential) not in (PotentialPrior, ProximalDenoiser):
        return potential
    weight = getattr(potential, "weight", 1.0)
    if weight != 1:
        raise InputError(f"the prox of {weight:g} R stands for no single R: pass its `potential`, and the weight as `weight`.")
    try:
        require_unmodified(cast(nn.Module, potential))
    except CertificateError:
        return potential
    return cast(PotentialPrior | ProximalDenoiser, potential).potential
