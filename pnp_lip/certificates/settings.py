"""What a proof reads besides weights: settings at their present values, slopes, and whether the numbers fit their dtype."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from pnp_lip.errors import CertificateError
from pnp_lip.fingerprint import recognise
from pnp_lip.layers import Activation, Clip, GradientFlowConv2d, GradientFlowLinear, Identity, NoiseClip, ReLU, SoftThreshold
from pnp_lip.layers.activations import KNOTS, SIGMA_FLOOR
from pnp_lip.spectral.polyphase import Pair

__all__ = ["check_slopes", "real", "require_range", "statement", "text", "whole", "wholes"]

SLOPES: dict[type[nn.Module], tuple[float, float]] = dict.fromkeys((Identity, ReLU, Clip, SoftThreshold, NoiseClip), (0.0, 1.0))
recognise(*SLOPES)


def real(value: Any, name: str) -> Fraction:
    """A plain finite number, else CertificateError."""
    if type(value) not in (int, float, np.float64) or not math.isfinite(value):
        raise CertificateError(f"`{name}` must be a plain finite number; got {value!r}.")
    return Fraction(value)


def text(value: object, name: str) -> str:
    """A plain string, else CertificateError: a class of its own might compare as it likes."""
    if type(value) is not str:
        raise CertificateError(f"`{name}` must be a plain string; got {value!r}.")
    return value


def whole(value: object, name: str, least: int = 1) -> int:
    """A plain integer that is not below ``least``, else CertificateError."""
    if type(value) is not int or value < least:
        raise CertificateError(f"`{name}` must be a plain integer, at least {least}; got {value!r}.")
    return value


def wholes(value: object, name: str, least: int = 1) -> Pair:
    """One such integer for each axis, which may be given as one."""
    both: Any = value if type(value) in (list, tuple) else (value, value)
    if len(both) != 2:
        raise CertificateError(f"`{name}` must be one integer or two, one per axis; got {value!r}.")
    return whole(both[0], name, least), whole(both[1], name, least)


def check_slopes(activation: nn.Module, path: str) -> tuple[float, float]:
    """The activation's slopes, which the layer's theorem asks to be nonnegative: known for ours, stated for others.

    A class of a user's states its own, as its shape may be another than that of the class which it extends.
    """
    kind = type(activation)
    if not isinstance(activation, Activation):
        raise CertificateError(f"`{path}`: {kind.__name__} does not state its slopes; use an Activation.")
    if kind in SLOPES:
        return SLOPES[kind]
    if "slopes" not in vars(kind) and "slopes" not in vars(activation):
        why = "slopes are not inherited, as its shape may differ from that of its base"
        raise CertificateError(f"`{path}`: {kind.__name__} must state its own `slopes` = (low, high); {why}.")
    recognise(kind)
    low, high = (float(real(slope, f"{path}.activation.slopes")) for slope in activation.slopes)
    if not 0 <= low <= high:
        raise CertificateError(f"`{path}`: slopes must satisfy 0 <= low <= high; got [{low}, {high}].")
    return low, high


def statement(activation: nn.Module, path: str) -> tuple[str, ...]:
    """What the certificate says of slopes that a user stated."""
    low, high = check_slopes(activation, path)
    kind = type(activation)
    where = f"{path}.activation" if path else "activation"
    return () if kind in SLOPES else (f"`{where}`: {kind.__name__} states slopes [{low:g}, {high:g}]",)


def require_range(layer: GradientFlowConv2d | GradientFlowLinear, path: str) -> None:
    """Raise CertificateError where the layer as stored overflows, so that it computes nothing like Φ.

    In the layer's dtype must be finite and positive: λ and 1/λ for every noise level from ``SIGMA_FLOOR`` to 1; and finite,
    with S = Σ|W| ≥ max|Wx| for |x| ≤ 1: S, S/λ, Sλ, τSλ and the shifts b/λ. Also raised for thresholds of another number of
    channels than W has, which would be broadcast.
    """
    activation, weight = layer.activation, layer.weight.detach()
    hidden, total, tau = len(weight), float(weight.double().abs().sum()), abs(float(layer.tau.detach()))
    types, low, high = {weight.dtype, layer.tau.dtype}, 1.0, 1.0
    shifts = [] if layer.bias is None else [layer.bias.detach()]
    shapes = [tuple(t.shape) for t in shifts if t.shape != (hidden,)]
    if isinstance(activation, Clip) and type(activation) in SLOPES:
        scale, noise = activation.log_scale.detach(), isinstance(activation, NoiseClip)
        shifts.append(activation.shift.detach())
        shape = (KNOTS, hidden) if noise else (hidden,)
        shapes += [tuple(t.shape) for t in (scale, shifts[-1]) if t.shape != shape]
        scales = scale.exp().double()
        types |= {scale.dtype, shifts[-1].dtype}
        low, high = float(scales.min()) * (SIGMA_FLOOR if noise else 1), float(scales.max())
        if isinstance(activation, NoiseClip) and not -math.inf < activation.log_range[0] < activation.log_range[1] < math.inf:
            raise CertificateError(f"`{path}.activation`: `log_range` must be two increasing finite numbers.")
    if shapes:
        raise CertificateError(f"`{path}` has {hidden} hidden channels, and thresholds or shifts of the shape {shapes[0]}.")
    tiny, top = max(torch.finfo(t).tiny for t in types), min(torch.finfo(t).max for t in types)
    shift = max((float(t.double().abs().max()) for t in shifts), default=0.0)
    fits = all(tiny <= v <= 1 / tiny and v <= top for v in (low, high)) and tiny * high <= 1
    if not (fits and max(total, total / low, total * high, tau * total * high, shift / low) <= top):
        kinds = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        raise CertificateError(
            f"`{path}` leaves the range of {kinds}: λ in [{low:.3g}, {high:.3g}] for noise levels from {SIGMA_FLOOR:g} to 1, "
            f"τ = {tau:.3g}, Σ|W| = {total:.3g}. Every λ, 1/λ, W/λ and τWλ must be finite and positive; load intact weights."
        )
