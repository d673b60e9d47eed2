"""One image from its file to its result, for ``pnp-lip deblur`` and ``pnp-lip denoise``."""

import argparse
import contextlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from torch import Tensor

from pnp_lip.command_line import deblur, denoise
from pnp_lip.command_line.common import NOT_CONVERGED, say
from pnp_lip.command_line.explain import say_result
from pnp_lip.command_line.figure import draw_restored
from pnp_lip.command_line.inputs import get_range
from pnp_lip.command_line.items import Item, Outcome, failure, outcome
from pnp_lip.command_line.needs import share_of_memory
from pnp_lip.command_line.outputs import notes_of, save
from pnp_lip.command_line.records import claim, origin_of, record_of
from pnp_lip.errors import InputError
from pnp_lip.frame import Frame
from pnp_lip.images import IMAGE_SUFFIXES, check_output, psnr
from pnp_lip.memory import keeping_within
from pnp_lip.pictures import Picture, read_picture
from pnp_lip.restore import Restoration

__all__ = ["outcome_of", "run"]

RESTORE = {"deblur": deblur.restore, "denoise": denoise.restore}
STREAM = "-"  # standard input or output
KINDS = ((b"\x93NUMPY", ".npy"), (b"PK", ".npz"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"\xff\xd8", ".jpg"), (b"BM", ".bmp"))


def run(options: argparse.Namespace) -> int:
    """Restore one image, from standard input and to standard output if asked for; 0 if it has converged, else 3."""
    source, output = options.images[0], options.output
    if options.json and output == STREAM:
        raise InputError("standard output holds the image or the record; leave out --json, or write the image to a file.")
    speaks = contextlib.redirect_stdout(sys.stderr) if options.json or output == STREAM else contextlib.nullcontext()
    stream = sys.stdout
    with tempfile.TemporaryDirectory(prefix="pnp-lip-") as folder, speaks:
        path = received(Path(folder)) if source == STREAM else source
        suffix = Path(path).suffix.lower()  # of the input if it can be written
        kind = suffix if suffix in IMAGE_SUFFIXES else ".png"
        kept = Path(folder) / f"out{kind}" if output == STREAM else check_output(output)
        found = restore_file(path, kept, options, tell=say, name=source)
        if found.result is not None:
            say_result(found.result, explain=options.explain)
        if output == STREAM:
            with kept.open("rb") as file:
                shutil.copyfileobj(file, stream.buffer)
            stream.flush()
        else:
            drawn = "" if options.figure is None else f", and drew {options.figure}"
            say(f"wrote {kept} and {kept.with_suffix('.json')}{drawn}")
    if options.json:
        say(json.dumps(record_of(kept.with_suffix(".json"))))
    return 0 if found.result is None or found.result.status == "converged" else NOT_CONVERGED


def outcome_of(item: Item, options: argparse.Namespace) -> Outcome:
    """What becomes of one of many files: whatever goes wrong stays with it."""
    notes, started = list[str](), time.perf_counter()
    try:
        restore_file(item.source, item.output, options, tell=notes.append, name=item.source)
    except Exception as error:  # the other files are to be restored, too
        return failure(item, error)
    seconds = time.perf_counter() - started
    return outcome(item, record_of(item.output.with_suffix(".json")), tuple(notes), seconds)


def restore_file(
    source: str, output: Path, options: argparse.Namespace, *, tell: Callable[[str], None], name: str
) -> Restoration:
    """Read, restore and write one image, with its figure; what there is to know is told line by line."""
    check_output(output)
    beside, inputs = output.with_suffix(".json"), [source, getattr(options, "psf", None), options.reference]
    figure = None if options.figure is None else check_output(options.figure, (".png",))
    if figure is not None and figure.resolve() == output.resolve():
        raise InputError(f"--figure {figure} is the result itself; name another file.")
    claim([output, beside, *([] if figure is None else [figure])], inputs, force=options.force, record=beside)
    picture = read_picture(source)  # as it is now, whatever happens to the file in the minutes of a restoration
    share = share_of_memory(picture, options)
    about: dict[str, object] = origin_of(options, name, picture.path)
    for note in notes_of(picture):
        tell(note)
    images = {} if figure is None and options.reference is None else known_images(picture, options)
    with keeping_within(share):
        found = RESTORE[options.command](picture, options)
    for note in found.notes:
        tell(note)
    if images:
        low, high = cast(tuple[float, float], found.record["range"])
        images = {"before": images["before"], "after": Frame.of(found.image, (low, high)).y, **images}
    if "truth" in images:
        quality = {name: psnr(images[name], images["truth"]) for name in ("before", "after")}
        about["psnr"] = {name: value if math.isfinite(value) else None for name, value in quality.items()}  # JSON has no ∞
        tell(f"PSNR {quality['before']:.2f} dB before, {quality['after']:.2f} dB after")
        images = {f"{name}, {quality[name]:.2f} dB" if name in quality else name: image for name, image in images.items()}
    if figure is not None:
        draw_restored(figure, {name: image[:1] for name, image in images.items()}, found.result)
    for note in save(output, found, picture, figure=figure, **about):
        tell(note)
    return found


def known_images(picture: Picture, options: argparse.Namespace) -> dict[str, Tensor]:
    """What is known before the restoration, on [0, 1]: the picture and, of the same size, the truth."""
    images = {"before": Frame.of(picture.pixels, get_range(options.range)).y}
    if options.reference is not None:
        truth = read_picture(options.reference).pixels
        images["truth"] = Frame.of(truth, get_range(options.range) if truth.dtype == picture.pixels.dtype else None).y
        if images["truth"].shape != images["before"].shape:
            shapes = [" x ".join(map(str, images[name].shape[1:])) for name in ("truth", "before")]
            raise InputError(
                f"--reference {options.reference}: {shapes[0]} (channels x rows x columns); the image has {shapes[1]}."
            )
    return images


def received(folder: Path) -> str:
    """Standard input in a file whose suffix tells its kind."""
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("standard input holds no image; pass it on by a pipe, or name a file.")
    data = sys.stdin.buffer.read()
    suffix = next((suffix for magic, suffix in KINDS if data.startswith(magic)), "")
    path = folder / f"standard-input{suffix}"
    path.write_bytes(data)
    return str(path)
