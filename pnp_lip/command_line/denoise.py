"""``pnp-lip denoise``: one pass of the denoiser and one more that the first one guides, or the minimiser with a potential."""

import argparse

from deepinv.physics import Denoising as Identity

from pnp_lip.command_line.common import say, say_results, write_result
from pnp_lip.command_line.inputs import by_channel, get_noise, get_prior, solver_of
from pnp_lip.denoisers import GUIDE_SIGMA_FACTOR
from pnp_lip.errors import InputError
from pnp_lip.images import NOISE_REACH, check_output, read_image, write_image
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers import Denoising, refine

__all__ = ["run"]

TILE = 2048  # pixels a side of the windows, unless the user says otherwise
TOL = 1e-4  # of the minimisation with a potential


def run(options: argparse.Namespace) -> int:
    """Read, denoise, write; with a potential also the result, which says how far the minimiser is at most."""
    output = check_output(options.output)
    y = read_image(options.image, beyond=NOISE_REACH)
    prior, rounds = get_prior(options, y.shape[1])
    noisy = by_channel(y, prior)
    if isinstance(prior, RidgePotential) and options.tile is not None:
        raise InputError("--tile belongs to a denoiser; a potential needs little memory without it.")
    noise = get_noise(options.noise, y)
    written = [output]
    if isinstance(prior, RidgePotential):
        result = solver_of(prior, sigma=noise, tol=TOL).solve(noisy, Identity())
        x_hat = result.x
        written.append(write_result(output, result))
        say_results([result])
    elif rounds:
        first = Denoising(prior, sigma=GUIDE_SIGMA_FACTOR * noise)
        x_hat = refine(first, noisy, Identity(), rounds, sigma=noise)[-1].x
        say("the first result guided the second; only --rounds 0 is a nonexpansive function of the image")
    else:
        x_hat = prior.tiled(noisy, noise, tile=TILE if options.tile is None else options.tile)
    write_image(output, x_hat.reshape(y.shape))
    say(f"wrote {' and '.join(map(str, written))}")
    return 0
