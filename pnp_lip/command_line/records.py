"""Which files a command may write: never an input nor a file of somebody else; and what a result was made of."""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pnp_lip.errors import InputError
from pnp_lip.version import __version__

__all__ = ["Origin", "changed", "claim", "origin_of", "record_of", "request_of", "sha256_of", "write_record",
           "wrote"]  # fmt: skip

Origin: TypeAlias = dict[str, Any]

FILES = ("psf", "denoiser", "angles", "flat", "dark")  # settings that may name a file
SETTINGS = (*FILES, "noise", "range", "strength", "padding", "step", "tol", "max_iter", "tile", "device", "fan",
            "curved", "size", "spacing", "offset", "misfit", "sigma", "center", "weights", "stripes")  # fmt: skip
BLOCK = 2**20  # bytes that are read at once


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
    return path.is_file() and sha256_of(path) in hashes


def record_of(path: Path) -> dict[str, dict[str, str]]:
    """The record in a file, empty if there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def sha256_of(path: Path) -> str:
    """The SHA-256 of what a file holds, or of the names and hashes of a folder's files."""
    found = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.glob("[!.]*") if file.is_file()):
            found.update(f"{sha256_of(file)}  {file.name}\n".encode())
        return found.hexdigest()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def origin_of(options: argparse.Namespace, name: str | None, path: Path | None) -> Origin:
    """What the record of a result says of its making: by which version, of which ``request``, from which ``input``."""
    held = None if path is None else sha256_of(path)
    about = {"pnp_lip": __version__, "command": options.command_line}
    return {**about, "request": request_of(options), "input": {"path": name, "sha256": held}}


def changed(record: Mapping[str, Mapping[str, object]], request: Mapping[str, object], sha256: str | None) -> list[str]:
    """What is not as it was when the result with this record was made: the input's content, or settings by name."""
    old = record["request"]
    same = record["input"]["sha256"] == sha256
    return [*([] if same else ["content"]), *(name for name in sorted({*old, *request}) if old.get(name) != request.get(name))]


def request_of(options: argparse.Namespace) -> dict[str, str]:
    """Everything besides the image that decides its result, in words: each setting, a file by its SHA-256."""
    found = {"command": str(options.command), "pnp_lip": __version__}
    for name in SETTINGS:
        value = getattr(options, name, None)
        for part in (value, value.rpartition(":")[0]) if isinstance(value, str) and name in FILES else ():
            if Path(part).is_file() or (part and name in ("flat", "dark") and Path(part).is_dir()):
                value = f"{value} {sha256_of(Path(part))}"
                break
        found |= {} if value is None else {name: str(value)}
    return found


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Write a record in one atomic step."""
    from pnp_lip.images import write_atomically  # which imports torch

    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
