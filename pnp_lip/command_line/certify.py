"""``pnp-lip certify``: prove what can be proved of a file of weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from pnp_lip.command_line.common import Commands, say

__all__ = ["add_command"]


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser(
        "certify", help="prove the Lipschitz constant of a denoiser; exit status 1 if it fails"
    )
    command.add_argument("weights", metavar="NAME|FILE", help="a shipped denoiser or a safetensors file")
    command.add_argument("--json", metavar="FILE", help="also write the certificate")
    command.add_argument("--rtol", type=float, default=1e-3, help="tightness of the norm bounds (default: 1e-3)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Certify; 0 when the map is nonexpansive, 1 when that is not proved."""
    from pnp_lip.certificates import certify
    from pnp_lip.pretrained import load_denoiser, load_pretrained

    if Path(options.weights).suffix == ".safetensors":
        denoiser = load_denoiser(options.weights, require_certified=False)
    else:
        denoiser = load_pretrained(options.weights)
    certificate = certify(denoiser, rtol=options.rtol)
    say(str(certificate))
    if options.json:
        certificate.save(options.json)
    return 0 if certificate.nonexpansive else 1
