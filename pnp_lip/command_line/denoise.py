"""``pnp-lip denoise``: one pass of the denoiser over the user's image, and one more that the first one guides."""

import argparse

from deepinv.physics import Denoising as Identity

from pnp_lip.command_line.common import say
from pnp_lip.command_line.inputs import by_channel, get_noise, get_prior
from pnp_lip.denoisers import GUIDE_SIGMA_FACTOR
from pnp_lip.images import NOISE_REACH, check_output, read_image, write_image
from pnp_lip.solvers import Denoising, refine

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Read, denoise, write."""
    check_output(options.output)
    y = read_image(options.image, beyond=NOISE_REACH)
    denoiser, rounds = get_prior(options, y.shape[1])
    noisy = by_channel(y, denoiser)
    noise = get_noise(options.noise, y)
    if rounds:
        first = Denoising(denoiser, sigma=GUIDE_SIGMA_FACTOR * noise)
        x_hat = refine(first, noisy, Identity(), rounds, sigma=noise)[-1].x
        say("the first result guided the second; only --rounds 0 is a nonexpansive function of the image")
    else:
        x_hat = denoiser.tiled(noisy, noise, tile=options.tile)
    write_image(options.output, x_hat.reshape(y.shape))
    say(f"wrote {options.output}")
    return 0
