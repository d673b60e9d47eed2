"""The certifier: walks a module, bounds every layer, composes the bounds, and refuses what it does not know."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import torch
from torch import nn
from torch.nn.utils import parametrize

from pnp_lip.certificates.calculus import MapBound, clip, compose, flow_step, outwards, relax, round_up
from pnp_lip.certificates.certificate import Certificate, LayerCertificate
from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, GuidedDenoiser, RelaxedDenoiser
from pnp_lip.errors import CertificateError
from pnp_lip.layers import Activation, GradientFlowConv2d, GradientFlowLinear, IsometricLift, NoiseClip
from pnp_lip.spectral import NormBound, execution_error_upper, norm_bound
from pnp_lip.spectral.norm_bound import square_upper

__all__ = ["Proof", "certify", "describe", "hash_weights", "rule"]

CACHE = "_pnp_lip_certificate"  # where a module keeps (key, certificate, proof)
FINE = 1e-6  # relative tightness of a second bound, where a layer fails by the slack of the first; costs half as much again


@dataclasses.dataclass(frozen=True)
class Proof:
    """A map's bound with the layers that it rests on and what failed on the way."""

    bound: MapBound
    layers: tuple[LayerCertificate, ...] = ()
    failures: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()


Rule = Callable[..., Proof]
RULES: dict[type[nn.Module], Rule] = {}


def rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register how modules of exactly these types are bounded: ``f(module, path, rtol) -> Proof``.

    Exactly these types: a subclass may override ``forward``, so it needs a rule of its own.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


def certify(module: nn.Module, *, rtol: float = 1e-3) -> Certificate:
    """Prove a Lipschitz constant and the averagedness of ``module`` as a real function of its stored weights.

    Per layer, τ‖W‖² ≤ 2 with ‖W‖ replaced by a rigorous upper bound within ``rtol`` of the truth (tightened by itself when
    a layer would fail for the bound's slack alone); for the whole, the calculus of averaged maps in exact arithmetic.

    A map that is not nonexpansive gets a certificate too, with ``failures`` that name the layers and the numbers. The
    result is cached on the module under the SHA-256 of its weights and its settings. Raises CertificateError for a module
    of unknown type, naming its path, for hooks and for numbers that are not finite, InputError for a padding without a
    theorem.

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
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CertificateError(f"`{name}` holds NaN or infinite values; load intact weights.")
    certificate = Certificate(
        layers=proof.layers,
        bound=outwards(proof.bound),
        weights=weights,
        dtype=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})) or "none",
        failures=proof.failures,
        rounding=rounding_upper(module) if proof.bound.lipschitz <= 1 else None,
        smallest_image=largest([line.norm.smallest_image for line in proof.layers], max),
        divisible_by=largest([line.norm.divisible_by for line in proof.layers], math.lcm),
        stated=tuple(dict.fromkeys(proof.stated)),
    )
    module.__dict__[CACHE] = (key, certificate, proof)
    return certificate


def largest(pairs: list[tuple[int, int]], combine: Callable[..., int]) -> tuple[int, int]:
    return combine(1, *(a for a, _ in pairs)), combine(1, *(b for _, b in pairs))


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
            raise CertificateError(f"{culprit} has forward hooks or a replaced forward; remove what changes the map.")
    return RULES[kind](module, path, rtol)


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The module's type, seen through torch's parametrisations."""
    kind: type[nn.Module] = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def compose_proofs(proofs: Iterable[Proof]) -> Proof:
    """The proof of a composition, the first map applied first."""
    parts = list(proofs)
    return Proof(
        compose([p.bound for p in parts]),
        tuple(layer for p in parts for layer in p.layers),
        tuple(failure for p in parts for failure in p.failures),
    )


@rule(nn.Sequential)
def certify_sequence(module: nn.Sequential | nn.ModuleList, path: str, rtol: float) -> Proof:
    children = module._modules.items()  # named_children would give a map that is applied twice only once
    return compose_proofs(describe(child, join(path, name), rtol) for name, child in children if child is not None)


@rule(GradientFlowConv2d, GradientFlowLinear)
def certify_gradient_flow(layer: GradientFlowConv2d | GradientFlowLinear, path: str, rtol: float) -> Proof:
    """The rule x − τ Wᵀ σ(Wx + b): α = τ s ‖W‖²/2."""
    low, high = check_slopes(layer.activation, path)
    tau = float(layer.tau.detach())
    if not math.isfinite(tau):
        raise CertificateError(f"`{path}`: the step τ is {tau}; load intact weights.")
    weight = layer.weight.detach().cpu()
    for tightness in dict.fromkeys((rtol, min(rtol, FINE))):
        norm = norm_bound(weight, padding_mode=getattr(layer, "padding_mode", "zeros"), rtol=tightness)
        curvature = Fraction(tau) * Fraction(high) * square_upper(weight, norm.upper)
        if curvature <= 2 or tau * high * norm.lower**2 > 2:  # otherwise perhaps only the slack fails
            break
    bound = flow_step(curvature)
    line = layer_line(layer, path, norm, bound)
    line = dataclasses.replace(line, tau=tau, margin=0.0 - round_up(curvature - 2), slopes=(low, high))
    if bound.lipschitz <= 1:
        return Proof(bound, (line,))
    failure = f"layer `{path}` has a negative step τ = {tau:.6g}"
    if tau >= 0:
        failure = (
            f"layer `{path}` has τ‖W‖² ≤ {tau * norm.upper**2:.6f}, which must not exceed 2 "
            f"(τ = {tau:.6f}, {norm.lower:.6f} ≤ ‖W‖ ≤ {norm.upper:.6f}; τ may be at most {2 / norm.upper**2:.6f})"
        )
    return Proof(bound, (line,), (failure,))


def layer_line(layer: nn.Module, path: str, norm: NormBound, bound: MapBound) -> LayerCertificate:
    """The line of a layer Wx + b in the certificate, ``bound`` being what is proved of it."""
    known = outwards(bound)
    alpha = None if known.averagedness is None else float(known.averagedness)
    return LayerCertificate(path, kind_of(layer).__name__, norm, None, None, (1.0, 1.0), float(known.lipschitz), alpha)


def check_slopes(activation: nn.Module, path: str) -> tuple[float, float]:
    """The activation's slopes, which the layer's theorem asks to be nonnegative."""
    if not isinstance(activation, Activation):
        raise CertificateError(f"`{path}`: {type(activation).__name__} does not state its slopes; use an Activation.")
    low, high = activation.slopes
    if not 0 <= low <= high < math.inf:
        raise CertificateError(f"`{path}`: slopes must satisfy 0 <= low <= high; got [{low}, {high}].")
    return low, high


@rule(GradientFlowDenoiser)
def certify_denoiser(denoiser: GradientFlowDenoiser, path: str, rtol: float) -> Proof:
    """Qᵀ N Q with QᵀQ = Id has the averagedness of N, for every α, but not its range."""
    if type(denoiser.lift) is not IsometricLift:
        raise CertificateError(f"`{join(path, 'lift')}` is no IsometricLift, so that Qᵀ N Q is not covered.")
    inner = compose_proofs(describe(m, join(path, f"layers.{i}"), rtol) for i, m in enumerate(denoiser.layers))
    return dataclasses.replace(inner, bound=dataclasses.replace(inner.bound, box=None))


@rule(RelaxedDenoiser)
def certify_relaxed(denoiser: RelaxedDenoiser, path: str, rtol: float) -> Proof:
    inner = describe(denoiser.denoiser, join(path, "denoiser"), rtol)
    return dataclasses.replace(inner, bound=relax(inner.bound, denoiser.theta))


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
    low, high = denoiser.box
    return dataclasses.replace(inner, bound=clip(inner.bound, (float(low), float(high))))


def rounding_upper(module: nn.Module) -> float | None:
    """The distance between a certified denoiser as executed and as proved, for images in [−1, 1]; None if not known.

    The shifts b(σ) = σ q(log σ) of a layer are at most the largest knot of q times the largest σ of its range.
    """
    if type(module) is not GradientFlowDenoiser:
        return None
    layers = [layer for layer in module.layers if isinstance(layer, GradientFlowConv2d) and layer.bias is None]
    clips = [layer.activation for layer in layers if type(layer.activation) is NoiseClip]
    dtypes = {p.dtype for p in module.parameters()}
    if len(dtypes) != 1 or len(clips) != len(module.layers):
        return None
    weights, taus = [layer.weight.detach().cpu() for layer in layers], [float(layer.tau.detach()) for layer in layers]
    shifts = [c.shift.detach().cpu().double().abs().amax(0) * math.exp(c.log_range[1]) * (1 + 1e-9) for c in clips]
    largest = math.sqrt(module.in_channels) * (1 + 1e-15)
    error = execution_error_upper(weights, taus, shifts=shifts, input_bound=largest, dtype=dtypes.pop())
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
