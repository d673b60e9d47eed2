"""Two moons against depth, both families, with the constraint held and in the paper's protocol."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from pnp_lip.errors import InputError
from pnp_lip.theory.constraints import seal
from pnp_lip.theory.experiments.classifiers import Objective, Schedule, Split, evaluate, train_side_by_side
from pnp_lip.theory.experiments.experiment import Cells, Experiment, Values, markdown, where
from pnp_lip.theory.networks import FixedWidthNetwork, Network, UnboundedWidthNetwork

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["two_moons", "two_moons_experiment"]

FAMILIES: dict[str, Callable[[int], Network]] = {
    "Theorem 3.1": lambda depth: UnboundedWidthNetwork(2, width=5, depth=depth),
    "Theorem 4.1": lambda depth: FixedWidthNetwork(2, depth=depth),
}
RATES = {"Theorem 3.1": 5e-3, "Theorem 4.1": 1e-2}  # Adam's
OBJECTIVES = {"constrained": Objective(20.0), "paper": Objective(1.0, free_lift=True)}
RADIUS = 0.1  # of the robust accuracy, in standard deviations of the data


def two_moons_experiment(*, quick: bool = False) -> Experiment:
    """Accuracy, constants and gradients at each depth, over three seeds; ``quick``: two depths, few epochs, one seed.

    Constrained: logistic loss of 20·f(x), every constraint projected after each step and sealed at the end. Paper:
    logistic loss of f(x), the lift without a constraint, as in the code that accompanies the paper.
    """
    depths, epochs, seeds, attacked = ((2, 4), 20, 1, 200) if quick else ((2, 4, 8, 16, 32, 64), 1000, 3, 3200)
    cells = {
        f"{family}, L = {depth}": functools.partial(compute, family, depth, epochs, seeds, attacked)
        for depth in depths
        for family in FAMILIES
    }
    protocols = {name: dataclasses.asdict(objective) for name, objective in OBJECTIVES.items()}
    settings: Values = {"depths": depths, "epochs": epochs, "seeds": seeds, "rates": RATES, "radius": RADIUS}
    settings |= {"attacked": attacked, "protocols": protocols}
    return Experiment("two-moons", settings, cells, table, draw)


def compute(family: str, depth: int, epochs: int, seeds: int, attacked: int) -> Values:
    """Train all seeds of both protocols side by side, and evaluate each network."""
    split = two_moons()
    kinds = [kind for kind in OBJECTIVES for _ in range(seeds)]
    networks = []
    for i in range(len(kinds)):
        torch.manual_seed(i % seeds)
        networks.append(FAMILIES[family](depth))
    schedule = Schedule(epochs, learning_rate=RATES[family])
    train_side_by_side(networks, [OBJECTIVES[kind] for kind in kinds], split.train_x, split.train_y, schedule)
    values: Values = {kind: [] for kind in OBJECTIVES}
    for kind, network in zip(kinds, networks, strict=True):
        found = evaluate(network if OBJECTIVES[kind].free_lift else seal(network), split, [RADIUS], attacked)
        values[kind].append({**found, "robust_accuracy": found["robust_accuracy"][0]})
    return {**values, "family": family, "depth": depth}


def mean(seeds: Sequence[Values], name: str) -> float:
    """In per cent."""
    return 100 * sum(float(r[name]) for r in seeds) / len(seeds)


def each(seeds: Sequence[Values]) -> str:
    """The accuracies, in per cent."""
    return " ".join(f"{100 * r['accuracy']:.2f}" for r in seeds)


def largest(seeds: Sequence[Values], name: str) -> float:
    """The worst seed."""
    return max(float(r[name]) for r in seeds)


def table(cells: Cells) -> str:
    """One row for each depth, one table for each family: the mean over the seeds, the worst constants."""
    columns: list[tuple[str, Callable[[Values], str]]] = [
        ("L", lambda r: str(r["depth"])),
        ("accuracy, % (each seed)", lambda r: f"{mean(r['constrained'], 'accuracy'):.2f} ({each(r['constrained'])})"),
        ("certified ≤", lambda r: f"{largest(r['constrained'], 'lipschitz_upper'):.6f}"),
        ("gradient found", lambda r: f"{largest(r['constrained'], 'gradient_found'):.6f}"),
        (f"certified at radius {RADIUS}, %", lambda r: f"{mean(r['constrained'], 'robust_accuracy'):.1f}"),
        ("paper's protocol: accuracy, %", lambda r: f"{mean(r['paper'], 'accuracy'):.2f}"),
        ("certified ≤", lambda r: f"{largest(r['paper'], 'lipschitz_upper'):.2f}"),
        ("gradient found", lambda r: f"{largest(r['paper'], 'gradient_found'):.2f}"),
    ]
    return "\n".join(
        f"**{family}**\n\n" + markdown(columns, where(cells, "depth", family=family)) for family in FAMILIES
    )


def draw(left: Axes, right: Axes, cells: Cells) -> None:
    """Accuracy and the largest gradient against depth."""
    for i, family in enumerate(FAMILIES):
        chosen = where(cells, "depth", family=family)
        depths = [r["depth"] for r in chosen]
        for kind, style, suffix in (("constrained", "o-", ""), ("paper", "s:", ", paper's protocol")):
            accuracies = [mean(r[kind], "accuracy") for r in chosen]
            gradients = [largest(r[kind], "gradient_found") for r in chosen]
            for axis, values in ((left, accuracies), (right, gradients)):
                axis.plot(depths, values, style, color=f"C{i}", label=family + suffix)
    left.set(xlabel="depth L", ylabel="test accuracy, %", xscale="log", title="two moons, 800 points to train")
    right.set(xlabel="depth L", ylabel="largest ‖∇f‖ found", xscale="log", yscale="log", title="the constraint")
    right.axhline(1, color="grey", lw=1)


def two_moons(points: int = 4000, *, noise: float = 0.1, train: float = 0.2, seed: int = 0) -> Split:
    """Two half circles of radius 1, (cos t, sin t) and (1 − cos t, ½ − sin t), with normal noise, standardised.

    Each coordinate has mean 0 and standard deviation 1 over all points. ``train`` is the share of each class for training.
    Raises InputError unless 0 < ``train`` < 1, ``noise`` ≥ 0 and there are at least ten points.

    >>> split = two_moons(100)
    >>> split.train_x.shape, split.test_x.shape, int(split.train_y.sum())
    (torch.Size([20, 2]), torch.Size([80, 2]), 10)
    """
    if not 0 < train < 1 or points < 10 or not noise >= 0:
        raise InputError(f"two moons need 0 < train < 1, noise >= 0, points >= 10; got {train}, {noise}, {points}.")
    generator = torch.Generator().manual_seed(seed)
    half = points // 2
    t = torch.linspace(0, math.pi, half, dtype=torch.float64)
    moons = torch.stack([t.cos(), t.sin()], 1), torch.stack([1 - t.cos(), 0.5 - t.sin()], 1)
    x = torch.cat(moons)
    x = x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    x = ((x - x.mean(0)) / x.std(0, correction=0)).float()
    y = torch.arange(2).repeat_interleave(half)
    count = round(train * half)
    order = torch.stack([torch.randperm(half, generator=generator) + k * half for k in range(2)])
    inside, outside = order[:, :count].flatten(), order[:, count:].flatten()
    return Split("two moons", x[inside], y[inside], x[outside], y[outside])
