"""``pnp-lip denoise``: one pass of the denoiser and one more that the first one guides, or the minimiser with a potential."""

import argparse

from pnp_lip.command_line.inputs import get_range
from pnp_lip.pictures import Picture
from pnp_lip.restore import Restoration, denoise

__all__ = ["restore"]


def restore(picture: Picture, options: argparse.Namespace) -> Restoration:
    """The picture as the options ask for it."""
    return denoise(
        picture.pixels, options.noise, denoiser=options.denoiser, rounds=options.rounds, tile=options.tile,
        value_range=get_range(options.range), correlated=True if picture.correlated else None, device=options.device,
    )  # fmt: skip
