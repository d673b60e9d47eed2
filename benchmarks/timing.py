"""How times and memory are taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["megabytes", "milliseconds_side_by_side", "timed"]

T = TypeVar("T")


def timed(work: Callable[[], T], digits: int = 4) -> tuple[T, dict[str, float]]:
    """A result, and the seconds it took of the processor and of the clock, with so many ``digits`` after the point."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    used, passed = time.process_time() - cpu, time.perf_counter() - wall
    return result, {"cpu_seconds": round(used, digits), "seconds": round(passed, digits)}


def milliseconds_side_by_side(
    functions: Sequence[Callable[[], object]], repeats: Sequence[int], rounds: int = 3
) -> list[float]:
    """Median CPU times of several functions, timed in turns so that the machine's other work falls on all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, count, collected in zip(functions, repeats, times, strict=True):
            function()  # the warm-up
            collected += [timed(function, 9)[1]["cpu_seconds"] for _ in range(-(-count // rounds))]
    return [1e3 * float(np.median(collected)) for collected in times]


def megabytes(module: torch.nn.Module) -> float:
    """All tensors that a module holds, buffers and plain attributes of its parts alike."""
    seen: dict[int, int] = {}
    for part in module.modules():
        for value in [*part._buffers.values(), *vars(part).values()]:
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, Tensor):
                    seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values()) / 1e6
