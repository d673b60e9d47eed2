"""The objective J = f + λR + ι_C of one image, in the dtype of the data and in float64, and how convex it is."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import torch
from deepinv.physics import Denoising, Inpainting
from torch import Tensor, nn

from pnp_lip.certificates.calculus import CurvatureBound
from pnp_lip.certificates.certificate import Certificate
from pnp_lip.denoisers.gradient_flow_denoiser import Sigma
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.fingerprint import recognised
from pnp_lip.operators import Blur, CertifiedPhysics, certify_norm
from pnp_lip.operators.blur import fourier
from pnp_lip.operators.conjugate_gradient import Map
from pnp_lip.operators.norm_rules import is_known
from pnp_lip.potentials import RidgePotential
from pnp_lip.potentials.ridge_potential import RidgeAtLevel
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.data_terms import DataTerm, LeastSquares
from pnp_lip.solvers.maps import Box, Maps

__all__ = ["VALUES", "Energies", "Energy", "Level", "doubled", "least_of", "level_of", "margin_of"]

# Relative to all that is added up in a gradient: 9,000 roundings of float64 for sums of some thousand products, 64 elsewhere.
PRECISE, PLAIN = 1e-12, 64.0
VALUES = ("fn", "potential")  # names under which potentials offer their value, before their call
ALIKE = 1e-3  # by which an operator or a potential and its copy in float64 may differ: the rounding of float32, and no more
SYMBOL_SLACK = 1e-12  # relative; of transforms of fewer than 2³⁰ numbers in float64


@dataclasses.dataclass(frozen=True)
class Named:
    """A potential by the methods that it has: value ``fn``, ``potential`` or the call; gradient ``grad``, ``potential_grad``,
    or else the derivative of its value."""

    potential: object
    sigma: Sigma

    def value(self, x: Tensor) -> Tensor:
        name = next((n for n in VALUES if callable(getattr(self.potential, n, None))), "__call__")
        try:
            value: Tensor = getattr(self.potential, name)(x, self.sigma)
        except TypeError as error:
            raise InputError(f"the potential has no value that can be called as {name}(x, sigma) ({error}).") from error
        if not isinstance(value, Tensor) or value.numel() != len(x):
            raise ShapeError(f"the potential must give one number for each of the {len(x)} images; got {value!r:.80}.")
        return value.reshape(len(x))

    def grad(self, x: Tensor) -> Tensor:
        name = next((n for n in ("grad", "potential_grad") if callable(getattr(self.potential, n, None))), None)
        if name is not None:
            gradient: Tensor = getattr(self.potential, name)(x, self.sigma)
            if gradient.shape != x.shape:
                raise ShapeError(f"the gradient of the potential must have the image's shape; got {tuple(gradient.shape)}.")
            return gradient.detach().clone()  # the user's own tensor, maybe
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            value = self.value(leaf).sum()
            if not value.requires_grad:
                raise InputError(
                    "the potential has neither a gradient nor a value that torch can differentiate by x; give a `grad`."
                )
            return torch.autograd.grad(value, leaf)[0]


Level: TypeAlias = RidgeAtLevel | Named  # R_σ of one noise level


def level_of(potential: object, x: Tensor, sigma: Sigma) -> Level:
    """R_σ for the one image x."""
    return potential.levels(x, sigma)[0][0] if type(potential) is RidgePotential else Named(potential, sigma)


@dataclasses.dataclass(frozen=True, eq=False)
class Energy:
    """J of one image. ``exact`` is the same in float64, if there is such a copy. ``scales`` = (c, L), ‖∇f(0)‖ ≤ c m, m the
    ``magnitude`` of the data, and ∇f + λ∇R L-Lipschitz: the rounding of the gradient is relative to c m + L‖x‖."""

    maps: Maps
    level: Level
    weight: float
    scales: tuple[float, float]
    exact: "Energy | None" = None

    @property
    def box(self) -> Box:
        """C."""
        return self.maps.box

    @property
    def precision(self) -> "Energy":
        """J in float64, or as exact as there is."""
        return self if self.exact is None else self.exact

    @functools.cached_property
    def preconditioner(self) -> Map:
        """About (AᵀA + λ)⁻¹ up to a factor, as potentials ½‖x − N(x)‖² have curvatures about 1 (ridges up to 50), else I."""
        physics, M = self.maps.physics, None
        if type(self.level) is Named and type(self.maps.data_term) is LeastSquares and isinstance(physics, CertifiedPhysics):
            M = physics.preconditioner(torch.tensor(1 / self.weight))
        return torch.positive if M is None else M

    @property
    def unit(self) -> float:
        """The unit of rounding of J."""
        return torch.finfo(self.precision.maps.y.dtype).eps

    def gradient(self, x: Tensor) -> Tensor:
        """∇f(x) + λ∇R(x)."""
        return self.level.grad(x).mul_(self.weight).add_(self.maps.grad(x))

    def value(self, x: Tensor) -> float:
        """f(x) + λR(x) for x in C."""
        e = self.precision
        x = x.to(e.maps.y)
        return float(e.maps.misfit(x).double()) + self.weight * float(e.level.value(x).double())

    @property
    def allowance(self) -> float:
        """For the rounding of ``precise``, relative to ``entering``."""
        return PRECISE if self.unit < 1e-10 else PLAIN * self.unit

    def entering(self, x: Tensor, L: float = 0.0) -> float:
        """The size of all that is added up in the gradient; ``L`` is a Lipschitz constant found later than ``scales``."""
        return self.scales[0] * self.maps.data_term.magnitude(self.maps.y) + max(self.scales[1], L) * float(x.double().norm())

    def precise(self, x: Tensor) -> tuple[Tensor, float]:
        """∇f(x) + λ∇R(x) in float64, and a bound of its rounding."""
        e = self.precision
        return e.gradient(x.to(e.maps.y)).double(), self.allowance * self.entering(x)

    def agrees(self, x: Tensor, L: float) -> bool:
        """Whether the gradient at x is still that of the copy in float64, to the rounding of x's dtype."""
        if self.exact is None:
            return True
        prior = self.exact.level.grad(x.to(self.exact.maps.y)).double()
        rounding = PLAIN * torch.finfo(x.dtype).eps * self.entering(x, L) / self.weight
        return float((self.level.grad(x).double() - prior).norm()) <= ALIKE * float(prior.norm()) + rounding


class Energies(Sequence[Energy]):
    """J of each image of a batch, with a copy in float64 where there is one; made anew whenever it is
    asked for, so that a batch takes little more memory than an image.

    ``own``: the potential is one of this package's, of which a copy computes the same.
    """

    def __init__(self, maps: Maps, potential: object, weight: float, scales: tuple[float, float], *, own: bool) -> None:
        self.maps, self.weight, self.scales, self.own = maps, weight, scales, own
        self.potential, self.fine, self.physics = potential, None, maps.physics
        if maps.y.dtype == torch.float64:
            self.potential = doubled(potential)  # exact, whatever the weights' dtype
        else:
            with contextlib.suppress(RuntimeError, TypeError, ValueError, AttributeError):  # of what cannot be copied
                self.physics, self.fine = doubled(maps.physics), doubled(potential)
        self.apart = len(self) == 1 or takes_images_alone(maps, len(self))

    def __len__(self) -> int:
        return len(self.maps.y)

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        one, like = part_of(self.maps, i, self.apart), self.maps.y.new_zeros(1, *self.maps.image_shape)
        energy = Energy(one, level_of(self.potential, like, one.sigma), self.weight, self.scales)
        if self.fine is None:
            return energy
        probe = torch.rand(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like.device)
        try:
            double = part_of(dataclasses.replace(self.maps, physics=self.physics), i, self.apart)
            double = dataclasses.replace(double, y=doubled(double.y), data_term=doubled(double.data_term))
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return energy
        copied = Energy(double, level_of(self.fine, probe, one.sigma), self.weight, self.scales)
        return dataclasses.replace(energy, exact=copied if alike(energy, copied, probe, own=self.own) else None)


@dataclasses.dataclass(frozen=True)
class Member:
    """The forward model of one image of a batch, where it differs from image to image: all others are zero."""

    physics: PhysicsLike
    image: int
    count: int

    def A(self, x: Tensor) -> Tensor:
        """A x for the one image."""
        return self.physics.A(self.among(x))[self.image : self.image + 1]

    def A_adjoint(self, y: Tensor) -> Tensor:
        """A*y for the data of the one image."""
        return self.physics.A_adjoint(self.among(y))[self.image : self.image + 1]

    def among(self, t: Tensor) -> Tensor:
        """The batch with t at its place."""
        batch = t.new_zeros(self.count, *t.shape[1:])
        batch[self.image] = t[0]
        return batch


def part_of(maps: Maps, image: int, apart: bool) -> Maps:
    """The maps of one image of a batch; ``apart``: the physics treats all images alike."""
    one = maps.part([image])
    return one if apart else dataclasses.replace(one, physics=Member(maps.physics, image, len(maps.y)))


def takes_images_alone(maps: Maps, count: int) -> bool:
    """Whether A of each image alone is what A makes of it in the batch."""
    noise = torch.rand((1, *maps.image_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(maps.y)
    whole = maps.physics.A(noise.expand(count, *maps.image_shape).contiguous())
    try:
        alone = maps.physics.A(noise)
    except (RuntimeError, ValueError, IndexError):
        return False
    gaps = (whole - alone).flatten(1).norm(dim=1) if alone.shape == whole[:1].shape else None
    return gaps is not None and float(gaps.max()) <= ALIKE * float(whole.norm())


def alike(energy: Energy, copied: Energy, x: Tensor, *, own: bool) -> bool:
    """Whether a copy in float64 computes in it, and the same as the original."""
    try:
        near = x.to(energy.maps.y)
        pairs = [(energy.maps.grad(near), copied.maps.grad(x)), (energy.maps.misfit(near), copied.maps.misfit(x))]
        if not own:
            pairs += [(energy.level.grad(near), copied.level.grad(x)), (energy.level.value(near), copied.level.value(x))]
    except (RuntimeError, TypeError, ValueError):
        return False
    return all(b.dtype == torch.float64 and float((a - b).norm()) <= ALIKE * float(b.norm()) for a, b in pairs)


def doubled(part: object) -> Any:
    """A copy in float64 of a tensor, a module, or a data term of such; other objects as they are."""
    if isinstance(part, Tensor):
        return part.double() if part.is_floating_point() else part
    if isinstance(part, nn.Module):
        return copy.deepcopy(part).double()
    if isinstance(part, DataTerm):
        return dataclasses.replace(part, **{f.name: doubled(getattr(part, f.name)) for f in dataclasses.fields(part)})
    return part


def margin_of(
    maps: Maps, potential: object, certificate: Certificate | None, curvature: CurvatureBound, weight: float
) -> tuple[Fraction, str]:
    """m with J m-strongly convex (m < 0: only weakly), and how m was found.

    m = μ_f − λρ, or where A is a circular blur and R_σ is circular m = min over the image's frequencies of
    |k̂|² − λ s σ_max(Σ_c ŵ_c ŵ_c*), s the steepest fall of φ: the Hessian is at least AᵀA − λsWᵀW, which is circulant.
    """
    λ, how = Fraction(weight), "μ_f − λρ"
    m = max(Fraction(maps.data_term.convexity), convexity_of(maps)) - λ * Fraction(curvature.rho)
    circular = type(potential) is RidgePotential and potential.padding_mode == "circular"
    symbol = power_of(maps) if circular and certificate is not None else None
    if symbol is None or certificate is None:
        return m, how
    power, rounding = symbol
    size, w = maps.image_shape[1:], potential.weight.detach().cpu().double()  # type: ignore[attr-defined]
    fall = Fraction(-min(certificate.layers[0].slopes[0], 0.0))
    spectra = torch.fft.rfft2(wrapped(w, size))
    gram = torch.einsum("fahw,fbhw->hwab", spectra.conj(), spectra)
    falls = torch.linalg.eigvalsh(gram)[..., -1] if gram.shape[-1] > 1 else gram[..., 0, 0].real
    least = float((power.amin(0) - float(λ * fall) * falls).min())
    slack = rounding + SYMBOL_SLACK * float(float(λ * fall) * w.abs().sum((1, 2, 3)).square().sum())
    found = Fraction(least - slack)
    return (found, "min |k̂|² − λs‖ŵ‖² over all frequencies") if found > m else (m, how)


def power_of(maps: Maps) -> tuple[Tensor, float] | None:
    """|k̂|² over the image's frequencies and a bound of its rounding, where f = ½‖k ∗ x − y‖² with a circular blur."""
    physics = maps.physics
    if not (type(physics) is Blur and isinstance(physics, Blur) and plain_squares(maps) and physics.closed_form_prox):
        return None
    psf, size = physics.psf.detach().cpu().double(), maps.image_shape[1:]
    power = fourier(psf, (size[0], size[1]), (0, 0)).abs().square()
    return power, SYMBOL_SLACK * float(psf.abs().sum() ** 2)


def least_of(maps: Maps) -> float | None:
    """The smallest eigenvalue of AᵀA or a little more, where the structure of A gives it."""
    if diagonal(maps):
        return float(convexity_of(maps))
    symbol = power_of(maps)
    return None if symbol is None else float(symbol[0].min()) + symbol[1]


def wrapped(w: Tensor, size: tuple[int, ...]) -> Tensor:
    """Kernels placed on a grid of this size, periodically where they are larger."""
    rows, columns = (torch.arange(k) % n for k, n in zip(w.shape[2:], size, strict=True))
    tall = w.new_zeros(*w.shape[:2], size[0], w.shape[3]).index_add_(2, rows, w)
    return w.new_zeros(*w.shape[:2], *size).index_add_(3, columns, tall)


def convexity_of(maps: Maps) -> Fraction:
    """A lower bound of μ_f that is proved without anybody's word: the smallest entry of a diagonal A, squared; else 0."""
    if diagonal(maps):
        return Fraction(float(torch.as_tensor(maps.physics.mask).abs().min())) ** 2  # type: ignore[attr-defined]
    return Fraction(0)


def diagonal(maps: Maps) -> bool:
    """Whether f = ½‖m ⊙ x − y‖² with a mask m."""
    return type(maps.physics) in (Denoising, Inpainting) and plain_squares(maps)


def plain_squares(maps: Maps) -> bool:
    """Whether f = ½‖Ax − y‖² with an A of this package's knowledge, whose parts are all as its rule asks."""
    if not (type(maps.data_term) is LeastSquares and recognised(maps.data_term) and is_known(maps.physics)):
        return False
    try:
        certify_norm(maps.physics, img_size=maps.image_shape)
    except CertificateError:
        return False
    return True
