"""``pnp-lip deblur``: restore the user's own blurred image, with the guarantee written beside it."""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.command_line import common
from pnp_lip.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_command", "parse_psf"]

PSF = "a file (image, npy, npz), gaussian:SIGMA, box:SIZE, disk:RADIUS or motion:LENGTH:ANGLE"
BORDERS = '"valid" (unknown, the default), "circular", "zeros", "replicate" or "reflect"'

# The noise level that a first solution assumes, in units of that of the second solution, which it guides. A smoother guide
# forgives a noise level that is stated too low: 20 % too low then costs 0.1 to 0.3 dB instead of about 1, and the right one
# loses nothing (deblurring of held-out photographs). Annealing raises the level itself, so that its first solution needs less.
GUIDE_FACTOR = 2**0.5
ANNEALED_GUIDE_FACTOR = 2**0.25


def add_command(commands: common.Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("deblur", help="restore a blurred image whose blur is known")
    common.add_image_options(command)
    blur = command.add_mutually_exclusive_group(required=True)
    blur.add_argument("--psf", help=f"the blur, as a point spread function: {PSF}")
    blur.add_argument("--kernel", dest="old_psf", help=argparse.SUPPRESS)  # the former name
    strength = "weight of the prior, larger is smoother: it assumes a noise level of sqrt(S) x noise (default: 0.25)"
    command.add_argument("--strength", type=float, default=0.25, metavar="S", help=strength)
    command.add_argument("--padding", default="valid", help=f"what lies beyond the border: {BORDERS}")
    command.add_argument("--step", type=float, help="step size in (0, 2/||A||^2) (default: 1.9/||A||^2)")
    common.add_solver_options(command, max_iter=1000)
    common.add_prior_options(command, colour=True)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check everything, solve, write the image and the result."""
    if not 0 < options.strength < math.inf:
        raise InputError(f"--strength must be a positive number; got {options.strength}.")
    if options.old_psf is not None:
        sys.stderr.write("note: --kernel is now --psf; the next version drops the old name\n")
    from pnp_lip.images import NOISE_REACH, check_output, read_image, write_atomically, write_image
    from pnp_lip.operators import Blur
    from pnp_lip.solvers import Anderson, ForwardBackward, Solver, refine

    output = check_output(options.output)
    if output.exists() and output.samefile(options.image):
        raise InputError(f"-o {output} would replace the image itself; name another file.")
    image = read_image(options.image, beyond=NOISE_REACH)
    psf = parse_psf(options.psf if options.old_psf is None else options.old_psf)
    denoiser, rounds = common.get_prior(options, channels=image.shape[1])
    y = common.by_channel(image, denoiser)
    if psf.shape[0] > y.shape[2] or psf.shape[1] > y.shape[3]:
        sizes = f"({psf.shape[0]} x {psf.shape[1]}) is larger than the image ({y.shape[2]} x {y.shape[3]})"
        raise InputError(f"the PSF {sizes}; crop it to where it is not zero.")
    sigma = math.sqrt(options.strength) * common.get_noise(options.noise, image)
    improve = common.get_annealing(denoiser, rounds)
    factor = 1 if not rounds else GUIDE_FACTOR if improve is None else ANNEALED_GUIDE_FACTOR
    h, w = psf.shape if options.padding == "valid" else (1, 1)  # a photograph ends before its blur does
    physics = Blur(psf, (y.shape[1], y.shape[2] + h - 1, y.shape[3] + w - 1), padding=options.padding)
    solver = ForwardBackward(
        denoiser, sigma=factor * sigma, step=options.step, box=(0, 1), scheme=Anderson(), tol=options.tol
    )
    solve = functools.partial(Solver.solve, max_iter=options.max_iter, progress=not options.quiet)
    results = refine(solver, y, physics, rounds, improve, sigma=sigma, solve=solve)
    x_hat = results[-1].x[..., h // 2 : h // 2 + y.shape[2], w // 2 : w // 2 + y.shape[3]]
    write_image(output, x_hat.reshape(image.shape))
    with write_atomically(output.with_suffix(".json")) as path:
        path.write_text(results[-1].to_json() + "\n")
    common.say_results(results)
    common.say(f"wrote {output} and {output.with_suffix('.json')}")
    return 0


def parse_psf(text: str) -> Tensor:
    """A point spread function from a file or from one of the builders' short forms."""
    from pnp_lip.operators import box_psf, disk_psf, gaussian_psf, load_psf, motion_psf

    builders: dict[str, Callable[..., Tensor]] = {
        "gaussian": gaussian_psf,
        "box": lambda size: box_psf(int(size)),
        "disk": disk_psf,
        "motion": lambda length, angle: motion_psf(length, angle),
    }
    name, *numbers = text.split(":")
    if Path(text).exists() or not (name in builders or numbers):
        return load_psf(text)
    try:
        return builders[name](*map(float, numbers))
    except InputError:  # of a builder, which says what is wrong with the numbers
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"--psf takes {PSF}; got {text!r}.") from error
