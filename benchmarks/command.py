"""The benchmarks' options and what they start: ``pnp-lip bench NAME``."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.benchmarks import config
from pnp_lip.errors import InputError

if TYPE_CHECKING:  # the command line starts in a tenth of the time without torch
    from pnp_lip.benchmarks.priors import Prior
    from pnp_lip.benchmarks.record import Row, Tell

__all__ = ["add_arguments"]

Values = Mapping[str, object]
Start = Callable[[argparse.Namespace, "Tell"], int]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark does, its default settings, and whether priors take part."""

    text: str
    config: object
    compares: bool = True


TWELVE = config.DeblurringConfig(
    kernel_names=("levin1", "levin3", "levin5", "levin7"), paired=True, limits=config.Limits(oracle=True)
)
BENCHMARKS = {
    "denoising": Benchmark("one pass of every denoiser over noise levels", config.DenoisingConfig()),
    "deblurring": Benchmark("camera shakes, a Gaussian, a box; every prior", config.DeblurringConfig()),
    "twelve": Benchmark("deblurring of 12 images (--images Set12) with Levin's kernels (--kernels levin09.npz) in turn", TWELVE),
    "ct": Benchmark("parallel and fan beam, two kinds of noise; every prior, FBP", config.CtConfig()),
    "certificates": Benchmark("proved bounds against attacks, and the time of proving", config.CertificatesConfig()),
    "speed": Benchmark("one pass of our networks in several ways, beside DRUNet and DnCNN", config.SpeedConfig()),
    "convergence": Benchmark("every solver on every forward model", config.ConvergenceConfig(), compares=False),
    "operators": Benchmark("projectors beside deepinv's", config.OperatorsConfig(), compares=False),
}
TASKS = {"deblurring": "deblurring", "twelve": "deblurring", "ct": "ct"}  # what a benchmark in which priors restore runs
SHOWN = ("TV", "ridge", "gradient-step", "FFDNet")  # in the pictures
HEADLINE: dict[str, Values] = {
    "denoising": {"levels": (25,), "oracle": True},
    "deblurring": {"noises": (0.01,), "paired": True, "oracle": True},
    "ct": {"geometries": ("parallel 60",), "noises": ("Gaussian",), "oracle": True},
}
QUICK_LEAVES_OUT = {"BM3D": "left out of --quick: one deblurring takes a second, however small the image; name it to have it"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each benchmark, ``headline``, ``pictures`` and ``report``."""
    commands = parser.add_subparsers(required=True, metavar="NAME", title="benchmarks")

    def add(name: str, text: str, start: Start) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--out", type=Path, default=Path("pnp-lip-bench"), metavar="DIR", help="where to write")
        command.set_defaults(start=start, benchmark=name)
        return command

    for name, benchmark in BENCHMARKS.items():
        command = add(name, benchmark.text, measure)
        add_common_options(command, benchmark.compares)
        config.add_options(command, benchmark.config)
    text = "the README's table: denoising, deblurring and tomography on scikit-image's data"
    add_common_options(add("headline", text, measure), compares=True)
    command = add("pictures", "reconstructions of one photograph side by side, with the same part enlarged", pictures)
    command.add_argument("record", type=Path, metavar="RECORD", help="deblurring.json, which holds the strengths")
    command.add_argument("--priors", nargs="+", metavar="NAME", default=list(SHOWN), help=f"default: {', '.join(SHOWN)}")
    command.add_argument("--weights", type=Path, metavar="DIR", help="folder of published weights")
    command = add("report", "Markdown tables from records", report)
    command.add_argument("records", nargs="+", metavar="RECORDS", help="JSON files, or folders with them")
    command.add_argument("--page", type=Path, help="renew the tables between this page's markers from RECORDS")
    command.add_argument("--profile", type=Path, metavar="PNG", help="plot how often each prior is how near to the best")


def add_common_options(command: argparse.ArgumentParser, compares: bool) -> None:
    """What every benchmark takes, and who takes part."""
    command.add_argument("--quick", action="store_true", help="a small selection, to see that everything works")
    command.add_argument("--threads", type=int, help="of torch (default: all cores)")
    if compares:
        command.add_argument("--priors", nargs="+", metavar="NAME", help="these only (default: all)")
        text = "also: weights of ours, or a published ridge regulariser (npz)"
        command.add_argument("--denoiser", action="append", default=[], metavar="NAME=FILE", help=text)
        command.add_argument("--weights", type=Path, metavar="DIR", help="folder of published weights (docs/benchmarks.md)")


def measure(options: argparse.Namespace, tell: Tell) -> int:
    """One benchmark, or those of the README's table, which goes to headline.md.

    0 if something succeeded and no bar of the operators was missed.
    """
    from pnp_lip.benchmarks.report import headline, write_report, write_text

    presets = HEADLINE if options.benchmark == "headline" else {options.benchmark: {}}
    records = {name: run_one(name, options, preset, tell) for name, preset in presets.items()}
    paths = [options.out / f"{name}.json" for name in records]
    tell(f"wrote {', '.join(map(str, paths + write_report(paths, options.out)))}")
    if options.benchmark == "headline":
        tell(f"wrote {write_text(options.out / 'headline.md', headline(records))}\n\n{headline(records)}")
    rows = [row for content in records.values() for row in content["rows"]]
    return 0 if any("error" not in row for row in rows) and all(row.get("met", True) for row in rows) else 1


def report(options: argparse.Namespace, tell: Tell) -> int:
    """The report of given records, and the tables of a page on request."""
    from pnp_lip.benchmarks.pictures import plot_profile
    from pnp_lip.benchmarks.report import find_records, renew, write_report

    paths = find_records(options.records)
    written = write_report(paths, options.out)
    if options.page is not None:
        renew(options.page, paths)
        written.append(options.page)
    if options.profile is not None:
        written.append(plot_profile(paths, options.profile))
    tell(f"wrote {', '.join(map(str, written))}")
    return 0


def pictures(options: argparse.Namespace, tell: Tell) -> int:
    from pnp_lip.benchmarks.pictures import draw_insets, restored
    from pnp_lip.benchmarks.priors import collect

    priors, missing = collect((), options.priors, task="deblurring", weights=options.weights)
    for prior, reason in missing.items():
        tell(f"SKIPPED {prior}: {reason}")
    images = restored(options.record, priors)
    side = images["truth"].shape[-1]
    tell(f"wrote {draw_insets(images, (side // 4, side // 3), max(side // 4, 1), options.out / 'pictures.png')}")
    return 0


def run_one(name: str, options: argparse.Namespace, preset: Values, tell: Tell) -> Row:
    """Collect the priors, say who is missing, run."""
    import torch

    from pnp_lip.benchmarks.record import Destination
    from pnp_lip.benchmarks.report import MAKERS

    if options.threads:
        torch.set_num_threads(options.threads)
    benchmark = BENCHMARKS[name]
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(options).items() if v is not None}
    given |= {"crop": None} if given.get("crop") == 0 else {}
    settings = config.configured(config.configured(benchmark.config, preset), given, quick=options.quick)
    priors, missing = find_priors(name, options) if benchmark.compares else ([], {})
    for prior, reason in missing.items():
        tell(f"SKIPPED {prior}: {reason}")
    if benchmark.compares:
        if not priors:
            raise InputError("no prior can take part; the lines above say why.")
        tell(f"{name}: {', '.join(prior.name for prior in priors)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other packages' remarks on their own defaults
        return MAKERS[TASKS.get(name, name)][0](settings, Destination(options.out / f"{name}.json", missing, tell), priors)


def find_priors(name: str, options: argparse.Namespace) -> tuple[list[Prior], dict[str, str]]:
    """Who takes part, and why others cannot."""
    from pnp_lip.benchmarks.priors import collect

    channels = 3 if getattr(options, "colour", None) else 1
    task = TASKS.get(name, "denoising")
    priors, missing = collect(options.denoiser, options.priors, task=task, channels=channels, weights=options.weights)
    if options.quick and options.priors is None and name in TASKS:
        missing |= {prior.name: QUICK_LEAVES_OUT[prior.name] for prior in priors if prior.name in QUICK_LEAVES_OUT}
        priors = [prior for prior in priors if prior.name not in QUICK_LEAVES_OUT]
    return priors, missing
