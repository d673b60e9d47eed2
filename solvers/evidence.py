"""What is known before the first step: certificate of the denoiser, norm of the operator, its adjoint, the data term."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.certificates.certificate import Certificate
from pnp_lip.errors import CertificateError, ShapeError
from pnp_lip.solvers.guarantee import Hypothesis

__all__ = [
    "Evidence",
    "adjoint_gap",
    "examine_adjoint",
    "examine_denoiser",
    "examine_norm",
    "examine_repeatability",
    "norm_estimate",
]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The numbers from which a solver decides whether its theorem applies.

    ``denoiser`` bounds D, None when nothing is known; ``norm_upper`` bounds ‖A‖ and ``lipschitz`` = L the Lipschitz
    constant of ∇f, None without a bound; ``scale`` is L or an estimate of it, from which free parameters are derived;
    ``convexity`` = μ bounds the strong convexity of f from below; ``gamma`` is the step, ``weight`` RED's λ,
    ``dual_step`` PrimalDual's s;
    ``shared`` the hypotheses that do not depend on the solver; ``inside`` whether D was seen to map an image into the
    interior of the box.
    """

    denoiser: MapBound | None
    norm_upper: float | None
    lipschitz: float | None
    convexity: float
    box: tuple[float, float] | None
    shared: tuple[Hypothesis, ...]
    scale: float = 1.0
    gamma: float = 1.0
    weight: float = 0.0
    dual_step: float = 0.0
    inside: bool = False

    @property
    def alpha(self) -> Fraction | None:
        """D's averagedness: 1 when D is only nonexpansive, None when not even that is known."""
        if self.denoiser is None or self.denoiser.lipschitz > 1:
            return None
        return Fraction(1) if self.denoiser.averagedness is None else self.denoiser.averagedness


def examine_denoiser(denoiser: Any) -> tuple[Certificate | None, str]:
    """The denoiser's certificate, or None with the reason."""
    from pnp_lip.certificates import certify

    try:
        return certify(denoiser), ""
    except CertificateError as error:
        return None, str(error)


def examine_norm(physics: Any, img_size: tuple[int, ...]) -> tuple[float | None, str, str]:
    """An upper bound of ‖A‖, how it was proved, and, where there is none, the reason."""
    from pnp_lip.operators import certify_norm

    try:
        bound = certify_norm(physics, img_size=img_size)
    except CertificateError as error:
        return None, "", str(error)
    return float(bound.upper), str(bound.method), ""


@torch.no_grad()
def adjoint_gap(physics: Any, x: Tensor, *, seed: int = 0) -> float:
    """The largest |⟨Au, v⟩ − ⟨u, A*v⟩| / (‖Au‖‖v‖) over three pairs (u, v): random with random, random with v = Au, and
    a positive image with v = Au, which a relative error of the adjoint cannot average out of.

    A check by examples, not a proof: a physics may be wrong elsewhere.
    """
    generator = torch.Generator().manual_seed(seed)
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
    return gap


def examine_adjoint(physics: Any, x: Tensor) -> Hypothesis:
    """The hypothesis that A_adjoint is the adjoint of A, to rounding."""
    limit = 1e-10 if x.dtype == torch.float64 else 1e-4
    gap = adjoint_gap(physics, x)
    return Hypothesis(
        "relative gap between <Ax, v> and <x, A_adjoint v>",
        gap,
        f"be at most {limit:.0e} ({str(x.dtype).removeprefix('torch.')} rounding)",
        gap <= limit,
        "A_adjoint is not the adjoint of A, so A_adjoint(Ax - y) is the gradient of nothing: use the exact adjoint "
        "(for deepinv's Tomography, adjoint_via_backprop=True).",
    )


def examine_repeatability(denoise: Callable[[Tensor], Tensor], x: Tensor) -> Hypothesis:
    """The hypothesis that D is a fixed map: the same image twice gives the same answer, to rounding."""
    first, second = denoise(x), denoise(x)
    if first.shape != x.shape:
        raise ShapeError(f"the denoiser turned an image of shape {tuple(x.shape)} into {tuple(first.shape)}.")
    gap = float((first - second).norm() / x.norm().clamp_min(torch.finfo(x.dtype).tiny))
    limit = 1e-9 if x.dtype == torch.float64 else 1e-5
    advice = "The denoiser draws at random or keeps a state between calls, so that there is no map to iterate."
    return Hypothesis("relative change of D(x) between two calls", gap, f"be at most {limit:.0e}", gap <= limit, advice)


@torch.no_grad()
def norm_estimate(physics: Any, x: Tensor, *, iterations: int = 30) -> float:
    """‖A‖ by power iteration, from below: an estimate for runs that claim nothing, never a bound."""
    v = torch.ones_like(x[:1]) + 0.1 * torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x)
    v = v.expand_as(x)
    value = 0.0
    for _ in range(iterations):
        v = v / v.norm().clamp_min(1e-30)
        image = physics.A(v)
        value = float(image.norm())
        v = physics.A_adjoint(image)
    return value
