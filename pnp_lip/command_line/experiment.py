"""``pnp-lip experiment``: the tables and figures of the approximation theory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.command_line.common import Commands, say
from pnp_lip.errors import InputError

if TYPE_CHECKING:
    from pnp_lip.theory.experiments import Experiment

__all__ = ["add_command"]

NAMES = ("two-moons", "mnist", "constraint-cost", "approximation-rate")


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("experiment", help="reproduce the tables of the approximation theory")
    command.add_argument("name", choices=NAMES)
    command.add_argument("--out", default="pnp-lip-experiments", metavar="DIR", help="NAME.json, NAME.md and NAME.png")
    command.add_argument("--data", metavar="PATH", help="mnist: torchvision's folder (default: data), or an .npz file")
    command.add_argument("--quick", action="store_true", help="a small version that takes seconds, to see that it runs")
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compute the cells that are missing under --out, then the table and the figure."""
    from tqdm import tqdm

    from pnp_lip.theory.experiments import run_experiment

    experiment = choose(options)
    out = Path(options.out)
    with tqdm(unit="", disable=options.quiet, smoothing=0.05) as bar:

        def progress(number: int, total: int, key: str) -> None:
            bar.total = total
            bar.set_description_str(key, refresh=False)
            bar.update(number - 1 - bar.n)

        cells = run_experiment(experiment, out, progress)
    say(experiment.table(cells))
    say(f"wrote {out / experiment.name}.json, .md and .png")
    return 0


def choose(options: argparse.Namespace) -> Experiment:
    """The experiment by its name."""
    from pnp_lip.theory import experiments

    if options.data is not None and options.name != "mnist":
        raise InputError(f"--data is for mnist; {options.name} makes its own data.")
    if options.name == "mnist":
        return experiments.mnist_experiment(None if options.data is None else Path(options.data), quick=options.quick)
    if options.name == "two-moons":
        return experiments.two_moons_experiment(quick=options.quick)
    if options.name == "constraint-cost":
        return experiments.constraint_cost_experiment(quick=options.quick)
    return experiments.approximation_rate_experiment(quick=options.quick)
