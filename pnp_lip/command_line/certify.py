"""``pnp-lip certify``: prove what can be proved of a file of weights, and attack the proof."""

from __future__ import annotations

import argparse

from pnp_lip.command_line import common

__all__ = ["add_command"]

SIDE = 24  # of the attacked crops, in pixels: larger than the reach of a layer, small enough for seconds


def add_command(commands: common.Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("certify", help="prove a denoiser's Lipschitz constant; exit status 1 if that fails")
    command.add_argument("weights", metavar="NAME|FILE", help="grey, colour, tiny, or a .safetensors, .pt or .pth file")
    command.add_argument("--json", metavar="FILE", help="also write the certificate")
    command.add_argument("--rtol", type=float, default=1e-3, help="tightness of the norm bounds (default: 1e-3)")
    attack = f"look for a pair of images that refutes the bound, near the central {SIDE} x {SIDE} pixels of these"
    command.add_argument("--attack", nargs="+", metavar="IMAGE", help=attack)
    command.add_argument("--attack-steps", type=int, default=10, metavar="N", help="effort of the attack (default: 10)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Certify; 0 when the map is nonexpansive, 1 when that is not proved or a pair of images refutes the bound."""
    import torch

    from pnp_lip.attacker import attack
    from pnp_lip.benchmarks.photographs import central_crop
    from pnp_lip.certificates import certify
    from pnp_lip.images import read_image
    from pnp_lip.solvers import licensed

    denoiser = common.get_denoiser(options.weights, require_certified=False)
    images = {path: read_image(path, grey=denoiser.in_channels == 1) for path in options.attack or ()}
    crops = [central_crop(common.by_channel(x, denoiser), SIDE, path) for path, x in images.items()]
    certificate = certify(denoiser, rtol=options.rtol)
    common.say(f"{certificate}\nlicensed solvers: {', '.join(licensed(certificate)) or 'none'}")
    if options.json:
        certificate.save(options.json)
    if not crops:
        return int(not certificate.nonexpansive)
    found = attack(denoiser, torch.cat(crops), steps=options.attack_steps, bound=certificate.lipschitz_upper)
    common.say(f"attack: {found.note}")
    return int(found.exceeds or not certificate.nonexpansive)
