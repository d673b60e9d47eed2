"""Telling whether tensors have changed since something was computed from them and kept."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["Snapshot", "lasting"]


class Snapshot:
    """These tensors in the state in which they are now: another tensor in a place, or a write to one, is a change.

    Writes through ``tensor.data`` leave no trace and are not seen.

    >>> weight = torch.zeros(2)
    >>> before = Snapshot([weight])
    >>> before.holds([weight]), before.holds([weight.clone()]), before.holds([weight.add_(1)])
    (True, False, False)
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # Tensors of inference mode do not count their writes, and can hardly be written to.
        self.seen = [(t, 0 if t.is_inference() else t._version) for t in tensors]

    def holds(self, tensors: Iterable[Tensor]) -> bool:
        """Whether these are the same tensors, unchanged."""
        then, now = ([(id(t), count) for t, count in seen] for seen in (self.seen, Snapshot(tensors).seen))
        return then == now


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Outside of inference mode and without gradients: what is computed here may be kept for later calls of any mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield
