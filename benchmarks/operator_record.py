"""One measurement of an operator, and how times and memory are taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Record", "megabytes", "milliseconds_side_by_side", "record"]

Record = dict[str, Any]


def record(
    case: str, quantity: str, value: float, *, at_least: float | None = None, at_most: float | None = None
) -> Record:
    """One measurement against its bar."""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {"case": case, "quantity": quantity, "value": value, "at_least": at_least, "at_most": at_most, "met": met}


def milliseconds_side_by_side(functions: list[Callable[[], Any]], repeats: list[int], rounds: int = 3) -> list[float]:
    """Median CPU times of several functions, timed in turns so that the machine's other work falls on all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, count, collected in zip(functions, repeats, times, strict=True):
            collected += cpu_times(function, -(-count // rounds))
    return [1e3 * float(np.median(collected)) for collected in times]


def cpu_times(function: Callable[[], Any], repeats: int) -> list[float]:
    """CPU seconds of each call after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return times


def megabytes(module: torch.nn.Module) -> float:
    """All tensors that a module holds, buffers and plain attributes of its parts alike."""
    seen: dict[int, int] = {}
    for part in module.modules():
        for value in [*part._buffers.values(), *vars(part).values()]:
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, Tensor):
                    seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values()) / 1e6
