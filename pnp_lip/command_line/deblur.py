"""``pnp-lip deblur``: restore the user's own blurred image."""

import argparse

from pnp_lip.command_line.inputs import get_range
from pnp_lip.operators import parse_psf
from pnp_lip.pictures import Picture
from pnp_lip.restore import Restoration, deblur

__all__ = ["restore"]


def restore(picture: Picture, options: argparse.Namespace) -> Restoration:
    """The picture as the options ask for it."""
    return deblur(
        picture.pixels, parse_psf(options.psf), options.noise, denoiser=options.denoiser,
        strength=options.strength, padding=options.padding, step=options.step, tol=options.tol, max_iter=options.max_iter,
        value_range=get_range(options.range), correlated=True if picture.correlated else None, device=options.device,
    )  # fmt: skip
