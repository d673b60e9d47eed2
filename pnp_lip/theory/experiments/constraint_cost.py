"""What keeping the constraint costs in training: by projection, by parametrisation, against depth and affine layers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.theory.experiments.cells import Cell, Experiment, Record, Records, Tick, markdown
from pnp_lip.theory.experiments.data import two_moons
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.parametrisation import parametrise
from pnp_lip.theory.projection import Projector
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["constraint_cost_experiment"]

Network = UnboundedWidthNetwork | FixedWidthNetwork
FAMILIES: dict[str, Callable[[int, int], Network]] = {
    "without affine layers": lambda width, depth: UnboundedWidthNetwork(2, width=width, depth=depth),
    "with affine layers": lambda width, depth: FixedWidthNetwork(2, width=width, depth=depth),
}
WAYS = ("no constraint", "projection", "parametrisation")
BATCH, BATCHES = 256, 3  # 800 points, the incomplete batch dropped: an epoch of the two moons


def constraint_cost_experiment(*, quick: bool = False) -> Experiment:
    """CPU time of an epoch of the two moons (3 steps of 256 points) for each way of keeping the constraint.

    The three ways take turns within one process; medians of the repeats. ``quick``: one depth, few repeats.
    """
    depths, widths, repeats = ((2,), (8,), 3) if quick else ((2, 4, 8, 16, 32, 64), (5, 50), 15)
    cells = {
        f"{family}, width {width}, L = {depth}": Cell(
            repeats + 1,
            lambda tick, family=family, width=width, depth=depth: compute(family, width, depth, repeats, tick),  # type: ignore[misc]
        )
        for family in FAMILIES
        for width in widths
        for depth in depths
    }
    settings = {"depths": depths, "widths": widths, "repeats": repeats, "batch": BATCH, "batches": BATCHES}
    return Experiment("constraint-cost", settings, cells, table, draw)


def compute(family: str, width: int, depth: int, repeats: int, tick: Tick) -> Record:
    """Median CPU milliseconds of an epoch."""
    split = two_moons()
    torch.manual_seed(0)
    epochs = {way: epoch(FAMILIES[family](width, depth), way, split.train_x, split.train_y) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats + 1):
        for way in WAYS:
            start = time.process_time()
            epochs[way]()
            times[way].append(1e3 * (time.process_time() - start))
        tick()
    medians = {way: statistics.median(values[1:]) for way, values in times.items()}  # the first is a warm-up
    return {"family": family, "width": width, "depth": depth, "milliseconds": medians}


def epoch(network: Network, way: str, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A function that trains for one epoch."""
    if way == "parametrisation":
        parametrise(network)
    project = Projector(network.constraints()) if way == "projection" else None
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, foreach=True)

    def run() -> None:
        for chosen in torch.split(torch.randperm(len(x))[: BATCHES * BATCH], BATCH):
            optimiser.zero_grad()
            loss = F.binary_cross_entropy_with_logits(20 * network(x[chosen])[:, 0], y[chosen].float())
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if project is not None:
                project()

    return run


def table(records: Records) -> str:
    """Milliseconds for an epoch, one row for each network."""
    header = ["family", "width", "L", *(f"{way}, ms" for way in WAYS), *(f"{way}, ratio" for way in WAYS[1:])]
    rows = []
    for r in records.values():
        ms = r["milliseconds"]
        rows.append(
            [r["family"], str(r["width"]), str(r["depth"])]
            + [f"{ms[way]:.1f}" for way in WAYS]
            + [f"{ms[way] / ms[WAYS[0]]:.2f}" for way in WAYS[1:]]
        )
    return markdown(header, rows)


def draw(path: Path, records: Records) -> None:
    """Time for an epoch against depth, a panel for each width."""
    from matplotlib.figure import Figure

    widths = sorted({r["width"] for r in records.values()})
    figure = Figure(figsize=(5.5 * len(widths), 4.2), layout="constrained")
    for axis, width in zip(figure.subplots(1, len(widths), squeeze=False)[0], widths, strict=True):
        for family, marker in zip(FAMILIES, ("o", "s"), strict=True):
            chosen = [r for r in records.values() if (r["family"], r["width"]) == (family, width)]
            for i, way in enumerate(WAYS):
                axis.loglog(
                    [r["depth"] for r in chosen],
                    [r["milliseconds"][way] for r in chosen],
                    f"{marker}-",
                    color=f"C{i}",
                    mfc="w" if marker == "s" else None,
                    label=f"{way}, {family}",
                )
        axis.set(xlabel="depth L", ylabel="CPU ms for an epoch", title=f"width {width}")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=90)
