"""``pnp-lip denoise``: one pass of the denoiser and one more that the first one guides, or the minimiser with a potential."""

import argparse

from pnp_lip.command_line.common import NOT_CONVERGED, say, say_results
from pnp_lip.command_line.inputs import get_range
from pnp_lip.command_line.outputs import claim, save, say_notes
from pnp_lip.images import check_output
from pnp_lip.pictures import read_picture
from pnp_lip.restore import denoise

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Read, denoise, write the image and the result; 0, or 3 if the minimisation with a potential has not converged."""
    output = check_output(options.output)
    claim([output, output.with_suffix(".json")], [options.image], force=options.force)
    picture = read_picture(options.image)
    say_notes(picture, options)
    found = denoise(
        picture.pixels, options.noise, denoiser=options.denoiser, rounds=options.rounds, tile=options.tile,
        value_range=get_range(options.range), correlated=True if picture.correlated else None, device=options.device,
    )  # fmt: skip
    for note in found.notes:
        say(note)
    written = save(output, found, picture, options)
    if found.result is not None and found.result.objective is not None:
        say_results(found.results)
    say(f"wrote {output} and {written}")
    return 0 if found.result is None or found.result.status == "converged" else NOT_CONVERGED
