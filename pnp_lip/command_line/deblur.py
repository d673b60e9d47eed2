"""``pnp-lip deblur``: restore the user's own blurred image, with the guarantee written beside it."""

import argparse

from pnp_lip.command_line.common import NOT_CONVERGED, say, say_results
from pnp_lip.command_line.inputs import get_range
from pnp_lip.command_line.outputs import claim, save, say_notes
from pnp_lip.images import check_output
from pnp_lip.operators import parse_psf
from pnp_lip.pictures import read_picture
from pnp_lip.restore import deblur

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Check everything, solve, write the image and the result; 0 if it has converged, else 3."""
    output = check_output(options.output)
    claim([output, output.with_suffix(".json")], [options.image, options.psf], force=options.force)
    picture, psf = read_picture(options.image), parse_psf(options.psf)
    say_notes(picture, options)
    found = deblur(
        picture.pixels, psf, options.noise, denoiser=options.denoiser, rounds=options.rounds, strength=options.strength,
        padding=options.padding, step=options.step, tol=options.tol, max_iter=options.max_iter,
        value_range=get_range(options.range), correlated=True if picture.correlated else None,
        device=options.device, progress=not options.quiet,
    )  # fmt: skip
    for note in found.notes:
        say(note)
    written = save(output, found, picture, options)
    say_results(found.results)
    say(f"wrote {output} and {written}")
    return 0 if found.result is not None and found.result.status == "converged" else NOT_CONVERGED
