"""Slice priors: dense Jacobians and Hessians, attacks, certificates, refusals."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from deepinv.models import DnCNN
from solver_cases import denoiser
from torch import Tensor, nn

from pnp_lip import ClippedDenoiser, SlicedDenoiser, SlicedPotential, attack, certify, relax
from pnp_lip.certificates import MapBound, Proof, rule
from pnp_lip.certificates.sizes import Axis
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.potentials import RidgePotential


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def potential(seed: int = 0) -> RidgePotential:
    """A small ridge potential that falls as well as rises."""
    torch.manual_seed(seed)
    return RidgePotential(filters=4, kernel_size=3, padding_mode="zeros").double()


@pytest.mark.parametrize("axes", [(0, 1, 2), (0,), (2, 1)])
def test_mean_of_the_slices(axes: tuple[int, ...]) -> None:
    """As written out; the same for every batch of slices, and for each volume with a σ of its own."""
    net, x, sigma = denoiser(dtype=torch.float64), volume(2, 1, 3, 4, 5), torch.tensor([0.05, 0.2], dtype=torch.float64)
    expected = torch.zeros_like(x)
    for b, s in enumerate(sigma.tolist()):
        for axis in axes:
            for k in range(x.shape[2 + axis]):
                place = [b, slice(None), slice(None), slice(None), slice(None)]
                place[2 + axis] = k
                expected[tuple(place)] += net(x[tuple(place)][None], s)[0] / len(axes)
    for at_once in (1, 2, 100):
        assert torch.allclose(SlicedDenoiser(net, axes=axes, at_once=at_once)(x, sigma), expected, atol=1e-12)


@pytest.mark.slow
def test_the_attacker_finds_nothing() -> None:
    net = denoiser(dtype=torch.float64)
    assert attack(SlicedDenoiser(net), volume(1, 1, 5, 5, 5), sigma=0.1, steps=4, bound=1.0).ratio <= 1


def test_certificate_is_that_of_the_denoiser_and_holds() -> None:
    """Dense Jacobians: ‖J‖ ≤ 1 and ‖(J − (1 − α)Id)/α‖ ≤ 1."""
    for net in (denoiser(dtype=torch.float64), relax(denoiser(dtype=torch.float64), 0.5)):
        sliced, alone = certify(SlicedDenoiser(net)), certify(net)
        assert sliced.bound == alone.bound and sliced.nonexpansive and not sliced.stated
        alpha = float(sliced.bound.averagedness or 1)
        x = volume(1, 1, 3, 3, 2) * 2 - 0.5
        jacobian = torch.autograd.functional.jacobian(partial(SlicedDenoiser(net), sigma=0.1), x).reshape(18, 18)
        rest = (jacobian - (1 - alpha) * torch.eye(18, dtype=torch.float64)) / alpha
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= 1 + 1e-12
        assert float(torch.linalg.matrix_norm(rest, 2)) <= 1 + 1e-9
    firm = denoiser(layers=1, limit=0.5, dtype=torch.float64)
    assert certify(SlicedDenoiser(firm)).proximal and certify(SlicedDenoiser(firm)).firmly_nonexpansive
    assert certify(ClippedDenoiser(SlicedDenoiser(firm))).box == (0, 1)


def test_scaled_weights_fail() -> None:
    net = denoiser(dtype=torch.float64)
    margin = certify(SlicedDenoiser(net)).layers[0].margin
    assert margin is not None
    for factor, holds in ((0.99, True), (1.01, False)):  # of the weight with τ‖W‖² = 2
        scaled = copy.deepcopy(net)
        with torch.no_grad():
            scaled.layers[0].weight.mul_(factor * (2 / (2 - margin)) ** 0.5)
        assert certify(SlicedDenoiser(scaled)).nonexpansive == holds


def test_potential_against_dense_hessians() -> None:
    """Value, gradient and curvature; the certificate's bounds are those of the potential of images."""
    inner = potential()
    whole, curvature = SlicedPotential(inner, at_once=3), certify(inner).curvature
    assert curvature is not None and certify(whole).curvature == curvature
    for seed in range(4):
        x = (volume(1, 1, 4, 3, 4, seed=seed) - 0.5) * 10.0 ** (seed - 2)
        leaf = x.clone().requires_grad_()
        value = whole(leaf, 0.1)
        assert value.dtype == torch.float64 and value.shape == (1,)
        gradient = whole.grad(x, 0.1)
        assert torch.allclose(torch.autograd.grad(value.sum(), leaf)[0], gradient, atol=1e-12)
        step = 1e-6
        units = torch.eye(48, dtype=torch.float64).reshape(48, 1, 4, 3, 4) * step
        hessian = ((whole.grad(x + units, 0.1) - whole.grad(x - units, 0.1)) / (2 * step)).reshape(48, 48)
        spectrum = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
        assert curvature.lower - 1e-6 <= float(spectrum[0]) and float(spectrum[-1]) <= curvature.upper + 1e-6


def test_potential_under_attack() -> None:
    """Power iterations along differences of gradients, upwards and downwards, at amplitudes around the limits of φ."""
    inner = potential()
    whole, curvature = SlicedPotential(inner), certify(inner).curvature
    assert curvature is not None
    reached = [0.0, 0.0]
    for seed in range(4):
        x, shift = volume(1, 1, 9, 8, 9, seed=seed) * 10.0 ** (seed - 3), (0.0, -curvature.upper)
        for side in (0, 1):
            v = volume(1, 1, 9, 8, 9, seed=seed + 9) - 0.5
            for _ in range(12):
                v = 1e-3 * v / v.norm()
                change = whole.grad(x + v, 0.1) - whole.grad(x, 0.1)
                found = float((change * v).sum() / v.square().sum())
                reached[side] = max(reached[side], found) if side == 0 else min(reached[side], found)
                v = change + shift[side] * v
    assert curvature.lower <= reached[1] < reached[0] <= curvature.upper
    assert reached[0] > 0.5 * curvature.upper


class Halving(nn.Module):
    """D whose bound holds for even sides only."""

    def forward(self, x: Tensor, sigma: object = None) -> Tensor:
        return x / 2


@rule(Halving)
def certify_halving(module: Halving, path: str, rtol: float) -> Proof:
    even = Axis(divisor=2)
    return Proof(MapBound(1, None), sizes=((even, even),))


def test_wrong_use_is_refused() -> None:
    net = denoiser()
    for axes in ((), (0, 0), (3,)):
        with pytest.raises(InputError, match="`axes` must be some of 0, 1, 2"):
            SlicedDenoiser(net, axes=axes)
    with pytest.raises(InputError, match="`at_once` must be a positive integer"):
        SlicedPotential(potential(), at_once=0)
    with pytest.raises(ShapeError, match=r"expected volumes \(B, C, D, H, W\)"):
        SlicedDenoiser(net)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ShapeError, match="`sigma` must be one number or one for each of the 2 volumes"):
        SlicedDenoiser(net)(torch.zeros(2, 1, 4, 4, 4), torch.ones(3))
    with pytest.raises(ShapeError, match="must keep their shape"):
        SlicedDenoiser(Cropping())(torch.zeros(1, 1, 4, 4, 4))
    with pytest.raises(CertificateError, match="for every image size"):
        certify(SlicedDenoiser(Halving()))
    with pytest.raises(CertificateError, match="is a potential"):
        certify(SlicedDenoiser(potential()))
    with pytest.raises(CertificateError, match="`in_slices` must be a potential"):
        certify(SlicedPotential(net))  # type: ignore[arg-type]
    changed = SlicedDenoiser(net)
    changed.axes = (0, 5)
    with pytest.raises(CertificateError, match="`axes` must be some of"):
        certify(changed)
    assert not certify(SlicedDenoiser(DnCNN(1, 1, depth=2, nf=4, pretrained=None))).nonexpansive


class Cropping(nn.Module):
    """A map that does not keep the shape."""

    def forward(self, x: Tensor, sigma: object = None) -> Tensor:
        return x[..., 1:]
