"""What the commands write: never over an input nor over a file of somebody else, and each image with its record."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pnp_lip.command_line.common import say
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.pictures import Picture, write_picture
from pnp_lip.restore import Restoration

__all__ = ["claim", "save", "say_notes", "sha256_of_file"]


def claim(outputs: Sequence[Path], inputs: Sequence[str | None] = (), *, force: bool = False) -> None:
    """Raise InputError where an output would replace an input, or, without ``force``, a file that no command wrote.

    A command wrote an image if the record beside it, of the same name with the suffix .json, or result.json, has its SHA-256.
    """
    given = [Path(path) for path in inputs if path is not None and Path(path).exists()]
    for path in (path for path in outputs if path.exists()):
        if any(path.samefile(other) for other in given):
            raise InputError(f"{path} would replace the image itself or another input; name another file.")
        if not force and not wrote(path):
            raise InputError(f"{path} exists, and pnp-lip did not write it; name another file, or pass --force.")


def wrote(path: Path) -> bool:
    """Whether a command wrote this file and nobody has changed it."""
    if path.suffix == ".json":  # a record, or a certificate
        return "pnp_lip" in (record := record_of(path)) or {"schema", "weights", "rounding"} <= record.keys()
    found = [record_of(path.with_suffix(".json")), record_of(path.with_name("result.json"))]
    return sha256_of_file(path) in [record.get("written", {}).get(path.name) for record in found]


def record_of(path: Path) -> dict[str, dict[str, str]]:
    """The record in a file, empty if there is none."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of what a file holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say_notes(picture: Picture, options: argparse.Namespace) -> None:
    """What was converted, and a warning for a picture whose noise is not that of a sensor."""
    for note in picture.notes:
        say(f"{options.image}: {note}")
    if picture.correlated is not None:
        say(f"WARNING: {options.image}: {picture.correlated}; its noise is no longer a sensor's, and less is known of it")


def save(output: Path, found: Restoration, picture: Picture, options: argparse.Namespace) -> Path:
    """Write the image, then its record beside it, which is returned; say what the format could not hold."""
    for line in write_picture(output, np.asarray(found.image), picture):
        say(f"{output}: {line}")
    beside = output.with_suffix(".json")
    written = {**record_of(beside).get("written", {}), output.name: sha256_of_file(output)}  # out.tif and out.png share a record
    more = {"command": options.command_line, "written": written}
    with write_atomically(beside) as path:
        path.write_text(found.to_json(**more) + "\n")
    return beside
