"""Rules for plain networks: the product of the layers' Lipschitz constants, honest and usually far above one.

These maps are not averaged by construction; the rules show what can be said of them. Importing this registers the rules.
"""

import dataclasses
import math
from fractions import Fraction

import torch
from deepinv.models import DnCNN
from torch import Tensor, nn

from pnp_lip.certificates.calculus import IDENTITY, MapBound, round_up, sqrt_up
from pnp_lip.certificates.certify import Proof, compose_proofs, describe, join, layer_line, own_rule
from pnp_lip.certificates.settings import real, text, whole, wholes
from pnp_lip.certificates.sizes import SAME, UNKNOWN, Axis
from pnp_lip.errors import CertificateError
from pnp_lip.spectral import Method, NormBound, border_norm_bound, norm_bound
from pnp_lip.spectral.polyphase import Pair

__all__ = ["affine"]

SLACK = Fraction(1, 10**12)  # covers a handful of float64 roundings many times over


def lipschitz_proof(constant: Fraction | int, sizes: tuple[Axis, Axis] = SAME, *, writes: bool | None = False) -> Proof:
    """Only a Lipschitz constant is known."""
    return Proof(MapBound(Fraction(constant), None), sizes=(sizes,), writes=writes)


def affine(module: nn.Module, path: str, norm: NormBound, sizes: tuple[Axis, Axis] = UNKNOWN) -> Proof:
    """A linear map plus a bias: its Lipschitz constant is ‖W‖. It takes the images for which ‖W‖ was bounded."""
    bound = MapBound(Fraction(norm.upper), None)
    asked = zip(sizes, norm.smallest_image, norm.divisible_by, strict=True)
    rows, columns = (dataclasses.replace(axis, least=least, divisor=divisor) for axis, least, divisor in asked)
    return Proof(bound, (layer_line(module, path, norm, bound),), sizes=((rows, columns),))


@own_rule(nn.Linear)
def certify_dense(layer: nn.Linear, path: str, rtol: float) -> Proof:
    return affine(layer, path, norm_bound(layer.weight.detach().cpu(), rtol=rtol))


@own_rule(nn.Conv2d)
def certify_conv2d(layer: nn.Conv2d, path: str, rtol: float) -> Proof:
    """Zero padding of any amount, circular padding that does not lengthen the image, replicate and reflect padding.

    torch reads ``padding`` for zeros and ``_reversed_padding_repeated_twice`` for other modes, never ``kernel_size``.
    """
    weight, stride, dilation, reach = kernel_of(layer, path)
    mode, held, name = text(layer.padding_mode, join(path, "padding_mode")), layer.padding, join(path, "padding")
    if mode != "zeros":
        four = layer._reversed_padding_repeated_twice
        if type(four) not in (list, tuple) or len(four) != 4:
            raise CertificateError(f"`{name}` must be four integers here; got {four!r}.")
        left, right, top, bottom = (whole(p, name, 0) for p in four)
        pads = (top + bottom, left + right)
    elif isinstance(held, str):
        pads = (reach[0], reach[1]) if held == "same" else (0, 0)
    else:
        pads = wholes(held, name, 0)
        pads = (2 * pads[0], 2 * pads[1])
    groups = whole(layer.groups, join(path, "groups"))
    if mode in ("replicate", "reflect"):
        around = (top, bottom, left, right)
        norm = border_norm_bound(weight, mode, around, rtol=rtol, stride=stride, dilation=dilation, groups=groups)
    elif mode == "circular" and (pads[1] > reach[1] or pads[0] > reach[0]):
        why = f"pads circularly by {(top, bottom, left, right)}, more than the kernel's reach {reach} in all, so that pixels"
        raise CertificateError(f"`{path}` {why} are repeated.")
    else:
        norm = norm_bound(weight, padding_mode=mode, rtol=rtol, stride=stride, dilation=dilation, groups=groups)
    rows, columns = (Axis(1, s, p - r - 1 + s) for s, p, r in zip(stride, pads, reach, strict=True))
    return affine(layer, path, norm, (rows, columns))


@own_rule(nn.ConvTranspose2d)
def certify_conv_transpose2d(layer: nn.ConvTranspose2d, path: str, rtol: float) -> Proof:
    """The adjoint of the convolution with the same weight: padding crops, output padding appends rows of it or zeros."""
    weight, stride, dilation, reach = kernel_of(layer, path)
    groups = whole(layer.groups, join(path, "groups"))
    norm = norm_bound(weight, padding_mode=layer.padding_mode, rtol=rtol, stride=stride, dilation=dilation, groups=groups)
    cut, more = (wholes(getattr(layer, name), join(path, name), 0) for name in ("padding", "output_padding"))
    ends = zip(stride, cut, reach, more, strict=True)
    rows, columns = (Axis(s, 1, r + 1 + m - s - 2 * c) for s, c, r, m in ends)
    return affine(layer, path, dataclasses.replace(norm, divisible_by=(1, 1)), (rows, columns))


def kernel_of(layer: nn.Conv2d | nn.ConvTranspose2d, path: str) -> tuple[Tensor, Pair, Pair, Pair]:
    """The weight, the strides, the dilations, and how far the taps reach along each axis, all as they are now."""
    weight = layer.weight.detach().cpu()
    if weight.ndim != 4:
        raise CertificateError(f"`{path}` needs a weight of four axes; got the shape {tuple(weight.shape)}.")
    stride, dilation = (wholes(getattr(layer, name), join(path, name)) for name in ("stride", "dilation"))
    return weight, stride, dilation, (dilation[0] * (weight.shape[2] - 1), dilation[1] * (weight.shape[3] - 1))


@own_rule(nn.BatchNorm2d)
def certify_batch_norm(layer: nn.BatchNorm2d, path: str, rtol: float) -> Proof:
    """In evaluation mode a diagonal map: max |γ_c|/√(v_c + ε)."""
    mean, variance = layer.running_mean, layer.running_var
    if layer.training or mean is None or variance is None:
        why = "normalises by the statistics of its batch; call module.eval() and track running statistics."
        raise CertificateError(f"`{path}` {why}")
    gamma = torch.ones_like(variance) if layer.weight is None else layer.weight.detach()
    gain = gamma.double().abs() / (variance.double() + float(real(layer.eps, join(path, "eps")))).sqrt()
    if not bool(torch.isfinite(gain).all()):
        raise CertificateError(f"`{path}` has NaN, infinite or negative statistics or gains; load intact weights.")
    top = Fraction(float(gain.max()))
    lower = -round_up(-top * (1 - SLACK))
    return affine(layer, path, NormBound(round_up(top * (1 + SLACK)), lower, Method.CLOSED_FORM), SAME)


@own_rule(nn.ReLU, nn.ReLU6, nn.Tanh, nn.Hardtanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU)
def certify_pointwise(module: nn.Module, path: str, rtol: float) -> Proof:
    """Slopes in [0, 1], of the sigmoid in [0, 1/4]; slope 1 for t > 0, and for t < 0 as stated, which ELU reaches at 0."""
    constant = Fraction(1, 4) if isinstance(module, nn.Sigmoid) else Fraction(1)
    for name in ("negative_slope", "alpha"):
        if hasattr(module, name):
            constant = max(constant, abs(real(getattr(module, name), join(path, name))))
    if isinstance(module, nn.Hardtanh) and not module.min_val <= module.max_val:
        raise CertificateError(f"`{path}` clips to [{module.min_val}, {module.max_val}], which is no interval.")
    return lipschitz_proof(constant, writes=bool(getattr(module, "inplace", False)))


@own_rule(nn.Identity)
def certify_identity(module: nn.Identity, path: str, rtol: float) -> Proof:
    return Proof(IDENTITY, sizes=(SAME,), writes=None)


@own_rule(nn.PixelShuffle, nn.PixelUnshuffle)
def certify_shuffle(module: nn.PixelShuffle | nn.PixelUnshuffle, path: str, rtol: float) -> Proof:
    """Numbers moved about."""
    if isinstance(module, nn.PixelShuffle):
        axis = Axis(up=whole(module.upscale_factor, join(path, "upscale_factor")))
    else:
        factor = whole(module.downscale_factor, join(path, "downscale_factor"))
        axis = Axis(down=factor, divisor=factor)
    return lipschitz_proof(1, (axis, axis))


@own_rule(nn.Flatten)
def certify_flatten(module: nn.Flatten, path: str, rtol: float) -> Proof:
    """Numbers moved about, image by image."""
    whole(module.start_dim, join(path, "start_dim"))
    return lipschitz_proof(1, UNKNOWN, writes=None)


@own_rule(nn.Softplus)
def certify_softplus(module: nn.Softplus, path: str, rtol: float) -> Proof:
    """log(1 + exp(βt))/β has slopes in (0, 1); torch continues it by t beyond a threshold, a jump of about exp(−threshold)/β.

    From 40 on the jump lies below the rounding of float64, for the default threshold of 20 above it. Beyond 80 exp(βt)
    overflows in float32.
    """
    beta, threshold = (real(getattr(module, name), join(path, name)) for name in ("beta", "threshold"))
    if not (beta > 0 and 40 <= threshold <= 80):
        how = "beta > 0 and a threshold in [40, 80], below which it jumps and above which it overflows"
        raise CertificateError(f"`{path}`: Softplus needs {how}; build it as nn.Softplus(beta, threshold=40).")
    return lipschitz_proof(1)


@own_rule(nn.Dropout, nn.Dropout2d)
def certify_dropout(module: nn.Dropout | nn.Dropout2d, path: str, rtol: float) -> Proof:
    """The identity in evaluation mode."""
    if module.training:
        raise CertificateError(f"`{path}` drops values at random, so it is no fixed map; call module.eval().")
    return Proof(IDENTITY, sizes=(SAME,), writes=None)


@own_rule(nn.AvgPool2d)
def certify_average_pool(module: nn.AvgPool2d, path: str, rtol: float) -> Proof:
    """Means of n values over disjoint windows: 1/√n; √n/|d| for a divisor d; at most 1 where windows at the border shrink."""
    sizes = pooled(module, path)
    n, divisor = math.prod(axis.down for axis in sizes), module.divisor_override
    if divisor is not None:
        square = Fraction(n, whole(abs(divisor), join(path, "divisor_override")) ** 2)
    else:
        shrinks = module.ceil_mode or (module.padding not in (0, (0, 0)) and not module.count_include_pad)
        square = Fraction(1) if shrinks else Fraction(1, n)
    return lipschitz_proof(sqrt_up(square), sizes)


@own_rule(nn.MaxPool2d)
def certify_max_pool(module: nn.MaxPool2d, path: str, rtol: float) -> Proof:
    """Maxima over disjoint windows: |max a − max b| ≤ ‖a − b‖_∞ ≤ ‖a − b‖₂."""
    if wholes(module.dilation, join(path, "dilation")) != (1, 1) or module.return_indices:
        raise CertificateError(f"`{path}`: max pooling is covered without dilation and without indices.")
    return lipschitz_proof(1, pooled(module, path))


def pooled(module: nn.AvgPool2d | nn.MaxPool2d, path: str) -> tuple[Axis, Axis]:
    """What is left of a side n: ⌊(n + 2p)/k⌋, or with ``ceil_mode`` every window that begins before n + p. Windows of k are
    disjoint when the stride is k.
    """
    size, steps = wholes(module.kernel_size, join(path, "kernel_size")), wholes(module.stride, join(path, "stride"))
    if size != steps:
        raise CertificateError(f"`{path}` pools over windows {size} with stride {steps}; they must be equal.")
    padding = wholes(module.padding, join(path, "padding"), 0)
    rows, columns = (Axis(down=k, offset=p + k - 1 if module.ceil_mode else 2 * p) for k, p in zip(size, padding, strict=True))
    return rows, columns


@own_rule(DnCNN)
def certify_dncnn(network: DnCNN, path: str, rtol: float) -> Proof:
    """x + out_conv(σ(conv(… σ(in_conv(x))))): 1 + the product. The network may hold more layers than its forward uses."""
    if not type(network.conv_list) is type(network.nl_list) is nn.ModuleList:
        raise CertificateError(f"`{path or 'the network'}` needs ModuleLists as `conv_list` and `nl_list`.")
    middle = range(whole(network.depth, join(path, "depth"), 2) - 2)
    names = ["in_conv", "nl_list.0", *(name for i in middle for name in (f"conv_list.{i}", f"nl_list.{i + 1}")), "out_conv"]
    inner = compose_proofs(describe(network.get_submodule(name), join(path, name), rtol) for name in names)
    first, last = network.in_conv, network.out_conv
    keeps = all((axis.up, axis.down, axis.offset) == (1, 1, 0) for axes in inner.sizes for axis in axes)
    plain = type(first) is type(last) is nn.Conv2d
    if not keeps or not plain or first.weight.shape[1] * first.groups != len(last.weight):
        why = "must give an image of the shape of x, to which it is added, and have a Conv2d at either end."
        raise CertificateError(f"`{path or 'the network'}` {why}")
    return dataclasses.replace(inner, bound=MapBound(1 + inner.bound.lipschitz, None))
