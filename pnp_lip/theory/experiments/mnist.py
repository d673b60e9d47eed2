"""Handwritten digits against width and depth, with the fixed-width family."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from pnp_lip.theory.certificates import output_lipschitz_upper
from pnp_lip.theory.experiments.cells import Cell, Experiment, Record, Records, Tick, markdown
from pnp_lip.theory.experiments.data import Split, load_digits
from pnp_lip.theory.experiments.evaluation import accuracy, largest_gradient_norm, robust_accuracy
from pnp_lip.theory.experiments.side_by_side import Protocol, TrainingSettings, train_side_by_side
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.projection import seal

__all__ = ["mnist_experiment"]

PROTOCOL = Protocol(temperature=5.0)
SHALLOW, RATES = 10, (5e-3, 2e-3)  # up to this depth, and beyond: at 5e-3 wide networks of depth 20 train badly
RADII = tuple(round(0.1 * k, 1) for k in range(16))  # Euclidean, for images of 28 × 28 pixels on [0, 1]
SHOWN = 0.5


def mnist_experiment(data: Path | None = None, *, quick: bool = False) -> Experiment:
    """Accuracy, constants and certified robustness for width 50, 100, 200 × depth 5, 10, 20; ``quick``: one small cell.

    Cross-entropy of 5·f(x), ten outputs that are 1-Lipschitz each, residual layers kept isometric. ``data`` as in
    ``load_digits``, which is read here.
    """
    sizes, epochs, attack = (
        ([(20, 2)], 1, 32) if quick else ([(w, d) for w in (50, 100, 200) for d in (5, 10, 20)], 50, 256)
    )
    split = load_digits(data)
    cells = {
        f"width {width}, L = {depth}": Cell(
            epochs,
            lambda tick, width=width, depth=depth: compute(split, width, depth, training(depth, epochs), attack, tick),  # type: ignore[misc]
        )
        for width, depth in sizes
    }  # fmt: skip
    trainings = {str(depth): dataclasses.asdict(training(depth, epochs)) for _, depth in sizes}
    described = {"data": split.name, "sizes": sizes, "training": trainings, "attacked": attack,
                 "protocol": dataclasses.asdict(PROTOCOL), "radii": RADII}  # fmt: skip
    return Experiment("mnist", described, cells, table, draw)


def training(depth: int, epochs: int) -> TrainingSettings:
    """Residual layers kept isometric, the rate by the depth."""
    return TrainingSettings(epochs, learning_rate=RATES[depth > SHALLOW], isometric=True)


def compute(split: Split, width: int, depth: int, settings: TrainingSettings, attack: int, tick: Tick) -> Record:
    """Train and evaluate one network."""
    settings = dataclasses.replace(settings, batch=min(settings.batch, len(split.train_x)))
    torch.manual_seed(0)
    classes = int(split.train_y.max()) + 1
    network = FixedWidthNetwork(split.train_x.shape[1], width=width, depth=depth, out_features=classes)
    train_side_by_side([network], [PROTOCOL], split.train_x, split.train_y, settings, tick)
    seal(network)
    return {
        "width": width,
        "depth": depth,
        "data": split.name,
        "accuracy": accuracy(network, split.test_x, split.test_y),
        "train_accuracy": accuracy(network, split.train_x, split.train_y),
        "lipschitz_upper": max(output_lipschitz_upper(network)),
        "gradient_found": largest_gradient_norm(network, split.test_x[:attack], rounds=4, keep=4),
        "robust_accuracy": robust_accuracy(network, split.test_x, split.test_y, RADII),
    }


def table(records: Records) -> str:
    """One row for each cell."""
    header = ["width", "L", "accuracy, %", "on training data, %", "each output certified ≤", "gradient found",
              f"certified at radius {SHOWN}, %"]  # fmt: skip
    rows = [
        [
            str(r["width"]),
            str(r["depth"]),
            f"{100 * r['accuracy']:.2f}",
            f"{100 * r['train_accuracy']:.2f}",
            f"{r['lipschitz_upper']:.6f}",
            f"{r['gradient_found']:.6f}",
            f"{100 * r['robust_accuracy'][RADII.index(SHOWN)]:.1f}",
        ]
        for r in records.values()
    ]
    return f"{next(iter(records.values()))['data']} images.\n\n" + markdown(header, rows)


def draw(path: Path, records: Records) -> None:
    """Accuracy against depth, and certified accuracy against the radius."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, width in enumerate(sorted({r["width"] for r in records.values()})):
        chosen = [r for r in records.values() if r["width"] == width]
        depths = [r["depth"] for r in chosen]
        left.plot(depths, [100 * r["accuracy"] for r in chosen], "o-", color=f"C{i}", label=f"width {width}")
        for r, style in zip(chosen, ("-", "--", ":"), strict=False):
            values = [100 * v for v in r["robust_accuracy"]]
            right.plot(RADII, values, style, color=f"C{i}", label=f"width {width}, L = {r['depth']}")
    left.set(xlabel="depth L", ylabel="test accuracy, %", title=next(iter(records.values()))["data"])
    right.set(xlabel="radius (Euclidean)", ylabel="certified accuracy, %", title="certified robustness")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=90)
