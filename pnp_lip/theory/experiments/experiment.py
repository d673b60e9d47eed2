"""An experiment: cells that are computed once and kept, with a table and a figure of what they found."""

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.version import __version__

__all__ = ["Cells", "Experiment", "Values", "markdown", "run_experiment", "where"]

Values = dict[str, Any]  # one cell, as JSON holds it
Cells = Mapping[str, Values]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Cells by key, the settings that decide them, and how their values become a table (Markdown), perhaps a figure."""

    name: str
    settings: Values
    cells: Mapping[str, Callable[[], Values]]
    table: Callable[[Cells], str]
    draw: Callable[[Axes, Cells], None] | None = None


def run_experiment(experiment: Experiment, out: Path, progress: Callable[[int, int, str], None]) -> Cells:
    """Compute the cells that ``out``/NAME.json does not hold yet; write it after each, and .md (.png) at the end.

    ``progress(number, total, key)`` is called before each cell. Raises InputError for a file of other settings.
    """
    path = out / f"{experiment.name}.json"
    cells: dict[str, Values] = {}
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            settings, cells = content["settings"], dict(content["cells"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no record of this experiment ({error!r}); choose another --out.") from error
        if settings != json.loads(json.dumps(experiment.settings)):
            raise InputError(f"{path} holds cells of other settings; choose another --out, or delete the file.")
    missing = [key for key in experiment.cells if key not in cells]
    for number, key in enumerate(missing, 1):
        progress(number, len(missing), key)
        start = time.process_time()
        cells[key] = {**experiment.cells[key](), "cpu_seconds": round(time.process_time() - start, 2)}
        content = {
            "experiment": experiment.name,
            "settings": experiment.settings,
            "version": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cells": cells,
        }
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    cells = {key: cells[key] for key in experiment.cells}
    with write_atomically(out / f"{experiment.name}.md") as temporary:
        temporary.write_text(experiment.table(cells), encoding="utf-8")
    if experiment.draw:
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axis = figure.subplots()
        experiment.draw(axis, cells)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
        with write_atomically(out / f"{experiment.name}.png") as temporary:
            figure.savefig(temporary, dpi=90, format="png")
    return cells


def where(cells: Cells, order: str, **fields: object) -> list[Values]:
    """The cells with these values, in the order of another one.

    >>> where({"b": {"n": 2, "k": 0}, "a": {"n": 1, "k": 0}, "c": {"n": 0, "k": 1}}, "n", k=0)
    [{'n': 1, 'k': 0}, {'n': 2, 'k': 0}]
    """
    return sorted((r for r in cells.values() if fields.items() <= r.items()), key=lambda r: float(r[order]))


def markdown(header: str, rows: Iterable[str]) -> str:
    """A table of lines, their cells separated by bars.

    >>> print(markdown("a | b", ["1 | -"]), end="")
    | a | b |
    |---|---|
    | 1 | - |
    """
    text = [f"| {line} |\n" for line in (header, *rows)]
    return "".join([text[0], "|" + "---|" * (header.count("|") + 1) + "\n", *text[1:]])
