"""``pnp-lip certify``: prove what can be proved of a file of weights, and attack the proof."""

import argparse
from pathlib import Path

import torch

from pnp_lip.attacker import attack
from pnp_lip.benchmarks.photographs import central_crop
from pnp_lip.certificates import certify
from pnp_lip.colour import planes
from pnp_lip.command_line.common import ATTACKED_SIDE, say
from pnp_lip.command_line.records import claim
from pnp_lip.curvature_attack import attack_curvature
from pnp_lip.errors import InputError
from pnp_lip.pictures import read_image
from pnp_lip.potentials import GradientStepPotential, RidgePotential
from pnp_lip.restore import get_certified
from pnp_lip.second_opinion import disputed
from pnp_lip.solvers import licensed

__all__ = ["run"]

VERIFIED = "verified by ball arithmetic (python-flint): the upper bound of each layer's norm, each step, the composition"
VERIFIED_POTENTIAL = "verified by ball arithmetic (python-flint): the upper bound of the norm, the curvature"


def run(options: argparse.Namespace) -> int:
    """Certify; 0 when the map is nonexpansive, or a potential's curvature is bounded.

    1 when that is not proved or an attack or a second opinion objects.
    """
    if options.json:
        claim([Path(options.json)], [options.weights, *(options.attack or ())], force=options.force)
    model = get_certified(options.weights, require_certified=False)
    if isinstance(model, GradientStepPotential):
        raise InputError("no curvature of a gradient-step potential is known: solvers ask only that it is smooth.")
    potential = isinstance(model, RidgePotential)
    if options.attack is not None and potential == bool(options.attack):
        without = "a potential is attacked without images: leave out what follows --attack."
        raise InputError(without if potential else "--attack needs images, near which a denoiser is attacked.")
    images = {path: read_image(path, grey=model.in_channels == 1) for path in options.attack or ()}
    crops = [central_crop(planes(x, model.in_channels)[0], ATTACKED_SIDE, path) for path, x in images.items()]
    certificate = certify(model, rtol=options.rtol)
    say(str(certificate) if potential else f"{certificate}\nlicensed solvers: {', '.join(licensed(certificate)) or 'none'}")
    if options.json:
        certificate.save(options.json)
    wrong = disputed(model, certificate) if options.verify else []
    if options.verify:
        verified = VERIFIED_POTENTIAL if potential else VERIFIED
        say("".join(f"NOT VERIFIED by ball arithmetic: {line}\n" for line in wrong).rstrip() or verified)
    refuted = False
    if crops:
        found = attack(model, torch.cat(crops), steps=options.attack_steps, bound=certificate.lipschitz_upper)
        say(f"attack: {found.note}")
        refuted = found.exceeds
    elif options.attack is not None:
        pairs = attack_curvature(model, steps=options.attack_steps, bound=certificate.curvature)
        say("\n".join(f"attack: {pair}" for pair in pairs))
        refuted = any(pair.exceeds for pair in pairs)
    return int(bool(wrong) or refuted or not (potential or certificate.nonexpansive))
