"""The certifier: walks a module, bounds every layer, composes the bounds, and refuses what it does not know."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from pnp_lip.certificates import calculus
from pnp_lip.certificates.block_calculus import square_upper
from pnp_lip.certificates.calculus import MapBound, round_down, round_up
from pnp_lip.certificates.certificate import Certificate, LayerCertificate
from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, GuidedDenoiser, RelaxedDenoiser
from pnp_lip.errors import CertificateError
from pnp_lip.layers import Activation, GradientFlowConv2d, GradientFlowLinear, IsometricLift, NoiseClip
from pnp_lip.spectral import NormBound, border_norm_bound, execution_error_upper, mirror_closed, norm_bound

__all__ = ["Proof", "certify", "describe", "hash_weights", "layer_norm_bound", "rule"]

Module = TypeVar("Module", bound=nn.Module)
CACHE = "_pnp_lip_certificate"
UNPAIRED = (
    "; its filters do not contain their mirror images, which symmetric padding needs (pnp_lip.layers.pair_mirrors)"
)


@dataclasses.dataclass(frozen=True)
class Proof:
    """A map's bound with the layers that it rests on and what failed on the way."""

    bound: MapBound
    layers: tuple[LayerCertificate, ...] = ()
    failures: tuple[str, ...] = ()


Rule = Callable[[Any, str, float], Proof]
RULES: dict[type[nn.Module], Rule] = {}


def rule(
    kind: type[Module],
) -> Callable[[Callable[[Module, str, float], Proof]], Callable[[Module, str, float], Proof]]:
    """Register how modules of exactly this type are bounded: ``f(module, path, rtol) -> Proof``.

    Exactly this type: a subclass may override ``forward``, so it needs a rule of its own.
    """

    def register(function: Callable[[Module, str, float], Proof]) -> Callable[[Module, str, float], Proof]:
        RULES[kind] = function
        return function

    return register


def certify(module: nn.Module, *, rtol: float = 1e-3) -> Certificate:
    """Prove a Lipschitz constant and the averagedness of ``module`` as a real function of its stored weights.

    Per layer, τ‖W‖² ≤ 2 with ‖W‖ replaced by a rigorous upper bound within ``rtol`` of the truth (tightened by itself when
    a layer would fail for the bound's slack alone); for the whole, the calculus of averaged maps in exact arithmetic.

    A map that is not nonexpansive gets a certificate too, with ``failures`` that name the layers and the numbers;
    ``require_nonexpansive()`` turns those into an error. The result is cached on the module under the SHA-256 of its
    weights and settings. Raises CertificateError for a module of unknown type, naming its path, for hooks and for numbers
    that are not finite.

    Source: Sherry et al. (2024); Combettes & Yamada (2015); Baillon & Haddad (1977).

    >>> from pnp_lip.layers import GradientFlowLinear
    >>> layer = GradientFlowLinear(2, 2, step_fraction=0.5)
    >>> certify(layer).nonexpansive
    True
    """
    if not isinstance(module, nn.Module):
        raise CertificateError(f"{type(module).__name__} is no torch module with a certifiable structure.")
    weights = hash_weights(module)
    key = (settings(module), tuple(weights.items()), rtol)
    cached = module.__dict__.get(CACHE)
    if cached is not None and cached[0] == key:
        certificate: Certificate = cached[1]
        return certificate
    proof = describe(module, "", rtol)
    require_finite(module)
    alpha = proof.bound.averagedness
    certificate = Certificate(
        layers=proof.layers,
        lipschitz_upper=round_up(proof.bound.lipschitz),
        averagedness=None if alpha is None else round_up(alpha),
        proximal=proof.bound.proximal,
        box=proof.bound.box,
        scope=scope_of(proof.layers),
        weights=weights,
        dtype=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})) or "none",
        failures=proof.failures,
        rounding=rounding_upper(module) if proof.bound.lipschitz <= 1 else None,
    )
    module.__dict__[CACHE] = (key, certificate, proof)
    return certificate


def describe(module: nn.Module, path: str, rtol: float) -> Proof:
    """Apply the rule of the module's exact type, seeing through torch's parametrisations."""
    kind = kind_of(module)
    where = f"`{path}`" if path else "the module itself"
    if kind not in RULES:
        raise CertificateError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, for which no rule is known, so nothing can be proved of "
            "it. Build the map from pnp_lip.layers, or register a rule with pnp_lip.certificates.rule."
        )
    for name, part in module.named_modules():  # the parts that no rule looks at, too: activations, the lift
        if part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__:
            culprit = f"`{join(path, name)}`" if name else where
            raise CertificateError(
                f"{culprit} has forward hooks or a replaced forward, which may change the map; remove them."
            )
    return RULES[kind](module, path, rtol)


def require_finite(module: nn.Module) -> None:
    """Raise CertificateError where a stored number is no number: of an image that is NaN nothing is proved."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CertificateError(f"`{name}` holds NaN or infinite values; load intact weights.")


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The module's type, seen through torch's parametrisations."""
    kind: type[nn.Module] = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def join(path: str, name: str) -> str:
    """The path of a child module."""
    return f"{path}.{name}" if path else name


def compose_proofs(proofs: Iterable[Proof]) -> Proof:
    """The proof of a composition, the first map applied first."""
    parts = list(proofs)
    return Proof(
        calculus.compose([p.bound for p in parts]),
        tuple(layer for p in parts for layer in p.layers),
        tuple(failure for p in parts for failure in p.failures),
    )


@rule(nn.Identity)
def certify_identity(module: nn.Identity, path: str, rtol: float) -> Proof:
    return Proof(calculus.identity())


@rule(nn.Sequential)
def certify_sequence(module: nn.Sequential | nn.ModuleList, path: str, rtol: float) -> Proof:
    children = module._modules.items()  # named_children would give a map that is applied twice only once
    return compose_proofs(describe(child, join(path, name), rtol) for name, child in children if child is not None)


@rule(GradientFlowConv2d)
def certify_conv(layer: GradientFlowConv2d, path: str, rtol: float) -> Proof:
    return certify_gradient_flow(layer, path, rtol)


@rule(GradientFlowLinear)
def certify_linear(layer: GradientFlowLinear, path: str, rtol: float) -> Proof:
    return certify_gradient_flow(layer, path, rtol)


def certify_gradient_flow(layer: GradientFlowConv2d | GradientFlowLinear, path: str, rtol: float) -> Proof:
    """The rule x − τ Wᵀ σ(Wx + b): α = τ s ‖W‖²/2."""
    low, high = check_slopes(layer.activation, path)
    tau = float(layer.tau.detach())
    if not math.isfinite(tau):
        raise CertificateError(f"`{path}`: the step τ is {tau}; load intact weights.")
    weight = layer.weight.detach().cpu()
    norm = layer_norm_bound(layer, rtol)
    curvature = Fraction(tau) * Fraction(high) * square_upper(weight, norm.upper)
    if curvature > 2 and tau * high * norm.lower**2 <= 2 and rtol > 1e-6:  # perhaps only the slack fails
        norm = layer_norm_bound(layer, 1e-6)
        curvature = Fraction(tau) * Fraction(high) * square_upper(weight, norm.upper)
    bound = calculus.flow_step(curvature)
    return Proof(bound, (record(layer, path, tau, norm, (low, high), curvature),), failures_of(path, tau, norm, bound))


def layer_norm_bound(layer: GradientFlowConv2d | GradientFlowLinear, rtol: float) -> NormBound:
    """Both bounds of ‖W‖ under the layer's padding; loose for symmetric padding and filters without their mirror images."""
    weight = layer.weight.detach().cpu()
    if isinstance(layer, GradientFlowLinear):
        return norm_bound(weight, rtol=rtol)
    if layer.padding_mode == "symmetric":
        reach = layer.dilation * (weight.shape[-1] // 2)
        return border_norm_bound(weight, "symmetric", reach, rtol=rtol, dilation=layer.dilation)
    scope = f"any image size, {layer.padding_mode} padding"
    return dataclasses.replace(norm_bound(weight, rtol=rtol), scope=scope)


def check_slopes(activation: nn.Module, path: str) -> tuple[float, float]:
    """The activation's slopes, of which the layer's theorem asks that they be nonnegative."""
    if not isinstance(activation, Activation):
        raise CertificateError(f"`{path}`: {type(activation).__name__} does not state its slopes; use an Activation.")
    low, high = activation.slopes
    if not 0 <= low <= high < math.inf:
        raise CertificateError(f"`{path}`: slopes must satisfy 0 <= low <= high; got [{low}, {high}].")
    return low, high


def record(
    layer: nn.Module,
    path: str,
    tau: float,
    norm: NormBound,
    slopes: tuple[float, float],
    curvature: Fraction,
) -> LayerCertificate:
    """The layer's line in the certificate, ``curvature`` = τ s ‖W‖²."""
    bound = calculus.flow_step(curvature)
    return LayerCertificate(
        path=path,
        kind=type(layer).__name__.removeprefix("Parametrized"),
        norm_upper=norm.upper,
        norm_lower=norm.lower,
        tau=tau,
        margin=round_down(2 - curvature),
        slopes=slopes,
        lipschitz_upper=round_up(bound.lipschitz),
        averagedness=None if bound.averagedness is None else round_up(bound.averagedness),
        method=norm.method,
        scope=norm.scope,
        witness=norm.witness,
    )


def failures_of(path: str, tau: float, norm: NormBound, bound: MapBound) -> tuple[str, ...]:
    """What to tell the user of a layer that is not nonexpansive."""
    if bound.lipschitz <= 1:
        return ()
    if tau < 0:
        return (f"layer `{path}` has a negative step τ = {tau:.6g}",)
    return (
        f"layer `{path}` has τ‖W‖² ≤ {tau * norm.upper**2:.6f}, which must not exceed 2 "
        f"(τ = {tau:.6f}, {norm.lower:.6f} ≤ ‖W‖ ≤ {norm.upper:.6f}; τ may be at most {2 / norm.upper**2:.6f})"
        + (UNPAIRED if norm.scope.startswith("symmetric") else ""),
    )


@rule(GradientFlowDenoiser)
def certify_denoiser(denoiser: GradientFlowDenoiser, path: str, rtol: float) -> Proof:
    if type(denoiser.lift) is not IsometricLift:
        raise CertificateError(f"`{join(path, 'lift')}` is no IsometricLift, so that Qᵀ N Q is not covered.")
    inner = compose_proofs(describe(m, join(path, f"layers.{i}"), rtol) for i, m in enumerate(denoiser.layers))
    return dataclasses.replace(inner, bound=calculus.lift(inner.bound))


@rule(RelaxedDenoiser)
def certify_relaxed(denoiser: RelaxedDenoiser, path: str, rtol: float) -> Proof:
    inner = describe(denoiser.denoiser, join(path, "denoiser"), rtol)
    return dataclasses.replace(inner, bound=calculus.relax(inner.bound, denoiser.theta))


@rule(GuidedDenoiser)
def certify_guided(denoiser: GuidedDenoiser, path: str, rtol: float) -> Proof:
    """The proof of the denoiser without a guide: its layers clip to other limits and about centres, with the same slopes."""
    certify(denoiser.denoiser, rtol=rtol)  # many guides share one denoiser, whose proof is kept
    inner: Proof = denoiser.denoiser.__dict__[CACHE][2]
    start = join(path, "denoiser")
    layers = tuple(dataclasses.replace(layer, path=join(start, layer.path)) for layer in inner.layers)
    return dataclasses.replace(inner, layers=layers)


@rule(ClippedDenoiser)
def certify_clipped(denoiser: ClippedDenoiser, path: str, rtol: float) -> Proof:
    inner = describe(denoiser.denoiser, join(path, "denoiser"), rtol)
    return dataclasses.replace(inner, bound=calculus.clip(inner.bound, denoiser.box))


def scope_of(layers: tuple[LayerCertificate, ...]) -> str:
    """What the layers' bounds have in common."""
    return "; ".join(dict.fromkeys(layer.scope for layer in layers)) or "everything"


def rounding_upper(module: nn.Module) -> float | None:
    """The distance between a certified denoiser as executed and as proved, for images in [−1, 1]; None if not known.

    The shifts b(σ) = σ q(log σ) of a layer are at most the largest knot of q times the largest σ of its range.
    """
    if type(module) is not GradientFlowDenoiser:
        return None
    layers: list[Any] = list(module.layers)
    dtypes = {p.dtype for p in module.parameters()}
    if len(dtypes) != 1 or any(type(layer.activation) is not NoiseClip or layer.bias is not None for layer in layers):
        return None
    if module.config["padding_mode"] == "symmetric" and not all(mirror_closed(layer.weight) for layer in layers):
        return None
    shifts = [
        layer.activation.shift.detach().cpu().double().abs().amax(0)
        * math.exp(layer.activation.log_range[1])
        * (1 + 1e-9)
        for layer in layers
    ]
    error = execution_error_upper(
        [layer.weight.detach().cpu() for layer in layers],
        [float(layer.tau.detach()) for layer in layers],
        shifts=shifts,
        input_bound=math.sqrt(module.in_channels) * (1 + 1e-15),
        dtype=dtypes.pop(),
    )
    return error if math.isfinite(error) else None


def settings(module: nn.Module) -> tuple[object, ...]:
    """All that decides the map besides the weights, as far as torch's modules store it: to tell a stale certificate."""
    plain = (bool, int, float, str, tuple, list, type(None))
    found: list[object] = [repr(module)]
    for name, child in module.named_modules():
        values = {k: repr(v) for k, v in vars(child).items() if isinstance(v, plain) and k != CACHE}
        hooks = (len(child._forward_hooks), len(child._forward_pre_hooks), "forward" in vars(child))
        found.append((name, type(child), tuple(sorted(values.items())), hooks))
    return tuple(found)


def hash_weights(module: nn.Module) -> dict[str, str]:
    """The SHA-256 of each tensor of the module's state: its dtype, its shape and its bytes."""
    hashes = {}
    for name, tensor in module.state_dict().items():
        data = tensor.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{str(data.dtype).removeprefix('torch.')} {tuple(data.shape)} ".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b"")
        hashes[name] = digest.hexdigest()
    return hashes
