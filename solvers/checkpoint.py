"""Checkpoints: the whole state of a run in one file, replaced atomically, so that a killed run goes on where it was."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.solvers.maps import Maps

__all__ = ["Checkpoint", "Origin", "origin_of", "require"]

FREE = ("tol",)  # what may differ between a run and its continuation


class Origin(TypedDict):
    """Where a run comes from, see ``origin_of``."""

    chosen: str
    derived: dict[str, float]
    images: list[Tensor]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file that receives the state every ``every`` iterations and at the end.

    When the file exists, ``solve`` goes on from it, provided that it belongs to the same data, forward model, start, denoiser
    and settings (``tol`` and ``max_iter`` may differ, so that a finished run can be continued). An interrupted run ends at
    the same result: bit for bit on the same machine with the same number of threads, to rounding elsewhere. What a file
    says is not believed: T is applied once more, and an image counts as converged only by that. Raises InputError for a
    file of another run, an unreadable one, or one that holds what no run of this solver does.
    """

    path: str | Path
    every: int = 25

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"`every` must be at least 1; got {self.every}.")
        if Path(self.path).is_dir():
            raise InputError(f"the checkpoint {self.path} is a directory; name a file.")

    def load(self, origin: Origin) -> dict[str, Any] | None:
        """The stored state, or None when there is no file yet."""
        path = Path(self.path)
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location=origin["images"][0].device)
            same = agree(state["origin"], origin)
        except Exception as error:  # of whatever class: the unpickler's own is not public
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{path} is not a checkpoint of this package ({reason}); remove it to start anew.") from error
        if not same:
            what = "other data, forward model, start, denoiser or settings"
            raise InputError(f"{path} belongs to another run ({what}); name another file or remove it.")
        return state

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn any exception inside into an InputError that names the file."""
        try:
            yield
        except Exception as error:  # of whatever class: whoever changed the file chose it
            reason = f"{error or type(error).__name__}"
            raise InputError(f"{self.path} cannot be the state of this run ({reason}); remove it to start anew.") from error

    def save(self, state: Mapping[str, object]) -> None:
        """Replace the file in one atomic step."""
        with write_atomically(self.path) as temporary:
            torch.save(dict(state), temporary)


def require(met: bool, what: str) -> None:
    """Raise InputError with what is wrong, unless ``met``."""
    if not met:
        raise InputError(what)


def origin_of(
    chosen: Mapping[str, object], maps: Maps, x0: Tensor | None, start: Tensor, settings: Mapping[str, object]
) -> Origin:
    """Where a run comes from: what the user chose, hashed, and what follows from it, to be compared to rounding.

    ``chosen`` are the solver's fields by name. Derived numbers (the start, the step, bounds of norms) carry the rounding of
    the machine and of its number of threads. Operators and denoisers are also known by what they make of one image, because
    not all that they depend on has a name that could be hashed: an operator's parameters, a denoiser's settings.
    """
    term, net = maps.data_term, chosen["denoiser"]
    numbers = [plain(chosen), repr(chosen["scheme"]), type(term).__name__, plain(vars(term))]
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    weights = list(net.state_dict().values()) if isinstance(net, torch.nn.Module) else []
    chosen_tensors = [value for value in (x0, maps.sigma, *vars(term).values()) if isinstance(value, Tensor)]
    for tensor in (maps.y, *chosen_tensors, *weights):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    derived = {name: value for name, value in plain(settings).items() if isinstance(value, float)}
    noise = torch.rand(start.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = (2 * noise - 0.5).to(start)  # also outside of [0, 1], where a range shows
    return {"chosen": digest.hexdigest(), "derived": derived, "images": [start, maps.physics.A(probe), maps.D(probe)]}


def plain(values: Mapping[str, object]) -> dict[str, object]:
    """Those of the values that are numbers, text or tuples of them, less what a continued run may change."""
    kinds = (bool, int, float, str, tuple, type(None))
    return {name: value for name, value in values.items() if isinstance(value, kinds) and name not in FREE}


def agree(stored: Origin, mine: Origin) -> bool:
    """Whether two runs come from the same inputs, up to half of the digits in what was derived from them."""
    if stored["chosen"] != mine["chosen"] or stored["derived"].keys() != mine["derived"].keys():
        return False
    pairs = [(a, b.to(a.device)) for a, b in zip(stored["images"], mine["images"], strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        return False
    tolerance = math.sqrt(torch.finfo(pairs[0][0].dtype).eps)
    near = (math.isclose(value, mine["derived"][name], rel_tol=tolerance) for name, value in stored["derived"].items())
    return all(near) and all(float((a - b).norm()) <= tolerance * float(a.norm()) for a, b in pairs)
