"""What decides what a module computes: its code, settings and tensors. Proofs are kept under this, outside of the module."""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from types import FunctionType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from pnp_lip.errors import CertificateError

__all__ = [
    "Rules",
    "fingerprint",
    "hash_tensor",
    "is_plain",
    "recognise",
    "recognised",
    "replaced",
    "require_unmodified",
    "trace",
]

# What the classes of which something is proved held when their rules were registered.
CODE: dict[type, dict[str, tuple[object, ...]]] = {}
OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")  # read by name, not as settings
LISTS = (*OWN[:3], "_forward_hooks", "_forward_pre_hooks")  # a module's dictionaries that its call reads
LAZY = "__annotations__"  # which Python makes when somebody reads it
# Of Module: torch.compile writes them, and calls do not read them.
COMPILING = ("__init__", "__setstate__", "___needs_generation_tag_patch")
R = TypeVar("R", bound=Hashable)
PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(None))


def recognise(*kinds: type) -> None:
    """Record the code of these classes and of their bases: ``replaced`` finds what is patched afterwards."""
    for kind in (base for one in kinds for base in one.__mro__ if base is not object):
        CODE.setdefault(kind, {name: (value, *inside(value)) for name, value in vars(kind).items() if name != LAZY})


class Rules(dict[type, R]):
    """Rules for exact types. ``own`` are the pairs of type and rule for which this package vouches, and no user has to."""

    def __init__(self) -> None:
        super().__init__()
        self.own: set[tuple[type, R]] = set()

    def add(self, kinds: Iterable[type], rule: R, *, own: bool = False) -> None:
        """Register the rule for these types, whose code is then on record."""
        pairs = [(kind, rule) for kind in kinds]
        recognise(*dict(pairs))
        self.update(pairs)
        self.own.update(pairs if own else ())

    def vouched(self, kind: type) -> bool:
        """Whether this package vouches for the rule of a type that has one."""
        return (kind, self[kind]) in self.own


def recognised(value: object) -> bool:
    """Whether the code of the value's exact type is on record."""
    return type(value) in CODE


def replaced(value: object) -> str | None:
    """Which method the value, or which entry of a recognised class a later patch, replaces; None if there is none."""
    return next(filter(None, (hidden(value), *map(patched, type(value).__mro__))), None)


def hidden(value: object) -> str | None:
    """Which callable of its class an attribute of the value hides."""
    return next((name for name, held in vars(value).items() if callable(held) and hasattr(type(value), name)), None)


def patched(kind: type) -> str | None:
    """Which entry of a recognised class is another than when it was recognised, or a function with other code or defaults."""
    now, then, free = vars(kind), CODE.get(kind), (LAZY, *COMPILING) if kind is nn.Module else (LAZY,)
    if then is None:
        return None
    for name, (value, *parts) in then.items():
        if name in free:
            continue
        if now.get(name, CODE) is not value or (parts and any(a is not b for a, b in zip(inside(value), parts, strict=True))):
            return f"{kind.__qualname__}.{name}"
    added = next((name for name in now if name not in then and name not in free), None)
    return None if added is None else f"{kind.__qualname__}.{added}"


def inside(function: object) -> tuple[object, ...]:
    """What may be exchanged inside a function of Python; nothing for other values."""
    return (function.__code__, function.__defaults__, function.__kwdefaults__) if isinstance(function, FunctionType) else ()


def require_unmodified(module: nn.Module) -> None:
    """Raise CertificateError unless every part computes what its class says.

    Refused: a method or an attribute of the class that an instance or a later patch replaces, tensors or parts that an
    attribute hides, tensors and dictionaries of a class of their own, forward hooks, also torch's global ones, modes that
    change torch's functions, and parametrised weights, which may change from call to call.
    """
    modes = [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]  # type: ignore[no-untyped-call]
    if any(type(mode) is not DeviceContext for mode in modes):
        raise CertificateError("a torch mode is active, which may change every function; leave it.")
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise CertificateError("torch has global forward hooks, which may change every map; remove them.")
    for path, part in module.named_modules():
        where = f"`{path}`" if path else f"the {type(part).__name__} itself"
        if not all(type(held) in (dict, OrderedDict) for held in (vars(part), *(vars(part).get(name) for name in LISTS))):
            raise CertificateError(f"{where} keeps its parts in a dictionary of a class of its own; build the module anew.")
        if part._forward_hooks or part._forward_pre_hooks:
            raise CertificateError(f"{where} has forward hooks; remove what changes the map.")
        if parametrize.is_parametrized(part):
            raise CertificateError(f"{where} has parametrised weights; make them plain with pnp_lip.layers.release(module).")
        for name, held in vars(part).items():
            if isinstance(held, str | int | float) and not is_plain(held):
                raise CertificateError(f"{where} has a `{name}` of the class {type(held).__name__}; give a plain number or text.")
        registered = {**part._parameters, **part._buffers, **part._modules}
        loose = (name for name, held in vars(part).items() if name in registered or isinstance(held, nn.Module))
        if (name := hidden(part) or next(loose, None)) is not None:
            raise CertificateError(f"{where} has a replaced `{name}`; undo what changes the map.")
        for name, value in registered.items():
            plain = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided and not value.is_meta
            if isinstance(value, Tensor) and not plain:
                given = f"{type(value).__name__} ({value.layout}, {value.device})"
                raise CertificateError(f"{where} holds `{name}` as a {given}; plain dense tensors are covered.")
    for kind in {base for part in module.modules() for base in type(part).__mro__}:
        if (name := patched(kind)) is not None:
            raise CertificateError(f"a class has a replaced `{name}`; undo what changes the map.")


def is_plain(value: object) -> bool:
    """Whether a value is of one of Python's own immutable classes, or a number of numpy's."""
    return type(value) in PLAIN or isinstance(value, np.generic)


def fingerprint(module: nn.Module) -> tuple[Hashable, ...]:
    """All that decides what ``module`` computes: of each part the type, every attribute, every tensor by its SHA-256.

    Tensors count wherever they are: parameters, all buffers, plain attributes, lists of them. Equal fingerprints mean the
    same map, as long as ``require_unmodified`` passes.
    """
    found: list[Hashable] = []
    for path, part in module.named_modules(remove_duplicate=False):
        tensors = {**part._parameters, **part._buffers}
        rest = {k: value for k, value in vars(part).items() if k not in OWN and not (isinstance(value, Mapping) and not value)}
        found.append((path, type(part), trace(tensors), trace(rest)))
    return tuple(found)


def trace(value: object, outer: tuple[int, ...] = ()) -> Hashable:
    """A setting as something that can be compared: contents where they are known, otherwise the very object."""
    if isinstance(value, Tensor):
        return hash_tensor(value)
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
    if is_plain(value):
        return (type(value).__name__, repr(value))
    if id(value) in outer:  # it holds itself
        return (type(value).__qualname__, id(value))
    within = (*outer, id(value))
    if isinstance(value, Mapping):
        return tuple((str(name), trace(item, within)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return (type(value).__name__, *(trace(item, within) for item in value))
    if isinstance(value, set | frozenset):
        return (type(value).__name__, frozenset(trace(item, within) for item in value))
    if hasattr(value, "__dict__") and (isinstance(value, nn.Module) or not callable(value)):
        return (type(value), dataclasses.is_dataclass(value) or id(value), trace(vars(value), within))
    return (type(value).__qualname__, id(value))


def hash_tensor(tensor: Tensor) -> str:
    """The SHA-256 of a tensor: its dtype, its shape and its bytes."""
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{str(data.dtype).removeprefix('torch.')} {tuple(data.shape)} ".encode())
    digest.update(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    return digest.hexdigest()
