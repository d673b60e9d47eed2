"""The prox of a potential as a denoiser, to a proved distance."""

import copy
import math
from fractions import Fraction

import torch
from deepinv.models import Denoiser
from deepinv.physics import Denoising
from torch import Tensor

from pnp_lip.certificates import certify
from pnp_lip.certificates.calculus import MapBound, round_down, round_up
from pnp_lip.certificates.certify import Proof, join, own_rule, prove
from pnp_lip.certificates.settings import real, whole
from pnp_lip.denoisers.gradient_flow_denoiser import Sigma, noise_level
from pnp_lip.errors import CertificateError, GuaranteeError, ShapeError
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers import descent
from pnp_lip.solvers.data_terms import LeastSquares
from pnp_lip.solvers.energy import Energies
from pnp_lip.solvers.hypothesis import check_max_iter, check_positive
from pnp_lip.solvers.maps import Maps

__all__ = ["ProximalDenoiser", "prox"]


class ProximalDenoiser(Denoiser):  # type: ignore[misc]
    """D(x, σ) = argmin_z ½‖z − x‖² + λR_σ(z), each image to a proved distance of ``accuracy`` √n, n its numbers.

    For a potential with curvature in [−ρ, L] and λρ < 1 the minimiser is unique and D is 1/(1 − λρ)-Lipschitz; for ρ = 0 it
    is firmly nonexpansive, the prox of a convex function. Of any z, ‖z − D(x, σ)‖ ≤ ‖z − x + λ∇R(z)‖/(1 − λρ), which is
    evaluated in float64 at the end. Raises GuaranteeError, with the distance reached, where ``max_iter`` steps
    do not suffice.

    ``weight`` is λ. Shapes: x (B, C, H, W) on [0, 1]; σ as for the potential. Raises CertificateError at construction and at
    each call for a potential without a certified λρ < 1, InputError for settings out of their range.
    Source: Gribonval & Nikolova (2020), "A characterization of proximity operators".

    >>> potential = RidgePotential(filters=2, kernel_size=3)
    >>> denoiser = ProximalDenoiser(potential, accuracy=1e-3)
    >>> denoiser(torch.zeros(1, 1, 8, 8), 0.1).abs().max()
    tensor(0.)
    """

    def __init__(self, potential: RidgePotential, *, accuracy: float = 1e-3, weight: float = 1.0, max_iter: int = 1000) -> None:
        super().__init__()
        check_positive("accuracy", accuracy)
        check_positive("weight", weight)
        check_max_iter(max_iter)
        self.potential, self.accuracy, self.weight, self.max_iter = potential, accuracy, weight, max_iter
        margin_of_prox(potential, weight)

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: object) -> Tensor:
        """D(x, σ); not differentiable."""
        z, distance = prox(self.potential, x, sigma, self.weight, self.accuracy, self.max_iter)
        if not max(distance) <= self.accuracy:
            raise GuaranteeError(
                f"the prox of the potential was found to a distance of {max(distance):.3g}, and {self.accuracy:g} was asked: "
                f"raise `max_iter` = {self.max_iter}, or loosen `accuracy` (float32 ends near 1e-6). "
                "Variational returns what it found."
            )
        return z


@torch.no_grad()
def prox(
    potential: RidgePotential, x: Tensor, sigma: Sigma, weight: float, accuracy: float, max_iter: int
) -> tuple[Tensor, list[float]]:
    """argmin_z ½‖z − x‖² + λR_σ(z), and for each image a proved bound of the distance to it, root mean square."""
    L, m = margin_of_prox(potential, weight)
    if not isinstance(x, Tensor) or x.ndim != 4 or x.numel() == 0 or x.dtype not in (torch.float32, torch.float64):
        raise ShapeError("this denoiser takes a tensor (B, C, H, W) of float32 or float64 with one image at least.")
    given = potential.default_sigma if sigma is None else sigma
    noise_level(given, len(x))  # which checks it, and rounds a plain number
    levels = torch.as_tensor(given, dtype=torch.float64).reshape(-1)
    maps = Maps(x.detach(), Denoising(), copy.copy, levels, LeastSquares(), None, tuple(x.shape[1:]))  # type: ignore[arg-type]
    found, distances = [], []
    for i, energy in enumerate(Energies(maps, potential, weight, (1.0, L), own=True)):
        s = descent.begin(energy, x[i : i + 1].detach().clone(), L, accuracy * m, values=False)
        for _ in range(max_iter):
            if s.status != "running":
                break
            descent.advance(energy, s)
        s.forget(going_on=False)
        distances.append(descent.outcome(energy, s) / m * (1 + 1e-9))
        found.append(s.x)
    return torch.cat(found), [d if math.isfinite(d) else math.inf for d in distances]


def margin_of_prox(potential: object, weight: float) -> tuple[float, float]:
    """The Lipschitz constant 1 + λL of the gradient and the convexity 1 − λρ, which must be positive."""
    curvature = certify(potential).curvature  # type: ignore[arg-type]
    if curvature is None:
        raise CertificateError(f"{type(potential).__name__} is no potential with a certified curvature.")
    λ = Fraction(weight)
    m = round_down(1 - λ * Fraction(curvature.rho))
    if not m > 0:
        raise CertificateError(
            f"the prox needs λρ < 1, so that it is one map; got λ = {weight:g}, ρ = {curvature.rho:.6g}. Lower the weight, or "
            "scale the falling slopes of the potential."
        )
    return round_up(1 + λ * Fraction(max(curvature.upper, curvature.rho))), m


@own_rule(ProximalDenoiser)
def certify_prox(denoiser: ProximalDenoiser, path: str, rtol: float) -> Proof:
    """prox_λR of a λρ-weakly convex λR is 1/(1 − λρ)-Lipschitz, and the prox of a convex function for ρ = 0.

    This is the exact prox. That the executed one is near enough is a statement of the user, who chose ``accuracy``.
    """
    inner = prove(denoiser.potential, join(path, "potential"), rtol)
    if inner.curvature is None:
        raise CertificateError(f"`{join(path, 'potential')}` is no potential.")
    λ, accuracy = real(denoiser.weight, join(path, "weight")), real(denoiser.accuracy, join(path, "accuracy"))
    whole(denoiser.max_iter, join(path, "max_iter"))
    fall = λ * Fraction(inner.curvature.rho)
    if not (λ > 0 and accuracy > 0 and fall < 1):
        raise CertificateError(f"`{path or 'the prox'}` needs λ > 0, an accuracy > 0 and λρ < 1; got λρ = {float(fall):.6g}.")
    firm = fall <= 0
    bound = MapBound(1 / (1 - max(fall, Fraction(0))), Fraction(1, 2) if firm else None, proximal=firm)
    failure = (
        f"firm nonexpansiveness: the potential is {float(fall):.6g}-weakly convex, so its prox is only "
        f"{float(bound.lipschitz):.6g}-Lipschitz. Minimise with it instead: pnp_lip.solvers.Variational(potential, ...)"
    )
    where = f"`{path}`" if path else "the module itself"
    stated = f"{where}: the prox is executed to a distance of {float(accuracy):g} per pixel, which stands for the exact one"
    return Proof(bound, inner.layers, inner.failures + (() if firm else (failure,)), (*inner.stated, stated), inner.sizes)
