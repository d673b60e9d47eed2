"""Certificates: the calculus against closed forms, every mutation caught, JSON round trips, refusals."""

from __future__ import annotations

import copy
import json
import math
import time
from fractions import Fraction

import pytest
import torch
from torch import nn

from pnp_lip import Certificate, ClippedDenoiser, GradientFlowDenoiser, certify, enforce, firm, load_pretrained, relax
from pnp_lip.certificates import Proof, calculus, rule
from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.layers import Activation, Clip, GradientFlowConv2d, GradientFlowLinear, Identity, ReLU, SoftThreshold, project
from pnp_lip.solvers import licensed
from pnp_lip.spectral import norm_bound


def at_the_limit(*, layers: int = 3, seed: int = 0) -> GradientFlowDenoiser:
    """A denoiser whose every step is 2/‖W‖² up to 1e-4: one per cent more weight breaks it."""
    torch.manual_seed(seed)
    denoiser = GradientFlowDenoiser(channels=4, hidden_channels=6, kernel_size=5, dilations=(1,) * layers)
    with torch.no_grad():
        for layer in denoiser.layers:
            layer.tau.fill_(1.9999 / norm_bound(layer.weight, rtol=1e-6).upper ** 2)
    return denoiser.requires_grad_(False).eval()


def test_composition_of_firm_maps_is_m_over_m_plus_one() -> None:
    firm_map = calculus.flow_step(Fraction(1))
    for m in range(1, 12):
        assert calculus.compose([firm_map] * m).averagedness == Fraction(m, m + 1)


def test_composition_of_two_follows_ogura_and_yamada() -> None:
    a, b = Fraction(1, 3), Fraction(3, 4)
    composed = calculus.compose([MapBound(Fraction(1), a), MapBound(Fraction(1), b)])
    assert composed.averagedness == (a + b - 2 * a * b) / (1 - a * b)


def test_calculus_keeps_what_it_may_and_drops_what_it_must() -> None:
    prox = calculus.flow_step(Fraction(1))
    assert prox.proximal and not calculus.compose([prox, prox]).proximal
    assert calculus.compose([calculus.IDENTITY, prox]).proximal
    assert calculus.compose([]) == calculus.IDENTITY
    edge = calculus.flow_step(Fraction(2))
    assert edge.lipschitz == 1 and edge.averagedness is None
    assert calculus.compose([prox, edge]).averagedness is None
    beyond = calculus.flow_step(Fraction(5, 2))
    assert calculus.compose([prox, beyond]).lipschitz == Fraction(3, 2)
    assert calculus.flow_step(Fraction(-1)).lipschitz == 2
    assert calculus.relax(edge, 0.5).averagedness == Fraction(1, 2)
    assert calculus.relax(beyond, 0.5).averagedness is None
    assert calculus.clip(prox, (0.0, 1.0)).averagedness == Fraction(2, 3)
    assert calculus.clip(prox, (0.0, 1.0)).box == (0.0, 1.0)
    with pytest.raises(ValueError, match="theta"):
        calculus.relax(prox, 1.1)


def test_rounding_never_crosses_the_number() -> None:
    for value in (Fraction(1, 3), Fraction(2, 3), Fraction(10**40 + 1, 10**40), Fraction(1, 2)):
        below, above = -calculus.round_up(-value), calculus.round_up(value)
        assert Fraction(below) <= value <= Fraction(above) and above - below <= 3e-16


def test_averagedness_of_a_linear_layer_equals_the_dense_truth() -> None:
    """For a symmetric linear map I − τWᵀW the smallest α is (1 − λ_min)/2."""
    torch.manual_seed(1)
    layer = GradientFlowLinear(5, 7, activation=Identity(), step_fraction=0.8).double()
    matrix = torch.eye(5, dtype=torch.float64) - layer.tau * layer.weight.T @ layer.weight
    alpha = (1 - torch.linalg.eigvalsh(matrix)[0].item()) / 2
    proved = certify(layer, rtol=1e-9).averagedness
    assert alpha - 1e-12 <= proved <= alpha * (1 + 1e-6)


def test_denoiser_at_the_limit_is_certified_and_averaged() -> None:
    certificate = certify(at_the_limit())
    assert certificate.nonexpansive and certificate.averaged and not certificate.firmly_nonexpansive
    assert licensed(certificate) == ("ForwardBackward", "HalfQuadratic", "RED", "ProximalRED")
    assert all(layer.margin > 0 and layer.norm.lower <= layer.norm.upper for layer in certificate.layers)
    assert {layer.norm.padding_mode for layer in certificate.layers} == {"zeros"}
    assert certificate.scope == "any image size, zeros padding" and certificate.smallest_image == (1, 1)
    assert "0.99" in str(certificate) and "layers.2" in str(certificate)
    assert certificate.require_nonexpansive() is certificate


class Steep(Activation):
    slopes = (0.0, 1.01)

    def unit(self, t: torch.Tensor) -> torch.Tensor:
        return 1.01 * t.clamp(-1, 1)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("kind", ["weight", "tau", "negative", "slope"])
def test_every_single_layer_mutation_is_caught_by_name(index: int, kind: str) -> None:
    denoiser = at_the_limit()
    layer = denoiser.layers[index]
    certify(denoiser)  # the cache must not hide what follows
    if kind == "weight":
        layer.weight.mul_(1.01)
    elif kind == "tau":
        layer.tau.mul_(1.01)
    elif kind == "negative":
        layer.tau.mul_(-0.1)
    else:
        layer.activation = Steep()
    certificate = certify(denoiser)
    assert not certificate.nonexpansive and licensed(certificate) == ()
    with pytest.raises(CertificateError, match=rf"layer `layers\.{index}` has"):
        certificate.require_nonexpansive()


def test_shifts_and_thresholds_change_nothing_that_is_proved() -> None:
    """The exception among the mutations: slopes stay in [0, 1] whatever b and λ are."""
    denoiser = at_the_limit()
    before = certify(denoiser)
    for layer in denoiser.layers:
        layer.activation.shift.normal_()
        layer.activation.log_scale.add_(1)
    after = certify(denoiser)
    assert (after.layers, after.bound) == (before.layers, before.bound)
    assert after.weights != before.weights and after.rounding > before.rounding


def test_trained_weights_are_bounded_to_a_millionth() -> None:
    for rtol in (1e-3, 1e-6):
        certificate = certify(load_pretrained("grey"), rtol=rtol)
        assert all(layer.norm.gap <= rtol for layer in certificate.layers)


@pytest.mark.slow
def test_whole_networks_are_certified_in_seconds() -> None:
    """Processor time of one thread: twelve layers of 64 channels, 3 × 3, within 5 s, the shipped denoiser within 2 s."""
    torch.manual_seed(0)
    wide = GradientFlowDenoiser(channels=64, hidden_channels=64, dilations=(1,) * 12)
    for denoiser, limit in ((wide, 5.0), (load_pretrained("grey"), 2.0)):
        start = time.process_time()
        certify(copy.deepcopy(denoiser), rtol=1.0001e-3)  # not the settings that loading has cached
        assert time.process_time() - start < limit


def test_shortening_the_steps_repairs_a_broken_network() -> None:
    denoiser = at_the_limit()
    denoiser.layers[1].weight.mul_(1.3)
    assert not certify(denoiser).nonexpansive
    project(denoiser, limit=0.99)
    assert certify(denoiser).averaged


def test_firm_and_relax_and_clip() -> None:
    denoiser = at_the_limit()
    firmed = firm(denoiser)
    assert certify(firmed).firmly_nonexpansive and "ADMM" in licensed(certify(firmed))
    assert firm(firmed) is firmed
    half = relax(denoiser, 0.5)
    x = torch.rand(1, 1, 8, 8)
    assert torch.allclose(half(x, 0.1), 0.5 * x + 0.5 * denoiser(x, 0.1), atol=1e-6)
    clipped = certify(ClippedDenoiser(denoiser, 0.2, 0.8))
    assert clipped.box == (0.2, 0.8) and clipped.averaged
    assert float(ClippedDenoiser(denoiser, 0.2, 0.8)(x, 0.1).min()) >= 0.2
    with pytest.raises(InputError, match="theta"):
        relax(denoiser, 1.5)
    with pytest.raises(InputError, match="low < high"):
        ClippedDenoiser(denoiser, 1.0, 0.0)


def test_json_round_trip_is_exact() -> None:
    certificate = certify(at_the_limit())
    text = certificate.to_json()
    assert Certificate.from_json(text) == certificate
    norm = json.loads(text)["layers"][0]["norm"]
    assert norm["upper"].startswith("0x") and norm["method"] == "BRANCH_AND_BOUND" and norm["smallest_image"] == [1, 1]
    clipped = certify(ClippedDenoiser(at_the_limit(), 0, 1))
    assert Certificate.from_json(clipped.to_json()) == clipped and clipped.box == (0.0, 1.0)
    border = certify(nn.Conv2d(1, 2, 3, padding=(1, 2), padding_mode="reflect"))
    assert Certificate.from_json(border.to_json()) == border and border.smallest_image == (4, 6)


@pytest.mark.parametrize("sigma", [0.01, 55 / 255])
def test_the_stored_rounding_bounds_what_is_executed(sigma: float) -> None:
    """For learned thresholds and shifts rounded as executed, images over the whole of [−1, 1]."""
    denoiser = at_the_limit()
    for layer in denoiser.layers:
        layer.activation.shift.uniform_(-1, 1)
    certificate = certify(denoiser)
    x = 2 * torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    difference = denoiser(x, sigma).double() - copy.deepcopy(denoiser).double()(x.double(), sigma)
    error = float(difference.flatten(1).norm(dim=1).max()) / 16
    assert certificate.rounding is not None and 0 < error <= certificate.rounding < 1e-3
    assert "per pixel" in str(certificate) and json.loads(certificate.to_json())["rounding"].startswith("0x")
    doubled = certify(copy.deepcopy(denoiser).double()).rounding
    assert doubled == pytest.approx(certificate.rounding * 2.0**-29, rel=1e-3)


def test_no_rounding_is_claimed_where_none_is_known() -> None:
    denoiser = at_the_limit()
    assert certify(relax(denoiser, 0.5)).rounding is None
    wide = GradientFlowDenoiser(channels=8, hidden_channels=8, dilations=(1,)).bfloat16()  # sums of 72 products
    wide.requires_grad_(False).layers[0].tau.fill_(0.1)
    assert enforce(wide) == () and certify(wide).nonexpansive and certify(wide).rounding is None
    denoiser.layers[0].tau.mul_(2)
    assert certify(denoiser).rounding is None and "per pixel" not in str(certify(denoiser))
    exchanged = at_the_limit()
    exchanged.layers[1].activation = ReLU()
    assert certify(exchanged).rounding is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "other"}', '{"schema": "pnp-lip certificate 4"}'])
def test_what_is_not_a_certificate_is_refused(text: str) -> None:
    with pytest.raises(CertificateError):
        Certificate.from_json(text)


@pytest.mark.parametrize("old", [1, 2, 3])
def test_certificates_of_older_schemas_are_refused(old: int) -> None:
    """Of the first, which holds padding and image size in sentences, and the second, without the sizes of the whole map."""
    with pytest.raises(CertificateError, match=rf"'pnp-lip certificate 4'.*'pnp-lip certificate {old}'. Certify .* anew"):
        Certificate.from_json(f'{{"schema": "pnp-lip certificate {old}"}}')


@pytest.mark.parametrize(("field", "value"), [("method", "MAGIC"), ("padding_mode", "mirror"), ("upper", None)])
def test_unknown_words_in_a_file_are_refused(field: str, value: object) -> None:
    data = json.loads(certify(at_the_limit(layers=1)).to_json())
    data["layers"][0]["norm"][field] = value
    with pytest.raises(CertificateError, match="not a certificate"):
        Certificate.from_json(json.dumps(data))


class Disguised(GradientFlowConv2d):
    """A subclass that is no gradient-flow layer at all."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
        return 3 * x


def test_what_could_change_the_map_unseen_is_refused() -> None:
    with pytest.raises(CertificateError, match=r"`1` is a .*Disguised"):
        certify(nn.Sequential(GradientFlowLinear(2), Disguised(1, 1)))
    with pytest.raises(CertificateError, match="no rule is known"):
        certify(nn.GELU())
    hooked = GradientFlowLinear(2)
    hooked.register_forward_hook(lambda m, i, o: 2 * o)
    with pytest.raises(CertificateError, match="hooks"):
        certify(hooked)
    replaced = GradientFlowLinear(2)
    replaced.forward = lambda x, sigma=None: 2 * x
    with pytest.raises(CertificateError, match="replaced `forward`"):
        certify(replaced)
    lifted = at_the_limit()
    lifted.lift = nn.Identity()
    with pytest.raises(CertificateError, match="lift"):
        certify(lifted)
    foreign = GradientFlowLinear(2)
    foreign.activation = nn.GELU()
    with pytest.raises(CertificateError, match="does not state its slopes"):
        certify(foreign)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(value: float) -> None:
    denoiser = at_the_limit()
    broken = copy.deepcopy(denoiser)
    broken.layers[0].weight[0, 0, 0, 0] = value
    with pytest.raises((CertificateError, InputError)):
        certify(broken)
    denoiser.layers[0].tau.fill_(value)
    with pytest.raises(CertificateError, match="step τ"):
        certify(denoiser)


def test_sequences_and_richer_activations_are_certified() -> None:
    layers = nn.Sequential(GradientFlowLinear(3, step_fraction=0.5, activation=SoftThreshold(3)), nn.Identity())
    certificate = certify(layers)
    assert certificate.nonexpansive and certificate.layers[0].path == "0"


def test_a_layer_that_is_applied_twice_counts_twice() -> None:
    double = nn.Linear(2, 2, bias=False)
    double.weight.data = 2 * torch.eye(2)
    found = certify(nn.Sequential(double, double)).lipschitz_upper
    assert 4 <= found < 4.01
    torch.manual_seed(0)
    layer = GradientFlowLinear(2, 2, step_fraction=0.5)
    twice, copies = certify(nn.Sequential(layer, layer)), certify(nn.Sequential(layer, copy.deepcopy(layer)))
    assert certify(layer).firmly_nonexpansive and not twice.firmly_nonexpansive and not twice.proximal
    assert twice.averagedness == copies.averagedness
    assert [line.path for line in twice.layers] == ["0", "1"]


@pytest.mark.parametrize("part", ["layers.0.activation", "lift", "layers.1"])
def test_a_hook_on_any_part_is_refused_by_name(part: str) -> None:
    denoiser = at_the_limit()
    denoiser.get_submodule(part).register_forward_hook(lambda module, inputs, output: 5 * output)
    with pytest.raises(CertificateError, match=rf"`{part}` has forward hooks"):
        certify(denoiser)


@pytest.mark.parametrize("name", ["layers.1.activation.log_scale", "layers.2.activation.shift"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(name: str, value: float) -> None:
    denoiser = at_the_limit()
    denoiser.get_parameter(name).flatten()[0] = value
    with pytest.raises(CertificateError, match=r"NaN|infinite|finite|intact"):
        certify(denoiser)


def test_the_smallest_image_is_that_of_the_network_input() -> None:
    torch.manual_seed(0)
    tall = nn.Conv2d(1, 1, 9, padding=(4, 1), padding_mode="reflect")
    wide = nn.Conv2d(1, 1, 5, padding=(0, 2), padding_mode="reflect")
    assert certify(tall).smallest_image == (10, 4) and certify(wide).smallest_image == (2, 6)
    both = certify(nn.Sequential(tall, nn.ReLU(), wide))
    assert both.smallest_image == (10, 12) and both.scope == "images of at least 10 x 12 pixels, reflect padding"
    assert certify(nn.Identity()).smallest_image == (1, 1) and certify(nn.Identity()).scope == "any input"


def test_a_padding_without_a_theorem_is_refused() -> None:
    layer = GradientFlowConv2d(1, 2, 3)
    certify(layer)
    layer.padding_mode = "reflect"  # after construction, which refuses it
    with pytest.raises(InputError, match="padding_mode"):
        certify(layer)


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (-math.inf, 1.0), (-math.inf, math.inf), (0, 1e300)])
def test_only_a_box_with_two_finite_ends_bounds_the_range(low: float, high: float) -> None:
    """1e300 is infinite in float32, in which the weights are."""
    certificate = certify(ClippedDenoiser(at_the_limit(layers=1), low, high))
    assert certificate.box is None and certificate.averaged


def test_a_box_ends_with_the_next_map() -> None:
    clipped = ClippedDenoiser(at_the_limit(layers=1), 0.0, 1.0)
    assert certify(clipped).box == (0.0, 1.0) and certify(relax(clipped, 0.5)).box is None
    assert certify(nn.Sequential(clipped, GradientFlowConv2d(1, 2))).box is None
    assert calculus.clip(calculus.IDENTITY, (0.0, math.inf)).box is None
    assert certify(ClippedDenoiser(clipped, 0.0, math.inf)).box is None  # true, and not claimed


BOXES = {"NaN": (math.nan, 1.0), "falling": (1.0, 0.0), "tensor": (torch.zeros(1), 1.0), "bool": (False, True)}


@pytest.mark.parametrize("name", list(BOXES))
def test_a_box_that_is_none_is_refused(name: str) -> None:
    clipped = ClippedDenoiser(at_the_limit(layers=1))
    clipped.box = BOXES[name]
    with pytest.raises(CertificateError, match="`box`"):
        certify(clipped)


@pytest.mark.parametrize("theta", [1.5, -0.1, math.nan, torch.tensor(0.5), True])
def test_a_share_that_is_none_is_refused(theta: object) -> None:
    half = relax(at_the_limit(layers=1), 0.5)
    half.theta = theta
    with pytest.raises(CertificateError, match="theta"):
        certify(half)


def test_a_relaxation_refuses_values_of_another_shape() -> None:
    """Broadcast, the constant 1 of (1 − θ)x + θ Px would be √3, and so would that of a residual network."""
    half = relax(Mean(), 0.5)
    with pytest.raises(ShapeError, match="keep the shape"):
        half(torch.zeros(1, 3, 4, 4), 0.1)


class Mean(nn.Module):
    def forward(self, x: torch.Tensor, sigma: object = None) -> torch.Tensor:
        return x.mean(1, keepdim=True)


class Tanh3(Activation):
    """Says nothing of its slopes, up to 3."""

    def unit(self, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(3 * t)


class SteepClip(Clip):
    def unit(self, t: torch.Tensor) -> torch.Tensor:
        return super().unit(3 * t)


class OfSteep(Steep):
    pass


@pytest.mark.parametrize("activation", [Tanh3(), SteepClip(2), OfSteep()])
def test_slopes_are_not_inherited(activation: Activation) -> None:
    with pytest.raises(CertificateError, match=r"must state its own `slopes` = \(low, high\); slopes are not inherited"):
        certify(GradientFlowLinear(2, 2, activation=activation))


def test_stated_slopes_count_and_are_listed() -> None:
    class Stated(Tanh3):
        slopes = (0, 3)

    layer = GradientFlowLinear(2, 2, activation=Stated(), step_fraction=0.3, bias=False).double()
    matrix = torch.eye(2, dtype=torch.float64) - 3 * layer.tau * layer.weight.T @ layer.weight  # the Jacobian at zero
    certificate = certify(nn.Sequential(layer))
    assert certificate.stated == ("`0.activation`: Stated states slopes [0, 3]",) and "stated by the user" in str(certificate)
    assert float(torch.linalg.matrix_norm(matrix.detach(), 2)) <= certificate.lipschitz_upper == 1
    assert Certificate.from_json(certificate.to_json()) == certificate
    with pytest.raises(CertificateError, match=r"replaced `.*Stated.slopes`"):
        Stated.slopes = (0, 4)
        certify(layer)
    assert certify(GradientFlowLinear(2)).stated == ()


@pytest.mark.parametrize("slopes", [(-0.1, 1.0), (0, math.inf), (1, 0), (0, torch.tensor(1.0)), (0, True)])
def test_slopes_that_no_theorem_takes_are_refused(slopes: object) -> None:
    steep = Steep()
    steep.slopes = slopes
    with pytest.raises(CertificateError, match="slopes"):
        certify(GradientFlowLinear(2, activation=steep))


def test_rules_of_others_are_listed_as_stated() -> None:
    class Halving(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 2

    @rule(Halving)
    def halving(module: Halving, path: str, rtol: float) -> Proof:
        return Proof(MapBound(Fraction(1, 2), None))

    certificate = certify(nn.Sequential(Halving(), nn.ReLU()))
    assert certificate.lipschitz_upper == 0.5
    assert certificate.stated == (f"`0`: a rule of {__name__} bounds Halving",)

    @rule(Halving)
    def reflecting(module: Halving, path: str, rtol: float) -> Proof:
        norm = certify(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")).layers[0]
        return Proof(MapBound(Fraction(norm.norm.upper), None), (norm,))

    with pytest.raises(CertificateError, match=r"the rule must state `Proof.sizes`"):
        certify(Halving())


@pytest.mark.parametrize("log_scale", [200.0, -200.0, 89.0, -95.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thresholds_that_overflow_or_vanish_are_refused(log_scale: float, dtype: torch.dtype) -> None:
    """exp(200) is infinite in float32, and so is 1/exp(−95)."""
    denoiser = at_the_limit(layers=2)
    denoiser.layers[1].activation.log_scale[3, 2] = log_scale
    with pytest.raises(CertificateError, match=r"`layers.1` leaves the range of (b?float\d+)"):
        certify(denoiser.to(dtype))
    certify(denoiser.double())  # where they fit


@pytest.mark.parametrize(("weight", "tau"), [(3e38, 0.0), (1e-3, 3e38), (1e30, 1e20)])
def test_weights_and_steps_that_overflow_are_refused(weight: float, tau: float) -> None:
    layer = GradientFlowLinear(4, 4).requires_grad_(False)
    layer.weight.fill_(weight)
    layer.tau.fill_(tau)
    if tau != 3e38:
        with pytest.raises(CertificateError, match="leaves the range of float32"):
            certify(layer)
    else:
        assert not certify(layer).nonexpansive  # finite products, and too long a step


def test_thresholds_of_another_shape_and_ranges_that_are_none_are_refused() -> None:
    with pytest.raises(CertificateError, match="1 hidden channels, and thresholds or shifts of the shape"):
        certify(GradientFlowConv2d(1, 1, 3, activation=Clip(3)))
    denoiser = at_the_limit(layers=1)
    denoiser.layers[0].activation.log_range = (0.0, 0.0)
    with pytest.raises(CertificateError, match="log_range"):
        certify(denoiser)
