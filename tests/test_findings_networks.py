"""What a fresh pair of eyes broke: thresholds that were broadcast, rules for other types, settings that lie, norms below 0."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from deepinv.models import DnCNN
from torch import Tensor, nn

from pnp_lip import attack, certify, check
from pnp_lip.certificates import Certificate, enforce, rule
from pnp_lip.certificates.plain import certify_conv2d
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.layers import Clip, GradientFlowConv2d, GradientFlowLinear, NoiseClip
from pnp_lip.pretrained import load_denoiser, save_denoiser
from pnp_lip.theory import BlockAffine, UnboundedWidthNetwork, seal


def gain(f: nn.Module, x: Tensor) -> float:
    """The largest singular value of the Jacobian."""
    jacobian: Tensor = torch.autograd.functional.jacobian(f, x)  # type: ignore[no-untyped-call]
    return float(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2))


@pytest.mark.parametrize("shape", [(2,), (3, 2), (1, 1, 2), (2, 5, 2), (2, 1, 3, 2)])
def test_thresholds_of_channels_are_not_broadcast_along_other_axes(shape: tuple[int, ...]) -> None:
    layer = GradientFlowLinear(2, 5, activation=Clip(5, threshold=0.1)).double()
    network = seal(UnboundedWidthNetwork(2, width=5, depth=1, activation=Clip(5, threshold=0.1)).double())
    x = torch.randn(shape, dtype=torch.float64)
    assert layer(x).shape == x.shape
    assert torch.equal(layer(x).reshape(-1, 2), layer(x.reshape(-1, 2)))
    assert gain(layer, x) <= certify(layer).lipschitz_upper * (1 + 1e-12)
    assert gain(network, x) <= certify(network).lipschitz_upper * (1 + 1e-12)


def test_one_image_does_not_take_several_noise_levels() -> None:
    sigmas = torch.tensor([0.1, 0.2])
    with pytest.raises(ShapeError):
        GradientFlowConv2d(1, 2, activation=NoiseClip(2))(torch.zeros(1, 1, 4, 4), sigmas)
    with pytest.raises(ShapeError):
        GradientFlowLinear(2, 2, activation=NoiseClip(2))(torch.zeros(1, 2), sigmas)


def test_our_rule_for_a_type_of_somebody_else_is_stated() -> None:
    class Thrice(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    rule(Thrice)(certify_conv2d)
    assert certify(Thrice(1, 1, 1)).stated
    assert not certify(nn.Conv2d(1, 1, 1)).stated


def test_settings_of_a_class_of_their_own_are_refused() -> None:
    class Number(float):
        def as_integer_ratio(self) -> tuple[int, int]:
            return 1, 1

    class Mode(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return other == "circular"

        def __ne__(self, other: object) -> bool:
            return other != "circular"

    class Parts(dict[str, nn.Module]):
        def values(self) -> list[nn.Module]:  # type: ignore[override]
            return 9 * list(super().values())

    class Silent(OrderedDict):  # type: ignore[type-arg]
        def __bool__(self) -> bool:
            return False

    conv, sequence = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), nn.Sequential(nn.Linear(2, 2))
    conv.padding_mode = Mode("reflect")  # type: ignore[assignment]
    vars(sequence)["_modules"] = Parts(sequence._modules)
    hooked = nn.Linear(2, 2)
    hooked._forward_hooks = Silent({0: lambda module, x, y: 9 * y})
    for module in (nn.LeakyReLU(Number(-5.0)), conv, sequence, hooked):
        with pytest.raises(CertificateError):
            certify(module)


def test_results_that_would_be_broadcast_are_refused() -> None:
    network = DnCNN(1, 1, depth=2, nf=1, pretrained=None)
    for last in (nn.ConvTranspose2d(1, 3, 3, padding=1), nn.Identity(), nn.BatchNorm2d(1, affine=False).eval()):
        network.out_conv = last
        with pytest.raises(CertificateError, match="shape of x"):
            certify(network)
    affine = BlockAffine(2)
    affine.rows.data, affine.lower.data = affine.rows.data[:1], affine.lower.data[:0]
    with pytest.raises(CertificateError, match="do not fit"):
        certify(affine)


def test_bounds_beyond_float64_are_errors_of_ours() -> None:
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(400)))
    for layer in deep:
        layer.weight.data = 10 * torch.eye(2)
    steep = GradientFlowLinear(2, 2).double()
    steep.weight.data *= 1e160
    for module in (deep, steep):
        with pytest.raises(CertificateError, match="range of float64"):
            certify(module)


def test_the_default_device_does_not_matter() -> None:
    last = nn.Linear(4, 4)
    network = nn.Sequential(nn.Conv2d(2, 2, 3), last)
    expected = certify(network).lipschitz_upper
    last.weight.data *= 2
    with torch.device("meta"):
        assert certify(network).lipschitz_upper == pytest.approx(2 * expected)


def test_files_with_numbers_out_of_range_are_errors_of_ours(tmp_path: Path) -> None:
    denoiser = GradientFlowDenoiser(hidden_channels=2, dilations=(1,), kernel_size=3)
    enforce(denoiser)
    path, beside = tmp_path / "a.safetensors", tmp_path / "a.certificate.json"
    save_denoiser(denoiser, path)
    record = json.loads(beside.read_text())
    record["bound"]["lipschitz"] = "inf"
    for data in (json.dumps(record).encode(), b"\xff", 100_000 * b"["):
        beside.write_bytes(data)
        with pytest.raises(CertificateError):
            load_denoiser(path)
    torch.save({"config": {**denoiser.config, "default_sigma": 10**400}, "state_dict": denoiser.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(InputError):
        load_denoiser(tmp_path / "a.pt")


def test_the_checker_refuses_a_norm_below_zero(tmp_path: Path) -> None:
    denoiser = GradientFlowDenoiser(hidden_channels=2, dilations=(1,), kernel_size=3)
    enforce(denoiser)
    path, beside = tmp_path / "a.safetensors", tmp_path / "a.certificate.json"
    save_denoiser(denoiser, path)
    assert check.check(path, beside) == []
    record = json.loads(beside.read_text())
    record["layers"][0]["norm"]["upper"] = "-" + record["layers"][0]["norm"]["upper"]
    beside.write_text(json.dumps(record))
    assert check.check(path, beside)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 4), (1, 8), (16, 16)])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_checker_verifies_layers_of_a_single_tap(size: tuple[int, int], kernel_size: int, tmp_path: Path) -> None:
    hidden, channels = size
    denoiser = GradientFlowDenoiser(channels=channels, hidden_channels=hidden, dilations=(1, 1), kernel_size=kernel_size)
    for layer in denoiser.flows:
        layer.weight.data[:, :, 1:], layer.weight.data[:, :, :, 1:] = 0, 0
    enforce(denoiser)
    certificate = save_denoiser(denoiser, tmp_path / "a.safetensors")
    assert certificate is not None
    assert check.check(tmp_path / "a.safetensors", tmp_path / "a.certificate.json") == []
    norm = certificate.layers[0].norm
    assert not check.norm_is_at_most(denoiser.flows[0].weight.detach().double().numpy(), norm.lower * (1 - 1e-12))
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_a_returned_certificate_does_not_change_what_is_kept() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.data = 5 * torch.eye(2)
    certificate = certify(layer)
    object.__setattr__(certificate.bound, "lipschitz", 0)
    object.__setattr__(certificate.layers[0].norm, "upper", 0.0)
    certificate.weights.clear()
    again = certify(layer)
    assert again.lipschitz_upper >= 5 and again.layers[0].norm.upper >= 5 and again.weights


def test_an_attack_counts_the_rounding_of_large_numbers_that_cancel() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    for size in (1e3, 1e6):
        for layer, sign in zip(network, (1, -1), strict=True):
            layer.weight.data, layer.bias.data = torch.eye(3).double(), torch.full((3,), sign * size).double()
        assert not attack(network, torch.rand(2, 3), steps=5, bound=certify(network).lipschitz_upper).exceeds
