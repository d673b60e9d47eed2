"""Everything that takes part in a comparison: a denoiser, what its strength means, how it restores, and what is proved of it."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from deepinv.physics import Denoising
from torch import Tensor, nn

from pnp_lip.benchmarks import networks, rivals
from pnp_lip.benchmarks.photographs import sha256_of
from pnp_lip.benchmarks.problem import Budget, Observation, Outcome, Way
from pnp_lip.benchmarks.published import load_published
from pnp_lip.benchmarks.record import Row
from pnp_lip.certificates import Certificate, certify
from pnp_lip.certificates.calculus import round_up
from pnp_lip.denoisers import relax
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.potentials import Potential, RidgePotential
from pnp_lip.pretrained import TORCH_SUFFIXES, certified_names, load_denoiser, load_pretrained, pretrained_names
from pnp_lip.protocols import DenoiserLike
from pnp_lip.solvers import Anderson, ForwardBackward, ProximalDenoiser, Solver, Variational
from pnp_lip.solvers.variational import SUGGESTED

__all__ = ["STRENGTHS", "PotentialPrior", "Prior", "Strength", "collect", "prior_of", "with_steps"]

STATIONARITY = 0.03  # of a solver's tolerance: that of ``Variational``, by default 3e-6, where the residual of others is 1e-4
STRENGTHS = tuple(2.0 ** (k / 2) for k in range(-12, 9))  # the grid of every prior


@dataclasses.dataclass(frozen=True)
class Strength:
    """What the one number that is tuned, s > 0, means, and its ``grid``; the search begins at ``start``.

    At a fixed point a denoiser D(x, σ) weighs as much as the square of its noise level, so s acts as a "noise level squared",
    D(·, √s·noise). A denoiser that ignores its noise level is relaxed instead: s acts as a "relaxation" θ = min(s, 1). In an
    objective s is a "weight", in units of the noise level for total variation; of filtered back-projection it chooses the
    "filter".
    """

    acts_as: Literal["noise level squared", "relaxation", "weight", "filter"] = "noise level squared"
    grid: tuple[float, ...] = STRENGTHS
    start: float = 0.5


@dataclasses.dataclass(frozen=True)
class Prior:
    """A denoiser under its name, with its strength, its solver, and the certificate or the ``reason`` why there is none.

    ``ours`` marks the networks of this package. In the place of a solver may stand a way of its own to restore.
    """

    name: str
    denoiser: DenoiserLike
    strength: Strength = Strength()
    ours: bool = False
    solver: type[Solver] | Way = ForwardBackward
    certificate: Certificate | None = None
    reason: str = ""

    @property
    def nonexpansive(self) -> bool:
        """Whether D is proved nonexpansive."""
        return self.certificate is not None and self.certificate.nonexpansive

    @property
    def certified(self) -> bool:
        """Whether D is proved nonexpansive, or the curvature of a potential is proved to be bounded."""
        return self.certificate is not None and (self.nonexpansive or self.certificate.curvature is not None)

    @property
    def method(self) -> str:
        """How it restores, in a word."""
        return self.solver.name if isinstance(self.solver, Way) else self.solver.__name__

    def at(self, strength: float, noise: float) -> tuple[DenoiserLike, float]:
        """The denoiser and the noise level that ``strength`` means for data of this noise."""
        if self.strength.acts_as == "relaxation":
            theta = min(strength, 1.0)
            return self.denoiser if theta == 1 else relax(self.denoiser, theta), noise  # type: ignore[arg-type]
        return self.denoiser, math.sqrt(strength) * noise

    def denoise(self, strength: float, seen: Observation) -> Outcome:
        """One pass of the denoiser over its data."""
        denoiser, sigma = self.at(strength, seen.noise)
        with torch.no_grad():
            return Outcome(denoiser(seen.y, sigma), "finished", 1, "nonexpansive, proved" if self.nonexpansive else "none")

    def solver_at(self, strength: float, noise: float, tol: float) -> Solver | Variational:
        """The solver of a restoration at this strength.

        The box [0, 1] constrains certified priors. It would hide the divergence of others behind an image of zeros and ones.
        """
        if isinstance(self.solver, Way):
            raise InputError(f"{self.name} has no solver; it restores by {self.solver.name}.")
        denoiser, sigma = self.at(strength, noise)
        boxed = self.solver.takes_box and self.certified
        return self.solver(denoiser, sigma=sigma, tol=tol, box=(0, 1) if boxed else None, scheme=Anderson())

    def restore(self, strength: float, seen: Observation, tol: float, budget: Budget, before: Outcome | None) -> Outcome:
        """A solution to the tolerance ``tol``, continued from the one ``before``; certified priors must satisfy their theorem."""
        if isinstance(self.solver, Way):
            return self.solver.procedure(seen, strength, tol, budget, before)
        if seen.physics is None:
            raise InputError("a restoration needs a forward model.")
        result = self.solver_at(strength, seen.noise, tol).solve(
            seen.y,
            seen.physics,
            x0=None if before is None else before.state,
            max_iter=budget.max_iter,
            guarantee="require" if self.certified else "report",
            callback=budget,
        )
        return Outcome(
            x=result.x,
            status=result.status,
            iterations=budget.iterations,
            guarantee=f"{result.guarantee.kind}, proved" if result.guarantee.proved else "none",
            failure=result.guarantee.failure,
            state=result.x,
            objective=None if result.objective is None else result.objective[0],
            distance=None if result.distance_upper is None else result.distance_upper[0],
        )

    def describe(self) -> Row:
        """What a record says of it."""
        network = self.denoiser if isinstance(self.denoiser, nn.Module) else nn.Identity()
        weights, bound = network.state_dict().values(), self.certificate
        return {
            "ours": self.ours,
            "solver": self.method,
            "strength": self.strength.acts_as,
            "grid": self.strength.grid,
            "parameters": sum(p.numel() for p in network.parameters()),
            "weights_sha256": sha256_of(*weights) if weights else None,
            "lipschitz_upper": None if bound is None else bound.lipschitz_upper,
            "averagedness": None if bound is None else bound.averagedness,
            "certified": self.certified,
            "reason": self.reason or ("; ".join(bound.failures) if bound is not None else ""),
        }


@dataclasses.dataclass(frozen=True)
class PotentialPrior(Prior):
    """A potential R: a restoration minimises f + sR_σ on [0, 1], σ in units of the noise as ``SUGGESTED`` says.

    It denoises by minimising ½‖x − y‖² + R_σ, σ = √s·noise: a 1/(1 − ρ)-Lipschitz map where R is ρ-weakly convex with ρ < 1,
    elsewhere a critical point.
    """

    @property
    def potential(self) -> Potential:
        """R, which stands in the place of the denoiser."""
        return cast(Potential, self.denoiser)

    @property
    def kind(self) -> str | None:
        """What its denoiser is proved to give."""
        rho = self.certificate.curvature.rho if self.certificate and self.certificate.curvature else math.inf
        return "global minimiser" if rho < 1 else "critical point" if rho < math.inf else None

    def at(self, strength: float, noise: float) -> tuple[DenoiserLike, float]:
        R, sigma = self.potential, math.sqrt(strength) * noise
        if isinstance(R, RidgePotential) and self.kind == "global minimiser":
            return ProximalDenoiser(R), sigma
        return partial(critical_point, R), sigma

    @property
    def method(self) -> str:
        return Variational.__name__

    def denoise(self, strength: float, seen: Observation) -> Outcome:
        found = super().denoise(strength, seen)
        return dataclasses.replace(found, guarantee="none" if self.kind is None else f"{self.kind}, proved")

    def solver_at(self, strength: float, noise: float, tol: float) -> Solver | Variational:
        stationary = STATIONARITY * tol
        sigma = SUGGESTED[type(self.potential)][0] * noise
        return Variational(self.potential, sigma=sigma, weight=strength, box=(0.0, 1.0), tol=stationary)

    def describe(self) -> Row:
        row = {**super().describe(), "averagedness": None, "curvature": None}
        curvature = None if self.certificate is None else self.certificate.curvature
        if curvature is None:
            return row
        rho = max(Fraction(curvature.rho), Fraction(0))
        prox = round_up(1 / (1 - rho)) if rho < 1 else None
        return {**row, "lipschitz_upper": prox, "curvature": (curvature.lower, curvature.upper)}


def critical_point(potential: Potential, y: Tensor, sigma: float) -> Tensor:
    """One of ½‖x − y‖² + R_σ, found from y."""
    return Variational(potential, sigma=sigma, box=None).solve(y, Denoising(), x0=y, guarantee="report").x


def prior_of(name: str, denoiser: DenoiserLike | Potential, *, ours: bool = False, channels: int = 1) -> Prior:
    """The prior with its certificate, or with the reason why there is none. Raises InputError for one of other channels."""
    expected = getattr(denoiser, "in_channels", channels)
    if expected != channels:
        raise InputError(f"it takes {expected} channels, and the benchmark's images have {channels}")
    try:
        certificate, reason = certify(denoiser), ""  # type: ignore[arg-type]  # it refuses what is no network
    except CertificateError as error:
        certificate, reason = None, str(error)
    if isinstance(denoiser, Potential):
        strength = Strength("weight", start=0.125 if isinstance(denoiser, RidgePotential) else 0.5)
        return PotentialPrior(name, denoiser, strength, ours, certificate=certificate, reason=reason)
    strength = Strength()
    x = torch.rand(1, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if certificate is not None and torch.equal(denoiser(x, 0.02), denoiser(x, 0.2)):  # it ignores its noise level
            strength = Strength("relaxation")
    return Prior(name, denoiser, strength, ours, certificate=certificate, reason=reason)


def with_steps(prior: Prior, name: str) -> Prior:
    """The same denoiser in DPIR's eight steps, without a proof."""
    steps = Way("DPIR", partial(rivals.half_quadratic_steps, prior.denoiser))
    reason = prior.reason or "the number of steps is fixed"
    return Prior(name, prior.denoiser, Strength(start=1.0), prior.ours, steps, reason=reason)


def total_variation(name: str, order: int) -> Prior:
    """Total variation of first or second order, solved."""
    way = Way("primal-dual", partial(rivals.variation, order), solves_denoising=True)
    return Prior(name, no_denoiser, Strength("weight"), solver=way, reason="a convex objective; no network")


def bm3d(task: str) -> Prior:
    """BM3D: its own deblurring, and DPIR's steps in tomography."""
    prior = Prior("BM3D", rivals.bm3d(), Strength(start=1.0), reason="no network; nothing is proved of it")
    return dataclasses.replace(prior, solver=Way("BM3D", rivals.bm3d_deblurring)) if task == "deblurring" else prior


def fbp() -> Prior:
    """Filtered back-projection."""
    strength, way = Strength("filter", (0.0, 1.0, 2.0), 0.0), Way("FBP", rivals.back_projection)
    return Prior("FBP", no_denoiser, strength, solver=way, reason="a linear map; it does not iterate")


def no_denoiser(x: Tensor, sigma: float | Tensor | None) -> Tensor:
    """In the place of a denoiser where there is none."""
    raise InputError("this prior has no denoiser.")


def rivals_by_name(weights: Path | None, channels: int, task: str) -> Mapping[str, Callable[[], Prior]]:
    """The rivals by name; each raises InputError where its package or its file in the folder of weights is missing.

    A further one is one line here.
    """

    def ridge(name: str, file: str) -> Prior:
        return prior_of(name, load_published(networks.in_folder(weights, file)), channels=channels)

    def scico() -> Prior:
        if channels != 1:
            raise InputError("it takes 1 channel, and the benchmark's images have 3")
        return prior_of("DnCNN", networks.dncnn_of_scico())

    makers: dict[str, Callable[[], Prior]] = {
        "FFDNet": lambda: prior_of("FFDNet", networks.ffdnet(channels), channels=channels),
        "DnCNN": scico,
        "WCRR": partial(ridge, "WCRR", "wcrr.npz"),
        "CRR": partial(ridge, "CRR", "crr.npz"),
        "BM3D": partial(bm3d, task),
        "TV": partial(total_variation, "TV", 1),
        "TGV": partial(total_variation, "TGV", 2),
    }
    for name in networks.DEEPINV_FILES:
        makers[name] = partial(
            lambda name: prior_of(name, networks.from_deepinv(name, weights, channels), channels=channels), name
        )
    return makers | ({"FBP": fbp} if task == "ct" else {})


def collect(
    named: Sequence[str] = (),
    wanted: Sequence[str] | None = None,
    *,
    task: str = "denoising",
    channels: int = 1,
    weights: Path | None = None,
) -> tuple[list[Prior], dict[str, str]]:
    """All priors: the shipped ones, the user's (``named``, each NAME=FILE), rivals; and why others cannot take part.

    ``wanted`` keeps those names only, in any case; ``channels`` are those of the images, 1 or 3; ``weights`` is a folder with
    published weights. In the tasks "deblurring" and "ct" a proved denoiser takes part in its solver and in DPIR's
    steps; any other denoiser in DPIR's steps.
    Raises InputError for a malformed or unreadable entry of the user's and for an unknown name.
    """
    makers: dict[str, Callable[[], Prior]] = {
        name: lambda name=name: prior_of(name, load_pretrained(name), ours=True, channels=channels)  # type: ignore[misc]
        for name in (pretrained_names() if task == "deblurring" else certified_names())
    }
    for prior in [user_prior(entry, channels) for entry in named]:  # at once: the user asked for it by name
        makers[prior.name] = partial(dataclasses.replace, prior)
    own = {name.lower() for name in makers}  # the user's goes before a rival of the same name
    rival = {n: make for n, make in rivals_by_name(weights, channels, task).items() if n.lower() not in own}
    makers = {**rival, **makers}
    kept = {name.lower() for name in (makers if wanted is None else wanted)}
    bases = {name.removesuffix(" (dpir)") for name in kept}  # these entries come with the denoiser's
    unknown, priors = bases - {name.lower() for name in makers}, []
    skipped = {name: f"it takes no part in {task}" for name in (*pretrained_names(), "FBP") if name.lower() in unknown}
    unknown -= {name.lower() for name in skipped}
    if unknown:
        raise InputError(f"no prior is called {', '.join(sorted(unknown))}; there are {', '.join(makers)}.")
    for name in (name for name in makers if name.lower() in bases):
        try:
            prior = makers[name]()
        except InputError as error:
            skipped[name] = str(error)
            continue
        restores = task in ("deblurring", "ct")
        if restores and not prior.certified and not isinstance(prior, PotentialPrior) and not isinstance(prior.solver, Way):
            prior = with_steps(prior, prior.name)
        priors.append(prior)
        if prior.nonexpansive and restores:
            priors.append(with_steps(prior, f"{prior.name} (DPIR)"))
    return [p for p in priors if wanted is None or p.name.lower() in kept], skipped


def user_prior(entry: str, channels: int) -> Prior:
    """A prior of the user's, NAME=FILE: our weights, or a published ridge regulariser (.npz).

    Raises InputError for a missing or unreadable file, CertificateError for weights that contradict their certificate.
    """
    name, sign, source = entry.partition("=")
    if not (name and sign and source):
        raise InputError(f"--denoiser takes NAME=FILE; got {entry!r}.")
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{source}: no such file.")
    if path.suffix == ".npz":
        return prior_of(name, load_published(path), channels=channels)
    plain = path.suffix in TORCH_SUFFIXES
    return prior_of(name, load_denoiser(path, require_certified=not plain), ours=True, channels=channels)
