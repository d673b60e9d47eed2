"""Rules for plain networks: the product of the layers' Lipschitz constants, honest and usually far above one.

These maps are not averaged by construction; the rules show what can be said of them. Importing this registers the rules.
"""

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import torch
from deepinv.models import DnCNN
from torch import nn

from pnp_lip.certificates.calculus import IDENTITY, MapBound, round_up, sqrt_up
from pnp_lip.certificates.certify import Proof, compose_proofs, describe, join, layer_line, rule
from pnp_lip.errors import CertificateError
from pnp_lip.spectral import Method, NormBound, border_norm_bound, norm_bound
from pnp_lip.spectral.polyphase import Pair, pair

__all__ = ["affine"]

SLACK = Fraction(1, 10**12)  # covers a handful of float64 roundings many times over


def lipschitz_proof(constant: Fraction | int) -> Proof:
    """Only a Lipschitz constant is known."""
    return Proof(MapBound(Fraction(constant), None))


def affine(module: nn.Module, path: str, norm: NormBound) -> Proof:
    """A linear map plus a bias: its Lipschitz constant is ‖W‖."""
    bound = MapBound(Fraction(norm.upper), None)
    return Proof(bound, (layer_line(module, path, norm, bound),))


@rule(nn.Linear)
def certify_dense(layer: nn.Linear, path: str, rtol: float) -> Proof:
    return affine(layer, path, norm_bound(layer.weight.detach().cpu(), rtol=rtol))


@rule(nn.Conv2d)
def certify_conv2d(layer: nn.Conv2d, path: str, rtol: float) -> Proof:
    """Zero padding of any amount, circular padding that does not lengthen the image, replicate and reflect padding."""
    left, right, top, bottom = layer._reversed_padding_repeated_twice  # holds however the padding was given
    mode, padding = layer.padding_mode, (top, bottom, left, right)
    if mode in ("replicate", "reflect"):
        norm = convolution_bound(border_norm_bound, layer, rtol, padding_mode=mode, padding=padding)
        return affine(layer, path, norm)
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if mode == "circular" and (left + right > reach[1] or top + bottom > reach[0]):
        why = f"pads circularly by {padding}, more than the kernel's reach {reach} in all, so that pixels are repeated."
        raise CertificateError(f"`{path}` {why}")
    return affine(layer, path, convolution_bound(norm_bound, layer, rtol, padding_mode=mode))


@rule(nn.ConvTranspose2d)
def certify_conv_transpose2d(layer: nn.ConvTranspose2d, path: str, rtol: float) -> Proof:
    """The adjoint of the convolution with the same weight: padding crops, output padding appends rows of it or zeros."""
    return affine(layer, path, convolution_bound(norm_bound, layer, rtol))


def convolution_bound(
    bound: Callable[..., NormBound], layer: nn.Conv2d | nn.ConvTranspose2d, rtol: float, **padding: object
) -> NormBound:
    """``bound`` for the layer's weight, which the adjoint stores alike, with settings that are plain integers."""
    stride, dilation = [int(s) for s in layer.stride], [int(d) for d in layer.dilation]
    weight = layer.weight.detach().cpu()
    return bound(weight, rtol=rtol, stride=stride, dilation=dilation, groups=layer.groups, **padding)


@rule(nn.BatchNorm2d)
def certify_batch_norm(layer: nn.BatchNorm2d, path: str, rtol: float) -> Proof:
    """In evaluation mode a diagonal map: max |γ_c|/√(v_c + ε)."""
    mean, variance = layer.running_mean, layer.running_var
    if layer.training or mean is None or variance is None:
        why = "normalises by the statistics of its batch; call module.eval() and track running statistics."
        raise CertificateError(f"`{path}` {why}")
    gamma = torch.ones_like(variance) if layer.weight is None else layer.weight.detach()
    gain = gamma.double().abs() / (variance.double() + layer.eps).sqrt()
    if not bool(torch.isfinite(gain).all()):
        raise CertificateError(f"`{path}` has NaN, infinite or negative statistics or gains; load intact weights.")
    top = Fraction(float(gain.max()))
    lower = -round_up(-top * (1 - SLACK))
    return affine(layer, path, NormBound(round_up(top * (1 + SLACK)), lower, Method.CLOSED_FORM))


rule(nn.Identity)(lambda module, path, rtol: Proof(IDENTITY))
rule(nn.ReLU, nn.ReLU6, nn.Tanh, nn.Hardtanh)(lambda module, path, rtol: lipschitz_proof(1))  # slopes in [0, 1]
rule(nn.PixelShuffle, nn.PixelUnshuffle, nn.Flatten)(lambda module, path, rtol: lipschitz_proof(1))  # moved about
rule(nn.Sigmoid)(lambda module, path, rtol: lipschitz_proof(Fraction(1, 4)))
# Slope 1 for t > 0, and for t < 0 the stated slope, which ELU's α exp(t) reaches at 0.
rule(nn.LeakyReLU)(lambda module, path, rtol: lipschitz_proof(max(Fraction(1), abs(Fraction(module.negative_slope)))))
rule(nn.ELU)(lambda module, path, rtol: lipschitz_proof(max(Fraction(1), abs(Fraction(module.alpha)))))


@rule(nn.Softplus)
def certify_softplus(module: nn.Softplus, path: str, rtol: float) -> Proof:
    """log(1 + exp(βt))/β has slopes in (0, 1); torch continues it by t beyond a threshold, a jump of exp(−threshold)/β.

    From the default threshold of 20 on, the jump lies below the rounding of float32 and counts as rounding.
    """
    if not (module.beta > 0 and module.threshold >= 20):
        raise CertificateError(f"`{path}`: Softplus needs beta > 0 and threshold >= 20, below which it jumps visibly.")
    return lipschitz_proof(1)


@rule(nn.Dropout, nn.Dropout2d)
def certify_dropout(module: nn.Dropout | nn.Dropout2d, path: str, rtol: float) -> Proof:
    """The identity in evaluation mode."""
    if module.training:
        raise CertificateError(f"`{path}` drops values at random, so it is no fixed map; call module.eval().")
    return Proof(IDENTITY)


@rule(nn.AvgPool2d)
def certify_average_pool(module: nn.AvgPool2d, path: str, rtol: float) -> Proof:
    """Means of n values over disjoint windows: 1/√n; √n/|d| for a divisor d; at most 1 where windows at the border shrink."""
    n = math.prod(disjoint_windows(module.kernel_size, module.stride, path))
    if module.divisor_override:
        square = Fraction(n, module.divisor_override**2)
    else:
        shrinks = module.ceil_mode or (module.padding not in (0, (0, 0)) and not module.count_include_pad)
        square = Fraction(1) if shrinks else Fraction(1, n)
    return lipschitz_proof(sqrt_up(square))


@rule(nn.MaxPool2d)
def certify_max_pool(module: nn.MaxPool2d, path: str, rtol: float) -> Proof:
    """Maxima over disjoint windows: |max a − max b| ≤ ‖a − b‖_∞ ≤ ‖a − b‖₂."""
    disjoint_windows(module.kernel_size, module.stride, path)
    if pair(module.dilation) != (1, 1) or module.return_indices:
        raise CertificateError(f"`{path}`: max pooling is covered without dilation and without indices.")
    return lipschitz_proof(1)


def disjoint_windows(kernel_size: int | Pair, stride: int | Pair, path: str) -> Pair:
    """The window's sizes, which must equal the strides."""
    size, steps = pair(kernel_size), pair(stride)
    if size != steps:
        raise CertificateError(f"`{path}` pools over windows {size} with stride {steps}; they must be equal.")
    return size


@rule(DnCNN)
def certify_dncnn(network: DnCNN, path: str, rtol: float) -> Proof:
    """x + out_conv(σ(conv(… σ(in_conv(x))))): 1 + the product. The network may hold more layers than its forward uses."""
    middle = [name for i in range(network.depth - 2) for name in (f"conv_list.{i}", f"nl_list.{i + 1}")]
    names = ["in_conv", "nl_list.0", *middle, "out_conv"]
    inner = compose_proofs(describe(network.get_submodule(name), join(path, name), rtol) for name in names)
    return dataclasses.replace(inner, bound=MapBound(1 + inner.bound.lipschitz, None))
