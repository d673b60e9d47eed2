"""``pnp-lip deblur``: restore the user's own blurred image, with the guarantee written beside it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.command_line.common import (
    Commands,
    add_denoiser_option,
    add_noise_option,
    add_rounds_option,
    by_channel,
    get_annealer,
    get_denoiser,
    get_noise,
    get_rounds,
    say,
)
from pnp_lip.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_command", "parse_psf"]

KERNELS = "a file (image, npy, npz), gaussian:SIGMA, box:SIZE, disk:RADIUS or motion:LENGTH:ANGLE"


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("deblur", help="restore a blurred image whose blur is known")
    command.add_argument("image", help="PNG, JPEG, TIFF, BMP or npy; grey or colour")
    command.add_argument("--kernel", required=True, help=KERNELS)
    add_noise_option(command)
    command.add_argument("-o", "--output", required=True, help="where to write the result; a .json goes beside it")
    command.add_argument(
        "--strength",
        type=float,
        default=0.25,
        help="weight s > 0 of the prior, which is told √s·noise, and 1.2 to 1.4 times that in the first of several solutions; "
        "larger is smoother (default: 0.25)",
    )
    command.add_argument(
        "--padding",
        default="valid",
        help='what lies beyond the border: "valid" (unknown, the default), "circular", "zeros", "replicate", "reflect"',
    )
    command.add_argument("--step", type=float, help="step size in (0, 2/||A||^2) (default: 1.9/||A||^2)")
    add_rounds_option(command)
    command.add_argument("--tol", type=float, default=1e-4, help="relative residual to stop at (default: 1e-4)")
    command.add_argument("--max-iter", type=int, default=1000)
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    add_denoiser_option(command, colour=True)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check everything, solve, write the image and the result."""
    if not 0 < options.strength < math.inf:
        raise InputError(f"--strength must be a positive number; got {options.strength}.")
    from pnp_lip.images import NOISE_REACH, check_output, read_image, write_atomically, write_image
    from pnp_lip.operators import Blur
    from pnp_lip.solvers import Anderson, ForwardBackward, refine

    output = check_output(options.output)
    if output.exists() and output.samefile(options.image):
        raise InputError(f"-o {output} would replace the image itself; name another file.")
    image = read_image(options.image, beyond=NOISE_REACH)
    kernel = parse_psf(options.kernel)
    denoiser = get_denoiser(options.denoiser, channels=image.shape[1])
    rounds = get_rounds(options.rounds, denoiser)
    y = by_channel(image, denoiser)
    check_size(kernel, y)
    noise = get_noise(options.noise, image)
    h, w = kernel.shape if options.padding == "valid" else (1, 1)
    size = (y.shape[1], y.shape[2] + h - 1, y.shape[3] + w - 1)
    sigma = math.sqrt(options.strength) * noise
    annealer = get_annealer(denoiser, rounds)
    # A guide forgives a noise level that is told too small if it is told more; annealing tells more by itself.
    first = sigma * (1 if not rounds else math.sqrt(2) if annealer is None else 2**0.25)
    solver = ForwardBackward(
        denoiser,
        sigma=first,
        step=options.step,
        tol=options.tol,
        max_iter=options.max_iter,
        box=(0, 1),
        scheme=Anderson(),
    )
    physics = Blur(kernel, size, padding=options.padding)
    *before, result = refine(
        solver, y, physics, rounds=rounds, sigma=sigma, annealer=annealer, progress=not options.quiet
    )
    x_hat = result.x[..., h // 2 : h // 2 + y.shape[2], w // 2 : w // 2 + y.shape[3]]
    write_image(output, x_hat.reshape(image.shape))
    with write_atomically(output.with_suffix(".json")) as path:
        path.write_text(result.to_json() + "\n")
    for i, earlier in enumerate(before):
        say(f"solution {i + 1} of {rounds + 1}: {str(earlier).splitlines()[0]}; it guides the next")
    say(str(result))
    say(f"wrote {output} and {output.with_suffix('.json')}")
    return 0


def check_size(kernel: Tensor, y: Tensor) -> None:
    """A kernel larger than the picture cannot be its blur."""
    if kernel.shape[0] > y.shape[2] or kernel.shape[1] > y.shape[3]:
        raise InputError(
            f"the kernel ({kernel.shape[0]} x {kernel.shape[1]}) is larger than the image ({y.shape[2]} x {y.shape[3]}); "
            "pass the blur's kernel, cropped to where it is not zero."
        )


def parse_psf(text: str) -> Tensor:
    """A kernel from a file or from one of the builders' short forms."""
    from pnp_lip.operators import box_psf, disk_psf, gaussian_psf, load_psf, motion_psf

    name, _, rest = text.partition(":")
    builders: dict[str, tuple[int, Callable[..., Tensor]]] = {
        "gaussian": (1, gaussian_psf),
        "box": (1, lambda size: box_psf(int(size))),
        "disk": (1, disk_psf),
        "motion": (2, motion_psf),
    }
    if Path(text).exists() or not (name in builders or rest):
        return load_psf(text)
    if name not in builders:
        raise InputError(f"--kernel takes {KERNELS}; got {text!r}.")
    count, build = builders[name]
    try:
        numbers = [float(part) for part in rest.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InputError(f"--kernel takes {KERNELS}; got {text!r}.")
    return build(*numbers)
