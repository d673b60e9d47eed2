"""The rule for ridge potentials: the curvature of R_σ lies in [−s‖W‖², μ‖W‖²]. Importing this registers it."""

import itertools
import math
from fractions import Fraction

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import CurvatureBound, MapBound, round_down, round_up
from pnp_lip.certificates.certificate import LayerCertificate
from pnp_lip.certificates.certify import Proof, join, own_rule, prove, require_slicing
from pnp_lip.certificates.settings import real, text
from pnp_lip.certificates.sizes import SAME, image_sizes
from pnp_lip.errors import CertificateError
from pnp_lip.fingerprint import patched, recognise
from pnp_lip.layers import RedescendingClip
from pnp_lip.layers.activations import SIGMA_FLOOR
from pnp_lip.potentials import SlicedPotential
from pnp_lip.potentials.ridge_potential import RidgeAtLevel, RidgePotential, Value
from pnp_lip.spectral import norm_bound

__all__ = ["certify_ridge"]

TIGHT = 1e-4  # of ‖W‖, relative: the curvature is then at most 0.02 % above the truth; 48 filters of 9 x 9 take 0.3 s
recognise(RedescendingClip, RidgeAtLevel, Value)


@own_rule(RidgePotential)
def certify_ridge(potential: RidgePotential, path: str, rtol: float) -> Proof:
    """The curvature of R_σ lies in [low·U², high·U²], ‖W‖ ≤ U, [low, high] ∋ 0 the slopes of φ for every σ.

    For all x, y: φ_σ(Wx) − φ_σ(Wy) = Σ(Wx − Wy), Σ diagonal with entries in [low, high], so that
    ⟨∇R(x) − ∇R(y), x − y⟩ = ⟨ΣW(x − y), W(x − y)⟩ lies between low‖W(x − y)‖² and high‖W(x − y)‖².
    """
    clip = potential.activation
    if type(clip) is not RedescendingClip:
        raise CertificateError(f"`{join(path, 'activation')}` is a {type(clip).__qualname__}, no RedescendingClip.")
    for kind in (RidgeAtLevel, Value):
        if (name := patched(kind)) is not None:
            raise CertificateError(f"a class has a replaced `{name}`; undo what changes the potential.")
    weight = fitting_weight(potential, path)
    norm = norm_bound(weight, padding_mode=text(potential.padding_mode, join(path, "padding_mode")), rtol=min(rtol, TIGHT))
    require_range(potential, path)
    low, high = clip.slope_bounds()
    square = Fraction(norm.upper) ** 2
    curvature = CurvatureBound(round_down(low * square), round_up(high * square))
    bound = MapBound(max(-low, high) * square, None)
    slopes = (round_down(low), round_up(high))
    line = LayerCertificate(path, "RidgePotential", norm, None, None, slopes, round_up(bound.lipschitz), None)
    return Proof(bound, (line,), sizes=(SAME,), curvature=curvature)


@own_rule(SlicedPotential)
def certify_sliced_potential(potential: SlicedPotential, path: str, rtol: float) -> Proof:
    """The Hessians of sums over slices are block-diagonal, and the mean over the axes keeps the bounds: see the class."""
    inner = prove(potential.in_slices, join(path, "in_slices"), rtol)
    if inner.curvature is None:
        raise CertificateError(
            f"`{join(path, 'in_slices')}` must be a potential; got a {type(potential.in_slices).__qualname__}."
        )
    require_slicing(potential, image_sizes(inner.sizes), path)
    return inner


def fitting_weight(potential: RidgePotential, path: str) -> Tensor:
    """W; raises CertificateError unless all tensors are finite and of the shapes with which ``RidgePotential`` computes."""
    held = {"weight": potential.weight, **{f"activation.{name}": part for name, part in potential.activation._parameters.items()}}
    for name, tensor in held.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CertificateError(f"`{join(path, name)}` must hold finite real numbers; load intact weights.")
    weight, clip = potential.weight.detach().cpu(), potential.activation
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[3] % 2 == 0:
        raise CertificateError(f"`{join(path, 'weight')}` must hold square kernels of an odd side; got {tuple(weight.shape)}.")
    rising, falling, knots = clip.rise.numel(), clip.fall.numel(), len(clip.log_scale) if clip.log_scale.ndim else 0
    asked = {
        "rise": (rising,), "fall": (falling,), "log_rise_limit": (knots, rising), "log_fall_limit": (knots, falling),
        "log_scale": (knots, len(weight)),
    }  # fmt: skip
    for name, shape in asked.items():
        found = tuple(getattr(clip, name).shape)
        if found != shape:
            raise CertificateError(f"`{join(path, f'activation.{name}')}` must be of the shape {shape}; got {found}.")
    real(potential.default_sigma, join(path, "default_sigma"))
    ends = clip.log_range
    if knots < 2 or rising < 1 or type(ends) is not tuple or len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        why = "needs two knots and one rising clip at least, and a `log_range` of two increasing finite numbers"
        raise CertificateError(f"`{join(path, 'activation')}` {why}.")
    if ends != RedescendingClip.log_range:
        where = join(path, "activation.log_range")
        raise CertificateError(f"`{where}` must be that of its class, as it is not saved; got {ends}: remove it.")
    return weight


def require_range(potential: RidgePotential, path: str) -> None:
    """Raise CertificateError where the potential as stored overflows, so that it computes nothing like ∇R_σ.

    In its dtypes must be finite and positive: κ_c(σ), 1/κ_c and all limits for noise levels from ``SIGMA_FLOOR`` to 1; and
    finite, with S = Σ|W| ≥ max|Wx| for |x| ≤ 1 and M = Σ|slopes|: κS, u = S/κ, Mu, MS² and Mu².
    """
    clip, weight = potential.activation, potential.weight.detach()
    kinds = {weight.dtype, *(p.dtype for p in clip.parameters())}
    tiny, top = max(torch.finfo(t).tiny for t in kinds), min(torch.finfo(t).max for t in kinds)
    scale = clip.log_scale.detach().double().exp()
    logs = (clip.log_rise_limit.detach().double(), clip.log_fall_limit.detach().double())
    ends = [float(v) for log in logs if log.numel() for v in (log.min().exp(), log.max().exp())]
    low, high = float(scale.min()) * SIGMA_FLOOR, float(scale.max())
    total = float(weight.double().abs().sum())
    steep = math.fsum(abs(v) for v in itertools.chain(clip.rise.tolist(), clip.fall.tolist()))
    fits = all(tiny <= v <= min(top, 1 / tiny) for v in (low, high, *ends))
    largest = (high * total, total / low, steep * total / low, steep * total * total, steep * (total / low) ** 2) if fits else ()
    if not fits or not max(largest) <= top:
        names = ", ".join(sorted(str(t).removeprefix("torch.") for t in kinds))
        raise CertificateError(
            f"the potential leaves the range of {names}: κ in [{low:.3g}, {high:.3g}] for noise levels {SIGMA_FLOOR:g} to 1, "
            f"limits in [{min(ends):.3g}, {max(ends):.3g}], Σ|W| = {total:.3g}, slopes {steep:.3g} in all. All of them, 1/κ, W/κ "
            "and κW must be finite and positive; load intact weights."
        )
