"""What keeping the constraint costs in training: by projection, by parametrisation, against depth and affine layers."""

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.theory.constraints import Projector, parametrise
from pnp_lip.theory.experiments.classification import two_moons
from pnp_lip.theory.experiments.experiment import Cells, Experiment, Values, markdown
from pnp_lip.theory.networks import FixedWidthNetwork, Network, UnboundedWidthNetwork

__all__ = ["constraint_cost_experiment"]

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
    depths, widths, repeats = ((2,), (8, 16), 3) if quick else ((2, 4, 8, 16, 32, 64), (5, 50), 15)
    cells = {
        f"{family}, width {width}, L = {depth}": functools.partial(compute, family, width, depth, repeats)
        for family in FAMILIES
        for width in widths
        for depth in depths
    }
    settings = {"depths": depths, "widths": widths, "repeats": repeats, "batch": BATCH, "batches": BATCHES}
    return Experiment("constraint-cost", settings, cells, table)


def compute(family: str, width: int, depth: int, repeats: int) -> Values:
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
    medians = {way: statistics.median(values[1:]) for way, values in times.items()}  # the first is a warm-up
    return {"family": family, "width": width, "depth": depth, "milliseconds": medians}


def epoch(network: Network, way: str, x: Tensor, y: Tensor) -> Callable[[], None]:
    if way == "parametrisation":
        parametrise(network)
    project: Callable[[], None] = Projector(network.constraints()) if way == "projection" else lambda: None
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, foreach=True)

    def run() -> None:
        for chosen in torch.split(torch.randperm(len(x))[: BATCHES * BATCH], BATCH):
            optimiser.zero_grad()
            loss = F.binary_cross_entropy_with_logits(20 * network(x[chosen])[:, 0], y[chosen].float())
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            project()

    return run


def table(cells: Cells) -> str:
    header = " | ".join(["family | width | L", *(f"{way}, ms" for way in WAYS), *(f"{way}, ratio" for way in WAYS[1:])])
    rows = []
    for r in cells.values():
        times = [r["milliseconds"][way] for way in WAYS]
        figures = [f"{time:.1f}" for time in times] + [f"{time / times[0]:.2f}" for time in times[1:]]
        rows.append(" | ".join([f"{r['family']} | {r['width']} | {r['depth']}", *figures]))
    return markdown(header, rows)
