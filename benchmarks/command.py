"""The benchmarks' options and what they start: ``pnp-lip bench NAME`` and ``python -m pnp_lip.benchmarks NAME``."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp_lip.errors import InputError, PnpLipError

if TYPE_CHECKING:  # the command line starts in a tenth of the time without torch
    from pnp_lip.benchmarks.comparison import Tell
    from pnp_lip.benchmarks.priors import Prior

__all__ = ["add_arguments", "main"]

DESCRIPTIONS = {
    "denoising": "one pass of every denoiser over noise levels",
    "deblurring": "camera shakes, a Gaussian and a box, with every prior",
    "ct": "parallel and fan beam, Gaussian and Poisson noise, with every prior, and FBP",
    "certificates": "proved bounds against attacks, and the time of proving",
    "speed": "one pass of our networks in several ways, beside DRUNet and DnCNN",
    "convergence": "every solver on every forward model",
    "operators": "projectors and blurs against other packages",
    "headline": "the README's table: denoising, deblurring and tomography on scikit-image's data, in one go",
    "report": "Markdown tables and one HTML page from records",
}
QUICK: dict[str, dict[str, Any]] = {  # what --quick changes, so that all of the headline takes about three minutes
    "denoising": {"levels": (25,), "crop": 96, "limit": 1, "side": 96},
    "deblurring": {"noises": (0.01,), "crop": 48, "limit": 1, "kernel_limit": 1, "side": 32},
    "ct": {"geometries": ("parallel 60",), "noises": ("Gaussian",), "limit": 1, "side": 32},
    "certificates": {"levels": (25,), "steps": 2, "side": 12, "layers": 2, "channels": 16},
    "speed": {"side": 64, "repeats": 3},
}
QUICK_SECONDS = 0.5  # for a run without a proof
QUICK_LEAVES_OUT = {
    "BM3D": "left out of --quick, where each of its passes takes longer than a whole run may; name it to have it"
}
HEADLINE: dict[str, dict[str, Any]] = {
    "denoising": {"levels": (25,)},
    "deblurring": {"noises": (0.01,), "limit": 3},
    "ct": {"geometries": ("parallel 60",), "noises": ("Gaussian",)},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each benchmark, and ``report``."""
    commands = parser.add_subparsers(required=True, metavar="NAME", title="benchmarks")
    for name, text in DESCRIPTIONS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--out", type=Path, default=Path("pnp-lip-bench"), metavar="DIR", help="where to write")
        if name == "report":
            command.add_argument("records", nargs="+", metavar="RECORDS", help="JSON files, or folders with them")
            command.add_argument(
                "--readme", type=Path, help="a page whose headline table is to be renewed from RECORDS"
            )
            command.set_defaults(start=report)
        elif name in ("convergence", "operators"):
            command.add_argument("--quick", action="store_true", help="a small selection")
            command.set_defaults(start=globals()[name])
        else:
            add_comparison_options(command, name)
            command.set_defaults(start=headline if name == "headline" else compare, benchmark=name)


def add_comparison_options(command: argparse.ArgumentParser, name: str) -> None:
    """Who takes part, on what, and how much of it."""
    command.add_argument("--quick", action="store_true", help="a small selection, to see that everything works")
    command.add_argument("--fresh", action="store_true", help="discard a record of another run instead of refusing")
    command.add_argument("--label", help="write NAME_LABEL.json instead of NAME.json")
    command.add_argument("--priors", nargs="+", metavar="NAME", help="these only (default: all)")
    command.add_argument(
        "--denoiser",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="also: weights of ours, a network by benchmarks.networks.save_rival, or NAME=package.module:factory",
    )
    command.add_argument("--weights", type=Path, metavar="DIR", help="published weights (DnCNN, DRUNet, GSDRUNet)")
    command.add_argument("--threads", type=int, help="of torch (default: all cores)")
    if name in ("denoising", "deblurring", "certificates"):
        command.add_argument("--colour", action="store_true", default=None, help="colour images and denoisers")
    if name == "certificates":
        command.add_argument("--steps", type=int, help="of the attack")
        return
    if name == "speed":
        command.add_argument("--side", type=int, metavar="N", help="of the image, in pixels (default: 256)")
        command.add_argument("--repeats", type=int, metavar="N", help="passes of each, in turns (default: 9)")
        command.add_argument(
            "--compiled", action="store_true", default=None, help="also torch.compile for ours (some minutes)"
        )
        return
    command.add_argument("--limit", type=int, metavar="N", help="the first N images; of CT slices, N evenly spaced")
    command.add_argument("--side", type=int, metavar="N", help="of the validation images, and of CT slices, in pixels")
    command.add_argument("--seconds", type=float, metavar="S", help="of processor time for a run without a proof")
    if name in ("denoising", "deblurring", "headline"):
        command.add_argument("--images", type=Path, metavar="DIR", help="test images (default: scikit-image's)")
        command.add_argument("--crop", type=int, metavar="N", help="their central N x N pixels; 0 for the whole images")
    if name in ("deblurring", "headline"):
        command.add_argument("--kernels", type=Path, metavar="DIR", help="camera shakes (default: the package's)")
        command.add_argument("--kernel-limit", type=int, metavar="N", help="the first N kernels")
    if name == "deblurring":
        command.add_argument("--noises", type=float, nargs="+", metavar="SIGMA", help="on the scale of [0, 1]")
    if name in ("ct", "headline"):
        command.add_argument(
            "--phantom", type=Path, metavar="FILE", help="npz with hu, Hounsfield units (n, rows, columns)"
        )
        command.add_argument("--tilts", type=Path, metavar="FILE", help="npz with sinograms and tilts_deg: no truth")
    if name == "ct":
        command.add_argument("--geometries", nargs="+", metavar="NAME", help='such as "parallel 60" or "fan 360"')


def compare(options: argparse.Namespace, tell: Tell) -> int:
    """One of the comparisons; 0 unless nothing at all succeeded."""
    content = run_one(options.benchmark, options, {}, tell)
    path = record_path(options.benchmark, options)
    written = report_on([path], options.out)
    tell(f"wrote {path}, {', '.join(str(w) for w in written)}")
    return 0 if any("error" not in row for row in content["rows"]) else 1


def headline(options: argparse.Namespace, tell: Tell) -> int:
    """Denoising, deblurring and tomography as the README's table shows them; writes the table to headline.md."""
    from pnp_lip.benchmarks.headline import headline as table
    from pnp_lip.benchmarks.report import write_text

    records = {name: run_one(name, options, HEADLINE[name], tell) for name in HEADLINE}
    written = report_on([record_path(name, options) for name in HEADLINE], options.out)
    text = table(records)
    write_text(options.out / "headline.md", text)
    tell(f"wrote {', '.join(str(w) for w in written)}\n\n{text}")
    return 0


def record_path(name: str, options: argparse.Namespace) -> Path:
    """Where the record goes."""
    out: Path = options.out
    return out / f"{name}_{options.label}.json" if options.label else out / f"{name}.json"


def run_one(name: str, options: argparse.Namespace, preset: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Collect the priors, say who is missing, run."""
    import importlib

    import torch

    from pnp_lip.benchmarks.priors import collect

    if options.threads:
        torch.set_num_threads(options.threads)
    module = importlib.import_module(f"pnp_lip.benchmarks.{name}")
    config = configure(module.Config, options, preset | (QUICK[name] if options.quick else {}))
    restoration = name in ("deblurring", "ct")
    priors, missing = collect(
        options.denoiser,
        options.priors,
        options.weights,
        admm=restoration,
        channels=3 if getattr(config, "colour", False) else 1,
        annealed=name == "deblurring",
    )
    if options.quick and options.priors is None and restoration:
        priors = leave_out_slow(priors, missing)
    for prior, reason in missing.items():
        tell(f"SKIPPED {prior}: {reason}")
    if not priors:
        raise InputError("no prior can take part; the lines above say why.")
    tell(f"{name}: {', '.join(prior.name for prior in priors)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other packages' remarks on their own defaults
        content: dict[str, Any] = module.run(
            config, record_path(name, options), priors, missing, fresh=options.fresh, tell=tell
        )
    return content


def leave_out_slow(priors: list[Prior], missing: dict[str, str]) -> list[Prior]:
    """The priors that --quick has time for; the others enter ``missing``, with the reason."""
    missing |= {prior.name: QUICK_LEAVES_OUT[prior.name] for prior in priors if prior.name in QUICK_LEAVES_OUT}
    return [prior for prior in priors if prior.name not in QUICK_LEAVES_OUT]


def configure(kind: Callable[..., Any], options: argparse.Namespace, preset: dict[str, Any]) -> Any:
    """The configuration: its defaults, then the preset's values, then the options that were given."""
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = {k: v for k, v in vars(options).items() if k in names and v is not None}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    if given.get("crop") == 0:
        given["crop"] = None
    for key in ("limit", "kernel_limit", "side", "crop", "steps", "repeats"):
        if given.get(key) is not None and given[key] < 1:
            raise InputError(f"--{key.replace('_', '-')} must be a positive integer; got {given[key]}.")
    config = kind(**{**preset, **given})
    seconds = getattr(options, "seconds", None) or (QUICK_SECONDS if options.quick else None)
    if seconds is not None and "limits" in names:
        config = dataclasses.replace(config, limits=dataclasses.replace(config.limits, uncertified_seconds=seconds))
    return config


def report_on(paths: Sequence[Path], out: Path) -> list[Path]:
    """Tables and the page."""
    from pnp_lip.benchmarks.report import write_report

    return write_report(paths, out)


def report(options: argparse.Namespace, tell: Tell) -> int:
    """The report of given records, and the README's table on request."""
    from pnp_lip.benchmarks.headline import headline as table
    from pnp_lip.benchmarks.headline import insert, read_all
    from pnp_lip.benchmarks.report import find_records

    paths = find_records(options.records)
    written = report_on(paths, options.out)
    if options.readme is not None:
        insert(options.readme, table(read_all(paths[0].parent)))
        written.append(options.readme)
    tell(f"wrote {', '.join(str(w) for w in written)}")
    return 0


def convergence(options: argparse.Namespace, tell: Tell) -> int:
    """The solvers' benchmark, by its own command."""
    return delegate("convergence", [str(options.out / "convergence.json"), *(["--quick"] if options.quick else [])])


def operators(options: argparse.Namespace, tell: Tell) -> int:
    """The forward models' benchmark, by its own command."""
    repeats = ["--repeats", "3"] if options.quick else []
    return delegate("operators", ["--record", str(options.out / "operators.json"), *repeats])


def delegate(name: str, arguments: list[str]) -> int:
    """Run a benchmark that has a command of its own, in a process of its own, so that nothing here disturbs its times."""
    return subprocess.run([sys.executable, "-m", f"pnp_lip.benchmarks.{name}", *arguments], check=False).returncode


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
