"""The benchmarks' options and what they start: ``pnp-lip bench NAME``, or ``python -m pnp_lip.benchmarks NAME``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pnp_lip.errors import InputError, PnpLipError

if TYPE_CHECKING:  # the command line starts in a tenth of the time without torch
    from pnp_lip.benchmarks.priors import Prior
    from pnp_lip.benchmarks.record import Row, Tell

__all__ = ["add_arguments", "main"]

Values = Mapping[str, object]
C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark does, its configuration's class, its own options, and what --quick changes.

    ``compares`` says that priors take part; ``restores`` that they run in solvers.
    """

    text: str
    config: str
    options: tuple[str, ...] = ()
    quick: Values = dataclasses.field(default_factory=dict)
    compares: bool = True
    restores: bool = False


PHOTOGRAPHS = ("--images", "--crop", "--limit", "--side", "--colour")
BENCHMARKS = {
    "denoising": Benchmark(
        "one pass of every denoiser over noise levels",
        "DenoisingConfig",
        PHOTOGRAPHS,
        {"levels": (25,), "crop": 96, "limit": 1, "side": 96},
    ),
    "deblurring": Benchmark(
        "camera shakes, a Gaussian and a box, with every prior",
        "DeblurringConfig",
        (*PHOTOGRAPHS, "--kernels", "--kernel-limit", "--noises", "--seconds"),
        {"noises": (0.01,), "crop": 48, "limit": 1, "kernel_limit": 1, "side": 32},
        restores=True,
    ),
    "ct": Benchmark(
        "parallel and fan beam, Gaussian and Poisson noise, with every prior, and FBP",
        "CtConfig",
        ("--phantom", "--tilts", "--geometries", "--limit", "--side", "--seconds"),
        {"geometries": ("parallel 60",), "noises": ("Gaussian",), "limit": 1, "side": 32},
        restores=True,
    ),
    "certificates": Benchmark(
        "proved bounds against attacks, and the time of proving",
        "CertificatesConfig",
        ("--colour", "--steps"),
        {"levels": (25,), "steps": 2, "side": 12, "layers": 2, "channels": 16},
    ),
    "speed": Benchmark(
        "one pass of our networks in several ways, beside DRUNet and DnCNN",
        "SpeedConfig",
        ("--side", "--repeats"),
        {"side": 64, "repeats": 3},
    ),
    "convergence": Benchmark(
        "every solver on every forward model",
        "ConvergenceConfig",
        ("--size",),
        {"size": 16, "tol": 1e-3, "max_iter": 300, "uncertified_max_iter": 20, "training_steps": 10},
        compares=False,
    ),
    "operators": Benchmark(
        "projectors and blurs beside other packages",
        "OperatorsConfig",
        ("--repeats", "--large", "--measured"),
        {"repeats": 3},
        compares=False,
    ),
}
HEADLINE: dict[str, Values] = {
    "denoising": {"levels": (25,)},
    "deblurring": {"noises": (0.01,), "limit": 3},
    "ct": {"geometries": ("parallel 60",), "noises": ("Gaussian",)},
}
QUICK_SECONDS = 0.5  # of processor time for a run without a proof, with --quick
QUICK_LEAVES_OUT = {"BM3D": "left out of --quick: one pass takes longer than a whole run may; name it to have it"}
COUNTS = ("limit", "kernel_limit", "side", "crop", "steps", "repeats", "size")  # options that are positive integers

OPTIONS: dict[str, dict[str, object]] = {
    "--quick": {"action": "store_true", "help": "a small selection, to see that everything works"},
    "--fresh": {"action": "store_true", "help": "discard a record of another run instead of refusing"},
    "--label": {"help": "write NAME_LABEL.json instead of NAME.json"},
    "--threads": {"type": int, "help": "of torch (default: all cores)"},
    "--priors": {"nargs": "+", "metavar": "NAME", "help": "these only (default: all)"},
    "--denoiser": {
        "action": "append",
        "default": [],
        "metavar": "NAME=FILE",
        "help": "also: weights of ours, a network by benchmarks.networks.save_rival, or NAME=package.module:factory",
    },
    "--weights": {"type": Path, "metavar": "DIR", "help": "published weights (DnCNN, DRUNet, GSDRUNet)"},
    "--colour": {"action": "store_true", "default": None, "help": "colour images and denoisers"},
    "--images": {"type": Path, "metavar": "DIR", "help": "test images (default: scikit-image's)"},
    "--crop": {"type": int, "metavar": "N", "help": "their central N x N pixels; 0 for the whole images"},
    "--limit": {"type": int, "metavar": "N", "help": "the first N images; of CT slices, N evenly spaced"},
    "--side": {"type": int, "metavar": "N", "help": "of validation images, CT slices, timed images, in pixels"},
    "--kernels": {"type": Path, "metavar": "DIR", "help": "camera shakes (default: the package's)"},
    "--kernel-limit": {"type": int, "metavar": "N", "help": "the first N kernels"},
    "--noises": {"type": float, "nargs": "+", "metavar": "SIGMA", "help": "on the scale of [0, 1]"},
    "--seconds": {
        "type": float,
        "dest": "uncertified_seconds",
        "metavar": "S",
        "help": "of processor time for a run without a proof",
    },
    "--phantom": {"type": Path, "metavar": "FILE", "help": "npz with hu, Hounsfield units (n, rows, columns)"},
    "--tilts": {"type": Path, "metavar": "FILE", "help": "npz with sinograms and tilts_deg: no truth"},
    "--geometries": {"nargs": "+", "metavar": "NAME", "help": 'such as "parallel 60" or "fan 360"'},
    "--steps": {"type": int, "help": "of the attack"},
    "--repeats": {"type": int, "metavar": "N", "help": "how often each is timed"},
    "--size": {"type": int, "metavar": "N", "help": "of the image, in pixels (default: 32)"},
    "--large": {"action": "store_true", "default": None, "help": "also 512^2 with 360 views (deepinv: 3 GB, a minute)"},
    "--measured": {"type": Path, "metavar": "DIR", "help": "folder with tilt_series8.npz and cranium8.npz"},
}
COMMON = ("--quick", "--fresh", "--label", "--threads")
PRIORS = ("--priors", "--denoiser", "--weights")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each benchmark, ``headline`` and ``report``."""
    commands = parser.add_subparsers(required=True, metavar="NAME", title="benchmarks")

    def add(name: str, text: str, options: Sequence[str]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--out", type=Path, default=Path("pnp-lip-bench"), metavar="DIR", help="where to write")
        for option in dict.fromkeys(options):
            command.add_argument(option, **OPTIONS[option])  # type: ignore[arg-type]
        return command

    for name, benchmark in BENCHMARKS.items():
        own = (*COMMON, *(PRIORS if benchmark.compares else ()), *benchmark.options)
        add(name, benchmark.text, own).set_defaults(start=run_and_report, benchmark=name)
    text = "the README's table: denoising, deblurring and tomography on scikit-image's data, in one go"
    every = [option for name in HEADLINE for option in BENCHMARKS[name].options]
    own = tuple(option for option in every if option not in ("--colour", "--noises", "--geometries"))
    add("headline", text, (*COMMON, *PRIORS, *own)).set_defaults(start=headline)
    command = add("report", "Markdown tables and one HTML page from records", ())
    command.add_argument("records", nargs="+", metavar="RECORDS", help="JSON files, or folders with them")
    command.add_argument("--page", type=Path, help="renew the tables between this page's markers from RECORDS")
    command.set_defaults(start=report)


def run_and_report(options: argparse.Namespace, tell: Tell) -> int:
    """One benchmark; 0 if something succeeded and no bar of the operators was missed."""
    from pnp_lip.benchmarks.report import write_report

    content = run_one(options.benchmark, options, {}, tell)
    path = record_path(options.benchmark, options)
    written = write_report([path], options.out)
    tell(f"wrote {path}, {', '.join(map(str, written))}")
    rows = content["rows"]
    return 0 if any("error" not in row for row in rows) and all(row.get("met", True) for row in rows) else 1


def headline(options: argparse.Namespace, tell: Tell) -> int:
    """Denoising, deblurring and tomography as the README's table shows them; writes the table to headline.md."""
    from pnp_lip.benchmarks.headline import headline as table
    from pnp_lip.benchmarks.report import write_report, write_text

    records = {name: run_one(name, options, preset, tell) for name, preset in HEADLINE.items()}
    written = write_report([record_path(name, options) for name in HEADLINE], options.out)
    written.append(write_text(options.out / "headline.md", table(records)))
    tell(f"wrote {', '.join(map(str, written))}\n\n{table(records)}")
    return 0


def report(options: argparse.Namespace, tell: Tell) -> int:
    """The report of given records, and the tables of a page on request."""
    from pnp_lip.benchmarks.report import find_records, renew, write_report

    paths = find_records(options.records)
    written = write_report(paths, options.out)
    if options.page is not None:
        renew(options.page, paths)
        written.append(options.page)
    tell(f"wrote {', '.join(map(str, written))}")
    return 0


def record_path(name: str, options: argparse.Namespace) -> Path:
    """Where the record goes."""
    return Path(options.out) / (f"{name}_{options.label}.json" if options.label else f"{name}.json")


def run_one(name: str, options: argparse.Namespace, preset: Values, tell: Tell) -> Row:
    """Collect the priors, say who is missing, run."""
    import torch

    from pnp_lip.benchmarks.record import Destination

    if options.threads:
        torch.set_num_threads(options.threads)
    benchmark = BENCHMARKS[name]
    module = importlib.import_module(f"pnp_lip.benchmarks.{name}")
    config = configure(getattr(module, benchmark.config)(), options, {**preset, **(benchmark.quick if options.quick else {})})
    priors, missing = find_priors(name, options) if benchmark.compares else ([], {})
    for prior, reason in missing.items():
        tell(f"SKIPPED {prior}: {reason}")
    if benchmark.compares:
        if not priors:
            raise InputError("no prior can take part; the lines above say why.")
        tell(f"{name}: {', '.join(prior.name for prior in priors)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other packages' remarks on their own defaults
        to = Destination(record_path(name, options), options.fresh, missing, tell)
        content: Row = module.run(config, to, priors)
    return content


def find_priors(name: str, options: argparse.Namespace) -> tuple[list[Prior], dict[str, str]]:
    """Who takes part, and why others cannot; --quick leaves out the slow ones unless they are named."""
    from pnp_lip.benchmarks.priors import collect

    restores = BENCHMARKS[name].restores
    priors, missing = collect(
        options.denoiser,
        options.priors,
        options.weights,
        admm=restores,
        channels=3 if getattr(options, "colour", None) else 1,
        annealed=name == "deblurring",
    )
    if options.quick and options.priors is None and restores:
        priors = leave_out_slow(priors, missing)
    return priors, missing


def leave_out_slow(priors: list[Prior], missing: dict[str, str]) -> list[Prior]:
    """The priors that --quick has time for; the others enter ``missing``, with the reason."""
    missing |= {prior.name: QUICK_LEAVES_OUT[prior.name] for prior in priors if prior.name in QUICK_LEAVES_OUT}
    return [prior for prior in priors if prior.name not in QUICK_LEAVES_OUT]


def configure(config: C, options: argparse.Namespace, preset: Values) -> C:
    """The configuration with the preset's values, then the options that were given, in it and in what it holds."""
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(options).items() if v is not None}
    for key in COUNTS:
        if key in given and given[key] < 1 and not (key == "crop" and given[key] == 0):
            raise InputError(f"--{key.replace('_', '-')} must be a positive integer; got {given[key]}.")
    if options.quick:
        given.setdefault("uncertified_seconds", QUICK_SECONDS)
    if given.get("crop") == 0:
        given["crop"] = None
    return replaced(config, {**preset, **given})


def replaced(config: C, values: Values) -> C:
    """The dataclass with the fields that ``values`` names replaced, in dataclasses that it holds, too."""
    changes = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        changes[field.name] = replaced(value, values) if dataclasses.is_dataclass(value) else values.get(field.name, value)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m pnp_lip.benchmarks``: 0 done, 2 wrong usage or unreadable input, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m pnp_lip.benchmarks", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        return int(options.start(options, say))
    except PnpLipError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130


def say(text: str) -> None:
    """One line to standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
