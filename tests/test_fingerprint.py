"""What decides what a module computes: changes of every kind are seen, proofs stay outside, nothing modified is certified."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize

from pnp_lip import GradientFlowDenoiser, certify, relax
from pnp_lip.certificates.certify import PROOFS, hash_weights
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.fingerprint import fingerprint, require_unmodified
from pnp_lip.layers import (
    GradientFlowConv2d,
    GradientFlowLinear,
    NoiseClip,
    ReLU,
    constrain,
    project,
    release,
)


def small(**settings: object) -> GradientFlowDenoiser:
    torch.manual_seed(0)
    config = {"channels": 2, "hidden_channels": 3, "kernel_size": 3, "dilations": (1, 2), **settings}
    return project(GradientFlowDenoiser(**config)).requires_grad_(False).eval()  # type: ignore[return-value]


def twice(*arguments: object) -> object:
    return 2 * arguments[-1]  # type: ignore[operator]


SHADOWS = [
    ("layers.0", "conv_adjoint"),
    ("layers.1", "conv"),
    ("layers.1", "forward"),
    ("layers.0.activation", "unit"),
    ("layers.0.activation", "scale_and_shift"),
    ("lift", "adjoint"),
    ("", "by_window"),
    ("", "_call_impl"),
    ("layers.0", "__call__"),
    ("layers.0.activation", "_compiled_call_impl"),
]


@pytest.mark.parametrize(("path", "name"), SHADOWS)
def test_a_method_that_an_instance_replaces_is_refused(path: str, name: str) -> None:
    denoiser = small()
    certify(denoiser)  # the proof that is kept must not hide it
    part = denoiser.get_submodule(path)
    part.__dict__[name] = twice
    with pytest.raises(CertificateError, match=f"replaced `{name}`"):
        certify(denoiser)
    with pytest.raises(CertificateError, match=f"replaced `{name}`"):
        certify(relax(denoiser, 0.5))
    del part.__dict__[name]
    certify(denoiser)


CLASSES = [
    (GradientFlowConv2d, "conv_adjoint", twice),
    (NoiseClip, "unit", twice),
    (NoiseClip, "log_range", (0.0, 1.0)),
    (GradientFlowDenoiser, "by_window", twice),
    (GradientFlowDenoiser, "__getattribute__", object.__getattribute__),
    (nn.Module, "_call_impl", twice),
    (nn.Module, "__call__", twice),
    (nn.ModuleList, "__iter__", twice),
]


@pytest.mark.parametrize(("kind", "name", "value"), CLASSES)
def test_a_class_that_is_patched_is_refused(kind: type, name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = small()
    certify(denoiser)
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, value)
        with pytest.raises(CertificateError, match=rf"replaced `.*{name}`"):
            certify(denoiser)
    certify(denoiser)


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_global_hooks_are_refused(register: str) -> None:
    denoiser = small()
    certify(denoiser)
    handle = getattr(torch_module, register)(lambda *arguments: None)
    try:
        with pytest.raises(CertificateError, match="global forward hooks"):
            certify(denoiser)
    finally:
        handle.remove()
    certify(denoiser)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def test_constrained_weights_are_refused_until_they_are_released() -> None:
    denoiser = constrain(small().requires_grad_(True))
    with pytest.raises(CertificateError, match=r"parametrised weights; make them plain with pnp_lip.layers.release"):
        certify(denoiser)
    with parametrize.cached(), pytest.raises(CertificateError, match="parametrised"):
        certify(denoiser)
    assert certify(release(denoiser)).nonexpansive
    parametrize.register_parametrization(denoiser.layers[0], "weight", Doubled())
    with pytest.raises(CertificateError, match=r"`layers.0` has parametrised"):
        certify(denoiser)
    with pytest.raises(CertificateError, match="parametrised"):
        certify(parametrizations.spectral_norm(nn.Linear(2, 2)))
    with pytest.raises(CertificateError, match="hooks"):
        certify(nn.utils.weight_norm(nn.Linear(2, 2)))


class Loud(torch.Tensor):
    pass


def test_tensors_and_parts_that_are_hidden_are_refused() -> None:
    layer = GradientFlowLinear(2, 2)
    layer.__dict__["weight"] = 9 * layer.weight.detach()
    with pytest.raises(CertificateError, match="replaced `weight`"):
        certify(layer)
    denoiser = small()
    denoiser.__dict__["layers"] = nn.ModuleList(denoiser.layers)
    with pytest.raises(CertificateError, match="replaced `layers`"):
        certify(denoiser)
    layer = GradientFlowLinear(2, 2)
    layer.__dict__["more"] = nn.Linear(2, 2)
    with pytest.raises(CertificateError, match="replaced `more`"):
        certify(layer)
    layer = GradientFlowLinear(2, 2)
    layer._parameters["weight"] = torch.ones(2, 2).as_subclass(Loud)
    with pytest.raises(CertificateError, match="`weight` as a Loud"):
        certify(layer)


def test_a_tensor_outside_of_the_state_is_hashed_and_checked() -> None:
    layer = GradientFlowLinear(2, 2, bias=False, activation=ReLU()).requires_grad_(False)
    weight = layer.weight.clone()
    del layer.weight
    layer.weight = weight  # a plain attribute
    assert "weight" not in layer.state_dict() and "weight" in certify(layer).weights == hash_weights(layer)
    layer.weight.mul_(3)
    assert not certify(layer).nonexpansive
    norm = nn.BatchNorm2d(2).eval()
    variance = norm.running_var
    del norm.running_var
    norm.register_buffer("running_var", variance, persistent=False)
    before = certify(norm).lipschitz_upper
    with torch.inference_mode():
        norm.running_var.mul_(1 / 16)
    assert certify(norm).lipschitz_upper == pytest.approx(4 * before, rel=1e-3)
    norm.running_mean.fill_(torch.nan)
    with pytest.raises(CertificateError, match="NaN"):
        certify(norm)


def test_proofs_are_in_no_object_and_in_no_file() -> None:
    denoiser = small()
    plain = pickle.dumps(denoiser)
    certificate = certify(denoiser)
    assert pickle.dumps(denoiser) == plain and certify(denoiser) is certificate
    copied, loaded = copy.deepcopy(denoiser), pickle.loads(plain)
    assert copied not in PROOFS and loaded not in PROOFS and certify(loaded) == certify(copied) == certificate
    loaded.layers[0].weight.mul_(100)
    for name in ("_pnp_lip_certificate", "proof", "kept"):  # what an older file may bring
        loaded.__dict__[name] = PROOFS[denoiser]
    assert not certify(loaded).nonexpansive
    gc.collect()
    count = len(PROOFS)
    del copied
    gc.collect()
    assert len(PROOFS) == count - 1


WHOLE = {
    "padding": lambda d: [setattr(layer, "padding_mode", "circular") for layer in d.layers],
    "dilation": lambda d: setattr(d.layers[0], "dilation", 3),
    "kernel": lambda d: setattr(d.layers[1], "weight", nn.Parameter(torch.randn(3, 2, 7, 7) / 50, requires_grad=False)),
    "hidden": lambda d: setattr(d, "layers", small(hidden_channels=7, kernel_size=5).layers),
}


@pytest.mark.parametrize("name", list(WHOLE))
def test_windows_follow_the_layers_whatever_is_changed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map in windows is the map on the whole image, for which the proof speaks."""
    denoiser = small()
    WHOLE[name](denoiser)
    monkeypatch.setattr("pnp_lip.denoisers.tiling.CACHE_NUMBERS", 2**8)
    monkeypatch.setattr("pnp_lip.denoisers.tiling.CACHE_COLUMNS", 16)
    denoiser.double()
    x = torch.rand(1, 1, 90, 70, dtype=torch.float64)
    windows = denoiser(x, 0.1)
    assert torch.allclose(denoiser.tiled(x, 0.1, tile=24), windows, atol=1e-12)
    assert torch.allclose(denoiser(x.requires_grad_(True), 0.1), windows, atol=1e-12)
    assert certify(denoiser).layers[1].norm.padding_mode == denoiser.padding_mode


@pytest.mark.parametrize("name", ["in_channels", "channels", "hidden_channels", "kernel_size", "dilations", "padding_mode"])
def test_what_the_layers_know_cannot_be_set_beside_them(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(small(), name, 1)


def test_layers_must_pad_alike() -> None:
    denoiser = small()
    denoiser.layers[1].padding_mode = "circular"
    with pytest.raises(InputError, match="pad alike; got circular and zeros"):
        denoiser(torch.zeros(1, 1, 8, 8), 0.1)


BROKEN: dict[str, tuple[Callable[[GradientFlowDenoiser], object], str]] = {
    "even kernel": (lambda d: setattr(d.layers[0], "weight", nn.Parameter(torch.ones(3, 2, 2, 2))), "odd side"),
    "matrix": (lambda d: setattr(d.layers[0], "weight", nn.Parameter(torch.ones(3, 2))), "needs a matrix, or square"),
    "complex step": (lambda d: setattr(d.layers[0], "tau", nn.Parameter(torch.ones(()) + 0j)), "one finite number"),
    "oblong kernel": (lambda d: setattr(d.layers[0], "weight", nn.Parameter(torch.ones(3, 2, 3, 5))), "square"),
    "dilation": (lambda d: setattr(d.layers[0], "dilation", 1.0), "`layers.0.dilation`"),
    "dilation zero": (lambda d: setattr(d.layers[0], "dilation", 0), "`layers.0.dilation`"),
    "steps": (lambda d: setattr(d.layers[0], "tau", nn.Parameter(torch.ones(2))), "one finite number"),
    "list": (lambda d: setattr(d, "layers", nn.Sequential(*d.layers)), "ModuleList"),
    "layer": (lambda d: d.layers.__setitem__(0, nn.Identity()), "`layers.0` is a Identity"),
    "lift": (lambda d: setattr(d.lift, "channels", 0), "`lift.channels`"),
    "lift, in": (lambda d: setattr(d.lift, "in_channels", True), "`lift.in_channels`"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_parts_that_do_not_fit_the_proof_are_refused(name: str) -> None:
    change, message = BROKEN[name]
    denoiser = small()
    certify(denoiser)
    change(denoiser)
    with pytest.raises(CertificateError, match=message):
        certify(denoiser)


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, True),
        (1, 1.0),
        ([1, 2], [2, 1]),
        ({1}, {2}),
        ({"a": 1}, {"a": 2}),
        ([torch.zeros(2)], [torch.ones(2)]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    ],
)
def test_attributes_count_with_their_contents(before: object, after: object) -> None:
    module = nn.Identity()
    module.extra = Holder(before)
    first = fingerprint(module)
    assert fingerprint(module) == first
    module.extra.value = after
    assert fingerprint(module) != first
    module.extra.value = before
    assert fingerprint(module) == first
    module.extra.value = module.extra  # it may hold itself
    assert fingerprint(module) != first


def test_reading_annotations_changes_no_code() -> None:
    """Python adds an empty ``__annotations__`` to a class, as here to ABC, when somebody asks for it."""
    denoiser = small()
    kinds = {kind for part in denoiser.modules() for kind in type(part).__mro__}
    assert all(isinstance(kind.__annotations__, dict) for kind in kinds - {object})
    require_unmodified(denoiser)


def test_an_untouched_module_passes_after_torch_has_compiled() -> None:
    """What torch loads and changes for ``torch.compile`` is not taken for a patch."""
    before = certify(small())
    compiled = torch.compile(lambda x: x + 1, backend="eager")
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))
    assert certify(small()) == before
