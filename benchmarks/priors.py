"""Everything that takes part in a comparison: a denoiser, what its strength means, its solver, and what is proved of it."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from deepinv.physics import Denoising
from torch import Tensor, nn

from pnp_lip.benchmarks.baselines import BASELINES
from pnp_lip.benchmarks.networks import load_rival
from pnp_lip.benchmarks.photographs import sha256_of
from pnp_lip.benchmarks.published import load_published
from pnp_lip.benchmarks.record import Row
from pnp_lip.certificates import Certificate, certify, firm
from pnp_lip.certificates.calculus import round_up
from pnp_lip.denoisers import RelaxedDenoiser, can_be_guided, relax
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.potentials import RidgePotential
from pnp_lip.pretrained import TORCH_SUFFIXES, certified_names, load_annealer, load_denoiser, load_pretrained
from pnp_lip.protocols import DenoiserLike
from pnp_lip.solvers import ADMM, NOISE_FACTOR, Anderson, ForwardBackward, ProximalDenoiser, Solver, Variational

__all__ = ["STRENGTHS", "THRESHOLD", "Guide", "PotentialPrior", "Prior", "Strength", "collect", "prior_of", "with_admm",
           "with_guide"]  # fmt: skip

STRENGTHS = tuple(2.0 ** (k / 2) for k in range(-12, 9))  # the grid of every prior


@dataclasses.dataclass(frozen=True)
class Strength:
    """What the one number that is tuned, s > 0, means for a denoiser D(x, σ), and its ``grid``.

    At a fixed point a prior weighs as much as its threshold, or as the square of its noise level. So s acts as a
    "threshold", D(·, s·noise), or as "noise level squared", D(·, √s·noise). A denoiser that ignores its noise level is
    relaxed instead: s acts as a "relaxation" θ = min(s, 1). ``theta_upper`` is 1, or what makes the relaxed denoiser firmly
    nonexpansive for a solver that needs this; the noise level then is √(s/θ)·noise. The search begins at ``start``.
    """

    acts_as: Literal["noise level squared", "threshold", "relaxation"] = "noise level squared"
    theta_upper: float = 1.0
    grid: tuple[float, ...] = STRENGTHS
    start: float = 0.5


THRESHOLD = Strength("threshold")


@dataclasses.dataclass(frozen=True)
class Guide:
    """The solution that guides another one: with the ``prior`` at its ``strength``, improved by the ``annealer``."""

    prior: "Prior"
    strength: float = 1.0
    annealer: nn.Module | None = None


@dataclasses.dataclass(frozen=True)
class Prior:
    """A denoiser under its name, with its strength, its solver, and the certificate or the ``reason`` why there is none.

    ``ours`` marks the networks of this package; ``guide`` the solution that guides this one.
    """

    name: str
    denoiser: DenoiserLike
    strength: Strength = Strength()
    ours: bool = False
    solver: type[Solver] = ForwardBackward
    guide: Guide | None = None
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
    def kind(self) -> str | None:
        """What the denoiser of a potential is proved to give; None for maps that minimise nothing known."""
        return None

    def at(self, strength: float, noise: float) -> tuple[DenoiserLike, float]:
        """The denoiser and the noise level that ``strength`` means for data of this noise."""
        acts_as, theta = self.strength.acts_as, self.strength.theta_upper
        if acts_as == "threshold":
            return self.denoiser, strength * noise
        if acts_as == "relaxation":
            theta, sigma = min(strength, theta), noise
        else:
            sigma = math.sqrt(strength / theta) * noise
        return self.denoiser if theta == 1 else relax(self.denoiser, theta), sigma  # type: ignore[arg-type]

    def solver_at(self, strength: float, noise: float, tol: float) -> Solver | Variational:
        """The solver of a restoration at this strength.

        The box [0, 1] constrains certified priors and proximal maps. It would hide the divergence of other priors behind an
        image of zeros and ones, so they run without it.
        """
        denoiser, sigma = self.at(strength, noise)
        boxed = self.solver.takes_box and (self.certified or self.strength.acts_as == "threshold")
        return self.solver(denoiser, sigma=sigma, tol=tol, box=(0, 1) if boxed else None, scheme=Anderson())

    def describe(self) -> Row:
        """What a record says of it; tensors for guidance count only with a guide."""
        network = self.denoiser if isinstance(self.denoiser, nn.Module) else nn.Identity()
        unused = () if self.guide is not None else ("guidance.", "guide_network.")
        weights = [tensor for name, tensor in network.state_dict().items() if not name.startswith(unused)]
        guide: Row = {} if self.guide is None else {"before": self.guide.prior.name}
        if self.guide is not None and self.guide.annealer is not None:
            guide["annealer_sha256"] = sha256_of(*self.guide.annealer.state_dict().values())
        bound = self.certificate
        return {
            "ours": self.ours,
            "solver": self.solver.__name__,
            "strength": self.strength.acts_as,
            "theta_upper": self.strength.theta_upper,
            **guide,
            "grid": self.strength.grid,
            "parameters": sum(p.numel() for name, p in network.named_parameters() if not name.startswith(unused)),
            "weights_sha256": sha256_of(*weights) if weights else None,
            "lipschitz_upper": None if bound is None else bound.lipschitz_upper,
            "averagedness": None if bound is None else bound.averagedness,
            "certified": self.certified,
            "reason": self.reason or ("; ".join(bound.failures) if bound is not None else ""),
        }


@dataclasses.dataclass(frozen=True)
class PotentialPrior(Prior):
    """A potential R: a restoration minimises f + sR_σ on [0, 1], σ twice the noise level; denoising ½‖x − y‖² + R_σ,
    σ = √s·noise.

    Denoising is 1/(1 − ρ)-Lipschitz where R is ρ-weakly convex with ρ < 1; elsewhere it gives a critical point.
    """

    @property
    def potential(self) -> RidgePotential:
        """R, which stands in the place of the denoiser."""
        return cast(RidgePotential, self.denoiser)

    @property
    def kind(self) -> str | None:
        rho = self.certificate.curvature.rho if self.certificate and self.certificate.curvature else math.inf
        return "global minimiser" if rho < 1 else "critical point" if rho < math.inf else None

    def at(self, strength: float, noise: float) -> tuple[DenoiserLike, float]:
        unique, sigma = self.kind == "global minimiser", math.sqrt(strength) * noise
        return (ProximalDenoiser(self.potential) if unique else partial(critical_point, self.potential)), sigma

    def solver_at(self, strength: float, noise: float, tol: float) -> Solver | Variational:
        return Variational(self.potential, sigma=NOISE_FACTOR * noise, weight=strength, box=(0.0, 1.0))

    def describe(self) -> Row:
        row = {**super().describe(), "solver": Variational.__name__, "averagedness": None, "curvature": None}
        curvature = None if self.certificate is None else self.certificate.curvature
        if curvature is None:
            return row
        rho = max(Fraction(curvature.rho), Fraction(0))
        prox = round_up(1 / (1 - rho)) if rho < 1 else None
        return {**row, "lipschitz_upper": prox, "curvature": (curvature.lower, curvature.upper)}


def critical_point(potential: RidgePotential, y: Tensor, sigma: float) -> Tensor:
    """One of ½‖x − y‖² + R_σ, found from y."""
    return Variational(potential, sigma=sigma, box=None).solve(y, Denoising(), x0=y, guarantee="report").x


def prior_of(
    name: str, denoiser: DenoiserLike | RidgePotential, *, ours: bool = False, threshold: bool = False, channels: int = 1
) -> Prior:
    """The prior with its certificate, or with the reason why there is none. Raises InputError for one of other channels."""
    expected = getattr(denoiser, "in_channels", channels)
    if expected != channels:
        raise InputError(f"it takes {expected} channels, and the benchmark's images have {channels}")
    try:
        certificate, reason = certify(denoiser), ""  # type: ignore[arg-type]  # it refuses what is no network
    except CertificateError as error:
        certificate, reason = None, str(error)
    if isinstance(denoiser, RidgePotential):
        return PotentialPrior(name, denoiser, Strength(start=0.125), ours, certificate=certificate, reason=reason)
    strength = THRESHOLD if threshold else Strength()
    x = torch.rand(1, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not threshold and torch.equal(denoiser(x, 0.02), denoiser(x, 0.2)):  # it ignores its noise level
            strength = Strength("relaxation")
    return Prior(name, denoiser, strength, ours, certificate=certificate, reason=reason)


def with_admm(prior: Prior) -> Prior:
    """The same denoiser in ADMM, relaxed at least as far as makes it firmly nonexpansive."""
    firmed = firm(prior.denoiser)  # type: ignore[arg-type]  # what is certified is a network
    theta = firmed.theta if isinstance(firmed, RelaxedDenoiser) and firmed is not prior.denoiser else 1.0
    strength = dataclasses.replace(prior.strength, theta_upper=theta)
    return dataclasses.replace(prior, name=f"{prior.name} (ADMM)", solver=ADMM, strength=strength)


def with_guide(prior: Prior, annealer: nn.Module | None = None) -> Prior:
    """The same denoiser, used twice: the second time guided by the first result, or by what the annealer makes of it."""
    return dataclasses.replace(prior, name=f"{prior.name} (guided)", guide=Guide(prior, annealer=annealer))


def collect(
    named: Sequence[str] = (),
    wanted: Sequence[str] | None = None,
    *,
    admm: bool = True,
    channels: int = 1,
    annealed: bool = False,
) -> tuple[list[Prior], dict[str, str]]:
    """All priors: the shipped ones, the user's (``named``, each NAME=FILE), baselines; and why others cannot take part.

    ``wanted`` keeps those names only, in any case; ``admm`` adds a second entry for each certified one; ``channels`` are
    those of the images, 1 or 3; ``annealed`` improves guides by the annealer.
    Raises InputError for a malformed or unreadable entry of the user's and for an unknown name.
    """
    makers: dict[str, Callable[[], Prior]] = {
        name: lambda name=name: prior_of(name, load_pretrained(name), ours=True, channels=channels)  # type: ignore[misc]
        for name in certified_names()
    }
    for prior in [user_prior(entry, channels) for entry in named]:  # at once: the user asked for it by name
        makers[prior.name] = partial(dataclasses.replace, prior)
    for name, (build, threshold) in BASELINES.items():
        makers.setdefault(name, lambda n=name, b=build, t=threshold: prior_of(n, b(), threshold=t, channels=channels))  # type: ignore[misc]
    kept = {name.lower() for name in (makers if wanted is None else wanted)}
    bases = {re.sub(r" \((admm|guided)\)$", "", name) for name in kept}  # their entries come with the denoiser's
    unknown = bases - {name.lower() for name in makers}
    if unknown:
        raise InputError(f"no prior is called {', '.join(sorted(unknown))}; there are {', '.join(makers)}.")
    annealer = load_annealer(channels) if annealed else None
    priors, skipped = [], {}
    for name in (name for name in makers if name.lower() in bases):
        try:
            prior = makers[name]()
        except InputError as error:
            skipped[name] = str(error)
            continue
        priors.append(prior)
        if prior.nonexpansive and can_be_guided(prior.denoiser):
            priors.append(with_guide(prior, annealer))
        if admm and prior.nonexpansive:
            priors.append(with_admm(prior))
    return [p for p in priors if wanted is None or p.name.lower() in kept], skipped


def user_prior(entry: str, channels: int) -> Prior:
    """A prior of the user's, NAME=FILE: our weights, a network by ``save_rival``, or a published ridge regulariser (.npz).

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
    rival = load_rival(path) if plain else None
    if rival is not None:
        return prior_of(name, rival, channels=channels)
    return prior_of(name, load_denoiser(path, require_certified=not plain), ours=True, channels=channels)
