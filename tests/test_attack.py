"""The attacker refutes false claims with pairs that anyone can check, and finds nothing against certified networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pnp_lip import Violation, attack, certify, load_pretrained
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import Clip, GradientFlowConv2d, GradientFlowLinear, project
from pnp_lip.spectral import norm_bound


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def image(channels: int = 1, size: int = 12) -> Tensor:
    from skimage.data import camera

    crop = torch.from_numpy(camera()[128 : 128 + size, 192 : 192 + size].copy()).double() / 255
    return crop.expand(1, channels, size, size).clone()


def conv_layer(curvature: float, **settings: object) -> GradientFlowConv2d:
    """A layer with τ‖W‖² = ``curvature`` up to 1e-6."""
    layer = GradientFlowConv2d(3, 6, 3, **settings)  # type: ignore[arg-type]
    layer.tau.data = torch.tensor(curvature / norm_bound(layer.weight, rtol=1e-6).lower ** 2)
    return layer


def test_breaks_an_untrained_dncnn() -> None:
    from deepinv.models import DnCNN

    model = DnCNN(in_channels=1, out_channels=1, depth=5, nf=16, pretrained=None)
    violation = attack(model, image(), sigma=0.1, steps=15)
    assert violation.exceeds and violation.ratio > 1.0


def test_breaks_a_layer_with_too_long_a_step() -> None:
    """τ‖W‖² = 2.5 has the worst case |1 − 2.5| = 1.5, of which the attack finds most."""
    layer = conv_layer(2.5, padding_mode="circular", activation=Clip(6, threshold=0.1))
    violation = attack(layer, image(3), steps=20)
    assert violation.exceeds and 1.45 < violation.ratio <= 1.5 + 1e-4
    torch.manual_seed(1)
    rectified = attack(conv_layer(2.5), image(3), steps=30)  # half of the units are off: the worst case is rarer
    assert rectified.exceeds and 1.1 < rectified.ratio <= 1.5 + 1e-4


def test_breaks_a_normalised_network_two_percent_off() -> None:
    """Three near-orthogonal convolutions of certified norm 1.02: a spectral normalisation that was stopped early."""
    layers: list[nn.Module] = []
    for _ in range(3):
        conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        nn.init.dirac_(conv.weight)
        conv.weight.data += 0.001 * torch.randn_like(conv.weight)
        conv.weight.data *= 1.02 / norm_bound(conv.weight).lower
        layers += [conv, nn.LeakyReLU(0.2)]
    violation = attack(nn.Sequential(*layers), image(4), steps=30)
    assert violation.exceeds and 1.02 < violation.ratio <= 1.02**3 * 1.001


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_finds_nothing_against_a_layer_at_the_limit(padding_mode: str) -> None:
    layer = conv_layer(2 * (1 - 3e-6), padding_mode=padding_mode)
    violation = attack(layer, image(3), steps=25)
    assert not violation.exceeds and 0.95 < violation.ratio <= 1 + 1e-12


def test_finds_nothing_against_a_certified_denoiser_and_comes_close() -> None:
    denoiser = project(GradientFlowDenoiser(channels=4, hidden_channels=8, dilations=(1, 2, 1)))
    violation = attack(denoiser, image(), sigma=0.05, steps=20)
    assert not violation.exceeds and violation.ratio > 0.95
    assert "proves nothing" in violation.note


STARTS = {
    "image": lambda: image(size=16),
    "noise": lambda: torch.rand(1, 1, 16, 16),
    "constant": lambda: torch.full((1, 1, 16, 16), 0.5),
    "saturated": lambda: (10 * (image(size=16) - 0.5)).clamp(0, 1),
}


@pytest.mark.parametrize(
    ("start", "level"),
    [("image", 25)] + [pytest.param(s, n, marks=pytest.mark.slow) for s in STARTS for n in (5, 15, 25, 50)],
)
def test_comes_close_to_the_certificate_of_the_shipped_denoiser(start: str, level: int) -> None:
    """The bound 1 is nearly attained at every noise level, wherever the search starts (measured: at least 0.995)."""
    denoiser = load_pretrained("grey")
    violation = attack(denoiser, STARTS[start](), sigma=level / 255, steps=2, bound=certify(denoiser).lipschitz_upper)
    assert not violation.exceeds and 0.98 < violation.ratio <= 1 + 1e-12


def test_finds_the_norm_of_a_linear_map_with_a_stated_bound() -> None:
    w = torch.randn(5, 7)
    linear = nn.Linear(7, 5, bias=False)
    linear.weight.data = w
    bound = norm_bound(w)
    assert not attack(linear, torch.zeros(2, 7), bound=bound.upper).exceeds
    violation = attack(linear, torch.zeros(2, 7), steps=100, bound=bound.lower * (1 - 1e-5))
    assert violation.exceeds and violation.ratio == pytest.approx(bound.upper, rel=1e-5)


def test_works_on_vectors() -> None:
    layer = GradientFlowLinear(6, step_fraction=1.0)
    layer.tau.data *= 1.2
    assert attack(layer, torch.rand(2, 6), steps=40).exceeds


def test_three_lines_of_numpy_check_the_result(tmp_path: Path) -> None:
    violation = attack(conv_layer(2.5, activation=Clip(6)), image(3), steps=10)
    violation.save(tmp_path / "pair.npz")
    data = np.load(tmp_path / "pair.npz")
    ratio = np.linalg.norm(data["dx"] - data["dy"]) / np.linalg.norm(data["x"] - data["y"])
    assert ratio == pytest.approx(float(data["ratio"]), rel=1e-12) and ratio > 1
    with pytest.raises(InputError, match="npz"):
        violation.save(tmp_path / "pair.txt")


def test_the_pair_belongs_to_the_model() -> None:
    layer = conv_layer(2.5)
    violation = attack(layer, image(3), steps=5)
    assert torch.equal(layer.double()(violation.x), violation.dx)


def test_same_seed_same_pair_and_the_model_is_left_alone() -> None:
    layer = conv_layer(2.2)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.train()
    first, second = attack(layer, image(3), steps=5, seed=3), attack(layer, image(3), steps=5, seed=3)
    assert torch.equal(first.x, second.x) and first.ratio == second.ratio
    assert layer.training and layer.weight.requires_grad and layer.weight.dtype == torch.float32
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_rounding_is_no_violation() -> None:
    """The identity at a distance of 1e-9 from a large image: the ratio may be off by rounding, and does not count."""

    class Roundabout(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 3e5 + 1e6 - 1e6) / 3e5

    assert not attack(Roundabout(), torch.full((1, 1, 4, 4), 0.7), steps=3).exceeds


def test_refusals() -> None:
    identity = nn.Identity()
    with pytest.raises(ShapeError):
        attack(identity, torch.zeros(3))
    with pytest.raises(ShapeError):
        attack(identity, torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="NaN"):
        attack(identity, torch.full((1, 3), torch.nan))
    with pytest.raises(InputError, match="steps"):
        attack(identity, torch.zeros(1, 3), steps=0)
    with pytest.raises(InputError, match="bound"):
        attack(identity, torch.zeros(1, 3), bound=0.0)

    class NeedsSigma(nn.Module):
        def forward(self, x: Tensor, sigma: float) -> Tensor:
            return x * sigma

    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.sum()

    with pytest.raises(InputError, match="sigma"):
        attack(NeedsSigma(), torch.ones(1, 3))
    with pytest.raises(InputError, match="finite"):
        attack(Breaks(), torch.zeros(1, 3))
    assert isinstance(attack(NeedsSigma(), torch.ones(1, 3), sigma=0.5, steps=2), Violation)
