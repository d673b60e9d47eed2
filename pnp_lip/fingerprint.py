"""What decides what a module computes: its code, settings and tensors. Proofs are kept under this, outside of the module."""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from pnp_lip.errors import CertificateError

__all__ = ["fingerprint", "hash_tensor", "recognise", "require_unmodified"]

CODE: dict[type, dict[str, object]] = {}  # what the classes of which something is proved held when their rules were registered
OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")  # read by name, not as settings


def recognise(*kinds: type) -> None:
    """Record the code of these classes and of their bases: ``require_unmodified`` refuses what is patched afterwards."""
    for kind in (base for one in kinds for base in one.__mro__ if base is not object):
        CODE.setdefault(kind, dict(vars(kind)))


def require_unmodified(module: nn.Module) -> None:
    """Raise CertificateError unless every part computes what its class says.

    Refused: a method or an attribute of the class that an instance or a later patch replaces by another callable, tensors or
    parts that an attribute hides, tensors of a class of their own, forward hooks, also torch's global ones, and parametrised
    weights, which may change from call to call.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise CertificateError("torch has global forward hooks, which may change every map; remove them.")
    for path, part in module.named_modules():
        where = f"`{path}`" if path else f"the {type(part).__name__} itself"
        held = (part._parameters, part._buffers, part._modules, part._forward_hooks, part._forward_pre_hooks)
        if any(type(each) not in (dict, OrderedDict) for each in held):
            raise CertificateError(f"{where} holds parts or hooks in a dictionary of a class of its own; use plain ones.")
        if part._forward_hooks or part._forward_pre_hooks:
            raise CertificateError(f"{where} has forward hooks; remove what changes the map.")
        if parametrize.is_parametrized(part):
            raise CertificateError(f"{where} has parametrised weights; make them plain with pnp_lip.layers.release(module).")
        registered = {**part._parameters, **part._buffers, **part._modules}
        for name, value in vars(part).items():
            hides = name in registered or (callable(value) and hasattr(type(part), name))
            if hides or isinstance(value, nn.Module):
                raise CertificateError(f"{where} has a replaced `{name}`; remove what changes the map.")
        for name, value in registered.items():
            if isinstance(value, Tensor) and type(value) not in (Tensor, nn.Parameter):
                raise CertificateError(f"{where} holds `{name}` as a {type(value).__name__}; plain tensors are covered.")
    for kind in {kind for part in module.modules() for kind in type(part).__mro__ if kind in CODE}:
        now, then = vars(kind), CODE[kind]
        names = {**then, **now}.keys() - {"__annotations__"}  # which Python makes when somebody reads it
        changed = [name for name in sorted(names) if then.get(name) is not now.get(name)]
        if changed:
            raise CertificateError(f"`{kind.__qualname__}.{changed[0]}` was replaced after its import; undo that.")


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
    if isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device | type(None)):
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
