"""Handwritten digits against width and depth, with the fixed-width family."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch

from pnp_lip.theory.experiments.classifiers import Objective, Schedule, evaluate, train_side_by_side
from pnp_lip.theory.experiments.data import Split, load_digits
from pnp_lip.theory.experiments.experiment import Cells, Experiment, Line, Panel, Values, markdown
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.projection import seal

__all__ = ["mnist_experiment"]

OBJECTIVE = Objective(temperature=5.0)
SHALLOW, RATES = 10, (5e-3, 2e-3)  # up to this depth, and beyond: at 5e-3 wide networks of depth 20 train badly
RADII = tuple(round(0.1 * k, 1) for k in range(16))  # Euclidean, for images of 28 × 28 pixels on [0, 1]


def mnist_experiment(data: Path | None = None, *, quick: bool = False) -> Experiment:
    """Accuracy, constants and certified robustness for width 50, 100, 200 × depth 5, 10, 20; ``quick``: one small cell.

    Cross-entropy of 5·f(x), ten outputs that are 1-Lipschitz each, residual layers kept isometric. ``data`` as in
    ``load_digits``, which is read here.
    """
    sizes = [(20, 2)] if quick else [(width, depth) for width in (50, 100, 200) for depth in (5, 10, 20)]
    epochs, attacked = (1, 32) if quick else (50, 256)
    split = load_digits(data)
    schedules = {depth: Schedule(epochs, learning_rate=RATES[depth > SHALLOW], isometric=True) for _, depth in sizes}
    cells = {
        f"width {width}, L = {depth}": functools.partial(compute, split, width, depth, schedules[depth], attacked)
        for width, depth in sizes
    }
    training = {str(depth): dataclasses.asdict(schedule) for depth, schedule in schedules.items()}
    settings = {"data": split.name, "sizes": sizes, "training": training, "attacked": attacked}
    settings |= {"protocol": dataclasses.asdict(OBJECTIVE), "radii": RADII}
    return Experiment("mnist", settings, cells, table, panels)


def compute(split: Split, width: int, depth: int, schedule: Schedule, attacked: int) -> Values:
    """Train and evaluate one network."""
    schedule = dataclasses.replace(schedule, batch=min(schedule.batch, len(split.train_x)))
    torch.manual_seed(0)
    classes = int(split.train_y.max()) + 1
    network = FixedWidthNetwork(split.train_x.shape[1], width=width, depth=depth, out_features=classes)
    train_side_by_side([network], [OBJECTIVE], split.train_x, split.train_y, schedule)
    found = evaluate(seal(network), split, RADII, attacked, rounds=4, keep=4)
    return {"width": width, "depth": depth, "data": split.name, **found}


def table(cells: Cells) -> str:
    """One row for each cell."""
    return markdown(
        [
            ("width", lambda r: str(r["width"])),
            ("L", lambda r: str(r["depth"])),
            ("accuracy, %", lambda r: f"{100 * r['accuracy']:.2f}"),
            ("on the training digits, %", lambda r: f"{100 * r['train_accuracy']:.2f}"),
            ("certified ≤", lambda r: f"{r['lipschitz_upper']:.6f}"),
            ("gradient found", lambda r: f"{r['gradient_found']:.3f}"),
        ],
        list(cells.values()),
    )


def panels(cells: Cells) -> list[Panel]:
    """Accuracy against depth, and certified accuracy against the radius."""
    accuracies, robust = [], []
    for i, width in enumerate(sorted({int(r["width"]) for r in cells.values()})):
        chosen = [r for r in cells.values() if r["width"] == width]
        accuracy = [100 * r["accuracy"] for r in chosen]
        accuracies.append(Line([r["depth"] for r in chosen], accuracy, f"width {width}", "o-", f"C{i}"))
        for r, style in zip(chosen, ("-", "--", ":"), strict=False):
            shares = [100 * share for share in r["robust_accuracy"]]
            robust.append(Line(RADII, shares, f"width {width}, L = {r['depth']}", style, f"C{i}"))
    data = next(iter(cells.values()))["data"]
    return [
        Panel(data, "depth L", "test accuracy, %", accuracies, ""),
        Panel("certified robustness", "radius (Euclidean)", "certified accuracy, %", robust, ""),
    ]
