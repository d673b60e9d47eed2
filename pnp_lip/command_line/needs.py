"""How much memory a restoration takes, estimated before it begins."""

import argparse

from pnp_lip.command_line.common import STARTED
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import InputError
from pnp_lip.frame import layout
from pnp_lip.memory import keeping_within, most_kept
from pnp_lip.operators import parse_psf
from pnp_lip.pictures import Picture
from pnp_lip.potentials import GradientStepPotential
from pnp_lip.restore import DEFAULTS, Learned, prior_of
from pnp_lip.solvers import Anderson

__all__ = ["needed", "share_of_memory"]

FLOAT = 4  # bytes of a number
SHARES = (1, 2, 4, 8, 16)  # of the limit, by which that is measured which is kept instead of being computed again
# Fitted to peaks of the process at 0.25 to 12 megapixels, which exceed none of the estimates (docs/large.md).
PASS, SOLVE = 90, 90  # bytes for each number: a pass; forward-backward without differences
# Bytes for each number of the image that is being minimised, one of all planes, with a ridge potential and with a gradient-step
# one; for each number of all; and for each pixel of windows in which the latter is differentiated, at most so many.
RIDGES, STEPS, KEPT, STEP, WINDOW = 170, 110, 29, 1750, 3 * 2**18


def share_of_memory(picture: Picture, options: argparse.Namespace) -> int:
    """Bytes to keep within: the largest of ``SHARES`` of ``options.limit`` with which the whole restoration fits into that.

    Raises InputError, before anything is allocated, where none does.
    """
    order, four = layout(picture.pixels)
    images, channels, rows, columns = (four[i] for i in order)
    channels -= channels in (2, 4)  # alpha
    prior, _ = prior_of(options.denoiser, DEFAULTS[options.command])
    blurred = options.command == "deblur"
    if blurred and options.padding == "valid":
        rows, columns = (side + more - 1 for side, more in zip((rows, columns), parse_psf(options.psf).shape, strict=True))
    for share in SHARES:
        with keeping_within(options.limit // share):
            need = needed(prior, images * channels, rows * columns, blurred=blurred)
        if need <= options.limit:
            return int(options.limit // share)
    fewer = " fewer --jobs," * (options.jobs > 1 and options.out_dir is not None)
    other, _ = prior_of("grey", "grey")
    with keeping_within(options.limit // SHARES[-1]):
        fits = needed(other, images * channels, rows * columns, blurred=blurred) <= options.limit
    less = " --denoiser grey, which fits," if fits else ""
    sizes = f"about {need / 2**30:.1f} GB of memory, and there are {options.limit / 2**30:.1f} GB"
    raise InputError(f"{columns} x {rows} pixels take {sizes}; continue with{fewer}{less} a part of the image, or more memory.")


def needed(prior: Learned, planes: int, pixels: int, *, blurred: bool) -> int:
    """Bytes that the process holds at most, for so many ``planes`` (channels of all images) of so many ``pixels`` each."""
    numbers = planes * pixels
    if not isinstance(prior, GradientFlowDenoiser):
        each, windows = (STEPS, STEP * min(pixels, WINDOW)) if isinstance(prior, GradientStepPotential) else (RIDGES, 0)
        return STARTED + each * numbers // max(1, planes // prior.in_channels) + KEPT * numbers + windows
    if not blurred:
        return STARTED + PASS * numbers
    state = FLOAT * numbers
    return STARTED + SOLVE * numbers + 2 * state * min(Anderson().memory, max(1, most_kept() // (2 * state)))
