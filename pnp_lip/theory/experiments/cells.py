"""Experiments as tables of cells: each cell is computed once, stored at once, and not again on the next run."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.version import __version__

__all__ = ["Cell", "Experiment", "Records", "Tick", "insert_table", "markdown", "run_experiment"]

Record = dict[str, Any]
Records = Mapping[str, Record]
Tick = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry of a table: ``compute(tick)`` returns its record and calls ``tick`` ``work`` times on the way."""

    work: int
    compute: Callable[[Tick], Record]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Cells by key, the settings that decide them, and how their records become a table (Markdown) and a figure."""

    name: str
    settings: Record
    cells: Mapping[str, Cell]
    table: Callable[[Records], str]
    draw: Callable[[Path, Records], None]


def run_experiment(experiment: Experiment, out: Path, progress: Callable[[int, int, str], None]) -> Records:
    """Compute the cells that ``out``/NAME.json does not hold yet; write it after each, and .md and .png at the end.

    ``progress(done, total, key)`` counts units of work. Raises InputError when the file holds cells of other settings.
    """
    path = out / f"{experiment.name}.json"
    records = stored(path, experiment.settings)
    total = sum(cell.work for key, cell in experiment.cells.items() if key not in records)
    done = 0
    for key, cell in experiment.cells.items():
        if key in records:
            continue

        def tick(key: str = key) -> None:
            nonlocal done
            done += 1
            progress(done, total, key)

        start = time.process_time()
        record = cell.compute(tick)
        records[key] = {**record, "cpu_seconds": round(time.process_time() - start, 2)}
        store(path, experiment, records)
    records = {key: records[key] for key in experiment.cells}
    with write_atomically(out / f"{experiment.name}.md") as temporary:
        temporary.write_text(experiment.table(records), encoding="utf-8")
    with write_atomically(out / f"{experiment.name}.png") as temporary:
        experiment.draw(temporary, records)
    return records


def stored(path: Path, settings: Record) -> dict[str, Record]:
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


def store(path: Path, experiment: Experiment, records: Records) -> None:
    """Replace the file in one step."""
    content = {
        "experiment": experiment.name,
        "settings": experiment.settings,
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cells": dict(records),
    }
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def insert_table(page: Path, name: str, table: str) -> None:
    """Replace what stands between a page's markers ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Raises InputError when the page does not have both.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(begin) != 1 or end not in text.partition(begin)[2]:
        raise InputError(f"{page}: expected the markers {begin} and {end}, in this order; add them to the page.")
    head, _, rest = text.partition(begin)
    with write_atomically(page) as temporary:
        temporary.write_text(f"{head}{begin}\n{table}{end}{rest.partition(end)[2]}", encoding="utf-8")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table.

    >>> print(markdown(["a", "b"], [["1", "2"]]), end="")
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], text[1].replace(" ", ""), *text[2:]]) + "\n"
