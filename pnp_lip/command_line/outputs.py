"""What the commands write: each image with its record."""

from pathlib import Path

import numpy as np

from pnp_lip.command_line.records import record_of, sha256_of
from pnp_lip.images import write_atomically
from pnp_lip.pictures import Picture, write_picture
from pnp_lip.restore import Restoration

__all__ = ["notes_of", "save"]


def notes_of(picture: Picture) -> list[str]:
    """What was converted, and a warning for a picture whose noise is not that of a sensor."""
    warning = f"WARNING: {picture.correlated}; its noise is no longer a sensor's, and less is known of it"
    return [*picture.notes, *([] if picture.correlated is None else [warning])]


def save(output: Path, found: Restoration, picture: Picture, *, figure: Path | None, **more: object) -> tuple[str, ...]:
    """Write the image and beside it its record, which names its hash and the figure's; returns what the format could not hold.

    The record comes first: a command that dies between the two leaves a record without its image, which the next one sees.
    """
    beside = output.with_suffix(".json")
    with write_atomically(output) as image:
        lost = write_picture(image, np.asarray(found.image), picture)
        files = {output.name: image} | ({} if figure is None else {figure.name: figure})
        written = record_of(beside).get("written", {}) | {name: sha256_of(path) for name, path in files.items()}
        with write_atomically(beside) as path:
            path.write_text(found.to_json(written=written, **more) + "\n", encoding="utf-8")
    return lost
