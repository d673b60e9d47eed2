"""Symmetric padding: the image's mirror images, exact adjoints, and the theorem that needs mirrored filters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_lip import GradientFlowDenoiser, certify, enforce, save_denoiser
from pnp_lip.check import check
from pnp_lip.check import mirror_closed as checker_mirror_closed
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.layers import PADDING_MODES, Clip, GradientFlowConv2d, constrain, pair_mirrors, project, release
from pnp_lip.layers.mirror import mirror_pairs
from pnp_lip.layers.padding import fold, pad
from pnp_lip.spectral import border_norm_bound, mirror_closed, norm_bound

SIZES = [(1, 1), (1, 4), (2, 3), (4, 4), (5, 9), (12, 10)]


def layer(channels: int = 1, hidden: int = 6, k: int = 5, *, seed: int = 0, dilation: int = 1) -> GradientFlowConv2d:
    torch.manual_seed(seed)
    return GradientFlowConv2d(
        channels, hidden, k, dilation=dilation, padding_mode="symmetric", activation=Clip(hidden, threshold=0.1)
    ).double()


def dense(found: GradientFlowConv2d, height: int, width: int) -> torch.Tensor:
    channels = found.weight.shape[1]
    columns = torch.eye(channels * height * width, dtype=torch.float64).reshape(-1, channels, height, width)
    return found.conv(columns, found.weight).flatten(1).T.detach()


def small(**changes: object) -> GradientFlowDenoiser:
    torch.manual_seed(0)
    return GradientFlowDenoiser(**{"hidden_channels": 8, "dilations": (1, 2), "kernel_size": 5, **changes})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reach", [0, 1, 3, 7])
def test_padding_is_numpys_and_fold_its_adjoint(size: tuple[int, int], reach: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    names = {"zeros": "constant", "circular": "wrap", "symmetric": "symmetric"}
    for mode in PADDING_MODES:
        extended = pad(x, reach, mode)
        assert np.array_equal(extended, np.pad(x, ((0, 0), (0, 0), (reach,) * 2, (reach,) * 2), mode=names[mode]))
        z = torch.randn(extended.shape, generator=generator, dtype=torch.float64)
        forth, back = (extended * z).sum(), (x * fold(z, reach, mode)).sum()
        assert abs(forth - back) <= 1e-12 * extended.norm() * z.norm()


@pytest.mark.parametrize(("channels", "k", "dilation"), [(1, 3, 1), (1, 9, 1), (3, 3, 2), (2, 5, 1)])
def test_the_torus_bounds_every_image_size(channels: int, k: int, dilation: int) -> None:
    for seed in range(6):
        found = layer(channels, k=k, seed=seed, dilation=dilation)
        upper = norm_bound(found.weight.detach(), rtol=1e-6).upper
        norms = [float(torch.linalg.matrix_norm(dense(found, *size), 2)) for size in SIZES]
        assert max(norms) <= upper
    found = layer(channels, k=k, dilation=dilation)
    upper = norm_bound(found.weight.detach()).upper
    assert float(torch.linalg.matrix_norm(dense(found, 20, 20), 2)) > 0.85 * upper  # and is approached


def test_without_mirror_images_the_torus_is_no_bound() -> None:
    found = layer(hidden=2, k=3)
    with torch.no_grad():
        found.weight.copy_(torch.tensor([[[[0, 0, 0], [1, 1, 0], [0, 0, 0]]], [[[0, 0, 0]] * 3]], dtype=torch.float64))
    norm = float(torch.linalg.matrix_norm(dense(found, 1, 2), 2))
    assert norm > norm_bound(found.weight.detach()).upper + 0.25
    assert not mirror_closed(found.weight)
    assert norm <= border_norm_bound(found.weight, "symmetric", 1).upper


@pytest.mark.parametrize("seed", range(4))
def test_open_banks_have_a_looser_bound(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found = layer(2, 4, 3)
    with torch.no_grad():
        found.weight.copy_(torch.randn(found.weight.shape, generator=generator, dtype=torch.float64))
    bound = border_norm_bound(found.weight, "symmetric", 1)
    assert bound.scope == "symmetric padding, images of at least 2 x 2 pixels"
    for size in [(2, 2), (2, 5), (7, 6)]:
        assert float(torch.linalg.matrix_norm(dense(found, *size), 2)) <= bound.upper
    assert bound.upper > norm_bound(found.weight.detach()).upper


def test_which_banks_contain_their_mirror_images() -> None:
    generator = torch.Generator().manual_seed(0)
    for closed in (mirror_closed, lambda w: checker_mirror_closed(w.numpy())):
        for n, channels, k in [(1, 1, 3), (2, 1, 5), (5, 3, 3), (3, 2, 1)]:
            w = mirror_pairs(torch.randn(n, channels, k, k, generator=generator))
            assert closed(w) and closed(w[torch.randperm(2 * n, generator=generator)] * -1)
            changed = w.clone()
            changed[0, 0, 0, 0] = torch.nextafter(changed[0, 0, 0, 0], torch.tensor(9.0))
            assert closed(changed) == (k == 1)
        assert not closed(torch.randn(4, 1, 3, 3, generator=generator))
        assert not closed(torch.tensor([[[[1.0, 2.0, 1.0]]] * 2, [[[1.0, 2.0, 3.0]]] * 2])[:, :1])


def test_certified_at_the_limit_and_not_beyond_it() -> None:
    denoiser = project(small(), limit=1.0)
    certificate = certify(denoiser)
    assert certificate.nonexpansive and certificate.scope == "any image size, symmetric padding"
    assert certificate.rounding is not None
    enforce(denoiser, limit=0.999)
    with torch.no_grad():
        denoiser.layers[1].weight.mul_(1.01)
    assert not certify(denoiser).nonexpansive


def test_one_tap_off_is_refused_and_the_reason_said() -> None:
    denoiser = project(small())
    with torch.no_grad():
        tap = denoiser.layers[1].weight[3, 0, 1, 2]
        tap.copy_(torch.nextafter(tap, torch.tensor(9.0)))
    with pytest.raises(CertificateError, match=r"layers\.1.*mirror images.*pair_mirrors"):
        certify(denoiser).require_nonexpansive()
    enforce(denoiser)  # the looser bound leaves a quarter of the step
    certificate = certify(denoiser)
    assert certificate.nonexpansive and certificate.rounding is None


def test_the_checker_wants_mirror_images_too(tmp_path: Path) -> None:
    denoiser = project(small())
    weights, certificate = tmp_path / "d.safetensors", tmp_path / "d.certificate.json"
    save_denoiser(denoiser, weights)
    assert check(weights, certificate) == []
    with torch.no_grad():
        denoiser.layers[1].weight[3, 0, 1, 2] *= 0.5
        enforce(denoiser)
    save_denoiser(denoiser, weights)
    assert any("layers.1: its filters do not contain" in line for line in check(weights, certificate))


@pytest.mark.parametrize("k", [3, 5])
def test_gradient_ascent_finds_no_expansion_at_the_border(k: int) -> None:
    found = project(layer(k=k), limit=1.0)
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(4, 1, 6, 5, generator=generator, dtype=torch.float64).requires_grad_(True)
    v = (u.detach() + 0.1 * torch.randn(u.shape, generator=generator, dtype=torch.float64)).requires_grad_(True)
    ascent = torch.optim.Adam([u, v], lr=0.03)
    for _ in range(60):
        ratios = (found(u) - found(v)).flatten(1).norm(dim=1) / (u - v).flatten(1).norm(dim=1)
        assert float(ratios.detach().max()) <= 1 + 1e-6
        ascent.zero_grad()
        (-ratios.sum()).backward()
        ascent.step()


def test_pairs_survive_an_optimiser_and_their_release() -> None:
    denoiser = constrain(small(), zero_mean_channels=1)
    descent = torch.optim.Adam(denoiser.parameters(), lr=0.05)
    x = torch.rand(2, 1, 12, 13, generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        descent.zero_grad()
        (denoiser(x, 0.1) - x).square().mean().neg().backward()
        descent.step()
        assert all(mirror_closed(found.weight) for found in denoiser.layers)
    for mirrored in (-1, -2):  # both layers' thresholds are in pairs as well
        torch.testing.assert_close(denoiser(x.flip(mirrored), 0.1), denoiser(x, 0.1).flip(mirrored), rtol=0, atol=1e-5)
    before = denoiser(x, 0.1)
    release(denoiser)
    assert denoiser.state_dict().keys() == small().state_dict().keys()
    torch.testing.assert_close(denoiser(x, 0.1), before, rtol=0, atol=1e-6)
    assert certify(denoiser).nonexpansive


def test_pairs_alone_for_the_projection() -> None:
    denoiser = pair_mirrors(small(hidden_channels=4))
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.1)
    project(denoiser)
    assert certify(denoiser).nonexpansive


def test_an_odd_number_of_mirrored_filters_is_refused() -> None:
    with pytest.raises(InputError, match=r"mirror pairs.*even; got 5"):
        GradientFlowConv2d(1, 5, padding_mode="symmetric")
    with pytest.raises(InputError, match="must be one of"):
        GradientFlowConv2d(1, 4, padding_mode="reflect")


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_fourier_transform_gives_the_same_layer_and_gradients(mode: str, dilation: int) -> None:
    torch.manual_seed(0)
    found = GradientFlowConv2d(
        2, 4, 3, dilation=dilation, padding_mode=mode, activation=Clip(4, threshold=0.1), bias=True
    ).double()
    x = torch.randn(3, 2, 9, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for fourier in (False, True):
        found.fourier = fourier
        loss = found(x).square().sum()
        results.append((loss, *torch.autograd.grad(loss, [x, *found.parameters()])))
    for direct, transformed in zip(*results, strict=True):
        torch.testing.assert_close(direct, transformed, rtol=1e-10, atol=1e-10)


def test_constraining_a_bank_in_another_order_is_refused_and_changes_nothing() -> None:
    denoiser = small(hidden_channels=4)
    with torch.no_grad():
        first: torch.Tensor = denoiser.layers[1].weight
        first.copy_(first[[2, 3, 0, 1]].clone())
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    assert mirror_closed(first)
    with pytest.raises(InputError, match=r"filters of layers\.1 .* even and odd ones in turn; make them by"):
        constrain(denoiser, zero_mean_channels=1)
    assert all(torch.equal(before[name], value) for name, value in denoiser.state_dict().items())


def test_training_goes_on_where_a_constrained_network_was_released() -> None:
    denoiser = release(constrain(small(hidden_channels=4), zero_mean_channels=1))
    y = torch.rand(1, 1, 12, 11, generator=torch.Generator().manual_seed(0))
    before = denoiser(y, 0.1).detach()
    assert torch.allclose(constrain(denoiser, zero_mean_channels=1)(y, 0.1), before, atol=1e-4)
