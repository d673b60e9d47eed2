"""``pnp-lip denoise``: one pass of the denoiser over the user's image, and one more that the first one guides."""

from __future__ import annotations

import argparse

from pnp_lip.command_line import common

__all__ = ["add_command"]


def add_command(commands: common.Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("denoise", help="remove Gaussian noise from an image")
    common.add_image_options(command)
    tile = "with --rounds 0: save memory by windows of N x N pixels (default: 2048)"
    command.add_argument("--tile", type=int, default=2048, metavar="N", help=tile)
    common.add_prior_options(command, colour=True)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read, denoise, write."""
    from deepinv.physics import Denoising as Identity

    from pnp_lip.denoisers import GUIDE_SIGMA_FACTOR
    from pnp_lip.images import NOISE_REACH, check_output, read_image, write_image
    from pnp_lip.solvers import Denoising, refine

    check_output(options.output)
    y = read_image(options.image, beyond=NOISE_REACH)
    denoiser, rounds = common.get_prior(options, channels=y.shape[1])
    noisy = common.by_channel(y, denoiser)
    noise = common.get_noise(options.noise, y)
    if rounds:
        first = Denoising(denoiser, sigma=GUIDE_SIGMA_FACTOR * noise)
        x_hat = refine(first, noisy, Identity(), rounds, sigma=noise)[-1].x
        common.say("the first result guided the second; only --rounds 0 is a nonexpansive function of the image")
    else:
        x_hat = denoiser.tiled(noisy, noise, tile=options.tile)
    write_image(options.output, x_hat.reshape(y.shape))
    common.say(f"wrote {options.output}")
    return 0
