"""Checkpoints: the whole state of a run in one file, replaced atomically, so that a killed run goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically

__all__ = ["Checkpoint", "fingerprint"]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file that receives the state every ``every`` iterations and at the end.

    When the file exists, ``solve`` goes on from it, provided that it belongs to the same data, start, denoiser weights
    and settings (``tol`` and ``max_iter`` may differ, so that a finished run can be continued). An interrupted run ends at
    the same result, bit for bit on the same machine. Raises InputError for a file of another run or an unreadable one.
    """

    path: str | Path
    every: int = 25

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"`every` must be at least 1; got {self.every}.")
        if Path(self.path).is_dir():
            raise InputError(f"the checkpoint {self.path} is a directory; name a file.")

    def load(self, mark: str) -> dict[str, Any] | None:
        """The stored state, or None when there is no file yet."""
        path = Path(self.path)
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
            stored = state["fingerprint"]
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a checkpoint of this package ({error}); remove it to start anew."
            ) from error
        except Exception as error:  # the unpickler's own error class is not public
            raise InputError(f"{path} could not be read as a checkpoint ({error}); remove it to start anew.") from error
        if stored != mark:
            raise InputError(
                f"{path} belongs to another run (other data, start, denoiser or settings); name another file or remove it."
            )
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file in one atomic step."""
        with write_atomically(self.path) as temporary:
            torch.save(state, temporary)


def fingerprint(settings: dict[str, Any], tensors: tuple[Tensor, ...], denoiser: Any) -> str:
    """A hash of everything that decides where the iteration goes."""
    digest = hashlib.sha256()
    kept = {k: v for k, v in settings.items() if k not in ("tol", "max_iter", "guarantee")}
    digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    weights = list(denoiser.state_dict().values()) if isinstance(denoiser, torch.nn.Module) else []
    for tensor in (*tensors, *weights):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    return digest.hexdigest()
