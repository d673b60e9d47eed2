"""``pnp-lip denoise``: one pass of the denoiser over the user's image, and one more that the first one guides."""

from __future__ import annotations

import argparse

from pnp_lip.command_line.common import (
    Commands,
    add_denoiser_option,
    add_noise_option,
    add_rounds_option,
    by_channel,
    get_denoiser,
    get_noise,
    get_rounds,
    say,
)

__all__ = ["add_command"]


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("denoise", help="remove Gaussian noise from an image")
    command.add_argument("image", help="PNG, JPEG, TIFF, BMP or npy")
    add_noise_option(command)
    command.add_argument("-o", "--output", required=True, help="where to write the result")
    command.add_argument(
        "--tile", type=int, default=2048, metavar="N", help="side of the windows that save memory with --rounds 0"
    )
    add_rounds_option(command)
    add_denoiser_option(command, colour=True)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read, denoise, write."""
    from pnp_lip.images import NOISE_REACH, check_output, read_image, write_image
    from pnp_lip.solvers import denoise_guided

    check_output(options.output)
    y = read_image(options.image, beyond=NOISE_REACH)
    denoiser = get_denoiser(options.denoiser, channels=y.shape[1])
    rounds = get_rounds(options.rounds, denoiser)
    noisy = by_channel(y, denoiser)
    noise = get_noise(options.noise, y)
    if rounds:
        x_hat = denoise_guided(denoiser, noisy, noise)
        say("guided by its first result: nonexpansive with that held fixed; --rounds 0 is nonexpansive in the data")
    else:
        x_hat = denoiser.tiled(noisy, noise, tile=options.tile)
    write_image(options.output, x_hat.reshape(y.shape))
    say(f"wrote {options.output}")
    return 0
