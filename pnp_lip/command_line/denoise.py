"""``pnp-lip denoise``: remove Gaussian noise from the user's own image."""

import argparse

from pnp_lip.command_line.inputs import get_range
from pnp_lip.pictures import Picture
from pnp_lip.restore import Restoration, denoise

__all__ = ["restore"]


def restore(picture: Picture, options: argparse.Namespace) -> Restoration:
    """The picture as the options ask for it."""
    return denoise(
        picture.pixels, options.noise, denoiser=options.denoiser, tile=options.tile,
        value_range=get_range(options.range), correlated=True if picture.correlated else None, device=options.device,
    )  # fmt: skip
