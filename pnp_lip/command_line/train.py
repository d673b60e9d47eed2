"""``pnp-lip train``: a certified denoiser or a potential, from a folder of photographs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.command_line.common import Commands, say
from pnp_lip.command_line.records import claim, sha256_of, write_record
from pnp_lip.errors import InputError
from pnp_lip.version import __version__

if TYPE_CHECKING:
    from pnp_lip.potentials import GradientStepPotential, RidgePotential
    from pnp_lip.pretrained import Pretrained

__all__ = ["add_command"]

SIZE = (20, 32, 9)  # of a new denoiser: layers, filters of each, their width in pixels
POTENTIAL_SIZES = {1: (48, 13), 3: (64, 13)}  # of a new potential, by channels: filters, their width in pixels
RATE, POTENTIAL_RATE = 3e-3, 4e-3
BATCH, POTENTIAL_BATCH = 8, 4


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser(
        "train",
        help="train a denoiser or a potential on a folder of photographs",
        description="Train a denoiser or a potential on a folder of photographs; docs/training.md explains.",
    )
    add, kind = command.add_argument, command.add_mutually_exclusive_group().add_argument
    add("--images", required=True, metavar="DIR", help="photographs; every 20th is held out")
    add("--out", required=True, metavar="DIR", help="checkpoints, log and the finished weights")
    add("--force", action="store_true", help="replace files in --out that pnp-lip did not write")
    add("--resume", action="store_true", help="continue from the checkpoint in --out")
    add("--colour", action="store_true", help="train on colour instead of grey")
    add("--device", default="auto", help='"auto", "cpu", "cuda", ... (default: auto)')
    add("--steps", type=int, default=8_000, help="default: 8000")
    add("--batch", type=int, help="patches, four of each image (default: 8; of a potential 4)")
    add("--patch", type=int, default=64, help="width of a patch in pixels (default: 64)")
    add("--rate", type=float, help="the largest learning rate (default: 3e-3; of a potential 4e-3)")
    add("--scales", type=integers, default=(1, 2), help="factors by which photographs are reduced (default: 1,2)")
    add("--texture-rule", action="store_true", help="keep only one in eight of the smooth patches")
    add("--seed", type=int, default=0, help="default: 0")
    add("--size", type=integers, metavar="[LAYERS,]FILTERS,WIDTH", help="of a new network (default: 20,32,9; potential: 48,13)")
    add("--start", metavar="NAME|FILE", help="train on from these weights")
    kind("--potential", action="store_true", help="train a potential of bounded curvature")
    kind("--gradient-step", type=integers, metavar="WIDTH,DEPTH,SCALES", help="train a smooth potential: a U-net's remainder")
    add("--rho", type=float, help="its curvature is at least minus this (default: 0.8)")
    add("--curvature-limit", type=float, metavar="L", help="its curvature is at most this (default: 32)")
    add("--equilibrium", type=float, default=0.0, metavar="SHARE", help="of a potential's steps that reconstruct (default: 0)")
    add("--scans", type=float, default=0.4, metavar="SHARE", help="of those: scans, not blurs (default: 0.4)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, certify and save."""
    out = Path(options.out)
    begun = (out / "checkpoint.pt").exists()
    if begun and not options.resume:
        raise InputError(f"{out} holds a training run already; pass --resume to continue it, or choose another --out.")
    if options.resume and not begun:
        say(f"{out} holds no checkpoint to resume from; training starts anew")
    path = out / ("potential.safetensors" if options.potential or options.gradient_step else "denoiser.safetensors")
    beside, log = path.with_suffix(".json"), [] if begun else [out / "settings.json", out / "log.csv"]
    claim([path, beside, path.with_suffix(".certificate.json"), *log], [options.start], force=options.force)
    import torch
    from tqdm import tqdm

    from pnp_lip.pretrained import save_denoiser
    from pnp_lip.training import PatchSettings, ProblemSettings, TrainingSettings, load_photographs, train

    if not options.potential and (options.rho, options.curvature_limit) != (None, None):
        raise InputError("--rho and --curvature-limit are those of a potential: pass --potential too.")
    rate, batch = (POTENTIAL_RATE, POTENTIAL_BATCH) if options.potential else (RATE, BATCH)
    settings = TrainingSettings(
        steps=options.steps,
        learning_rate=rate if options.rate is None else options.rate,
        patches=PatchSettings(
            batch if options.batch is None else options.batch, options.patch, options.scales, options.texture_rule
        ),
        problems=ProblemSettings(options.equilibrium, options.scans),
        seed=options.seed,
    )
    device = chosen_device(options.device)
    torch.manual_seed(options.seed)
    if options.gradient_step:
        network: Pretrained = starting_step(options)
    else:
        network = starting_potential(options) if options.potential else starting_point(options)
    images = load_photographs(options.images, colour=options.colour)
    with tqdm(total=settings.steps, unit="step") as bar:

        def progress(step: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)

        result = train(network, *images, out, settings, device=device, resume=options.resume, progress=progress)
    certificate = save_denoiser(result.cpu(), path)
    about = {"pnp_lip": __version__, "command": options.command_line}
    write_record(beside, {**about, "written": {path.name: sha256_of(path)}})
    say(str(certificate or "this network has no certificate"))
    say(f"wrote {path}; settings: {json.dumps(result.config)}")
    return 0


def chosen_device(name: str) -> str:
    """``name``, where "auto" is "cuda" if torch sees one and otherwise "cpu". Raises InputError for "cuda" without one."""
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if torch.device(name).type == "cuda" and not available:
        raise InputError(f"device {name}: torch sees no such accelerator here; use cpu.")
    return name


def starting_point(options: argparse.Namespace) -> "Pretrained":
    """A new network, or the one that --start names. Raises InputError where the options contradict it."""
    from pnp_lip.denoisers import GradientFlowDenoiser
    from pnp_lip.potentials import Potential, RidgePotential

    channels = 3 if options.colour else 1
    if options.start is None:
        size = options.size or SIZE
        if len(size) != 3:
            raise InputError(f"--size takes layers, filters and their width, three integers; got {size}.")
        return GradientFlowDenoiser(in_channels=channels, dilations=(1,) * size[0], hidden_channels=size[1], kernel_size=size[2])
    found = found_network(options.start, channels)
    if isinstance(found, Potential):
        option = "--potential" if isinstance(found, RidgePotential) else "--gradient-step"
        raise InputError(f"{options.start} is a potential: pass {option} to train it on.")
    if options.size:
        raise InputError("--start keeps the layers that it finds; leave out --size.")
    return found


def starting_potential(options: argparse.Namespace) -> "RidgePotential":
    """A new potential, or the one that --start names, constrained. Raises InputError where the options contradict it."""
    from pnp_lip.potentials import RidgePotential
    from pnp_lip.training import constrain_curvature, new_potential

    channels = 3 if options.colour else 1
    size = options.size or POTENTIAL_SIZES[channels]
    if len(size) != 2:
        raise InputError(f"with --potential --size takes filters and their width, two integers; got {size}.")
    if options.start is None:
        found: Pretrained = new_potential(in_channels=channels, filters=size[0], kernel_size=size[1])
    else:
        found = found_network(options.start, channels)
    if not isinstance(found, RidgePotential) or (options.start and options.size):
        raise InputError(
            "--potential starts from a potential and keeps its filters; choose another --start, or leave out --size."
        )
    limits = {"rho": options.rho, "limit": options.curvature_limit}
    return constrain_curvature(
        found, anew=options.start is None, **{name: limit for name, limit in limits.items() if limit is not None}
    )


def starting_step(options: argparse.Namespace) -> "GradientStepPotential":
    """A new gradient-step potential, or the one of this size that --start names. Raises InputError for another."""
    from pnp_lip.potentials import GradientStepPotential

    channels = 3 if options.colour else 1
    if options.size:
        raise InputError("--gradient-step states the size of the network; leave out --size.")
    new = GradientStepPotential(in_channels=channels, size=options.gradient_step)
    if options.start is None:
        return new
    found = found_network(options.start, channels)
    if not isinstance(found, GradientStepPotential) or found.config["size"] != new.config["size"]:
        raise InputError(f"{options.start} is no gradient-step potential of the size {options.gradient_step}; choose another.")
    return found


def found_network(name: str, channels: int) -> "Pretrained":
    """What ships under this name or is in this file, to be trained on; InputError where it takes other images."""
    from pnp_lip.pretrained import load_denoiser, load_pretrained, pretrained_names

    found = load_pretrained(name) if name in pretrained_names() else load_denoiser(name, require_certified=False)
    if found.in_channels != channels:
        raise InputError(f"{name} takes {found.in_channels} channels, not {channels} (--colour).")
    return found.requires_grad_(True)


def integers(text: str) -> tuple[int, ...]:
    """ "1,2,1" as (1, 2, 1); argparse turns the ValueError of other texts into a message."""
    return tuple(int(part) for part in text.split(","))
