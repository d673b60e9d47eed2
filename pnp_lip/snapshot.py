"""Telling whether tensors have changed since something was computed from them and kept."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["Snapshot", "lasting"]

MOST_COMPARED = 2**14  # entries up to which the values themselves are compared, in 3 µs on a CPU


class Snapshot:
    """These tensors in the state in which they are now: another tensor in a place, or a write to one, is a change.

    Small tensors in the machine's memory, and those of inference mode, which do not count their writes, are compared by
    value. Writes to others through ``tensor.data`` or in inference mode leave no trace: proofs compare fingerprints.

    >>> weight = torch.zeros(2)
    >>> before = Snapshot([weight])
    >>> before.holds([weight]), before.holds([weight.clone()]), before.holds([weight.data.add_(1)]), before.holds([weight])
    (True, False, False, False)
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        with lasting():
            self.seen = [(t, version(t), t.detach().clone() if by_value(t) else None) for t in tensors]

    def holds(self, tensors: Iterable[Tensor]) -> bool:
        """Whether these are the same tensors, unchanged."""
        now = list(tensors)
        return len(now) == len(self.seen) and all(
            t is then and version(t) == count and (values is None or torch.equal(t, values))
            for t, (then, count, values) in zip(now, self.seen, strict=True)
        )


def version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def by_value(tensor: Tensor) -> bool:
    return tensor.is_inference() or (tensor.device.type == "cpu" and tensor.numel() <= MOST_COMPARED)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Outside of inference mode and without gradients: what is computed here may be kept for later calls of any mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield
