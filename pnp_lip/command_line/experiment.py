"""``pnp-lip experiment``: the tables and figures of the approximation theory."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from pnp_lip.command_line.common import Commands, say
from pnp_lip.errors import InputError

__all__ = ["add_command"]

NAMES = ("two-moons", "mnist", "constraint-cost", "approximation-rate")


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("experiment", help="reproduce the tables of the approximation theory")
    command.add_argument("name", choices=NAMES)
    command.add_argument("--out", default="pnp-lip-experiments", metavar="DIR", help="NAME.json, NAME.md, some NAME.png")
    command.add_argument("--data", metavar="PATH", help="mnist: torchvision's folder (default: data), or an .npz file")
    command.add_argument("--quick", action="store_true", help="a small version that takes seconds, to see that it runs")
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compute the cells that are missing under --out, then the table and, for some, the figure."""
    from tqdm import tqdm

    from pnp_lip.theory import experiments

    if options.data is not None and options.name != "mnist":
        raise InputError(f"--data is for mnist; {options.name} makes its own data.")
    makers: dict[str, Callable[..., experiments.Experiment]] = {
        "two-moons": experiments.two_moons_experiment,
        "mnist": functools.partial(experiments.mnist_experiment, Path(options.data or "data")),
        "constraint-cost": experiments.constraint_cost_experiment,
        "approximation-rate": experiments.approximation_rate_experiment,
    }
    experiment = makers[options.name](quick=options.quick)
    out = Path(options.out)
    with tqdm(unit="", disable=options.quiet, smoothing=0.05) as bar:

        def progress(number: int, total: int, key: str) -> None:
            bar.total = total
            bar.set_description_str(key, refresh=False)
            bar.update(number - 1 - bar.n)

        cells = experiments.run_experiment(experiment, out, progress)
    say(experiment.table(cells))
    say(f"wrote {out / experiment.name}.json, .md{' and .png' if experiment.draw else ''}")
    return 0
