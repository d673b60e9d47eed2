"""Two moons against depth, both families, with the constraint held and in the paper's protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pnp_lip.theory.certificates import output_lipschitz_upper
from pnp_lip.theory.experiments.cells import Cell, Experiment, Record, Records, Tick, markdown
from pnp_lip.theory.experiments.data import two_moons
from pnp_lip.theory.experiments.evaluation import accuracy, largest_gradient_norm, robust_accuracy
from pnp_lip.theory.experiments.side_by_side import Protocol, TrainingSettings, train_side_by_side
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.projection import seal
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["two_moons_experiment"]

Network = UnboundedWidthNetwork | FixedWidthNetwork
FAMILIES: dict[str, Callable[[int], Network]] = {
    "Theorem 3.1": lambda depth: UnboundedWidthNetwork(2, width=5, depth=depth),
    "Theorem 4.1": lambda depth: FixedWidthNetwork(2, depth=depth),
}
RATES = {"Theorem 3.1": 5e-3, "Theorem 4.1": 1e-2}
PROTOCOLS = {"constrained": Protocol(20.0), "paper": Protocol(1.0, free_lift=True)}
RADIUS = 0.1  # of the robust accuracy, in standard deviations of the data


def two_moons_experiment(*, quick: bool = False) -> Experiment:
    """Accuracy, constants and gradients at each depth, over three seeds; ``quick``: two depths, few epochs, one seed.

    Constrained: logistic loss of 20·f(x), every constraint projected after each step and sealed at the end. Paper:
    logistic loss of f(x), the lift without a constraint, as in the code that accompanies the paper.
    """
    depths, epochs, seeds, attack = ((2, 4), 20, 1, 200) if quick else ((2, 4, 8, 16, 32, 64), 1000, 3, 3200)
    cells = {
        f"{family}, L = {depth}": Cell(
            epochs,
            lambda tick, family=family, depth=depth: compute(family, depth, epochs, seeds, attack, tick),  # type: ignore[misc]
        )
        for depth in depths
        for family in FAMILIES
    }
    settings = {
        "depths": depths, "epochs": epochs, "seeds": seeds, "rates": RATES, "radius": RADIUS, "attacked": attack,
        "protocols": {name: dataclasses.asdict(p) for name, p in PROTOCOLS.items()},
    }  # fmt: skip
    return Experiment("two-moons", settings, cells, table, draw)


def compute(family: str, depth: int, epochs: int, seeds: int, attack: int, tick: Tick) -> Record:
    """Train all seeds of both protocols side by side, and evaluate each network."""
    split = two_moons()
    kinds = [kind for kind in PROTOCOLS for _ in range(seeds)]
    networks = []
    for seed in range(len(kinds)):
        torch.manual_seed(seed % seeds)
        networks.append(FAMILIES[family](depth))
    settings = TrainingSettings(epochs, learning_rate=RATES[family])
    train_side_by_side(networks, [PROTOCOLS[k] for k in kinds], split.train_x, split.train_y, settings, tick)
    record: Record = {kind: [] for kind in PROTOCOLS}
    for kind, network in zip(kinds, networks, strict=True):
        if not PROTOCOLS[kind].free_lift:
            seal(network)
        upper = output_lipschitz_upper(network)[0]
        record[kind].append({
            "accuracy": accuracy(network, split.test_x, split.test_y),
            "train_accuracy": accuracy(network, split.train_x, split.train_y),
            "lipschitz_upper": upper,
            "gradient_found": largest_gradient_norm(network, split.test_x[:attack]),
            "robust_accuracy": robust_accuracy(network, split.test_x, split.test_y, [RADIUS])[0],
        })  # fmt: skip
    return {**record, "family": family, "depth": depth}


def table(records: Records) -> str:
    """One row for each depth, one table for each family."""
    header = ["L", "accuracy, % (each seed)", "certified ≤", "gradient found", f"certified at radius {RADIUS}, %",
              "paper's protocol: accuracy, %", "certified ≤", "gradient found"]  # fmt: skip
    parts = []
    for family in FAMILIES:
        chosen = sorted((r for r in records.values() if r["family"] == family), key=lambda r: r["depth"])
        parts.append(f"**{family}**\n\n" + markdown(header, [row(record) for record in chosen]))
    return "\n".join(parts)


def row(record: Record) -> list[str]:
    """The mean over the seeds, the worst constants."""
    ours, paper = record["constrained"], record["paper"]
    single = " ".join(f"{100 * r['accuracy']:.2f}" for r in ours)
    return [
        str(record["depth"]),
        f"{mean(ours, 'accuracy'):.2f} ({single})",
        f"{largest(ours, 'lipschitz_upper'):.6f}",
        f"{largest(ours, 'gradient_found'):.6f}",
        f"{mean(ours, 'robust_accuracy'):.1f}",
        f"{mean(paper, 'accuracy'):.2f}",
        f"{largest(paper, 'lipschitz_upper'):.2f}",
        f"{largest(paper, 'gradient_found'):.2f}",
    ]


def mean(results: Sequence[Record], name: str) -> float:
    """In per cent."""
    return 100 * sum(float(r[name]) for r in results) / len(results)


def largest(results: Sequence[Record], name: str) -> float:
    """The worst seed."""
    return max(float(r[name]) for r in results)


def draw(path: Path, records: Records) -> None:
    """Accuracy and the largest gradient against depth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for family, colour in zip(FAMILIES, ("C0", "C1"), strict=True):
        chosen = sorted((r for r in records.values() if r["family"] == family), key=lambda r: r["depth"])
        depths = [r["depth"] for r in chosen]
        for kind, style in zip(PROTOCOLS, ("o-", "s:"), strict=True):
            label = family if kind == "constrained" else f"{family}, paper's protocol"
            left.plot(depths, [mean(r[kind], "accuracy") for r in chosen], style, color=colour, label=label)
            right.plot(depths, [largest(r[kind], "gradient_found") for r in chosen], style, color=colour, label=label)
    left.set(xlabel="depth L", ylabel="test accuracy, %", xscale="log", title="two moons, 800 points to train")
    right.set(xlabel="depth L", ylabel="largest ‖∇f‖ found", xscale="log", yscale="log", title="the constraint")
    right.axhline(1, color="grey", lw=1)
    for axis in (left, right):
        axis.set_xticks(depths, [str(d) for d in depths])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    left.legend(fontsize=9)
    figure.savefig(path, dpi=90)
