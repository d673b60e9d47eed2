"""``pnp-lip train``: a certified denoiser, what guides it, or an annealer, from a folder of photographs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.command_line.common import Commands, say
from pnp_lip.errors import InputError

if TYPE_CHECKING:
    from pnp_lip.pretrained import Pretrained

__all__ = ["add_command"]

SIZE = (20, 32, 9)  # of a new denoiser: layers, filters of each, their width in pixels


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser(
        "train",
        help="train a denoiser on a folder of photographs",
        description="Train a denoiser on a folder of photographs; docs/training.md explains.",
    )
    add, part = command.add_argument, command.add_mutually_exclusive_group().add_argument
    add("--images", required=True, metavar="DIR", help="photographs; every 20th is held out")
    add("--out", required=True, metavar="DIR", help="checkpoints, log and the finished weights")
    add("--resume", action="store_true", help="continue from the checkpoint in --out")
    add("--colour", action="store_true", help="train on colour instead of grey")
    add("--device", default="auto", help='"auto", "cpu", "cuda", ... (default: auto)')
    add("--steps", type=int, default=8_000, help="default: 8000")
    add("--batch", type=int, default=8, help="patches, four of each image (default: 8)")
    add("--patch", type=int, default=64, help="width of a patch in pixels (default: 64)")
    add("--rate", type=float, default=3e-3, help="the largest learning rate (default: 3e-3)")
    add("--scales", type=integers, default=(1, 2), help="factors by which photographs are reduced (default: 1,2)")
    add("--texture-rule", action="store_true", help="keep only one in eight of the smooth patches")
    add("--seed", type=int, default=0, help="default: 0")
    add("--size", type=integers, metavar="LAYERS,FILTERS,WIDTH", help="of a new denoiser (default: 20,32,9)")
    add("--start", metavar="NAME|FILE", help="train on from these weights")
    part("--guidance", action="store_true", help="train only how clips follow a guide")
    part("--guide-network", type=integers, metavar="WIDTH,DEPTH", help="train only the network that improves guides")
    part("--annealer", type=integers, metavar="WIDTH,DEPTH,SCALES", help="a new U-net behind --start")
    add("--equilibrium", type=float, default=0.0, metavar="SHARE", help="of steps that reconstruct (default: 0)")
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
    import torch
    from tqdm import tqdm

    from pnp_lip.pretrained import save_denoiser
    from pnp_lip.training import PatchSettings, ProblemSettings, TrainingSettings, load_photographs, train

    settings = TrainingSettings(
        steps=options.steps,
        learning_rate=options.rate,
        part="guidance" if options.guidance else "denoiser" if not options.guide_network else "guide network",
        patches=PatchSettings(options.batch, options.patch, options.scales, options.texture_rule),
        problems=ProblemSettings(options.equilibrium, options.scans),
        seed=options.seed,
    )
    device = chosen_device(options.device)
    torch.manual_seed(options.seed)
    denoiser = starting_point(options)
    images = load_photographs(options.images, colour=options.colour)
    with tqdm(total=settings.steps, unit="step") as bar:

        def progress(step: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)

        result = train(denoiser, *images, out, settings, device=device, resume=options.resume, progress=progress)
    certificate = save_denoiser(result.cpu(), out / "denoiser.safetensors")
    say(str(certificate or "an annealer has no certificate"))
    say(f"wrote {out / 'denoiser.safetensors'}; settings: {json.dumps(result.config)}")
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
    from pnp_lip.denoisers import AnnealingDenoiser, GradientFlowDenoiser, add_guidance
    from pnp_lip.potentials import RidgePotential
    from pnp_lip.pretrained import load_denoiser, load_pretrained, pretrained_names

    channels = 3 if options.colour else 1
    if options.start is None:
        if options.guidance or options.guide_network or options.annealer:
            raise InputError("--guidance, --guide-network and --annealer need a denoiser to start from: --start.")
        size = options.size or SIZE
        if len(size) != 3:
            raise InputError(f"--size takes layers, filters and their width, three integers; got {size}.")
        return GradientFlowDenoiser(in_channels=channels, dilations=(1,) * size[0], hidden_channels=size[1], kernel_size=size[2])
    shipped = options.start in pretrained_names()
    found = load_pretrained(options.start) if shipped else load_denoiser(options.start, require_certified=False)
    if isinstance(found, RidgePotential):
        raise InputError(f"{options.start} is a potential, no denoiser to start from.")
    found.requires_grad_(True)
    if found.in_channels != channels:
        raise InputError(f"{options.start} takes {found.in_channels} channels, not {channels} (--colour).")
    if options.size or (options.annealer and isinstance(found, AnnealingDenoiser)):
        raise InputError("--start keeps the layers that it finds; leave out --size, and --annealer for an annealer.")
    if isinstance(found, AnnealingDenoiser):
        return found
    if options.annealer:
        found.guidance = found.guide_network = None
        return AnnealingDenoiser(found, options.annealer)
    if options.guidance:
        return add_guidance(found, centred=True)
    if options.guide_network and (found.guide_network is None or found.guide_network.size != options.guide_network):
        return add_guidance(found, centred=found.guidance is None, network=options.guide_network)
    return found


def integers(text: str) -> tuple[int, ...]:
    """ "1,2,1" as (1, 2, 1); argparse turns the ValueError of other texts into a message."""
    return tuple(int(part) for part in text.split(","))
