"""An experiment: cells that are computed once and kept, with a table and a figure of what they found."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.version import __version__

__all__ = ["Experiment", "Line", "Panel", "markdown", "run_experiment"]

Values = dict[str, Any]  # one cell, as JSON holds it
Cells = Mapping[str, Values]


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of a figure, in matplotlib's styles and colours."""

    x: Sequence[float]
    y: Sequence[float]
    label: str | None
    style: str = "o-"
    colour: str = "C0"


@dataclasses.dataclass(frozen=True)
class Panel:
    """One diagram of a figure; ``logarithmic`` names its logarithmic axes, the horizontal one to the base 2."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    logarithmic: str = "xy"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Cells by key, the settings that decide them, and how their values become a table (Markdown) and a figure."""

    name: str
    settings: Values
    cells: Mapping[str, Callable[[], Values]]
    table: Callable[[Cells], str]
    panels: Callable[[Cells], Sequence[Panel]]


def run_experiment(experiment: Experiment, out: Path, progress: Callable[[int, int, str], None]) -> Cells:
    """Compute the cells that ``out``/NAME.json does not hold yet; write it after each, and .md and .png at the end.

    ``progress(number, total, key)`` is called before each cell. Raises InputError when the file holds cells of other
    settings.
    """
    path = out / f"{experiment.name}.json"
    cells = stored(path, experiment.settings)
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
    with write_atomically(out / f"{experiment.name}.png") as temporary:
        draw(temporary, experiment.panels(cells))
    return cells


def stored(path: Path, settings: Values) -> dict[str, Values]:
    """The cells of an earlier run with the same settings."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, cells = content["settings"], content["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no record of this experiment ({error!r}); choose another --out.") from error
    if found != json.loads(json.dumps(settings)):
        raise InputError(f"{path} holds cells of other settings; choose another --out, or delete the file.")
    return dict(cells)


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """The panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(panels), 4.2), layout="constrained")
    for axis, panel in zip(figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels, strict=False):
        for line in panel.lines:
            hollow = {"mfc": "w"} if line.style.startswith("s") else {}
            axis.plot(line.x, line.y, line.style, color=line.colour, label=line.label, **hollow)
        axis.set(xlabel=panel.x_label, ylabel=panel.y_label, title=panel.title)
        if "x" in panel.logarithmic:
            axis.set_xscale("log", base=2)
        if "y" in panel.logarithmic:
            axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=90, format="png")


def markdown(columns: Sequence[tuple[str, Callable[[Values], str]]], rows: Sequence[Values]) -> str:
    """A table: each column's header and how it shows a row.

    >>> print(markdown([("a", lambda r: str(r["a"])), ("b", lambda r: "-")], [{"a": 1}]), end="")
    | a | b |
    |---|---|
    | 1 | - |
    """
    lines = [[header for header, _ in columns], *([show(row) for _, show in columns] for row in rows)]
    text = ["| " + " | ".join(line) + " |\n" for line in lines]
    return "".join([text[0], "|" + "---|" * len(columns) + "\n", *text[1:]])
