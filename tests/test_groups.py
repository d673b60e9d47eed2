"""Filters that are clipped in groups: a projection onto balls, whose layers keep their theorem."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pnp_lip import GradientFlowDenoiser, attack, certify, guided, load_denoiser, save_denoiser
from pnp_lip.check import check
from pnp_lip.errors import InputError
from pnp_lip.layers import GradientFlowConv2d, NoiseClip, project


def network(**changes: object) -> GradientFlowDenoiser:
    """An untrained one whose thresholds matter."""
    torch.manual_seed(0)
    settings = {"hidden_channels": 8, "dilations": (1, 1), "kernel_size": 5, "group": 4, **changes}
    denoiser = GradientFlowDenoiser(**settings)
    for layer in denoiser.layers:
        layer.activation.log_scale.data += 1.5
    return project(denoiser).eval().requires_grad_(False)


def test_the_activation_projects_onto_balls() -> None:
    sigma = NoiseClip(6, threshold=2.0, group=3).double()
    with torch.no_grad():
        sigma.log_scale[:, 1] += 1.0
    level = torch.tensor([0.1], dtype=torch.float64)
    t = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radii = (0.2, 0.2 * torch.tensor(1.0).exp())
    for part, radius in zip((slice(0, 3), slice(3, 6)), radii, strict=True):
        norm = t[:, part].norm(dim=1, keepdim=True)
        expected = torch.where(norm > radius, t[:, part] * radius / norm, t[:, part])
        torch.testing.assert_close(sigma(t, level)[:, part], expected, rtol=1e-6, atol=0)


def test_its_jacobian_is_symmetric_with_eigenvalues_in_the_unit_interval() -> None:
    sigma = NoiseClip(6, threshold=2.0, group=3).double()
    level = torch.tensor([0.1], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    smallest = []
    for size in (0.05, 0.3, 3.0):
        t = size * torch.randn(6, generator=generator, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda v: sigma(v[None], level)[0], t)
        torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-12)
        values = torch.linalg.eigvalsh(jacobian)
        assert values.min() > -1e-12 and values.max() < 1 + 1e-12
        smallest.append(float(values.min()))
    assert smallest[-1] < 0.2  # and it does something


@pytest.mark.parametrize("padding", ["zeros", "circular", "symmetric"])
def test_a_layer_is_its_definition_for_one_noise_level_and_for_several(padding: str) -> None:
    torch.manual_seed(0)
    layer = GradientFlowConv2d(1, 8, 5, padding_mode=padding, activation=NoiseClip(8, threshold=2.0, group=4)).double()
    x = torch.randn(2, 1, 7, 6, dtype=torch.float64)
    t = layer.conv(x, layer.weight)
    shrink = (0.2 / t.unflatten(1, (2, 4)).norm(dim=2, keepdim=True)).clamp_max(1)
    s = (t.unflatten(1, (2, 4)) * shrink).flatten(1, 2)
    expected = x - layer.tau * layer.conv_adjoint(s, layer.weight)
    for level in (torch.tensor([0.1]), torch.tensor([0.1, 0.1])):
        torch.testing.assert_close(layer(x, level.double()), expected, rtol=0, atol=1e-6)
    limits = torch.full((1, 2, 7, 6), 0.2, dtype=torch.float64)
    torch.testing.assert_close(layer.flow(x, limits), expected, rtol=0, atol=1e-12)
    assert torch.equal(layer.flow(x, 0 * limits), x)
    for scale in (0, 1):
        black = torch.full((1, 1, 7, 6), 1e-150, dtype=torch.float64, requires_grad=True)
        layer.flow(black, scale * limits).sum().backward()
        assert black.grad is not None and bool(black.grad.isfinite().all())


def test_certified_saved_checked_and_not_refuted(tmp_path: Path) -> None:
    denoiser = network()
    certificate = save_denoiser(denoiser, tmp_path / "d.safetensors")
    assert certificate.averaged and certificate.rounding is None
    assert check(tmp_path / "d.safetensors", tmp_path / "d.certificate.json") == []
    loaded, x = load_denoiser(tmp_path / "d.safetensors"), torch.rand(2, 1, 12, 11)
    assert torch.equal(loaded(x, 0.1), denoiser(x, 0.1)) and loaded.config["group"] == 4
    assert (denoiser(x, 0.1) - x).abs().max() > 0.01
    found = attack(denoiser, x[:1], sigma=0.1, steps=3)
    assert found.ratio <= 1 + 1e-6
    with torch.no_grad():
        denoiser.layers[1].weight.mul_(1.02)
    assert not certify(denoiser).nonexpansive


def test_mirrored_images_give_mirrored_results() -> None:
    denoiser, x = network(), torch.rand(1, 1, 10, 13)
    for axis in (-1, -2):
        torch.testing.assert_close(denoiser(x.flip(axis), 0.1), denoiser(x, 0.1).flip(axis), rtol=0, atol=1e-6)


def test_windows_and_guides() -> None:
    denoiser, x = network(guidance=True), torch.rand(1, 1, 30, 33)
    torch.testing.assert_close(denoiser.tiled(x, 0.1, tile=9), denoiser(x, 0.1), rtol=0, atol=1e-6)
    for guidance in denoiser.guidance:
        guidance.mixing.zero_(), guidance.offset.zero_()
    torch.testing.assert_close(guided(denoiser, x)(x, 0.1), denoiser(x, 0.1), rtol=0, atol=1e-6)
    for guidance in denoiser.guidance:
        guidance.offset.fill_(-2.0)
    with_guide = guided(denoiser, x)
    assert (with_guide(x, 0.1) - x).norm() < 0.5 * (denoiser(x, 0.1) - x).norm()
    assert certify(with_guide).averagedness == certify(denoiser).averagedness


def test_a_group_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="must divide the 6 channels; got 4"):
        NoiseClip(6, group=4)
    with pytest.raises(InputError, match="must divide"):
        GradientFlowDenoiser(hidden_channels=6, group=0)
