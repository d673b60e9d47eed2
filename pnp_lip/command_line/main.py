"""The command ``pnp-lip``: parse, dispatch, and turn every expected error into one clear line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pnp_lip.errors import PnpLipError
from pnp_lip.version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``pnp-lip`` with the given arguments (those of the process by default) and return the exit status.

    0: done; 1: a denoiser was examined and is not certified; 2: wrong usage, unreadable input, a place that cannot be
    written to, or a refused run.
    """
    try:
        options = parser().parse_args(arguments)
        return int(options.run(options))
    except PnpLipError as error:
        sys.stderr.write(f"pnp-lip: {error}\n")
        return 2
    except OSError as error:  # of the system: no such place, no permission, no space
        sys.stderr.write(f"pnp-lip: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("pnp-lip: interrupted\n")
        return 130


def parser() -> argparse.ArgumentParser:
    """The whole command line; each sub-command's module adds its own options."""
    from pnp_lip.command_line import bench, certify, ct, deblur, demo, denoise, experiment, train

    top = argparse.ArgumentParser(
        prog="pnp-lip",
        description="Image reconstruction with learned denoisers whose convergence is proved.",
        epilog="Begin with: pnp-lip demo. Each command explains its options: pnp-lip COMMAND --help.",
    )
    top.add_argument("--version", action="version", version=f"pnp-lip {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (demo, denoise, deblur, ct, certify, train, bench, experiment):
        module.add_command(commands)
    return top
