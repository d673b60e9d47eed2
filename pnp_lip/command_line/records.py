"""Which files a command may write: never an input nor a file of somebody else; and which results are finished already."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pnp_lip.errors import InputError
from pnp_lip.version import __version__

__all__ = ["claim", "record_of", "request_of", "sha256_of_file", "wrote"]

SETTINGS = ("psf", "noise", "range", "denoiser", "rounds", "strength", "padding", "step", "tol", "max_iter", "tile", "device")


def claim(outputs: Sequence[Path], inputs: Sequence[str | None] = (), *, force: bool = False, record: Path | None = None) -> None:
    """Raise InputError where an output would replace an input, or, without ``force``, a file that no command wrote.

    A command wrote an image if the record beside it, of the same name with the suffix .json, or result.json, has its SHA-256,
    or the ``record`` of what is now to be written.
    """
    given = [Path(path) for path in inputs if path is not None and Path(path).exists()]
    for path in (path for path in outputs if path.exists()):
        if any(path.samefile(other) for other in given):
            raise InputError(f"{path} would replace the image itself or another input; name another file.")
        if not force and not wrote(path, record):
            raise InputError(f"{path} exists, and pnp-lip did not write it; name another file, or pass --force.")


def wrote(path: Path, record: Path | None = None) -> bool:
    """Whether a command wrote this file and nobody has changed it."""
    if path.suffix == ".json":  # a record, or a certificate
        return "pnp_lip" in (held := record_of(path)) or {"schema", "weights", "rounding"} <= held.keys()
    records = [path.with_suffix(".json"), path.with_name("result.json"), *([] if record is None else [record])]
    hashes = [record_of(place).get("written", {}).get(path.name) for place in records]
    return path.is_file() and sha256_of_file(path) in hashes


def record_of(path: Path) -> dict[str, dict[str, str]]:
    """The record in a file, empty if there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of what a file holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def request_of(options: argparse.Namespace) -> dict[str, str]:
    """Everything besides the image that decides its result, in words: each setting, a file by its SHA-256."""
    found = {"command": str(options.command), "pnp_lip": __version__}
    for name in SETTINGS:
        value = getattr(options, name, None)
        for part in (value, value.rpartition(":")[0]) if isinstance(value, str) else ():
            if Path(part).is_file():
                value = f"{value} {sha256_of_file(Path(part))}"
                break
        found |= {} if value is None else {name: str(value)}
    return found
