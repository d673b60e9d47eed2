"""The denoiser as users and as deepinv call it; saving and loading; the shipped weights."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import deepinv
import pytest
import torch
from safetensors.torch import load_file, save_file

from pnp_lip import (
    GradientFlowDenoiser,
    certified_names,
    certify,
    load_denoiser,
    load_pretrained,
    save_denoiser,
)
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.denoisers import denoiser_from_config
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.images import psnr
from pnp_lip.layers import project


@pytest.fixture(scope="module")
def grey() -> GradientFlowDenoiser:
    return load_pretrained("grey")


def noisy(sigma: float, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    x = photograph("camera", 256)[..., 40 : 40 + size, 80 : 80 + size]
    return x, x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def test_every_form_of_sigma_that_deepinv_passes_gives_the_same(grey: GradientFlowDenoiser) -> None:
    _, y = noisy(0.1)
    y = y.repeat(2, 1, 1, 1)
    expected = grey(y, 0.1)
    for sigma in (torch.tensor(0.1), torch.tensor([0.1]), torch.tensor([0.1, 0.1]), torch.tensor([[0.1]])):
        assert torch.allclose(grey(y, sigma), expected, atol=1e-6)
    assert torch.equal(grey(y, None), grey(y, grey.default_sigma))
    assert torch.equal(grey(y, torch.nn.Parameter(torch.tensor(0.1))), expected)
    each = torch.cat([grey(y[:1], 0.02), grey(y[1:], 0.2)])
    assert torch.allclose(grey(y, torch.tensor([0.02, 0.2])), each, atol=1e-5)


def test_it_is_a_deepinv_denoiser(grey: GradientFlowDenoiser) -> None:
    assert isinstance(grey, deepinv.models.Denoiser)
    prior = deepinv.optim.PnP(denoiser=grey)
    _, y = noisy(0.1)
    assert torch.equal(prior.prox(y, 0.1, gamma=1.0), grey(y, 0.1))


@pytest.mark.parametrize(("sigma", "gain"), [(5 / 255, 2.5), (15 / 255, 5.0), (25 / 255, 6.0)])
def test_shipped_weights_denoise(grey: GradientFlowDenoiser, sigma: float, gain: float) -> None:
    x, y = noisy(sigma, 128)
    assert psnr(grey(y, sigma), x) > psnr(y, x) + gain


def test_shipped_weights_are_certified_small_and_the_identity_without_noise(grey: GradientFlowDenoiser) -> None:
    import pnp_lip.weights

    folder = Path(pnp_lip.weights.__file__).parent
    for name in certified_names():
        certificate = certify(load_pretrained(name))
        assert certificate.curvature is not None or certificate.averaged
        assert all(layer.margin is None or layer.margin > 0 for layer in certificate.layers)
        assert (folder / f"{name}.safetensors").stat().st_size < 4e6
        assert (folder / f"{name}.certificate.json").is_file() and (folder / f"{name}.md").is_file()
    x, _ = noisy(0.1)
    assert (grey(x, 0.0) - x).abs().max() < 1e-3


@pytest.mark.parametrize("size", [(31, 37), (8, 8), (5, 64)])
def test_any_image_size_and_batch(grey: GradientFlowDenoiser, size: tuple[int, int]) -> None:
    x = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0))
    assert grey(x, 0.1).shape == x.shape
    assert torch.allclose(grey(x, 0.1)[1:2], grey(x[1:2], 0.1), atol=1e-5)


def test_nonexpansive_on_pairs_of_images(grey: GradientFlowDenoiser) -> None:
    double = load_pretrained("grey").double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 1, 24, 24, generator=generator, dtype=torch.float64)
    for scale in (1e-6, 1e-3, 1e-1, 10.0):
        y = x + scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        for sigma in (0.002, 0.05, 0.3):
            ratio = (double(x, sigma) - double(y, sigma)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
            assert ratio.max() <= 1


def test_circular_padding_commutes_with_shifts(grey: GradientFlowDenoiser) -> None:
    circular = denoiser_from_config({**grey.config, "padding_mode": "circular"})
    circular.load_state_dict(grey.state_dict())
    assert certify(circular).averaged
    x = torch.rand(1, 1, 20, 24, generator=torch.Generator().manual_seed(0))
    rolled = circular(x.roll((3, 7), (2, 3)), 0.1)
    assert torch.allclose(rolled, circular(x, 0.1).roll((3, 7), (2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    ("x", "sigma", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 8), 0.1, ShapeError, r"\(B, 1, H, W\)"),
        (torch.zeros(1, 8, 8), 0.1, ShapeError, r"\(B, 1, H, W\)"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 0.1, ShapeError, "floating-point"),
        (torch.zeros(1, 1, 8, 8), -0.1, InputError, "not negative"),
        (torch.zeros(1, 1, 8, 8), float("nan"), InputError, "finite"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3), ShapeError, "one per image"),
    ],
)
def test_bad_input_is_refused(grey: GradientFlowDenoiser, x, sigma, error, message) -> None:
    with pytest.raises(error, match=message):
        grey(x, sigma)


def test_empty_network_is_refused() -> None:
    with pytest.raises(InputError, match="at least one layer"):
        GradientFlowDenoiser(dilations=())


def small() -> GradientFlowDenoiser:
    from pnp_lip.layers import project

    torch.manual_seed(0)
    return project(GradientFlowDenoiser(channels=3, hidden_channels=4, dilations=(1, 2)))


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    denoiser = small().requires_grad_(False)
    certificate = save_denoiser(denoiser, tmp_path / "d.safetensors")
    loaded = load_denoiser(tmp_path / "d.safetensors")
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(loaded(x, 0.1), denoiser(x, 0.1)) and certify(loaded) == certificate
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.certificate.json", "d.safetensors"]


def test_tampered_weights_and_certificates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_denoiser(small(), path)
    tensors, metadata = load_file(path), header(path)
    shutil.copy(path, tmp_path / "tampered.safetensors")
    shutil.copy(tmp_path / "d.certificate.json", tmp_path / "tampered.certificate.json")
    tensors["layers.0.activation.shift"][0] += 1e-3  # harmless to the bound, but no longer the certified map
    save_file(tensors, tmp_path / "tampered.safetensors", metadata)
    with pytest.raises(CertificateError, match=r"layers\.0\.activation\.shift"):
        load_denoiser(tmp_path / "tampered.safetensors")
    tensors["layers.0.weight"] *= 1.5
    save_file(tensors, tmp_path / "expansive.safetensors", metadata)
    with pytest.raises(CertificateError, match=r"layer `layers\.0` has"):
        load_denoiser(tmp_path / "expansive.safetensors")
    assert not certify(load_denoiser(tmp_path / "expansive.safetensors", require_certified=False)).nonexpansive


def header(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_expansive_networks_are_not_saved(tmp_path: Path) -> None:
    denoiser = small()
    with torch.no_grad():
        denoiser.layers[0].tau.mul_(3)
    with pytest.raises(CertificateError, match=r"layers\.0"):
        save_denoiser(denoiser, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_denoiser(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_denoiser(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="format"):
        load_denoiser(tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "empty.safetensors", {"format": "pnp-lip denoiser 1", "config": "{}"})
    with pytest.raises(InputError, match="do not fit"):
        load_denoiser(tmp_path / "empty.safetensors")
    with pytest.raises(InputError, match="there are colour, gradient-step, grey, ridge, tiny"):
        load_pretrained("purple")


def test_loading_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load_pretrained("grey").in_channels == 1


def test_an_empty_image_and_one_of_another_type_are_refused() -> None:
    network = project(GradientFlowDenoiser(kernel_size=3, hidden_channels=4, dilations=(1,))).eval()
    x = torch.rand(1, 1, 8, 8)
    for empty in (x[:0], x[:, :, :0]):
        with pytest.raises(ShapeError, match="none of them 0"):
            network(empty, 0.1)
    with pytest.raises(ShapeError, match=r"the weights are torch.float32, the image torch.float64; convert"):
        network(x.double(), 0.1)
    with pytest.raises(ShapeError, match="floating-point"):
        network(x.long(), 0.1)
