"""The benchmarks' options and what they start: ``pnp-lip bench NAME``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.benchmarks import config
from pnp_lip.errors import InputError

if TYPE_CHECKING:  # the command line starts in a tenth of the time without torch
    from pnp_lip.benchmarks.priors import Prior
    from pnp_lip.benchmarks.record import Row, Tell

__all__ = ["add_arguments"]

Values = Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark does, its default settings, and what --quick changes.

    ``compares`` says that priors take part, ``restores`` that they run in solvers.
    """

    text: str
    config: object
    quick: Values
    compares: bool = True
    restores: bool = False


BENCHMARKS = {
    "denoising": Benchmark(
        "one pass of every denoiser over noise levels",
        config.DenoisingConfig(),
        {"levels": (25,), "crop": 96, "limit": 1, "side": 96},
    ),
    "deblurring": Benchmark(
        "camera shakes, a Gaussian and a box, with every prior",
        config.DeblurringConfig(),
        {"noises": (0.01,), "crop": 48, "limit": 1, "kernel_limit": 1, "side": 32, "uncertified_seconds": 0.5},
        restores=True,
    ),
    "ct": Benchmark(
        "parallel and fan beam, Gaussian and Poisson noise, with every prior, and FBP",
        config.CtConfig(),
        {"geometries": ("parallel 60",), "noises": ("Gaussian",), "limit": 1, "side": 32, "uncertified_seconds": 0.5},
        restores=True,
    ),
    "certificates": Benchmark(
        "proved bounds against attacks, and the time of proving",
        config.CertificatesConfig(),
        {"levels": (25,), "steps": 2, "side": 12, "layers": 2, "channels": 16},
    ),
    "speed": Benchmark(
        "one pass of our networks in several ways, beside DRUNet and DnCNN",
        config.SpeedConfig(),
        {"side": 64, "repeats": 3},
    ),
    "convergence": Benchmark(
        "every solver on every forward model",
        config.ConvergenceConfig(),
        {"size": 16, "tol": 1e-3, "max_iter": 300, "uncertified_max_iter": 20, "training_steps": 10},
        compares=False,
    ),
    "operators": Benchmark(
        "projectors and blurs beside other packages", config.OperatorsConfig(), {"repeats": 3}, compares=False
    ),
}
HEADLINE: dict[str, Values] = {
    "denoising": {"levels": (25,)},
    "deblurring": {"noises": (0.01,), "limit": 3},
    "ct": {"geometries": ("parallel 60",), "noises": ("Gaussian",)},
}
FIXED = {"levels", "noises", "geometries", "colour"}  # settings that the headline does not leave open
QUICK_LEAVES_OUT = {"BM3D": "left out of --quick: one pass takes longer than a whole run may; name it to have it"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each benchmark, ``headline`` and ``report``."""
    commands = parser.add_subparsers(required=True, metavar="NAME", title="benchmarks")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--out", type=Path, default=Path("pnp-lip-bench"), metavar="DIR", help="where to write")
        return command

    for name, benchmark in BENCHMARKS.items():
        command = add(name, benchmark.text)
        add_common_options(command, benchmark.compares)
        config.add_options(command, benchmark.config, set())
        command.set_defaults(start=run_and_report, benchmark=name)
    command = add("headline", "the README's table: denoising, deblurring and tomography on scikit-image's data")
    add_common_options(command, compares=True)
    known = set(FIXED)
    for name in HEADLINE:
        config.add_options(command, BENCHMARKS[name].config, known)
    command.set_defaults(start=headline)
    command = add("rival", "train deepinv's DnCNN as our denoisers are; --denoiser NAME=FILE takes it")
    config.add_options(command, config.RivalConfig(), set())
    command.set_defaults(start=rival)
    command = add("report", "Markdown tables and one HTML page from records")
    command.add_argument("records", nargs="+", metavar="RECORDS", help="JSON files, or folders with them")
    command.add_argument("--page", type=Path, help="renew the tables between this page's markers from RECORDS")
    command.set_defaults(start=report_on)


def add_common_options(command: argparse.ArgumentParser, compares: bool) -> None:
    """What every benchmark takes, and who takes part."""
    command.add_argument("--quick", action="store_true", help="a small selection, to see that everything works")
    command.add_argument("--fresh", action="store_true", help="discard a record of another run instead of refusing")
    command.add_argument("--label", help="write NAME_LABEL.json instead of NAME.json")
    command.add_argument("--threads", type=int, help="of torch (default: all cores)")
    if compares:
        command.add_argument("--priors", nargs="+", metavar="NAME", help="these only (default: all)")
        text = "also: weights of ours, a network by benchmarks.networks.save_rival, or NAME=package.module:factory"
        command.add_argument("--denoiser", action="append", default=[], metavar="NAME=FILE", help=text)


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
    from pnp_lip.benchmarks import report

    records = {name: run_one(name, options, preset, tell) for name, preset in HEADLINE.items()}
    written = report.write_report([record_path(name, options) for name in HEADLINE], options.out)
    written.append(report.write_text(options.out / "headline.md", report.headline(records)))
    tell(f"wrote {', '.join(map(str, written))}\n\n{report.headline(records)}")
    return 0


def report_on(options: argparse.Namespace, tell: Tell) -> int:
    """The report of given records, and the tables of a page on request."""
    from pnp_lip.benchmarks.report import find_records, renew, write_report

    paths = find_records(options.records)
    written = write_report(paths, options.out)
    if options.page is not None:
        renew(options.page, paths)
        written.append(options.page)
    tell(f"wrote {', '.join(map(str, written))}")
    return 0


def rival(options: argparse.Namespace, tell: Tell) -> int:
    """Train a rival."""
    from pnp_lip.benchmarks.rivals import train_rival

    tell(f"wrote {train_rival(config.configured(config.RivalConfig(), given(options)), options.out)}")
    return 0


def given(options: argparse.Namespace) -> Row:
    """The options that were given, by name."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(options).items() if v is not None}
    return {k: None if k == "crop" and v == 0 else v for k, v in values.items()}


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
    values = {**preset, **(benchmark.quick if options.quick else {}), **given(options)}
    settings = config.configured(benchmark.config, values)
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
        content: Row = module.run(settings, to, priors)
    return content


def find_priors(name: str, options: argparse.Namespace) -> tuple[list[Prior], dict[str, str]]:
    """Who takes part, and why others cannot; --quick leaves out the slow ones unless they are named."""
    from pnp_lip.benchmarks.priors import collect

    restores, channels = BENCHMARKS[name].restores, 3 if getattr(options, "colour", None) else 1
    annealed = name == "deblurring"
    priors, missing = collect(options.denoiser, options.priors, admm=restores, channels=channels, annealed=annealed)
    if options.quick and options.priors is None and restores:
        priors = leave_out_slow(priors, missing)
    return priors, missing


def leave_out_slow(priors: list[Prior], missing: dict[str, str]) -> list[Prior]:
    """The priors that --quick has time for; the others enter ``missing``, with the reason."""
    missing |= {prior.name: QUICK_LEAVES_OUT[prior.name] for prior in priors if prior.name in QUICK_LEAVES_OUT}
    return [prior for prior in priors if prior.name not in QUICK_LEAVES_OUT]
