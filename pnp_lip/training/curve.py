"""The log of a training run and its picture."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from pnp_lip.images import write_atomically

__all__ = ["append_row", "draw_curve", "forget_rows"]

logger = logging.getLogger(__name__)


def draw_curve(log: Path, out: Path) -> None:
    """Draw what ``log.csv`` holds, in one atomic step: validation PSNR at each noise level above the loss."""
    from matplotlib.figure import Figure

    with open(log, newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(9, 8), layout="constrained")
    quality, loss = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name in rows[0]:
        if name.startswith("psnr_"):
            values = [row[name] for row in rows]
            quality.plot(steps, values, marker=".", label=f"σ = {name.removeprefix('psnr_')}/255: {values[-1]:.2f} dB")
    quality.set(ylabel="validation PSNR, dB", title=f"after {steps[-1]:,.0f} steps")
    quality.legend(fontsize=9)
    loss.plot(steps, [row["loss"] for row in rows], marker=".", color="black")
    loss.set(xlabel="step", ylabel="loss")
    for axis in (quality, loss):
        axis.grid(alpha=0.3)
    with write_atomically(out) as path:
        figure.savefig(path, dpi=90)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append to a CSV file, writing its header first."""
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    logger.info("%s", row)


def forget_rows(path: Path, step: int) -> None:
    """Drop the rows after ``step``, which a run that goes on from there will write again."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for i, line in enumerate(lines) if i == 0 or int(line.split(",")[0]) <= step]
    if len(kept) < len(lines):
        with write_atomically(path) as temporary:
            temporary.write_text("".join(kept))
