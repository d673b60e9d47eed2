"""``pnp-lip certify``: prove what can be proved of a file of weights, and attack the proof."""

import argparse

import torch

from pnp_lip.attacker import attack
from pnp_lip.benchmarks.photographs import central_crop
from pnp_lip.certificates import certify
from pnp_lip.command_line.common import ATTACKED_SIDE, say
from pnp_lip.command_line.inputs import by_channel, get_certified
from pnp_lip.curvature_attack import attack_curvature
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import InputError
from pnp_lip.images import read_image
from pnp_lip.potentials import RidgePotential
from pnp_lip.second_opinion import disputed
from pnp_lip.solvers import licensed

__all__ = ["run"]

VERIFIED = "verified by ball arithmetic (python-flint): the upper bound of each layer's norm, each step, the composition"
VERIFIED_POTENTIAL = "verified by ball arithmetic (python-flint): the upper bound of the norm, the curvature"


def run(options: argparse.Namespace) -> int:
    """Certify; 0 when the map is nonexpansive, or a potential's curvature is bounded.

    1 when that is not proved or an attack or a second opinion objects.
    """
    model = get_certified(options.weights, require_certified=False)
    if isinstance(model, RidgePotential):
        return certify_potential(model, options)
    if options.attack == []:
        raise InputError("--attack needs images, near which a denoiser is attacked.")
    return certify_denoiser(model, options)


def certify_denoiser(denoiser: GradientFlowDenoiser, options: argparse.Namespace) -> int:
    """Of a denoiser."""
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


def certify_potential(potential: RidgePotential, options: argparse.Namespace) -> int:
    """Of a potential."""
    if options.attack:
        raise InputError("a potential is attacked without images: leave out what follows --attack.")
    certificate = certify(potential, rtol=options.rtol)
    say(str(certificate))
    if options.json:
        certificate.save(options.json)
    wrong = disputed(potential, certificate) if options.verify else []
    if options.verify:
        say("".join(f"NOT VERIFIED by ball arithmetic: {line}\n" for line in wrong).rstrip() or VERIFIED_POTENTIAL)
    attacked = options.attack is not None
    found = attack_curvature(potential, steps=options.attack_steps, bound=certificate.curvature) if attacked else ()
    for pair in found:
        say(f"attack: {pair}")
    return int(bool(wrong) or any(pair.exceeds for pair in found))
