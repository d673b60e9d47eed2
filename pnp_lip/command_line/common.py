"""What the modules share before torch is imported: words of the help that errors repeat, and lines for the user."""

import argparse
import sys
from typing import TextIO, TypeAlias

__all__ = ["ANGLES", "ATTACKED_SIDE", "NOT_CONVERGED", "OUT_OF_MEMORY", "PSF", "STARTED", "SUFFIXES", "Commands",
           "ran_out_of_memory", "say"]  # fmt: skip

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

ANGLES = "a file (npy or text) or START:STOP:STEP in degrees, STOP excluded"
ATTACKED_SIDE = 24  # of the attacked crops, in pixels: larger than the reach of a layer, small enough for seconds
NOT_CONVERGED = 3  # exit status
OUT_OF_MEMORY = "memory ran out; a smaller image or fewer --jobs need less."
PSF = "a file (image, npy, npz, mat, txt, csv), gaussian:SIGMA, box:SIZE, disk:RADIUS or motion:LENGTH:ANGLE"

STARTED = 980 * 2**20  # bytes of a process with torch, deepinv and the weights loaded (docs/large.md)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")  # IMAGE_SUFFIXES of pnp_lip.images, which imports torch


def say(text: str = "", stream: TextIO | None = None) -> None:
    """One line to a stream, by default standard output; what its encoding lacks (a pipe on Windows: ✓) by its number."""
    stream = sys.stdout if stream is None else stream
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of numpy or torch, which has no kind of its own for this on a processor, is a refused allocation."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text
