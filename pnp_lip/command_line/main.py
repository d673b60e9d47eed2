"""The command ``pnp-lip``: parse, dispatch, and turn every expected error into one clear line.

Nothing here imports torch, so that ``pnp-lip --help`` answers at once; a command's own module is imported when it runs.
"""

import argparse
import importlib
import shlex
import sys
from collections.abc import Callable, Sequence

from pnp_lip.command_line.common import ANGLES, ATTACKED_SIDE, OUT_OF_MEMORY, PSF, Commands, ran_out_of_memory
from pnp_lip.command_line.examples import EXAMPLES
from pnp_lip.errors import PnpLipError
from pnp_lip.progress import showing
from pnp_lip.version import __version__

__all__ = ["main"]

Add = Callable[..., argparse.Action]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``pnp-lip`` with the given arguments (those of the process by default) and return the exit status.

    0: done; 1: a denoiser was examined and is not certified; 2: wrong usage, unreadable input, a place that cannot be
    written to, or a refused run; 3: done, but the iteration has not converged.
    """
    try:
        options = parser().parse_args(arguments)
        options.command_line = shlex.join(["pnp-lip", *(sys.argv[1:] if arguments is None else arguments)])
        return int(options.run(options))
    except (PnpLipError, OSError) as error:  # OSError: no such place, no permission, no space
        sys.stderr.write(f"pnp-lip: {error}\n")
        return 2
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        sys.stderr.write(f"pnp-lip: {OUT_OF_MEMORY}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("pnp-lip: interrupted\n")
        return 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from pnp_lip.command_line import bench, experiment, train

    top = argparse.ArgumentParser(
        prog="pnp-lip",
        description="Image reconstruction with learned denoisers whose convergence is proved.",
        epilog="Begin with: pnp-lip demo. Each command explains its options: pnp-lip COMMAND --help.",
    )
    top.add_argument("--version", action="version", version=f"pnp-lip {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_commands(commands)
    for module in (train, bench, experiment):
        module.add_command(commands)
    for name, lines in EXAMPLES.items():
        commands.choices[name].epilog = "\n  ".join(["examples:", *lines])
        commands.choices[name].formatter_class = argparse.RawDescriptionHelpFormatter
    return top


def add_commands(commands: Commands) -> None:
    """The commands demo, denoise, deblur, ct and certify, with their options."""
    add = new(commands, "demo", "blur a photograph, restore it with a proof, draw the picture")
    add("--out", default="pnp-lip-demo", metavar="DIR", help="where to write (default: pnp-lip-demo)")
    add("--force", action="store_true", help="replace files of these names that pnp-lip did not write")
    add("--quiet", action="store_true", help="no progress")
    add_prior(add, "gradient-step")

    add = new(commands, "denoise", "remove Gaussian noise from images", module="files")
    add_image(add)
    tile = "with a denoiser: work in squares of N x N pixels, which saves memory and changes nothing (default: 2048)"
    add("--tile", type=int, metavar="N", help=tile)
    add_prior(add, "ridge")

    add = new(commands, "deblur", "restore blurred images whose blur is known", module="files")
    add_image(add)
    blur = f"what the blur makes of a point of light: {PSF} (--kernel is the former name)"
    add("--psf", "--kernel", required=True, metavar="PSF", help=blur)
    strength = "how smooth: half of the default keeps more detail and more noise, twice the default less of both"
    add("--strength", type=float, metavar="S", help=f"{strength} (default: 0.5; ridge 0.15; a denoiser 0.25)")
    borders = '"valid" (unknown, right for photographs, the default), "circular", "zeros", "replicate" or "reflect"'
    add("--padding", default="valid", help=f"what lies beyond the edge of the image: {borders}")
    add("--step", type=float, help="for experts: a denoiser's step, in (0, 2/||A||^2) (default: 1.9/||A||^2)")
    add_stopping(add, 1000)
    add_prior(add, "gradient-step")

    add = new(commands, "ct", "reconstruct a tomographic slice from its sinogram")
    own = 'a scan (HDF5, TIFF, .mat), npy (detectors, views), or npz with "sinogram" and "angles" (default: measured, shipped)'
    add("sinogram", nargs="?", help=own)
    add("--angles", metavar="FILE|START:STOP:STEP", help=ANGLES)
    add("--out", required=True, metavar="DIR", help="folder for ct.png, result.json and the images")
    add("--fan", metavar="SOURCE:DETECTOR", help="fan beam: distances from the axis, in pixels")
    add("--curved", action="store_true", help="with --fan: a detector with bins of equal angle, on an arc around the source")
    add("--force", action="store_true", help="replace files that pnp-lip did not write, and slices of other settings")
    add("--quiet", action="store_true", help="no progress")
    add("--size", type=int, metavar="N", help="image side in pixels (default: number of detector bins)")
    add("--spacing", type=float, default=1.0, help="width of a detector bin in pixels (default: 1)")
    add("--offset", type=float, default=0.0, help="shift of the detector: the axis is at bin (bins - 1)/2 - offset (default: 0)")
    add_scan(add)
    add("--misfit", type=float, help="how far the result may be from the data, as a share of them; of noisy data 0.02, say")
    held_out = "noise level that the prior assumes (default: the one that predicts views best that were held out)"
    add("--sigma", type=float, help=held_out)
    add_stopping(add, 2000)
    add_prior(add, "ridge")

    add = new(
        commands, "certify", "prove a denoiser's Lipschitz constant, or a potential's curvature; exit status 1 if that fails"
    )
    add("weights", metavar="NAME|FILE", help="grey, colour, tiny, or a .safetensors, .pt or .pth file")
    add("--json", metavar="FILE", help="also write the certificate")
    add("--force", action="store_true", help="replace a file that is no certificate")
    add("--rtol", type=float, default=1e-3, help="tightness of the norm bounds (default: 1e-3)")
    add("--verify", choices=["flint"], help="a second proof of the norms by ball arithmetic (needs python-flint)")
    attack = f"try to refute the bound near the central {ATTACKED_SIDE} x {ATTACKED_SIDE} pixels of these images"
    add("--attack", nargs="*", metavar="IMAGE", help=f"{attack}; a potential is attacked without any")
    add("--attack-steps", type=int, default=10, metavar="N", help="effort of the attack (default: 10)")


def new(commands: Commands, name: str, text: str, module: str | None = None) -> Add:
    """A new command, which a module runs, by default that of the same name; returns the function that adds an option."""

    def run(options: argparse.Namespace) -> int:
        with showing(not getattr(options, "quiet", True)):
            return int(importlib.import_module(f"pnp_lip.command_line.{module or name}").run(options))

    command = commands.add_parser(name, help=text)
    command.set_defaults(run=run, command=name)
    return command.add_argument


def add_image(add: Add) -> None:
    """The images, where the results go, and the noise level."""
    kinds = "PNG, JPEG, TIFF, BMP, npy or FILE.npz:NAME; grey or colour, of any depth; several with --out-dir"
    add("images", nargs="+", metavar="IMAGE", help=f"{kinds}; - is standard input")
    add("-o", "--output", metavar="FILE", help="where to write the restored image, of the same depth; - is standard output")
    several = "folder for the results of several images; the same command again goes on where it was interrupted"
    add("--out-dir", metavar="DIR", help=f"{several}; exit status 2: some failed, else 3: some have not converged")
    add("--jobs", type=int, default=1, metavar="N", help="with --out-dir: images at a time (default: 1)")
    add("--force", action="store_true", help="replace files that pnp-lip did not write, and results of other settings")
    add("--memory", metavar="SIZE", help='most memory to use, such as "6G" or "500M" (default: what is available)')
    add("--json", action="store_true", help="print the record, one line for each image; everything else to standard error")
    drawn = "a PNG of the image before and after, with a detail of both and how the iteration converged"
    add("--figure", metavar="FILE", help=drawn)
    add("--reference", metavar="FILE", help="the true image, where it is known: for the figure, and to state the PSNR")
    add("--quiet", action="store_true", help="no progress")
    noise = "how strong the noise is, its standard deviation as a fraction of white: 0.01 is little, 0.1 much. Files of "
    noise += "floating-point numbers: in the units of their pixels (default: estimated from the image)"
    add("--noise", type=float, metavar="SIGMA", help=noise)
    add("--range", metavar="LOW:HIGH", help="what black and white are in the file (default: by its type)")
    add("--device", default="auto", help='"cpu", "cuda" or "auto", a GPU if there is one (the default)')


def add_scan(add: Add) -> None:
    """What belongs to a scanner's file."""
    add("--center", metavar="auto|BIN", help="of a scan: the bin of the axis, counted from 0 (default: the middle)")
    add("--flat", metavar="FILE|COUNT", help="of a scan: TIFF, folder or npy without the object (default: the scan's own)")
    add("--dark", metavar="FILE|COUNT", help="of a scan: without rays (default: the scan's own, or 0)")
    add(
        "--weights",
        choices=["photons", "none"],
        help="of a scan: data count as their photons, or all alike (default: photons)",
    )
    stripes = "of a scan: take out what is the same in all views of a bin; for gain errors of 2 %% and more"
    add("--stripes", action="store_true", default=None, help=stripes)
    add("--slices", metavar="START:STOP", help="of a scan: detector rows, STOP excluded (default: all)")
    add("--jobs", type=int, default=1, metavar="N", help="of a scan: slices at a time (default: 1)")


def add_stopping(add: Add, max_iter: int) -> None:
    """When the iteration stops, and how much it says."""
    tol = "when to stop; smaller is slower and more exact. The share by which an iteration changes the image (default: 1e-4); "
    tol += "with a potential, the size of the gradient (default: gradient-step 1e-5, ridge 3e-6, scans 3e-7)"
    add("--tol", type=float, help=tol)
    add(
        "--max-iter",
        type=int,
        default=max_iter,
        metavar="N",
        help=f"stop after so many iterations (default: {max_iter})",
    )


def add_prior(add: Add, default: str) -> None:
    """The denoiser or potential, and how much is said of it."""
    known = "what knows how images look: gradient-step, ridge, grey, tiny (fastest), colour, or a .safetensors, .pt or .pth file "
    add("--denoiser", metavar="NAME|FILE", help=f"{known}of a denoiser or a potential (default: {default})")
    add("--explain", action="store_true", help="what is proved: the theorem, and a table of everything that it asks for")
