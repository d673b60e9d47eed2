"""``pnp-lip train``: a certified denoiser from a folder of photographs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.command_line.common import Commands, get_denoiser, say
from pnp_lip.errors import InputError

if TYPE_CHECKING:
    from pnp_lip.denoisers import GradientFlowDenoiser

__all__ = ["add_command"]


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser(
        "train",
        help="train a denoiser on a folder of photographs",
        description="Train a denoiser on a folder of photographs. On several GPUs: torchrun --nproc-per-node N --no-python "
        "-- pnp-lip train ...; each draws --batch patches of its own. (Without -- torchrun takes --start for its own option.)",
    )
    command.add_argument("--images", required=True, metavar="DIR", help="photographs; every 20th is held out")
    command.add_argument("--out", required=True, metavar="DIR", help="checkpoints, log and the finished weights")
    command.add_argument("--colour", action="store_true", help="train on colour instead of grey")
    command.add_argument("--device", default="auto", help='"auto", "cpu", "cuda", ... (default: auto)')
    command.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    command.add_argument("--steps", type=int, default=8_000)
    command.add_argument("--batch", type=int, default=8, help="patches, four of each image (default: 8)")
    command.add_argument("--patch", type=int, default=64)
    command.add_argument("--rate", type=float, default=3e-3, help="the largest learning rate (default: 3e-3)")
    command.add_argument(
        "--start", metavar="NAME|FILE", help="train on from a shipped denoiser or its weights, whose layers it keeps"
    )
    command.add_argument(
        "--guidance",
        nargs="?",
        const="all",
        choices=("all", "centres"),
        help="train only what a second pass needs that the first one's result guides, or of that only the centres of clips; "
        "--start is left as it is",
    )
    command.add_argument(
        "--guide-network",
        nargs="?",
        const="",
        metavar="WIDTH,DEPTH[,SCALES]|NAME|FILE",
        help="train only the network that improves the guide: a new one, that of other weights, or the one that --start has; "
        "with --guidance use it as it is",
    )
    command.add_argument(
        "--equilibrium",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the steps train the fixed point on random blurs and scans",
    )
    command.add_argument(
        "--scans",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="of those that are scans, the others blurs (default: 0.4)",
    )
    command.add_argument(
        "--later",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="of guides that are second solutions, as a third round has them (default: 0)",
    )
    command.add_argument(
        "--annealed",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="of blurs' guides that the annealer has improved, as deblurring has them (default: 0)",
    )
    command.add_argument("--channels", type=int, help="of the state (default: the image's)")
    command.add_argument("--hidden", type=int, help="hidden channels (default: 32)")
    command.add_argument("--group", type=int, help="filters that are clipped together (default: 1, each alone)")
    command.add_argument("--kernel-size", type=int, help="odd (default: 9); with --start, filters grow to it")
    command.add_argument("--dilations", help="one per layer, separated by commas (default: twenty times 1)")
    command.add_argument("--texture-rule", action="store_true", help="keep only one in eight of the smooth patches")
    command.add_argument("--scales", default="1,2", help="factors by which photographs are reduced (default: 1,2)")
    command.add_argument("--constraint", choices=("parametrisation", "projection"), default="parametrisation")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, certify and save."""
    out = Path(options.out)
    if (out / "checkpoint.pt").exists() and not options.resume:
        raise InputError(f"{out} holds a training run already; pass --resume to continue it, or choose another --out.")
    if options.resume and not (out / "checkpoint.pt").exists():
        say(f"{out} holds no checkpoint to resume from; training starts anew")
    import torch
    from tqdm import tqdm

    from pnp_lip.denoisers import require_guidance
    from pnp_lip.pretrained import save_denoiser
    from pnp_lip.training import TEXTURE_THRESHOLD, TrainingSettings, join_ranks, load_photographs, train
    from pnp_lip.training.ranks import Ranks

    settings = TrainingSettings(
        steps=options.steps,
        batch=options.batch,
        patch=options.patch,
        learning_rate=options.rate,
        constraint=options.constraint,
        guidance=options.guidance is not None,
        centres=options.guidance == "centres",
        guide_network=options.guide_network is not None and not options.guidance,
        equilibrium=options.equilibrium,
        scans=options.scans,
        later=options.later,
        annealed=options.annealed,
        scales=tuple(parse_integers("--scales", options.scales)),
        texture_threshold=TEXTURE_THRESHOLD if options.texture_rule else 0.0,
        seed=options.seed,
    )
    torch.manual_seed(options.seed)
    denoiser = starting_point(options)
    if options.guidance or settings.guide_network:
        require_guidance(denoiser)  # before the photographs are read
    training, validation = load_photographs(options.images, colour=options.colour)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch sees no such accelerator here; use cpu.")
    with join_ranks(device) as device:
        first = Ranks.here().rank == 0
        with tqdm(total=settings.steps, unit="step", disable=not first) as bar:

            def progress(step: int, loss: float) -> None:
                bar.update(step - bar.n)
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)

            result = train(
                denoiser, training, validation, out, settings, device=device, resume=options.resume, progress=progress
            )
        if first:
            certificate = save_denoiser(result.cpu(), out / "denoiser.safetensors")
            say(str(certificate))
            say(f"wrote {out / 'denoiser.safetensors'}; settings: {json.dumps(result.config)}")
    return 0


def starting_point(options: argparse.Namespace) -> GradientFlowDenoiser:
    """A new network, or the one that --start names. Raises InputError where the options contradict it."""
    from pnp_lip.denoisers import GradientFlowDenoiser, add_guidance
    from pnp_lip.training import enlarge_filters

    channels = 3 if options.colour else 1
    if options.start is None:
        given = {
            "channels": options.channels,
            "hidden_channels": options.hidden,
            "kernel_size": options.kernel_size,
            "group": options.group,
            "dilations": None if options.dilations is None else parse_integers("--dilations", options.dilations),
        }
        return GradientFlowDenoiser(in_channels=channels, **{k: v for k, v in given.items() if v is not None})
    if (options.channels, options.hidden, options.dilations, options.group) != (None, None, None, None):
        raise InputError(
            "--start keeps the layers that it finds; leave out --channels, --hidden, --dilations and --group."
        )
    denoiser = get_denoiser(options.start, require_certified=False).requires_grad_(True)
    if denoiser.in_channels != channels:
        raise InputError(
            f"{options.start} takes {denoiser.in_channels} channels; {channels} are to be trained (--colour)."
        )
    if options.guidance == "centres" and denoiser.guidance is None:
        raise InputError(
            f"{options.start} has learned no guidance that centres could join; train that first (--guidance)."
        )
    if options.guidance or (denoiser.guidance is None and options.guide_network is not None):
        denoiser = add_guidance(denoiser, centred=True)
    denoiser = with_guide_network(denoiser, options.guide_network)
    grown = options.kernel_size not in (None, denoiser.config["kernel_size"])
    return enlarge_filters(denoiser, options.kernel_size) if grown else denoiser


def with_guide_network(denoiser: GradientFlowDenoiser, source: str | None) -> GradientFlowDenoiser:
    """The denoiser with the guide network that --guide-network names."""
    from pnp_lip.denoisers import add_guidance

    if not source:
        if source is not None and denoiser.guide_network is None:
            raise InputError("--start has no guide network; say --guide-network WIDTH,DEPTH for a new one.")
        return denoiser
    if set(source) <= set("0123456789, "):
        return add_guidance(denoiser, network=tuple(parse_integers("--guide-network", source)))
    return add_guidance(denoiser, network=get_denoiser(source, require_certified=False).guide_network)


def parse_integers(option: str, text: str) -> list[int]:
    """ "1,2,1" as [1, 2, 1]."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} takes integers separated by commas; got {text!r}.") from error
