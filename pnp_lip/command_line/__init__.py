"""The command line."""

from pnp_lip.command_line.main import main

__all__ = ["main"]
