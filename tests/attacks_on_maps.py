"""Attacks by hand on certificates of maps: patched code, hooks, writes, settings, activations, scopes, numbers, theory."""

from __future__ import annotations

import copy
import functools
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import torch
from attacks import Outcome, Verdict, at_most, images, jacobian, ratio_reached, refusal, spectral_norm
from attacks_by_hand import SHAPE, Hiding, attack, attacker, judge_map, on_map, patched, recoded, under
from deepinv.models import DnCNN
from torch import Tensor, nn
from torch.nn.utils import (
    parametrizations,
    parametrize,
    prune,
)
from torch.nn.utils import (
    spectral_norm as old_spectral_norm,
)
from torch.nn.utils import (
    weight_norm as old_weight_norm,
)

from pnp_lip import certify, firm
from pnp_lip.certificates import rule
from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, RelaxedDenoiser, tiling
from pnp_lip.layers import (
    Activation,
    Clip,
    GradientFlowConv2d,
    GradientFlowLinear,
    Identity,
    IsometricLift,
    NoiseClip,
    ReLU,
    SoftThreshold,
    constrain,
    project,
)
from pnp_lip.theory import FixedWidthNetwork, UnboundedWidthNetwork, certified_radius, output_lipschitz_upper, seal

CODE, HOOKS, WRITES = "patched code", "hooks, modes and parametrisations", "writes behind the certificate"
COPIES, SETTINGS, ACTIVATIONS = "copies, pickles and shared parts", "settings changed after construction", "activations"
SCOPE, NUMBERS, THEORY = "smallest image and scope", "numbers and dtypes", "universal networks"


def net(**options: Any) -> GradientFlowDenoiser:
    """An honest small denoiser near the limit, whose clips are wide, already certified."""
    torch.manual_seed(0)
    made = GradientFlowDenoiser(**{"hidden_channels": 3, "kernel_size": 3, "dilations": (1, 1), **options})
    for layer in made.layers:
        layer.activation.log_scale.data.fill_(3.0)
    project(made, limit=0.97).eval().requires_grad_(False)
    certify(made)
    return made


def flow(activation: Activation | None = None, limit: float = 0.97, **options: Any) -> GradientFlowConv2d:
    torch.manual_seed(1)
    made = GradientFlowConv2d(1, 2, 3, activation=Identity() if activation is None else activation, **options)
    return project(made, limit=limit).eval().requires_grad_(False)


def plain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).eval().requires_grad_(False)


# ---- patched code


def on_instance(name: str, new: Any, part: str = "") -> nn.Module:
    made = net()
    setattr(made.get_submodule(part), name, new)
    return made


@on_map(CODE)
def forward_of_an_instance() -> nn.Module:
    made = net()
    made.forward = lambda x, sigma=None: 3 * x
    return made


@on_map(CODE)
def conv_adjoint_of_a_layer() -> nn.Module:
    made = net()
    layer = made.layers[0]
    layer.conv_adjoint = lambda s, k, dilation=None: 3 * GradientFlowConv2d.conv_adjoint(layer, s, k, dilation)
    return made


@on_map(CODE, new=True)
def conv_of_a_layer() -> nn.Module:
    made = net()
    layer = made.layers[0]
    layer.conv = lambda x, k, bias=None, dilation=None: 3 * GradientFlowConv2d.conv(layer, x, k, bias, dilation)
    return made


@on_map(CODE)
def unit_of_an_activation() -> nn.Module:
    return on_instance("unit", lambda t: 9 * t, "layers.0.activation")


@on_map(CODE)
def call_impl_of_a_layer() -> nn.Module:
    made = net()
    made.layers[0]._call_impl = lambda x, sigma=None: 3 * x
    return made


@on_map(CODE, new=True)
def scale_and_shift_of_an_activation() -> nn.Module:
    """λ of the wrong sign: σ falls."""
    return on_instance("scale_and_shift", lambda sigma: (-torch.ones(3), torch.zeros(3)), "layers.0.activation")


@on_map(CODE, new=True)
def adjoint_of_the_lift() -> nn.Module:
    made = net()
    made.lift.adjoint = lambda z: 3 * z
    return made


@on_map(CODE, new=True)
def by_window_of_a_denoiser() -> nn.Module:
    return on_instance("by_window", lambda f, z, *others, **options: 3 * z)


@on_map(CODE, new=True)
def level_of_a_denoiser() -> nn.Module:
    """Not false: any noise level keeps the slopes."""
    return on_instance("level", lambda sigma, x: torch.tensor([0.3]))


@on_map(CODE, new=True)
def partial_as_forward() -> nn.Module:
    made = net()
    made.forward = functools.partial(torch.mul, torch.tensor(3.0))
    return made, (1, 8, 8)


@on_map(CODE, new=True)
def class_of_a_layer_exchanged() -> nn.Module:
    class Louder(GradientFlowConv2d):
        def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
            return 3 * super().forward(x, sigma)

    made = net()
    made.layers[0].__class__ = Louder
    return made


@on_map(CODE, new=True)
def class_of_an_activation_exchanged() -> nn.Module:
    class Steep(NoiseClip):
        def unit(self, t: Tensor) -> Tensor:
            return 9 * t

    made = net()
    made.layers[0].activation.__class__ = Steep
    return made


@on_map(CODE, new=True)
def class_that_says_it_is_another() -> nn.Module:
    class Tripled(nn.Module):
        @property
        def __class__(self) -> type:
            return GradientFlowDenoiser

        def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
            return 3 * x

    return Tripled()


@on_map(CODE, new=True)
def list_of_layers_replaced_by_a_subclass() -> nn.Module:
    class Twice(nn.ModuleList):
        def __iter__(self) -> Any:
            return (Double() for _ in super().__iter__())

    class Double(nn.Module):
        def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
            return 2 * x

    made = net()
    made.layers = Twice(made.layers)
    return made


@on_map(CODE, new=True)
def sequence_of_a_subclass() -> nn.Module:
    class Twice(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    return Twice(nn.Identity())


@on_map(CODE, new=True)
def relaxation_of_a_subclass() -> nn.Module:
    class Louder(RelaxedDenoiser):
        def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
            return 3 * x

    return Louder(net(), 0.5)


@on_map(CODE, new=True)
def module_of_a_meta_class() -> nn.Module:
    """type(m) is Conv2d's subclass with the same name."""
    kind = type("Conv2d", (nn.Conv2d,), {"forward": lambda self, x: 3 * x, "__module__": nn.Conv2d.__module__})
    return kind(1, 1, 1)


def class_patch(kind: type, name: str, new: Any, make: Any = net) -> Outcome:
    return under(lambda: patched(kind, name, new), judge_map, make)


@attack(CODE)
def conv_of_the_class() -> Outcome:
    old = GradientFlowConv2d.conv
    return class_patch(GradientFlowConv2d, "conv", lambda self, *a, **k: 2 * old(self, *a, **k))


@attack(CODE, new=True)
def unit_of_the_class() -> Outcome:
    return class_patch(Clip, "unit", lambda self, t: 9 * t)


@attack(CODE, new=True)
def forward_of_the_base_of_activations() -> Outcome:
    return class_patch(Activation, "forward", lambda self, t, sigma=None: 9 * t, lambda: flow(ReLU()))


@attack(CODE, new=True)
def adjoint_of_the_lifts_class() -> Outcome:
    return class_patch(IsometricLift, "adjoint", lambda self, z: 3 * z)


@attack(CODE, new=True)
def slopes_of_the_class() -> Outcome:
    return class_patch(ReLU, "slopes", (0.0, 0.1), lambda: flow(ReLU(), limit=1.0).apply(lengthen))


def lengthen(module: nn.Module) -> None:
    if isinstance(module, GradientFlowConv2d):
        module.tau.data.mul_(5.0)


@attack(CODE, new=True)
def a_property_of_the_class_before_its_weight() -> Outcome:
    """A data descriptor on the class wins over the parameter of that name."""
    tripled = property(lambda self: 3 * self._parameters["weight"], lambda self, value: None)
    made = net()
    return class_patch(GradientFlowConv2d, "weight", tripled, lambda: made)


@attack(CODE, new=True)
def call_of_the_class() -> Outcome:
    return class_patch(GradientFlowDenoiser, "__call__", lambda self, x, sigma=None: 3 * x)


@attack(CODE, new=True)
def getattribute_of_the_class() -> Outcome:
    def sly(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        return (lambda x, sigma=None: 3 * x) if name == "forward" else value

    return class_patch(GradientFlowDenoiser, "__getattribute__", sly)


@attack(CODE, new=True)
def forward_of_torchs_convolution() -> Outcome:
    return class_patch(nn.Conv2d, "forward", lambda self, x: 3 * x, lambda: plain(nn.Conv2d(1, 1, 1)))


@attack(CODE, new=True)
def conv_forward_of_torchs_convolution() -> Outcome:
    old = nn.Conv2d._conv_forward
    return class_patch(
        nn.Conv2d, "_conv_forward", lambda self, x, w, b: 3 * old(self, x, w, b), lambda: plain(nn.Conv2d(1, 1, 1))
    )


@attack(CODE, new=True)
def forward_of_torchs_sequence() -> Outcome:
    return class_patch(nn.Sequential, "forward", lambda self, x: 3 * x, lambda: plain(nn.Identity()))


@attack(CODE, new=True)
def call_impl_of_every_module() -> Outcome:
    old = nn.Module._call_impl
    return class_patch(nn.Module, "_call_impl", lambda self, *a, **k: 3 * old(self, *a, **k))


@attack(CODE, new=True)
def clamp_of_a_projection() -> Outcome:
    return class_patch(ClippedDenoiser, "forward", lambda self, x, sigma=None, **k: 3 * x, lambda: ClippedDenoiser(net()))


@attack(CODE, new=True)
def code_of_a_method_exchanged_for_another() -> Outcome:
    """The function is the very same object, with other instructions."""

    def louder(self: Any, s: Tensor, kernel: Tensor, dilation: int | None = None) -> Tensor:
        return 3 * self.conv(s, kernel.transpose(0, 1).flip(-1, -2), dilation=dilation)

    made = net()
    return under(lambda: recoded(GradientFlowConv2d.conv_adjoint, louder), judge_map, lambda: made)


@on_map(CODE, new=True)
def dictionary_that_hides_a_forward() -> nn.Module:
    made = net()
    made.forward = lambda x, sigma=None: 3 * x
    made.__dict__ = Hiding(vars(made), "forward")
    return made


@on_map(CODE, new=True)
def parts_that_are_listed_otherwise() -> nn.Module:
    """``named_modules`` asks for items, a sequence for values."""

    class Sly(dict[str, Any]):
        def values(self) -> Any:
            return [Times(3.0)]

    made = plain(nn.Identity())
    made._modules = Sly(made._modules)
    return made


@on_map(CODE, new=True)
def parameters_that_are_read_otherwise() -> nn.Module:
    class Sly(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            import sys

            value = super().__getitem__(name)
            outside = "certif" not in str([sys._getframe(k).f_code.co_filename for k in range(1, 6)])
            return 3 * value if name == "weight" and outside else value

    made = net()
    made.layers[0]._parameters = Sly(made.layers[0]._parameters)
    return made


@on_map(CODE, new=True)
def a_layer_that_is_none() -> nn.Module:
    """``None`` among the parts of a sequence is skipped by some and called by others."""
    made = plain(nn.Conv2d(1, 1, 1))
    made._modules["1"] = None
    return made


# ---- hooks


def hooked(register: Any) -> nn.Module:
    made = net()
    register(made)
    return made


@on_map(HOOKS)
def forward_hook() -> nn.Module:
    return hooked(lambda m: m.register_forward_hook(lambda mod, args, out: 3 * out))


@on_map(HOOKS)
def forward_pre_hook_of_a_part() -> nn.Module:
    return hooked(lambda m: m.layers[1].register_forward_pre_hook(lambda mod, args: (3 * args[0], *args[1:])))


@on_map(HOOKS, new=True)
def hook_of_an_activation() -> nn.Module:
    """The layer calls ``unit`` and never the activation itself: not false, and refused all the same."""
    return hooked(lambda m: m.layers[0].activation.register_forward_hook(lambda mod, args, out: 3 * out))


@on_map(HOOKS, new=True)
def hook_put_into_the_dictionary() -> nn.Module:
    return hooked(lambda m: m.layers[0]._forward_hooks.update({99: lambda mod, args, out: 3 * out}))


@on_map(HOOKS, new=True)
def hook_with_keywords() -> nn.Module:
    return hooked(lambda m: m.register_forward_hook(lambda mod, args, kwargs, out: 3 * out, with_kwargs=True, always_call=True))


@on_map(HOOKS, new=True)
def hook_dictionary_that_is_empty_but_not_falsy() -> nn.Module:
    """A dictionary whose length lies."""

    class Sly(dict):
        def __len__(self) -> int:
            return 0 if self.counted() else 1

        def counted(self) -> bool:
            return True

        def __bool__(self) -> bool:
            import sys

            return (
                "fingerprint" not in sys._getframe(1).f_code.co_filename and "certify" not in sys._getframe(1).f_code.co_filename
            )

    def register(m: nn.Module) -> None:
        m._forward_hooks = Sly({0: lambda mod, args, out: 3 * out})

    return hooked(register)


def globally(register: Any, hook: Any) -> Outcome:
    made = net()
    handle = register(hook)
    try:
        return judge_map(lambda: made, "a global hook")
    finally:
        handle.remove()


@attack(HOOKS)
def global_forward_hook() -> Outcome:
    return globally(
        nn.modules.module.register_module_forward_hook,
        lambda mod, args, out: 3 * out if isinstance(mod, GradientFlowConv2d) else None,
    )


@attack(HOOKS, new=True)
def global_forward_pre_hook() -> Outcome:
    return globally(
        nn.modules.module.register_module_forward_pre_hook,
        lambda mod, args: (3 * args[0], *args[1:]) if isinstance(mod, GradientFlowConv2d) else None,
    )


class Tripling(torch.overrides.TorchFunctionMode):
    """Every convolution times three."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return 3 * out if func is torch.nn.functional.conv2d or func is torch.conv2d else out


@attack(HOOKS, new=True)
def function_mode_while_certified_and_run() -> Outcome:
    return under(Tripling, judge_map, net)


class Loud(torch.Tensor):
    """A tensor whose convolutions come out tripled."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_function__(func, types, args, kwargs or {})
        return 3 * out.as_subclass(torch.Tensor) if getattr(func, "__name__", "") == "conv2d" else out


@on_map(HOOKS, new=True)
def parameter_of_a_tensor_subclass() -> nn.Module:
    made = net()
    layer = made.layers[0]
    layer._parameters["weight"] = layer.weight.detach().as_subclass(Loud)
    return made


@on_map(HOOKS, new=True)
def tau_of_a_tensor_subclass() -> nn.Module:
    class Grows(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = super().__torch_function__(func, types, args, kwargs or {})
            return 9 * out.as_subclass(torch.Tensor) if getattr(func, "__name__", "") in ("mul", "__mul__", "__rmul__") else out

    made = net()
    made.layers[0]._parameters["tau"] = made.layers[0].tau.detach().as_subclass(Grows)
    return made


def parametrised(*modules: nn.Module) -> nn.Module:
    made = net()
    for m in modules:
        parametrize.register_parametrization(made.layers[0], "weight", m, unsafe=True)
    return made


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.factor * x


class GrowsWithCalls(Times):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (1 if self.calls < 12 else self.factor)


@on_map(HOOKS)
def parametrisation_of_ones_own() -> nn.Module:
    return parametrised(Times(3.0))


@on_map(HOOKS)
def parametrisation_that_counts_its_calls() -> nn.Module:
    return parametrised(GrowsWithCalls(3.0))


@on_map(HOOKS, new=True)
def parametrisation_changed_after_the_certificate() -> nn.Module:
    made = constrain(GradientFlowDenoiser(hidden_channels=3, kernel_size=3, dilations=(1,)).eval(), limit=0.9)
    certify_or_not(made)
    made.layers[0].parametrizations.tau[0].limit = 9.0
    return made.requires_grad_(False)


def certify_or_not(module: nn.Module) -> None:
    try:
        certify(module)
    except Exception:
        return


@attack(HOOKS)
def cached_parametrisation() -> Outcome:
    made = constrain(net(), limit=0.9)
    with parametrize.cached():
        certify_or_not(made)
        made.layers[0].weight.data.mul_(3.0)  # the cached tensor
        return judge_map(lambda: made, "cached")


@on_map(HOOKS, new=True)
def spectral_norm_of_old() -> nn.Module:
    return plain(old_spectral_norm(nn.Conv2d(1, 1, 3)))


@on_map(HOOKS, new=True)
def spectral_norm_parametrised() -> nn.Module:
    return plain(parametrizations.spectral_norm(nn.Conv2d(1, 1, 3)))


@on_map(HOOKS, new=True)
def weight_norm_of_old() -> nn.Module:
    layer = old_weight_norm(nn.Conv2d(1, 1, 1))
    layer.weight_g.data.mul_(5.0)  # the stale ``weight`` is smaller
    return plain(layer)


@on_map(HOOKS, new=True)
def weight_norm_parametrised() -> nn.Module:
    layer = parametrizations.weight_norm(nn.Conv2d(1, 1, 1))
    certify_or_not(layer)
    layer.parametrizations.weight.original0.data.mul_(5.0)
    return plain(layer)


@on_map(HOOKS, new=True)
def pruned_weights() -> nn.Module:
    layer = nn.Conv2d(1, 1, 3)
    prune.l1_unstructured(layer, "weight", 0.5)
    layer.weight_mask.mul_(5.0)
    return plain(layer)


@on_map(HOOKS, new=True)
def compiled_module() -> nn.Module:
    return torch.compile(net(), backend="eager")


@on_map(HOOKS, new=True)
def compiled_in_place() -> nn.Module:
    made = net()
    made._compiled_call_impl = lambda x, sigma=None: 3 * x
    return made


@on_map(HOOKS, new=True)
def traced_module() -> nn.Module:
    return torch.jit.trace(plain(nn.Conv2d(1, 1, 1)), torch.zeros(1, *(1, 8, 8)))


# ---- writes


def written(write: Any, make: Any = net, part: str = "layers.0") -> nn.Module:
    made = make()
    certify(made)
    with torch.no_grad():
        write(made.get_submodule(part))
    return made


@on_map(WRITES)
def weight_through_data() -> nn.Module:
    return written(lambda layer: layer.weight.data.mul_(3))


@on_map(WRITES, new=True)
def weight_set_to_other_storage() -> nn.Module:
    return written(lambda layer: layer.weight.set_(3 * layer.weight))


@on_map(WRITES, new=True)
def weight_data_replaced() -> nn.Module:
    def write(layer: nn.Module) -> None:
        layer.weight.data = 3 * layer.weight.data

    return written(write)


@on_map(WRITES, new=True)
def weight_through_numpy() -> nn.Module:
    def write(layer: nn.Module) -> None:
        layer.weight.numpy()[...] *= 3

    return written(write)


@on_map(WRITES, new=True)
def weight_through_its_storage() -> nn.Module:
    def write(layer: nn.Module) -> None:
        layer.weight.untyped_storage().copy_((3 * layer.weight).untyped_storage())

    return written(write)


@on_map(WRITES)
def weight_in_inference_mode() -> nn.Module:
    def write(layer: nn.Module) -> None:
        with torch.inference_mode():
            layer.weight.mul_(3)

    return written(write)


@on_map(WRITES, new=True)
def weight_made_in_inference_mode() -> nn.Module:
    made = net()
    with torch.inference_mode():
        made.layers[0].weight = nn.Parameter(made.layers[0].weight.clone(), requires_grad=False)
        certify(made)
        made.layers[0].weight.mul_(3)
    return made


@on_map(WRITES, new=True)
def tau_through_data() -> nn.Module:
    return written(lambda layer: layer.tau.data.fill_(40.0))


@on_map(WRITES, new=True)
def tensors_swapped() -> nn.Module:
    return written(lambda layer: torch.utils.swap_tensors(layer.weight, nn.Parameter(3 * layer.weight, requires_grad=False)))


@on_map(WRITES, new=True)
def state_loaded_by_assignment() -> nn.Module:
    return written(lambda layer: layer.load_state_dict({k: 3 * v for k, v in layer.state_dict().items()}, assign=True))


@on_map(WRITES, new=True)
def weight_that_shares_a_numpy_array() -> nn.Module:
    made = net()
    array = made.layers[0].weight.numpy().copy()
    made.layers[0].weight = nn.Parameter(torch.from_numpy(array), requires_grad=False)
    certify(made)
    array *= 3
    return made


@on_map(WRITES)
def tensor_outside_of_the_state() -> nn.Module:
    """A plain tensor in the place of a parameter is in no state dict."""
    made = net()
    layer = made.layers[0]
    weight = layer.weight.clone()
    del layer.weight
    layer.weight = weight
    certify_or_not(made)
    layer.weight.mul_(3)
    return made


@on_map(WRITES, new=True)
def buffer_that_is_not_persistent() -> nn.Module:
    made = net()
    layer, weight = made.layers[0], made.layers[0].weight.clone()
    del layer.weight
    layer.register_buffer("weight", weight, persistent=False)
    certify_or_not(made)
    layer.weight.mul_(3)
    return made


@on_map(WRITES, new=True)
def weight_shadowed_in_the_instance() -> nn.Module:
    made = net()
    made.layers[0].__dict__["weight"] = made.layers[0].weight.clone()
    certify_or_not(made)
    made.layers[0].__dict__["weight"].mul_(3)
    return made


@on_map(WRITES, new=True)
def layers_shadowed_in_the_instance() -> nn.Module:
    """Layers that ``modules()`` does not see."""
    made = net()
    made.__dict__["layers"] = copy.deepcopy(made.layers)
    certify_or_not(made)
    made.__dict__["layers"][0].weight.mul_(3)
    return made


@on_map(WRITES, new=True)
def shadowed_layers_with_a_hook() -> nn.Module:
    made = net()
    made.__dict__["layers"] = copy.deepcopy(made.layers)
    made.__dict__["layers"][0].register_forward_hook(lambda mod, args, out: 3 * out)
    return made


@on_map(WRITES, new=True)
def inner_denoiser_shadowed() -> nn.Module:
    made = RelaxedDenoiser(net(), 0.9)
    made.__dict__["denoiser"] = net()
    certify_or_not(made)
    made.__dict__["denoiser"].layers[0].weight.mul_(4)
    return made


@on_map(WRITES, new=True)
def weight_of_a_plain_network() -> nn.Module:
    return written(lambda layer: layer.weight.data.mul_(5), lambda: plain(nn.Conv2d(1, 1, 1)), "0")


@on_map(WRITES, new=True)
def variance_of_a_batch_norm() -> nn.Module:
    return written(lambda layer: layer.running_var.data.fill_(1e-4), lambda: plain(nn.BatchNorm2d(1)), "0")


# ---- copies


@on_map(COPIES, new=True)
def deep_copy_then_write() -> nn.Module:
    made = copy.deepcopy(net())
    made.layers[0].weight.data.mul_(3)
    return made


@on_map(COPIES, new=True)
def shallow_copy_then_write() -> nn.Module:
    made = net()
    other = copy.copy(made)
    certify(other)
    made.layers[0].weight.data.mul_(3)
    return other


@on_map(COPIES, new=True)
def shallow_copy_with_other_settings() -> nn.Module:
    other = copy.copy(net())
    other.forward = lambda x, sigma=None: 3 * x
    return other


def forged_cache(certificate: Any) -> nn.Module:
    """A module that carries proofs of its own making, as a pickle may."""
    made = net()
    for name in [n for n in vars(made) if "certificate" in n or "proof" in n]:
        del made.__dict__[name]
    made.layers[0].weight.data.mul_(3)
    from pnp_lip.certificates import certify as module_of

    settings = getattr(__import__("sys").modules[module_of.__module__], "settings", None)
    hashes = getattr(__import__("sys").modules[module_of.__module__], "hash_weights", None)
    if settings and hashes:
        key = (settings(made), tuple(hashes(made).items()), 1e-3)
        made.__dict__["_pnp_lip_certificate"] = (key, certificate, None)
    return made


@on_map(COPIES)
def forged_cache_in_the_dictionary() -> nn.Module:
    return forged_cache(certify(net()))


@on_map(COPIES)
def forged_cache_in_a_pickle() -> nn.Module:
    return pickle.loads(pickle.dumps(forged_cache(certify(net()))))


@on_map(COPIES, new=True)
def pickle_then_write() -> nn.Module:
    made = pickle.loads(pickle.dumps(net()))
    made.layers[0].weight.data.mul_(3)
    return made


@on_map(COPIES, new=True)
def pickle_whose_state_is_forged() -> nn.Module:
    made = net()
    state = made.__getstate__() if hasattr(made, "__getstate__") else dict(vars(made))
    forged = {**state, "forward": Times(3.0)}
    other = GradientFlowDenoiser.__new__(GradientFlowDenoiser)
    other.__setstate__(forged)
    return other


@on_map(COPIES, new=True)
def saved_by_torch_and_loaded() -> nn.Module:
    stream = io.BytesIO()
    torch.save(net(), stream)
    stream.seek(0)
    made = torch.load(stream, weights_only=False)
    made.layers[1].tau.data.mul_(20)
    return made


@on_map(COPIES, new=True)
def same_layer_twice_in_a_sequence() -> nn.Module:
    layer = nn.Conv2d(1, 1, 1, bias=False)
    layer.weight.data.fill_(2.0)
    return plain(layer, layer)


@on_map(COPIES, new=True)
def same_layer_twice_in_a_denoiser() -> nn.Module:
    made = net()
    made.layers[0].tau.data.fill_(9.0)
    made.layers[1] = made.layers[0]
    return made


@on_map(COPIES, new=True)
def shared_weights_written_through_another() -> nn.Module:
    made, other = net(), net()
    other.layers[0].weight = made.layers[0].weight
    certify(made)
    other.layers[0].weight.data.mul_(3)
    return made


# ---- settings


def changed(name: str, value: Any, part: str = "layers.0", **options: Any) -> nn.Module:
    made = net(**options)
    setattr(made.get_submodule(part), name, value)
    return made


@on_map(SETTINGS)
def padding_mode_of_a_layer() -> nn.Module:
    made = flow(padding_mode="zeros", limit=0.999)
    certify(made)
    made.padding_mode = "reflect"
    return made


@on_map(SETTINGS, new=True)
def padding_mode_replicate() -> nn.Module:
    made = flow(padding_mode="circular", limit=0.999)
    made.weight.abs_()
    project(made, limit=0.999)
    certify(made)
    made.padding_mode = "replicate"
    return made


def windowed(**options: Any) -> tuple[Any, ...]:
    """An image of 40 rows, which take two windows."""
    return net(**options), (1, 40, 1)


def in_small_windows(make: Callable[[], Any], name: str) -> Outcome:
    """``judge_map`` where three hidden channels fill the cache as 4096 do."""
    return under(lambda: patched(tiling, "CACHE_NUMBERS", 2**9), judge_map, make)


on_windows = attacker(in_small_windows)


@on_windows(SETTINGS)
def kernel_size_of_a_denoiser() -> tuple[Any, ...]:
    """The windows then overlap too little."""
    made, shape = windowed(kernel_size=5)
    made.kernel_size = 1
    return made, shape


@on_windows(SETTINGS, new=True)
def dilations_of_a_denoiser() -> tuple[Any, ...]:
    made, shape = windowed(dilations=(2,))
    made.dilations = (0,)
    return made, shape


@on_windows(SETTINGS, new=True)
def layers_of_several_kernels() -> tuple[Any, ...]:
    """The second layer reaches further than the first one, of which the windows may be."""
    made, shape = windowed(dilations=(1,))
    made.layers.append(net(kernel_size=5, dilations=(1,)).layers[0])
    return made, shape


@on_windows(SETTINGS, new=True)
def dilation_of_a_layer() -> tuple[Any, ...]:
    made, shape = windowed(dilations=(1,))
    made.layers[0].dilation = 3
    return made, shape


@on_windows(SETTINGS, new=True)
def layers_of_several_paddings() -> tuple[Any, ...]:
    """Windows that wrap around, or not, for both layers alike."""
    made, shape = windowed()
    made.layers[1].padding_mode = "circular"
    return made, shape


@on_windows(SETTINGS, new=True)
def padding_of_a_denoiser_and_not_of_its_layers() -> tuple[Any, ...]:
    made, shape = windowed(dilations=(1,))
    made.padding_mode = "circular"
    return made, shape


@on_map(SETTINGS, new=True)
def channels_of_the_lift() -> nn.Module:
    return changed("in_channels", 2, "lift", channels=3), (1, 6, 6)


@on_map(SETTINGS, new=True)
def step_of_a_relaxation() -> nn.Module:
    made = RelaxedDenoiser(net(), 0.5)
    certify(made)
    made.theta = 2.5
    return made


@on_map(SETTINGS, new=True)
def negative_step_of_a_relaxation() -> nn.Module:
    made = RelaxedDenoiser(net(), 0.5)
    made.theta = -1.0
    return made


@on_map(SETTINGS, new=True)
def step_of_a_relaxation_that_is_no_plain_float() -> nn.Module:
    class Sly(float):
        def __mul__(self, other: Any) -> Any:
            return 5.0 * other

        __rmul__ = __mul__

    made = RelaxedDenoiser(net(), 0.5)
    made.theta = Sly(0.5)
    return made


@on_map(SETTINGS, new=True)
def dilation_that_is_no_plain_number() -> nn.Module:
    class Sly(int):
        def __mul__(self, other: Any) -> Any:
            return 0

    made = net()
    made.layers[0].dilation = Sly(1)
    return made


@on_map(SETTINGS, new=True)
def padding_mode_that_is_no_plain_text() -> nn.Module:
    class Sly(str):
        def __ne__(self, other: Any) -> bool:
            return False

        def __eq__(self, other: Any) -> bool:
            return True

        __hash__ = str.__hash__

    made = plain(nn.Conv2d(1, 1, 5, padding=2, padding_mode="replicate", bias=False))
    made[0].weight.data.fill_(1.0)
    made[0].padding_mode = Sly("replicate")
    return made, (1, 2, 2)


@on_map(SETTINGS, new=True)
def box_that_changes_as_it_is_read() -> nn.Module:
    class Sly(tuple):
        def __iter__(self) -> Any:
            return iter((-9.0, 9.0))

        def __getitem__(self, i: Any) -> Any:
            return (0.0, 1.0)[i]

    made = ClippedDenoiser(net())
    made.box = Sly((0.0, 1.0))
    return made


@on_map(SETTINGS, new=True)
def weight_of_an_even_kernel() -> nn.Module:
    """Wᵀ is then no adjoint."""
    made = flow()
    made.weight = nn.Parameter(0.2 * torch.ones(2, 1, 2, 2), requires_grad=False)
    return made


@on_map(SETTINGS, new=True)
def weight_of_a_longish_kernel() -> nn.Module:
    made = flow(padding_mode="circular")
    made.weight = nn.Parameter(0.2 * torch.ones(2, 1, 1, 3), requires_grad=False)
    return made


@on_map(SETTINGS, new=True)
def step_with_one_number_for_each_channel() -> nn.Module:
    made = flow()
    made.tau = nn.Parameter(torch.tensor([1.0, 30.0]).reshape(2, 1, 1, 1), requires_grad=False)
    return made


@on_map(SETTINGS, new=True)
def step_of_a_relaxation_that_changes() -> nn.Module:
    class Box:
        value = 0.5

        def __mul__(self, other: Any) -> Any:
            return self.value * other

        def as_integer_ratio(self) -> tuple[int, int]:
            return float(self.value).as_integer_ratio()

        def __float__(self) -> float:
            return self.value

    made = RelaxedDenoiser(net(), 0.5)
    made.theta = Box()
    certify_or_not(made)
    made.theta.value = 4.0
    return made


@on_map(SETTINGS, new=True)
def step_of_a_relaxation_as_a_tensor() -> nn.Module:
    made = RelaxedDenoiser(net(), 0.5)
    made.theta = torch.tensor(0.5)
    certify_or_not(made)
    made.theta.fill_(4.0)
    return made


@on_map(SETTINGS, new=True)
def box_of_a_projection_upside_down() -> nn.Module:
    made = ClippedDenoiser(net())
    made.box = (1.0, 0.0)
    return made


@on_map(SETTINGS, new=True)
def slopes_of_an_instance() -> nn.Module:
    made = flow(ReLU(), limit=1.0)
    lengthen(made)
    made.activation.slopes = (0.0, 0.1)
    return made


@on_map(SETTINGS, new=True)
def groups_of_a_convolution() -> nn.Module:
    layer = nn.Conv2d(2, 2, 1, bias=False)
    layer.weight.data.fill_(1.0)
    certify(layer)
    layer.groups = 2
    return plain(layer), (4, 4, 4)


@on_map(SETTINGS, new=True)
def padding_of_a_circular_convolution() -> nn.Module:
    """Pads further than the kernel reaches, so that pixels are repeated."""
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    layer.weight.data.fill_(1 / 9)
    certify(layer)
    layer._reversed_padding_repeated_twice = [4, 4, 4, 4]
    return plain(layer)


@on_map(SETTINGS, new=True)
def padding_mode_of_a_convolution() -> nn.Module:
    layer = nn.Conv2d(1, 1, 3, padding=2, bias=False)
    layer.weight.data.fill_(1 / 9)
    certify(layer)
    layer.padding_mode = "replicate"
    return plain(layer), (1, 4, 4)


@on_map(SETTINGS, new=True)
def mode_unknown_to_the_rule() -> nn.Module:
    layer = nn.Conv2d(1, 1, 3, padding=2, bias=False)
    layer.padding_mode = "constant"
    return plain(layer)


@on_map(SETTINGS, new=True)
def stride_of_a_pool() -> nn.Module:
    made = plain(nn.AvgPool2d(2))
    certify(made)
    made[0].stride = 1
    return made


@on_map(SETTINGS, new=True)
def divisor_of_a_pool() -> nn.Module:
    made = plain(nn.AvgPool2d(2))
    certify(made)
    made[0].divisor_override = 1
    return made


@on_map(SETTINGS, new=True)
def eps_of_a_batch_norm() -> nn.Module:
    made = plain(nn.BatchNorm2d(1))
    made[0].running_var.fill_(1e-3)
    certify(made)
    made[0].eps = -9e-4
    return made


@on_map(SETTINGS, new=True)
def training_mode_of_a_batch_norm() -> nn.Module:
    made = plain(nn.BatchNorm2d(1))
    certify(made)
    made[0].training = True
    return made


@on_map(SETTINGS, new=True)
def training_mode_of_a_dropout() -> nn.Module:
    made = plain(nn.Dropout(0.9))
    certify(made)
    made.train()
    return made


@on_map(SETTINGS, new=True)
def fourier_switched_on() -> nn.Module:
    """Not false: the same convolution by another algorithm."""
    return changed("fourier", True)


# ---- activations


class Steep(Activation):
    """Says nothing about its slopes."""

    def unit(self, t: Tensor) -> Tensor:
        return torch.tanh(3 * t)


class SteepReLU(ReLU):
    def unit(self, t: Tensor) -> Tensor:
        return 3 * torch.relu(t)


class Falling(Activation):
    slopes = (0.0, 1.0)

    def unit(self, t: Tensor) -> Tensor:
        return -t


class SteepForward(Clip):
    def forward(self, t: Tensor, sigma: Any = None) -> Tensor:
        return 3 * t


class SteepScale(Clip):
    def scale_and_shift(self, sigma: Any) -> Any:
        return -self.log_scale.exp(), self.shift


def stated_or_judged(make: Any, name: str) -> Outcome:
    """As ``judge_map``, but a bound that the certificate calls stated is held against nobody."""
    try:
        certificate = certify(make())
    except Exception as error:
        return refusal(error, honest=False, what=name)
    if getattr(certificate, "stated", ()):
        return Outcome(Verdict.STATED, "; ".join(certificate.stated), name)
    return judge_map(make, name)


@attack(ACTIVATIONS)
def slopes_inherited_from_the_base() -> Outcome:
    return stated_or_judged(lambda: flow(Steep()), "tanh(3t)")


@attack(ACTIVATIONS)
def slopes_inherited_from_relu() -> Outcome:
    return stated_or_judged(lambda: flow(SteepReLU()), "3 ReLU")


@attack(ACTIVATIONS, new=True)
def slopes_stated_for_a_falling_function() -> Outcome:
    return stated_or_judged(lambda: flow(Falling()), "−t")


@attack(ACTIVATIONS, new=True)
def forward_overridden_in_an_activation() -> Outcome:
    return stated_or_judged(lambda: flow(SteepForward(2)), "Clip with another forward")


@attack(ACTIVATIONS, new=True)
def scale_overridden_in_an_activation() -> Outcome:
    return stated_or_judged(lambda: flow(SteepScale(2)), "Clip with another λ")


@attack(ACTIVATIONS, new=True)
def slopes_as_a_property() -> Outcome:
    class Sly(Activation):
        calls = 0

        @property
        def slopes(self) -> tuple[float, float]:  # type: ignore[override]
            return (0.0, 0.1)

        def unit(self, t: Tensor) -> Tensor:
            return t

    def make() -> nn.Module:
        made = flow(Sly(), limit=1.0)
        lengthen(made)
        return made

    return stated_or_judged(make, "slopes that are understated")


@on_map(ACTIVATIONS)
def threshold_that_overflows() -> nn.Module:
    made = flow(Clip(2))
    made.activation.log_scale.data.fill_(200.0)
    return made


@on_map(ACTIVATIONS, new=True)
def threshold_that_underflows() -> nn.Module:
    made = flow(Clip(2))
    made.activation.log_scale.data.fill_(-200.0)
    return made


@on_map(ACTIVATIONS, new=True)
def threshold_of_a_noise_clip_that_overflows() -> nn.Module:
    made = net()
    made.layers[0].activation.log_scale.data.fill_(95.0)
    return made


@on_map(ACTIVATIONS, new=True)
def shift_that_is_huge() -> tuple[Any, ...]:
    made = flow(SoftThreshold(2))
    made.activation.shift.data.fill_(3e38)
    return made.double(), SHAPE, torch.float64


@on_map(ACTIVATIONS)
def softplus_in_double_precision() -> tuple[Any, ...]:
    """A small β has a large jump, far out."""
    return plain(nn.Softplus(1e-6)), (1, 1, 1), torch.float64


@attack(ACTIVATIONS, new=True)
def softplus_at_its_threshold() -> Outcome:
    layer = nn.Softplus(1.0, 20.0)
    x = torch.tensor([[20.0]], dtype=torch.float64)
    y = torch.nextafter(x, x + 1)
    return at_most(lambda: certify(layer.double()).lipschitz_upper, lambda: float((layer(y) - layer(x)).abs() / (y - x)))


@attack(ACTIVATIONS, new=True)
def softplus_with_a_large_beta_in_double() -> Outcome:
    layer = nn.Softplus(1e-3, 20.0)
    x = torch.tensor([[20000.0]], dtype=torch.float64)
    return at_most(lambda: certify(layer).lipschitz_upper, lambda: float((layer(x + 1e-9) - layer(x)).abs() / 1e-9), slack=1e-2)


@on_map(ACTIVATIONS, new=True)
def softplus_of_a_low_threshold() -> nn.Module:
    made = plain(nn.Softplus())
    made[0].threshold = 0.1
    return made


@on_map(ACTIVATIONS, new=True)
def leaky_relu_of_a_nan_slope() -> nn.Module:
    return plain(nn.LeakyReLU(math.nan))


@on_map(ACTIVATIONS, new=True)
def leaky_relu_of_a_large_negative_slope() -> nn.Module:
    return plain(nn.LeakyReLU(-4.0))


@on_map(ACTIVATIONS, new=True)
def elu_of_a_negative_alpha() -> nn.Module:
    return plain(nn.ELU(-4.0))


@on_map(ACTIVATIONS, new=True)
def hardtanh_with_exchanged_limits() -> nn.Module:
    made = plain(nn.Hardtanh())
    made[0].min_val, made[0].max_val = 1.0, -1.0
    return made


@on_map(ACTIVATIONS, new=True)
def gelu_is_unknown() -> nn.Module:
    return plain(nn.GELU())


@on_map(ACTIVATIONS, new=True)
def activation_of_torch_in_a_flow() -> nn.Module:
    made = flow()
    made.activation = nn.Sigmoid()
    return made


# ---- scope


def border(mode: str, padding: Any, kernel: Any, value: float = 1.0) -> nn.Conv2d:
    layer = nn.Conv2d(1, 1, kernel, padding=padding, padding_mode=mode, bias=False)
    layer.weight.data.fill_(value)
    return layer


def at_the_smallest_image(*layers: nn.Module, extra: tuple[int, int] = (0, 0)) -> Outcome:
    """The bound against the Jacobian on the smallest image for which the certificate speaks and the layers run."""
    made = plain(*layers).double()
    reached = [0.0]

    def claim() -> float:
        certificate = certify(made)
        (h, w), (m, n) = certificate.smallest_image, getattr(certificate, "divisible_by", (1, 1))
        for rows in range(h + extra[0], h + extra[0] + 3 * m):
            for columns in range(w + extra[1], w + extra[1] + 3 * n):
                if rows % m == columns % n == 0:
                    try:
                        reached.append(spectral_norm(jacobian(made, torch.randn(1, 1, rows, columns, dtype=torch.float64))))
                    except RuntimeError:
                        continue
        return certificate.lipschitz_upper

    return at_most(claim, lambda: max(reached), what=str(made))


@attack(SCOPE)
def border_after_a_pool() -> Outcome:
    return at_the_smallest_image(nn.AvgPool2d(2), border("reflect", (2, 0), (5, 1)))


@attack(SCOPE)
def border_after_a_valid_convolution() -> Outcome:
    return at_the_smallest_image(border("zeros", 0, (5, 5), 0.04), border("reflect", (2, 2), (5, 5), 1.0))


@attack(SCOPE, new=True)
def border_after_two_strides() -> Outcome:
    return at_the_smallest_image(nn.Conv2d(1, 1, 1, stride=2), nn.Conv2d(1, 1, 1, stride=3), border("reflect", (0, 1), (1, 3)))


@attack(SCOPE, new=True)
def border_after_an_unshuffle() -> Outcome:
    layer = nn.Conv2d(4, 1, (3, 1), padding=(1, 0), padding_mode="reflect", bias=False)
    layer.weight.data.fill_(1.0)
    return at_the_smallest_image(nn.PixelUnshuffle(2), layer)


@attack(SCOPE, new=True)
def border_before_a_pool() -> Outcome:
    return at_the_smallest_image(border("reflect", (2, 0), (5, 1)), nn.MaxPool2d(2))


@attack(SCOPE, new=True)
def replicate_after_a_pool() -> Outcome:
    return at_the_smallest_image(nn.MaxPool2d(4), border("replicate", (3, 3), (7, 7)))


@attack(SCOPE, new=True)
def reflect_with_large_padding_on_both_sides() -> Outcome:
    return at_the_smallest_image(border("reflect", (3, 0), (2, 1)))


@attack(SCOPE, new=True)
def circular_stride_after_a_stride() -> Outcome:
    second = nn.Conv2d(1, 1, 3, stride=2, padding=1, padding_mode="circular", bias=False)
    second.weight.data.fill_(1.0)
    return at_the_smallest_image(nn.Conv2d(1, 1, 1, stride=2, bias=False), second)


@attack(SCOPE, new=True)
def circular_stride_with_sides_that_do_not_divide() -> Outcome:
    layer = nn.Conv2d(1, 1, 3, stride=2, padding=1, padding_mode="circular", bias=False)
    layer.weight.data.copy_(torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]]))
    return at_the_smallest_image(layer)


@attack(SCOPE, new=True)
def border_after_a_transposed_convolution() -> Outcome:
    return at_the_smallest_image(nn.ConvTranspose2d(1, 1, 3, padding=2, bias=False), border("reflect", (2, 2), (5, 5)))


@attack(SCOPE, new=True)
def border_after_a_ceiling_pool() -> Outcome:
    return at_the_smallest_image(nn.MaxPool2d(3, ceil_mode=True), border("reflect", (1, 1), (3, 3)))


@attack(SCOPE, new=True)
def asymmetric_same_padding() -> Outcome:
    layer = nn.Conv2d(1, 1, (4, 2), padding="same", padding_mode="reflect", bias=False)
    layer.weight.data.fill_(1.0)
    return at_the_smallest_image(layer)


@attack(SCOPE, new=True)
def border_inside_dncnn() -> Outcome:
    made = DnCNN(in_channels=1, out_channels=1, depth=3, nf=2, bias=False, pretrained=None)
    for conv in (made.in_conv, *made.conv_list, made.out_conv):
        conv.padding_mode = "replicate"
        conv.weight.data.fill_(1 / 9)
    return judge_map(lambda: made.eval().requires_grad_(False), "DnCNN with replicate padding")


@attack(SCOPE, new=True)
def sizes_hidden_in_an_inner_sequence() -> Outcome:
    return at_the_smallest_image(nn.Sequential(nn.MaxPool2d(2)), nn.Sequential(nn.Sequential(border("reflect", (2, 2), (5, 5)))))


# ---- numbers


@on_map(NUMBERS, new=True)
def nan_weight() -> nn.Module:
    return written(lambda layer: layer.weight[0, 0, 0].fill_(math.nan))


@on_map(NUMBERS, new=True)
def infinite_step() -> nn.Module:
    return written(lambda layer: layer.tau.fill_(math.inf))


@on_map(NUMBERS, new=True)
def nan_bias_outside_of_the_state() -> nn.Module:
    made = flow()
    made.bias = None
    made.__dict__["bias"] = torch.full((2,), math.nan)
    return made


@on_map(NUMBERS, new=True)
def nan_threshold() -> nn.Module:
    made = net()
    made.layers[0].activation.log_scale.data[0] = math.nan
    return made


@on_map(NUMBERS, new=True)
def complex_weights() -> tuple[Any, ...]:
    layer = nn.Conv2d(1, 1, 1, bias=False, dtype=torch.complex64)
    layer.weight.data.fill_(0.5 + 3j)
    return plain(layer), (1, 4, 4), torch.complex64


@on_map(NUMBERS, new=True)
def weights_on_no_device() -> nn.Module:
    return GradientFlowDenoiser(hidden_channels=2, kernel_size=3, dilations=(1,)).to("meta")


@on_map(NUMBERS, new=True)
def half_precision() -> tuple[Any, ...]:
    return net().half(), (1, 3, 3), torch.float16


@on_map(NUMBERS, new=True)
def integer_weights() -> nn.Module:
    made = net()
    made.layers[0].weight = nn.Parameter(torch.ones(3, 1, 3, 3, dtype=torch.int64), requires_grad=False)
    return made


@on_map(NUMBERS, new=True)
def weights_near_the_end_of_the_range() -> tuple[Any, ...]:
    layer = nn.Conv2d(1, 1, 3, bias=False)
    layer.weight.data.fill_(3e38)
    return plain(layer, nn.Conv2d(1, 1, 1, bias=False)).double(), (1, 6, 6), torch.float64


@on_map(NUMBERS, new=True)
def step_tiny_and_weight_huge() -> nn.Module:
    made = flow()
    made.weight.data.mul_(1e18)
    made.tau.data.copy_(made.tau.double() * 4e-36)
    return made


@on_map(NUMBERS, new=True)
def negative_step() -> nn.Module:
    return written(lambda layer: layer.tau.neg_())


@on_map(NUMBERS, new=True)
def expanded_weight() -> nn.Module:
    layer = nn.Conv2d(1, 3, 1, bias=False)
    layer.weight = nn.Parameter(torch.ones(1, 1, 1, 1).expand(3, 1, 1, 1), requires_grad=False)
    return plain(layer)


@on_map(NUMBERS, new=True)
def weight_of_another_memory_order() -> nn.Module:
    layer = nn.Conv2d(2, 3, 3, bias=False)
    layer.weight.data = layer.weight.data.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    return plain(layer), (2, 6, 6)


@on_map(NUMBERS, new=True)
def sparse_weight() -> nn.Module:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter((3 * torch.eye(4)).to_sparse(), requires_grad=False)
    return plain(layer), (4,)


@on_map(NUMBERS, new=True)
def empty_convolution() -> nn.Module:
    layer = nn.Conv2d(1, 1, 3)
    layer.weight.data = torch.zeros(1, 1, 0, 0)
    return plain(layer)


@attack(NUMBERS, new=True)
def flushed_denormals() -> Outcome:
    torch.set_flush_denormal(True)
    return judge_map(net, "flushed denormals")


@attack(NUMBERS, new=True)
def default_dtype_of_half() -> Outcome:
    torch.set_default_dtype(torch.float16)
    return judge_map(lambda: (flow().double(), SHAPE, torch.float64), "default half")


@attack(NUMBERS, new=True)
def rounding_claimed_in_bfloat16() -> Outcome:
    """What bfloat16 executes against the rounding that a certificate of float32 weights states."""
    made, x, s = net(), torch.rand(1, 1, 8, 8), torch.tensor([0.1])
    exact = copy.deepcopy(made).double()(x.double(), s.double())
    off = (made.bfloat16()(x.bfloat16(), s.bfloat16()).double() - exact).norm() / 8
    return at_most(lambda: certify(made).rounding or math.inf, lambda: float(off))


@attack(NUMBERS, new=True)
def rounding_with_a_huge_threshold() -> Outcome:
    """λ = exp(60) s: the weights are divided by it, and multiplied again."""
    made = net()
    for layer in made.layers:
        layer.activation.log_scale.data.fill_(85.0)
    x, s = torch.rand(1, 1, 8, 8), torch.tensor([0.1])
    off = (made(x, s).double() - copy.deepcopy(made).double()(x.double(), s.double())).norm() / 8
    return at_most(lambda: certify(made).rounding or math.inf, lambda: float(off))


@attack(NUMBERS, new=True)
def rounding_where_a_part_has_another_dtype() -> Outcome:
    made = net()
    made.layers[0].activation.half()
    return at_most(lambda: certify(made).rounding or math.inf, lambda: 0.0)


@attack(NUMBERS, new=True)
def firm_of_a_changed_denoiser() -> Outcome:
    made = net()
    made.layers[0].weight.data.mul_(3)
    return judge_map(lambda: firm(made), "firm")


@attack(NUMBERS, new=True)
def rule_of_ones_own_that_lies() -> Outcome:
    """Stated by the user, and the certificate says so."""
    from fractions import Fraction

    from pnp_lip.certificates import MapBound, Proof

    class Mine(nn.Module):
        def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
            return 3 * x

    rule(Mine)(lambda module, path, rtol: Proof(MapBound(Fraction(1), None)))
    return stated_or_judged(Mine, "a rule of one's own")


@attack(NUMBERS, new=True)
def rule_replaced_for_a_layer_of_ours() -> Outcome:
    """A rule registered anew for a type that has one."""
    from fractions import Fraction

    from pnp_lip.certificates import MapBound, Proof
    from pnp_lip.certificates.certify import RULES

    old = RULES[nn.ReLU6]
    try:
        rule(nn.ReLU6)(lambda module, path, rtol: Proof(MapBound(Fraction(1, 9), None)))
        return stated_or_judged(lambda: plain(nn.ReLU6()), "ReLU6 by another rule")
    finally:
        RULES[nn.ReLU6] = old


# ---- universal networks


def universal(**options: Any) -> UnboundedWidthNetwork:
    torch.manual_seed(3)
    return seal(UnboundedWidthNetwork(2, width=4, depth=2, **{"out_features": 3, **options})).requires_grad_(False)


def class_changes(network: Any, claimed: Any) -> Outcome:
    """The radius claimed around some inputs against the distance of a class that is found by search."""
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(5))

    def nearest() -> float:
        angles = torch.linspace(0, 2 * math.pi, 61)
        ways = torch.stack([angles.cos(), angles.sin()], 1)
        found = math.inf
        for point, radius in zip(x, made[0], strict=True):
            near = point + 0.999 * float(radius.clamp(max=1e6)) * ways
            ring = torch.cat([near, point + 0.5 * float(radius.clamp(max=1e6)) * ways])
            if bool((label(network, ring) != label(network, point[None])).any()):
                found = 0.999
        return found

    made: list[Tensor] = []

    def claim() -> float:
        made.append(claimed(network, x))
        return 1.0

    try:
        claim()
    except Exception as error:
        return refusal(error, honest=False)
    distance = nearest()
    return Outcome(Verdict.FALSE_PASS if distance < 1 else Verdict.TRUE, "no change of class inside of the radius", distance)


def label(network: Any, x: Tensor) -> Tensor:
    out = network(x)
    return out.argmax(1) if out.shape[1] > 1 else out[:, 0] > 0


class Hot(UnboundedWidthNetwork):
    """A temperature, which changes margins and no class."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * super().forward(x)


class HotReadout(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 20 * super().forward(x)


@attack(THEORY)
def temperature_in_a_subclass() -> Outcome:
    torch.manual_seed(3)
    return class_changes(seal(Hot(2, width=4, depth=2, out_features=3)).requires_grad_(False), certified_radius)


@attack(THEORY, new=True)
def temperature_in_the_readout() -> Outcome:
    network = universal()
    network.readout.__class__ = HotReadout
    return class_changes(network, certified_radius)


@attack(THEORY, new=True)
def temperature_patched_in() -> Outcome:
    network = universal()
    old = network.readout.forward
    network.readout.forward = lambda x: 20 * old(x)
    return class_changes(network, certified_radius)


@attack(THEORY, new=True)
def temperature_in_a_hook() -> Outcome:
    network = universal()
    network.layers[1].register_forward_hook(lambda mod, args, out: 20 * out)
    return class_changes(network, certified_radius)


@attack(THEORY, new=True)
def temperature_in_a_global_hook() -> Outcome:
    network = universal()
    handle = nn.modules.module.register_module_forward_hook(lambda mod, args, out: 20 * out if mod is network.readout else None)
    try:
        return class_changes(network, certified_radius)
    finally:
        handle.remove()


@attack(THEORY, new=True)
def temperature_in_the_class() -> Outcome:
    old = GradientFlowLinear.forward
    with patched(GradientFlowLinear, "forward", lambda self, x, sigma=None: 5 * old(self, x, sigma)):
        return class_changes(universal(), certified_radius)


@attack(THEORY, new=True)
def activation_of_ones_own_in_a_universal_network() -> Outcome:
    network = universal()
    network.layers[0].activation = SteepReLU()
    network.layers[1].activation = Falling()
    return class_changes(network, certified_radius)


def outputs(network: Any) -> Outcome:
    x = images((2,))
    return at_most(
        lambda: max(output_lipschitz_upper(network)),
        lambda: max(ratio_reached(lambda v, k=k: network(v)[:, k : k + 1], x) for k in range(3)), slack=2e-3,
    )  # fmt: skip


@attack(THEORY)
def outputs_of_a_subclass() -> Outcome:
    torch.manual_seed(3)
    return outputs(seal(Hot(2, width=4, depth=2, out_features=3)).requires_grad_(False))


@attack(THEORY, new=True)
def outputs_with_a_readout_exchanged() -> Outcome:
    network = universal()
    network.readout = HotReadout(4, 3, bias=False)
    return outputs(network)


@attack(THEORY, new=True)
def outputs_after_a_write() -> Outcome:
    network = universal()
    output_lipschitz_upper(network)
    network.readout.weight.data.mul_(20)
    return outputs(network)


@attack(THEORY, new=True)
def outputs_with_a_longer_list_of_layers() -> Outcome:
    network = universal()
    network.layers.append(GradientFlowLinear(4))
    network.layers[2].tau.data.fill_(30.0)
    return outputs(network)


@attack(THEORY, new=True)
def list_of_layers_that_iterates_otherwise() -> Outcome:
    class Sly(nn.ModuleList):
        def __iter__(self) -> Any:
            import sys

            inside = "networks" in sys._getframe(1).f_code.co_filename
            return iter([HotReadout(4, 4).requires_grad_(False)]) if inside else super().__iter__()

    network = universal()
    network.layers = Sly(network.layers)
    return outputs(network)


@attack(THEORY, new=True)
def fixed_width_with_an_affine_exchanged() -> Outcome:
    torch.manual_seed(3)
    network = seal(FixedWidthNetwork(2, depth=2, out_features=3)).requires_grad_(False)

    class Louder(type(network.affines[0])):  # type: ignore[misc]
        def forward(self, z: Tensor) -> Tensor:
            return 9 * super().forward(z)

    network.affines[0].__class__ = Louder
    return outputs(network)


@attack(THEORY, new=True)
def fixed_width_sorter_patched() -> Outcome:
    torch.manual_seed(3)
    network = seal(FixedWidthNetwork(2, depth=2, out_features=3)).requires_grad_(False)
    network.layers[0].forward = lambda z: 9 * z
    return outputs(network)


@attack(THEORY, new=True)
def certificate_of_a_subclass_of_a_universal_network() -> Outcome:
    torch.manual_seed(3)
    return judge_map(lambda: (seal(Hot(2, width=4, depth=2, out_features=3)).requires_grad_(False), (2,)), "Hot")
