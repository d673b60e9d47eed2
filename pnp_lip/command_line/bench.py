"""``pnp-lip bench``: compare priors, measure operators and certificates, report."""

from __future__ import annotations

import argparse

from pnp_lip.command_line.common import Commands, say

__all__ = ["add_command"]


def add_command(commands: Commands) -> None:
    """Add the sub-command, with one of its own for each benchmark."""
    from pnp_lip.benchmarks.command import add_arguments

    command = commands.add_parser("bench", help="run a benchmark, or make tables from its records")
    add_arguments(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Start the chosen benchmark."""
    return int(options.start(options, say))
