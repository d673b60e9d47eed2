"""What the modules share before torch is imported: words of the help that errors repeat, and lines for the user."""

import argparse
import sys
from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["ANGLES", "ATTACKED_SIDE", "NOT_CONVERGED", "PSF", "Commands", "say", "say_results"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

ANGLES = "a file (npy or text) or START:STOP:STEP in degrees, STOP excluded"
ATTACKED_SIDE = 24  # of the attacked crops, in pixels: larger than the reach of a layer, small enough for seconds
NOT_CONVERGED = 3  # exit status
PSF = "a file (image, npy, npz, mat, txt, csv), gaussian:SIGMA, box:SIZE, disk:RADIUS or motion:LENGTH:ANGLE"


def say(text: str = "") -> None:
    """One line to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_results(results: Sequence[object]) -> None:
    """How each solution ended, then the guarantee of the last one."""
    *before, last = results
    for i, result in enumerate(before, start=1):
        say(f"solution {i} of {len(results)}, which guides the next: {str(result).splitlines()[0]}")
    say((f"solution {len(results)} of {len(results)}: " if before else "") + str(last))
