"""The least changes that make a network certifiable, or firmly nonexpansive: shorter steps, an average with the identity."""

import dataclasses
import math
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pnp_lip.certificates.certify import certify
from pnp_lip.certificates.settings import check_slopes
from pnp_lip.denoisers import RelaxedDenoiser
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.layers import GradientFlowConv2d, GradientFlowLinear
from pnp_lip.layers.constraints import gradient_flow_layers
from pnp_lip.spectral.norm_bound import norm_bound, square_upper

__all__ = ["Change", "enforce", "firm"]

COARSE = 1e-3  # relative tightness that suffices for most layers that need no change


@dataclasses.dataclass(frozen=True)
class Change:
    """The step of the layer at ``path`` before and after ``enforce``, as the layer stores it."""

    path: str
    tau_before: float
    tau_after: float


@torch.no_grad()
def enforce(module: nn.Module, *, limit: float = 1.0, rtol: float = 1e-6) -> tuple[Change, ...]:
    """Shorten, in place, the steps that are too long for a proof, each by the least amount, and report the changes.

    τ ← the largest number of τ's dtype with 0 ≤ τ s U² ≤ 2·``limit`` and τ not above its old value,

    where σ has slopes in [0, s] and ‖W‖ ≤ U ≤ (1 + ``rtol``)‖W‖; a negative τ becomes 0. Each gradient-flow layer of
    ``module`` then is nonexpansive for ``limit`` = 1 and ``limit``-averaged for ``limit`` < 1, which ``certify(module,
    rtol=rtol)`` proves (by default for ``rtol`` ≤ 1e-6). Layers of other types are not touched.

    Parameters: 0 < ``limit`` ≤ 1; 1e-9 ≤ ``rtol`` ≤ 1. Raises InputError for a ``limit`` out of range, CertificateError for
    parametrised layers, steps that are NaN or infinite and activations without slopes; nothing is changed then.

    Source: Sherry et al. (2024), Section 2; Baillon & Haddad (1977).

    >>> layer = GradientFlowLinear(2, 2)
    >>> _ = layer.tau.data.fill_(2.5)
    >>> [change.path for change in enforce(nn.Sequential(layer))], bool(abs(layer.tau - 2) < 1e-5)
    (['0'], True)
    """
    if not 0 < limit <= 1:
        raise InputError(f"`limit` = τ‖W‖²/2 must lie in (0, 1]; got {limit}.")
    layers = list(gradient_flow_layers(module))
    steps = [shortened(layer, path, Fraction(limit), rtol) for path, layer in layers]
    changes = []
    for (path, layer), tau in zip(layers, steps, strict=True):
        if tau is not None:
            changes.append(Change(path, float(layer.tau), float(tau)))
            layer.tau.copy_(tau)
    return tuple(changes)


def shortened(layer: GradientFlowConv2d | GradientFlowLinear, path: str, limit: Fraction, rtol: float) -> Tensor | None:
    """The layer's new step, the longest of its dtype, or None when the old one may stay."""
    if parametrize.is_parametrized(layer):
        raise CertificateError(f"layer `{path}` is parametrised; call pnp_lip.layers.release(module) first.")
    tau, slope = float(layer.tau), Fraction(check_slopes(layer.activation, path)[1])
    if not math.isfinite(tau):
        raise CertificateError(f"layer `{path}`: the step τ is {tau}; load intact weights.")
    if tau <= 0:
        return torch.zeros_like(layer.tau) if tau < 0 else None
    weight = layer.weight.detach().cpu()
    for tightness in (max(rtol, COARSE), rtol):
        norm = norm_bound(weight, padding_mode=getattr(layer, "padding_mode", "zeros"), rtol=tightness)
        curvature = slope * square_upper(weight, norm.upper)
        if Fraction(tau) * curvature <= 2 * limit:
            return None
    longest = 2 * limit / curvature
    rounded = torch.tensor(float(longest), dtype=layer.tau.dtype)
    while Fraction(float(rounded)) > longest:
        rounded = torch.nextafter(rounded, torch.zeros_like(rounded))
    return rounded


def firm(denoiser: nn.Module) -> nn.Module:
    """Relax a nonexpansive denoiser by the least amount that makes it firmly nonexpansive.

    (1 − θ) Id + θ D with θ = 1/(2α), rounded down, where D is proved α-averaged (θ = 1/2 when D is only nonexpansive); a D
    that is firmly nonexpansive already is returned as it is.

    Raises CertificateError when D is not certified as nonexpansive. Source: Bauschke & Combettes (2017), Proposition 4.40.
    """
    certificate = certify(denoiser).require_nonexpansive()
    if certificate.firmly_nonexpansive:
        return denoiser
    alpha = 1.0 if certificate.averagedness is None else certificate.averagedness
    return RelaxedDenoiser(denoiser, math.nextafter(math.nextafter(0.5 / alpha, 0.0), 0.0))
