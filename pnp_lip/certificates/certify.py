"""The certifier: walks a module, bounds every layer, composes the bounds, and refuses what it does not know."""

import copy
import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable
from fractions import Fraction
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pnp_lip.certificates.calculus import CurvatureBound, MapBound, clip, compose, flow_step, outwards, relax, round_down
from pnp_lip.certificates.certificate import Certificate, LayerCertificate
from pnp_lip.certificates.settings import check_slopes, real, require_range, statement, text, whole
from pnp_lip.certificates.sizes import SAME, UNKNOWN, Axis, image_sizes
from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, GuidedDenoiser, RelaxedDenoiser, SlicedDenoiser
from pnp_lip.denoisers.sliced_denoiser import check_slicing
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.fingerprint import Rules, fingerprint, hash_tensor, recognise, require_unmodified
from pnp_lip.layers import GradientFlowConv2d, GradientFlowLinear, Guidance, IsometricLift, NoiseClip
from pnp_lip.potentials import SlicedPotential
from pnp_lip.spectral import NormBound, execution_error_upper, norm_bound
from pnp_lip.spectral.norm_bound import square_upper
from pnp_lip.spectral.polyphase import Pair

__all__ = ["Proof", "certify", "describe", "hash_weights", "rule"]

FLOAT32 = torch.finfo(torch.float32).max
FINE = 1e-6  # relative tightness of a second bound, where a layer fails by the slack of the first; costs half as much again


@dataclasses.dataclass(frozen=True)
class Proof:
    """A map's bound with the layers that it rests on, what failed on the way, and what a user stated.

    ``sizes`` are the maps along the way as images see them, the first one first. ``writes`` says whether the map overwrites
    its own input, None where it hands its input on. ``curvature`` is a potential's, whose ``bound`` is that of its gradient.
    """

    bound: MapBound
    layers: tuple[LayerCertificate, ...] = ()
    failures: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    sizes: tuple[tuple[Axis, Axis], ...] = (UNKNOWN,)
    writes: bool | None = False
    curvature: CurvatureBound | None = None


Rule = Callable[..., Proof]
RULES: Rules[Rule] = Rules()
# The proofs of the modules that are alive, each for one fingerprint. Outside of the modules, so that no file can bring its own.
# With a copy of each certificate, since callers might change what they got.
PROOFS: WeakKeyDictionary[nn.Module, tuple[Hashable, float, Certificate, Proof, Certificate]] = WeakKeyDictionary()
recognise(nn.ModuleList, IsometricLift, Guidance)


def rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register how modules of exactly these types are bounded: ``f(module, path, rtol) -> Proof``.

    Exactly these types: a subclass may override ``forward``, so it needs a rule of its own. A rule is the user's word for what
    it says, also a function of this package for another type than ours, and certificates list it under ``stated``.
    """

    def register(function: Rule) -> Rule:
        RULES.add(kinds, function)
        PROOFS.clear()
        return function

    return register


def own_rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register a rule of this package, for which no user has to vouch."""

    def register(function: Rule) -> Rule:
        RULES.add(kinds, function, own=True)
        return function

    return register


def certify(module: nn.Module, *, rtol: float = 1e-3) -> Certificate:
    """Prove a Lipschitz constant and the averagedness of ``module`` as a real function of its stored weights.

    Per layer, τ‖W‖² ≤ 2 with ‖W‖ replaced by a rigorous upper bound within ``rtol`` of the truth (tightened by itself when
    a layer would fail for the bound's slack alone); for the whole, the calculus of averaged maps in exact arithmetic.

    Of a potential, whose values are numbers, the curvature is proved instead: ``Certificate.curvature``.

    A map that is not nonexpansive gets a certificate too, with ``failures`` that name the layers and the numbers. The
    result is kept as long as the module lives and its ``fingerprint`` stays: weights, buffers, settings. Raises
    CertificateError for a module of unknown type, naming its path, for what ``require_unmodified`` refuses (hooks, replaced
    methods, parametrised weights) and for numbers that are not finite or overflow, InputError for a padding without a theorem.

    Source: Sherry et al. (2024); Combettes & Yamada (2015); Baillon & Haddad (1977).

    >>> from pnp_lip.layers import GradientFlowLinear
    >>> layer = GradientFlowLinear(2, 2, step_fraction=0.5)
    >>> certify(layer).nonexpansive
    True
    """
    if not isinstance(module, nn.Module):
        raise CertificateError(f"{type(module).__name__} is no torch module with a certifiable structure.")
    require_unmodified(module)
    key = fingerprint(module)
    kept = PROOFS.get(module)
    if kept is not None and kept[:2] == (key, rtol) and kept[2] == kept[4]:
        return kept[2]
    proof = prove(module, "", rtol)
    for name, tensor in tensors_of(module).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CertificateError(f"`{name}` holds NaN or infinite values; load intact weights.")
    if proof.writes:
        raise CertificateError("this map overwrites its own input; use activations with inplace=False.")
    smallest_image, divisible_by = image_sizes(proof.sizes)
    certificate = Certificate(
        layers=copy.deepcopy(proof.layers),
        bound=outwards(proof.bound),
        weights=hash_weights(module),
        dtype=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})) or "none",
        failures=proof.failures,
        rounding=rounding_upper(module) if proof.bound.lipschitz <= 1 else None,
        smallest_image=smallest_image,
        divisible_by=divisible_by,
        stated=tuple(dict.fromkeys(proof.stated)),
        curvature=proof.curvature,
    )
    PROOFS[module] = (key, rtol, certificate, proof, copy.deepcopy(certificate))
    return certificate


def describe(module: nn.Module, path: str, rtol: float) -> Proof:
    """The proof of a part of a map, which a potential cannot be: it gives a number, and its bound is that of its gradient."""
    proof = prove(module, path, rtol)
    if proof.curvature is not None:
        raise CertificateError(f"`{path}` is a potential, which gives one number for each image: it is no part of a map.")
    return proof


def prove(module: nn.Module, path: str, rtol: float) -> Proof:
    """Apply the rule of the module's exact type; nothing in the module may be modified."""
    kind = type(module)
    where = f"`{path}`" if path else "the module itself"
    require_unmodified(module)
    if kind not in RULES:
        raise CertificateError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, for which no rule is known, so nothing can be proved of "
            "it. Build the map from pnp_lip.layers, or register a rule with pnp_lip.certificates.rule."
        )
    proof: Proof = RULES[kind](module, path, rtol)
    if RULES.vouched(kind):
        return proof
    origin = getattr(RULES[kind], "__module__", None) or "an unknown module"
    if proof.sizes == (UNKNOWN,) and any(asks(line.norm) for line in proof.layers):
        raise CertificateError(f"{where}: a layer's bound asks for some image sizes only; the rule must state `Proof.sizes`.")
    return dataclasses.replace(proof, stated=(*proof.stated, f"{where}: a rule of {origin} bounds {kind.__name__}"))


def asks(norm: NormBound) -> bool:
    """Whether a layer's bound holds for some image sizes only."""
    return (norm.smallest_image, norm.divisible_by) != ((1, 1), (1, 1))


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def compose_proofs(proofs: Iterable[Proof]) -> Proof:
    """The proof of a composition, the first map applied first."""
    parts = list(proofs)
    return Proof(
        compose([p.bound for p in parts]),
        tuple(layer for p in parts for layer in p.layers),
        tuple(failure for p in parts for failure in p.failures),
        tuple(statement for p in parts for statement in p.stated),
        tuple(size for p in parts for size in p.sizes),
        next((p.writes for p in parts if p.writes is not None), None),
    )


@own_rule(nn.Sequential)
def certify_sequence(module: nn.Sequential, path: str, rtol: float) -> Proof:
    children = module._modules.items()  # named_children would give a map that is applied twice only once
    return compose_proofs(describe(child, join(path, name), rtol) for name, child in children if child is not None)


@own_rule(GradientFlowConv2d, GradientFlowLinear)
def certify_gradient_flow(layer: GradientFlowConv2d | GradientFlowLinear, path: str, rtol: float) -> Proof:
    """The rule x − τ Wᵀ σ(Wx + b): α = τ s ‖W‖²/2."""
    low, high = check_slopes(layer.activation, path)
    if layer.tau.numel() != 1 or not layer.tau.is_floating_point() or not math.isfinite(layer.tau.detach()):
        raise CertificateError(f"`{path}`: the step τ must be one finite number; got {layer.tau.tolist()}. Load intact weights.")
    tau = float(layer.tau.detach())
    weight = layer.weight.detach().cpu()
    if isinstance(layer, GradientFlowConv2d):
        whole(layer.dilation, join(path, "dilation"))
        fits = weight.ndim == 4 and weight.shape[2] == weight.shape[3] and weight.shape[3] % 2 == 1
    else:
        fits = weight.ndim == 2
    if not fits:
        raise CertificateError(f"`{path}` needs a matrix, or square kernels of an odd side; got {tuple(weight.shape)}.")
    for tightness in dict.fromkeys((rtol, min(rtol, FINE))):
        norm = norm_bound(weight, padding_mode=text(getattr(layer, "padding_mode", "zeros"), path), rtol=tightness)
        curvature = Fraction(tau) * Fraction(high) * square_upper(weight, norm.upper)
        if curvature <= 2 or tau * high * norm.lower * norm.lower > 2:  # otherwise perhaps only the slack fails
            break
    require_range(layer, path)
    bound = flow_step(curvature)
    line = layer_line(layer, path, norm, bound)
    line = dataclasses.replace(line, tau=tau, margin=round_down(2 - curvature), slopes=(low, high))
    proof = Proof(bound, (line,), stated=statement(layer.activation, path), sizes=(SAME,))
    if bound.lipschitz <= 1:
        return proof
    failure = f"layer `{path}` has a negative step τ = {tau:.6g}"
    if tau >= 0:
        failure = (
            f"layer `{path}` has τ‖W‖² ≤ {tau * norm.upper * norm.upper:.6f}, which must not exceed 2 "
            f"(τ = {tau:.6f}, {norm.lower:.6f} ≤ ‖W‖ ≤ {norm.upper:.6f}; τ may be at most {2 / norm.upper / norm.upper:.6f})"
        )
    return dataclasses.replace(proof, failures=(failure,))


def layer_line(layer: nn.Module, path: str, norm: NormBound, bound: MapBound) -> LayerCertificate:
    """The line of a layer Wx + b in the certificate, ``bound`` being what is proved of it."""
    known = outwards(bound)
    alpha = None if known.averagedness is None else float(known.averagedness)
    return LayerCertificate(path, type(layer).__name__, norm, None, None, (1.0, 1.0), float(known.lipschitz), alpha)


@own_rule(GradientFlowDenoiser)
def certify_denoiser(denoiser: GradientFlowDenoiser, path: str, rtol: float) -> Proof:
    """Qᵀ N Q with QᵀQ = Id has the averagedness of N, for every α, but not its range."""
    lift, layers = denoiser.lift, denoiser.layers
    if type(lift) is not IsometricLift or type(layers) is not nn.ModuleList:
        raise CertificateError(f"`{path or 'the denoiser'}` needs an IsometricLift as `lift` and a ModuleList as `layers`.")
    whole(lift.channels, join(path, "lift.channels"), whole(lift.in_channels, join(path, "lift.in_channels")))
    for i, layer in enumerate(layers):  # of which the denoiser cuts windows
        if type(layer) is not GradientFlowConv2d:
            raise CertificateError(f"`{join(path, f'layers.{i}')}` is a {type(layer).__qualname__}, no GradientFlowConv2d.")
    inner = compose_proofs(describe(m, join(path, f"layers.{i}"), rtol) for i, m in enumerate(layers))
    return dataclasses.replace(inner, bound=dataclasses.replace(inner.bound, box=None), sizes=(SAME,))


@own_rule(RelaxedDenoiser)
def certify_relaxed(denoiser: RelaxedDenoiser, path: str, rtol: float) -> Proof:
    """The values of D have the shape of x, else ``forward`` raises."""
    inner = describe(denoiser.denoiser, join(path, "denoiser"), rtol)
    if not 0 <= real(denoiser.theta, join(path, "theta")) <= 1:
        raise CertificateError(f"`{join(path, 'theta')}` must lie in [0, 1]; got {denoiser.theta}.")
    return dataclasses.replace(inner, bound=relax(inner.bound, denoiser.theta))


@own_rule(GuidedDenoiser)
def certify_guided(denoiser: GuidedDenoiser, path: str, rtol: float) -> Proof:
    """The proof of the denoiser without a guide: its layers clip to other limits and about centres, with the same slopes."""
    plain, start = denoiser.denoiser, join(path, "denoiser")
    certify(plain, rtol=rtol)  # many guides share one denoiser, whose proof is kept
    inner = copy.deepcopy(PROOFS[plain][3])
    clips = type(plain) is GradientFlowDenoiser and all(type(layer.activation) is NoiseClip for layer in plain.layers)
    parts = {type(part) for made in (plain.guidance, plain.guide_network) if made is not None for part in made.modules()}
    if not clips or parts - {Guidance, nn.ModuleList}:
        raise CertificateError(f"`{start}`: a guide is covered for layers with a NoiseClip and our own kind of guidance.")
    layers = tuple(dataclasses.replace(layer, path=join(start, layer.path)) for layer in inner.layers)
    return dataclasses.replace(inner, layers=layers)


@own_rule(ClippedDenoiser)
def certify_clipped(denoiser: ClippedDenoiser, path: str, rtol: float) -> Proof:
    """The range is the box where both of its ends are finite, also in the dtypes of the weights (float32 without any)."""
    inner, name = describe(denoiser.denoiser, join(path, "denoiser"), rtol), join(path, "box")
    if type(denoiser.box) not in (list, tuple) or len(denoiser.box) != 2:
        raise CertificateError(f"`{name}` must be (low, high); got {denoiser.box!r}.")
    low, high = (end if end in (-math.inf, math.inf) else float(real(end, name)) for end in denoiser.box)
    if not low <= high:
        raise CertificateError(f"`{name}` must be low <= high; got [{low}, {high}].")
    top = min((torch.finfo(p.dtype).max for p in denoiser.parameters() if p.is_floating_point()), default=FLOAT32)
    bound = clip(inner.bound, (low, high))
    fits = max(-low, high) <= top
    return dataclasses.replace(inner, bound=bound if fits else dataclasses.replace(bound, box=None), writes=inner.writes or False)


@own_rule(SlicedDenoiser)
def certify_sliced(denoiser: SlicedDenoiser, path: str, rtol: float) -> Proof:
    """D in every slice keeps the bounds of D, and so does the mean over the axes: see the class."""
    inner = describe(denoiser.denoiser, join(path, "denoiser"), rtol)
    require_slicing(denoiser, image_sizes(inner.sizes), path)
    return dataclasses.replace(inner, sizes=(SAME,), writes=inner.writes or False)


def require_slicing(module: SlicedDenoiser | SlicedPotential, sizes: tuple[Pair, Pair], path: str) -> None:
    """Raise CertificateError for axes that no slicing has, and where the bounds hold for some ``sizes`` of slices only."""
    try:
        check_slicing(module.axes, module.at_once)
    except (InputError, TypeError) as error:
        raise CertificateError(f"`{path or 'the module itself'}`: {error}") from error
    if sizes != ((1, 1), (1, 1)):
        raise CertificateError(f"`{path or 'the module itself'}`: the slices need a map whose bounds hold for every image size.")


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


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, and what its parts hold besides: buffers that are not stored, plain tensors."""
    parts = list(module.named_modules())
    plain = {join(path, n): value for path, part in parts for n, value in vars(part).items() if isinstance(value, Tensor)}
    return {**module.state_dict(), **dict(module.named_buffers()), **plain}


def hash_weights(module: nn.Module) -> dict[str, str]:
    """The SHA-256 of each tensor of the module: its dtype, its shape and its bytes."""
    return {name: hash_tensor(tensor) for name, tensor in tensors_of(module).items()}
