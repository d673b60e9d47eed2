"""``pnp-lip certify``: prove what can be proved of a file of weights, and attack the proof."""

import argparse

import torch

from pnp_lip.attacker import attack
from pnp_lip.benchmarks.photographs import central_crop
from pnp_lip.certificates import certify
from pnp_lip.command_line.common import ATTACKED_SIDE, say
from pnp_lip.command_line.inputs import by_channel, get_denoiser
from pnp_lip.images import read_image
from pnp_lip.solvers import licensed

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Certify; 0 when the map is nonexpansive, 1 when that is not proved or a pair of images refutes the bound."""
    denoiser = get_denoiser(options.weights, require_certified=False)
    images = {path: read_image(path, grey=denoiser.in_channels == 1) for path in options.attack or ()}
    crops = [central_crop(by_channel(x, denoiser), ATTACKED_SIDE, path) for path, x in images.items()]
    certificate = certify(denoiser, rtol=options.rtol)
    say(f"{certificate}\nlicensed solvers: {', '.join(licensed(certificate)) or 'none'}")
    if options.json:
        certificate.save(options.json)
    if not crops:
        return int(not certificate.nonexpansive)
    found = attack(denoiser, torch.cat(crops), steps=options.attack_steps, bound=certificate.lipschitz_upper)
    say(f"attack: {found.note}")
    return int(found.exceeds or not certificate.nonexpansive)
