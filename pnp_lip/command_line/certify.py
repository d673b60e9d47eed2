"""``pnp-lip certify``: prove what can be proved of a file of weights, and attack the proof."""

import argparse

import torch

from pnp_lip.attacker import attack
from pnp_lip.benchmarks.photographs import central_crop
from pnp_lip.certificates import certify
from pnp_lip.command_line.common import ATTACKED_SIDE, say
from pnp_lip.command_line.inputs import by_channel, get_denoiser
from pnp_lip.images import read_image
from pnp_lip.second_opinion import disputed
from pnp_lip.solvers import licensed

__all__ = ["run"]

VERIFIED = "verified by ball arithmetic (python-flint): the upper bound of each layer's norm, each step, the composition"


def run(options: argparse.Namespace) -> int:
    """Certify; 0 when the map is nonexpansive, 1 when that is not proved or an attack or a second opinion objects."""
    denoiser = get_denoiser(options.weights, require_certified=False)
    images = {path: read_image(path, grey=denoiser.in_channels == 1) for path in options.attack or ()}
    crops = [central_crop(by_channel(x, denoiser), ATTACKED_SIDE, path) for path, x in images.items()]
    certificate = certify(denoiser, rtol=options.rtol)
    say(f"{certificate}\nlicensed solvers: {', '.join(licensed(certificate)) or 'none'}")
    if options.json:
        certificate.save(options.json)
    wrong = disputed(denoiser, certificate) if options.verify else []
    if options.verify:
        say("".join(f"NOT VERIFIED by ball arithmetic: {line}\n" for line in wrong).rstrip() or VERIFIED)
    if not crops:
        return int(bool(wrong) or not certificate.nonexpansive)
    found = attack(denoiser, torch.cat(crops), steps=options.attack_steps, bound=certificate.lipschitz_upper)
    say(f"attack: {found.note}")
    return int(bool(wrong) or found.exceeds or not certificate.nonexpansive)
