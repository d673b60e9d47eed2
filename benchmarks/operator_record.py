"""One measurement of an operator, and how times and memory are taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Record", "megabytes", "milliseconds", "record"]

Record = dict[str, Any]


def record(
    case: str, quantity: str, value: float, *, at_least: float | None = None, at_most: float | None = None
) -> Record:
    """One measurement against its bar."""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {"case": case, "quantity": quantity, "value": value, "at_least": at_least, "at_most": at_most, "met": met}


def milliseconds(function: Callable[[], Any], repeats: int) -> float:
    """Median CPU time of a call after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def megabytes(module: torch.nn.Module) -> float:
    """All tensors that a module holds, buffers and plain attributes of its parts alike."""
    seen: dict[int, int] = {}
    for part in module.modules():
        for value in [*part._buffers.values(), *vars(part).values()]:
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, Tensor):
                    seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values()) / 1e6
