"""``pnp-lip deblur``: restore the user's own blurred image, with the guarantee written beside it."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pnp_lip.command_line.common import PSF, say, say_results, write_result
from pnp_lip.command_line.inputs import by_channel, get_annealing, get_noise, get_prior, solutions, solver_of
from pnp_lip.errors import InputError
from pnp_lip.images import NOISE_REACH, check_output, read_image, write_image
from pnp_lip.operators import Blur, box_psf, disk_psf, gaussian_psf, load_psf, motion_psf
from pnp_lip.potentials import RidgePotential
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers import NOISE_FACTOR, Result, Solver, Variational
from pnp_lip.solvers.variational import WEIGHT

__all__ = ["parse_psf", "run"]

# The noise level that a first solution assumes, in units of that of the second solution, which it guides. A smoother guide
# forgives a noise level that is stated too low: 20 % too low then costs 0.1 to 0.3 dB instead of about 1, and the right one
# loses nothing (deblurring of held-out photographs). Annealing raises the level itself, so that its first solution needs less.
GUIDE_FACTOR = 2**0.5
ANNEALED_GUIDE_FACTOR = 2**0.25
STRENGTH = 0.25  # of a denoiser, unless the user states one: it assumes the noise level √S·noise


def run(options: argparse.Namespace) -> int:
    """Check everything, solve, write the image and the result."""
    if options.strength is not None and not 0 < options.strength < math.inf:
        raise InputError(f"--strength must be a positive number; got {options.strength}.")
    output = check_output(options.output)
    if output.exists() and output.samefile(options.image):
        raise InputError(f"-o {output} would replace the image itself; name another file.")
    image = read_image(options.image, beyond=NOISE_REACH)
    psf = parse_psf(options.psf)
    denoiser, rounds = get_prior(options, image.shape[1])
    y = by_channel(image, denoiser)
    if psf.shape[0] > y.shape[2] or psf.shape[1] > y.shape[3]:
        sizes = f"({psf.shape[0]} x {psf.shape[1]}) is larger than the image ({y.shape[2]} x {y.shape[3]})"
        raise InputError(f"the PSF {sizes}; crop it to where it is not zero.")
    noise = get_noise(options.noise, image)
    sigma = math.sqrt(STRENGTH if options.strength is None else options.strength) * noise
    improve = get_annealing(denoiser, rounds)
    first = sigma * (1 if not rounds else GUIDE_FACTOR if improve is None else ANNEALED_GUIDE_FACTOR)
    h, w = psf.shape if options.padding == "valid" else (1, 1)  # a photograph ends before its blur does
    physics = Blur(psf, (y.shape[1], y.shape[2] + h - 1, y.shape[3] + w - 1), padding=options.padding)
    assumed = NOISE_FACTOR * noise if isinstance(denoiser, RidgePotential) else first
    weight = WEIGHT if options.strength is None else options.strength  # of a potential
    solver = solver_of(denoiser, sigma=assumed, step=options.step, tol=options.tol, weight=weight)

    def solve(solver: Solver | Variational, y: Tensor, physics: PhysicsLike, *, x0: Tensor | None) -> Result:
        return solver.solve(y, physics, x0=x0, max_iter=options.max_iter, progress=not options.quiet)

    results = solutions(solver, y, physics, rounds, improve, sigma=sigma, solve=solve)
    x_hat = results[-1].x[..., h // 2 : h // 2 + y.shape[2], w // 2 : w // 2 + y.shape[3]]
    write_image(output, x_hat.reshape(image.shape))
    say_results(results)
    say(f"wrote {output} and {write_result(output, results[-1])}")
    return 0


def parse_psf(text: str) -> Tensor:
    """A point spread function from a file or from one of the builders' short forms."""
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
