"""Classifiers that are 1-Lipschitz: two moons against depth with both families, digits against width and depth."""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.theory.certificates import certified_radius, output_lipschitz_upper
from pnp_lip.theory.constraints import Projector, descend, seal
from pnp_lip.theory.experiments.experiment import Cells, Experiment, Values, markdown, where
from pnp_lip.theory.networks import FixedWidthNetwork, Network, UnboundedWidthNetwork

__all__ = ["mnist_experiment", "two_moons", "two_moons_experiment"]


@dataclasses.dataclass(frozen=True)
class Split:
    """Inputs (N, d), float32, with labels (N), int64, for training and for testing; ``name`` says which data these are."""

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclasses.dataclass(frozen=True)
class Objective:
    """Cross-entropy of ``temperature`` · f(x), the lift constrained or left free.

    A 1-Lipschitz f cannot make its logits large; the temperature T does it instead, and the loss rewards margins of
    some multiples of 1/T. T = 1 asks for margins that the constraint forbids, and costs accuracy.
    """

    temperature: float = 20.0
    free_lift: bool = False


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Adam with cosine annealing to zero; ``seed`` orders the batches, ``isometric`` as in ``Projector``."""

    epochs: int = 1000
    batch: int = 256
    learning_rate: float = 5e-3
    seed: int = 0
    isometric: bool = False


FAMILIES: dict[str, Callable[[int], Network]] = {
    "Theorem 3.1": lambda depth: UnboundedWidthNetwork(2, width=5, depth=depth),
    "Theorem 4.1": lambda depth: FixedWidthNetwork(2, depth=depth),
}
MOON_RATES = {"Theorem 3.1": 5e-3, "Theorem 4.1": 1e-2}  # Adam's
MOON_OBJECTIVES = {"constrained": Objective(20.0), "paper": Objective(1.0, free_lift=True)}
MOON_RADIUS = 0.1  # of the robust accuracy, in standard deviations of the data
DIGIT_OBJECTIVE = Objective(5.0)
SHALLOW, DIGIT_RATES = 10, (5e-3, 2e-3)  # up to this depth, and beyond: at 5e-3 wide networks of depth 20 train badly
DIGIT_RADII = tuple(round(0.1 * k, 1) for k in range(16))  # Euclidean, for images of 28 × 28 pixels on [0, 1]


def two_moons_experiment(*, quick: bool = False) -> Experiment:
    """Accuracy, constants and gradients at each depth, over three seeds; ``quick``: two depths, few epochs, one seed.

    Constrained: logistic loss of 20·f(x), every constraint projected after each step and sealed at the end. Paper:
    logistic loss of f(x), the lift without a constraint, as in the code that accompanies the paper.
    """
    depths, epochs, seeds, attacked = ((2, 4), 20, 1, 200) if quick else ((2, 4, 8, 16, 32, 64), 1000, 3, 3200)
    cells = {
        f"{family}, L = {depth}": functools.partial(classify_moons, family, depth, epochs, seeds, attacked)
        for depth in depths
        for family in FAMILIES
    }
    protocols = {name: dataclasses.asdict(objective) for name, objective in MOON_OBJECTIVES.items()}
    settings: Values = {"depths": depths, "epochs": epochs, "seeds": seeds, "rates": MOON_RATES, "radius": MOON_RADIUS}
    settings |= {"attacked": attacked, "protocols": protocols}
    return Experiment("two-moons", settings, cells, moons_table)


def classify_moons(family: str, depth: int, epochs: int, seeds: int, attacked: int) -> Values:
    """Train all seeds of both protocols side by side, and evaluate each network."""
    split = two_moons()
    kinds = [kind for kind in MOON_OBJECTIVES for _ in range(seeds)]
    networks = []
    for i in range(len(kinds)):
        torch.manual_seed(i % seeds)
        networks.append(FAMILIES[family](depth))
    objectives = [MOON_OBJECTIVES[kind] for kind in kinds]
    train_side_by_side(networks, objectives, split, Schedule(epochs, learning_rate=MOON_RATES[family]))
    values: Values = {kind: [] for kind in MOON_OBJECTIVES}
    for kind, network in zip(kinds, networks, strict=True):
        found = evaluate(network if MOON_OBJECTIVES[kind].free_lift else seal(network), split, [MOON_RADIUS], attacked)
        values[kind].append({**found, "robust_accuracy": found["robust_accuracy"][0]})
    return {**values, "family": family, "depth": depth}


def two_moons(points: int = 4000) -> Split:
    """Two half circles of radius 1, (cos t, sin t) and (1 − cos t, ½ − sin t), with normal noise 0.1, standardised.

    Each coordinate has mean 0 and standard deviation 1 over all points. A fifth of each class is for training.

    >>> split = two_moons(100)
    >>> split.train_x.shape, split.test_x.shape, int(split.train_y.sum())
    (torch.Size([20, 2]), torch.Size([80, 2]), 10)
    """
    generator = torch.Generator().manual_seed(0)
    half = points // 2
    t = torch.linspace(0, math.pi, half, dtype=torch.float64)
    x = torch.cat([torch.stack([t.cos(), t.sin()], 1), torch.stack([1 - t.cos(), 0.5 - t.sin()], 1)])
    x = x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    x = ((x - x.mean(0)) / x.std(0, correction=0)).float()
    y = torch.arange(2).repeat_interleave(half)
    order = torch.stack([torch.randperm(half, generator=generator) + k * half for k in range(2)])
    inside, outside = (part.flatten() for part in order.tensor_split([round(0.2 * half)], 1))
    return Split("two moons", x[inside], y[inside], x[outside], y[outside])


def per_cent(seeds: Sequence[Values], name: str) -> float:
    return 100 * sum(float(r[name]) for r in seeds) / len(seeds)


def largest(seeds: Sequence[Values], name: str) -> float:
    return max(float(r[name]) for r in seeds)


def moons_table(cells: Cells) -> str:
    """One row for each depth, one table for each family: the mean over the seeds, the worst constants."""
    columns = "accuracy, % (each seed) | certified ≤ | gradient found"
    paper_columns = "paper's protocol: accuracy, % | certified ≤ | gradient found"
    header = f"L | {columns} | certified at radius {MOON_RADIUS}, % | {paper_columns}"
    tables = []
    for family in FAMILIES:
        rows = []
        for r in where(cells, "depth", family=family):
            ours, paper = r["constrained"], r["paper"]
            each = " ".join(f"{100 * seed['accuracy']:.2f}" for seed in ours)
            rows.append(
                f"{r['depth']} | {per_cent(ours, 'accuracy'):.2f} ({each}) | {largest(ours, 'lipschitz_upper'):.6f} | "
                f"{largest(ours, 'gradient_found'):.6f} | {per_cent(ours, 'robust_accuracy'):.1f} | "
                f"{per_cent(paper, 'accuracy'):.2f} | {largest(paper, 'lipschitz_upper'):.2f} | "
                f"{largest(paper, 'gradient_found'):.2f}"
            )
        tables.append(f"**{family}**\n\n" + markdown(header, rows))
    return "\n".join(tables)


def mnist_experiment(data: Path = Path("data"), *, quick: bool = False) -> Experiment:
    """Accuracy, constants and certified robustness for width 50, 100, 200 × depth 5, 10, 20; ``quick``: one small cell.

    Cross-entropy of 5·f(x), ten outputs that are 1-Lipschitz each, residual layers kept isometric. ``data`` as in
    ``load_digits``, which is read here.
    """
    sizes = [(20, 2)] if quick else [(width, depth) for width in (50, 100, 200) for depth in (5, 10, 20)]
    epochs, attacked = (1, 32) if quick else (50, 256)
    split = load_digits(data)
    schedules = {d: Schedule(epochs, learning_rate=DIGIT_RATES[d > SHALLOW], isometric=True) for _, d in sizes}
    cells = {
        f"width {width}, L = {depth}": functools.partial(classify_digits, split, width, depth, schedules[depth], attacked)
        for width, depth in sizes
    }
    training = {str(depth): dataclasses.asdict(schedule) for depth, schedule in schedules.items()}
    settings = {"data": split.name, "sizes": sizes, "training": training, "attacked": attacked}
    settings |= {"protocol": dataclasses.asdict(DIGIT_OBJECTIVE), "radii": DIGIT_RADII}
    return Experiment("mnist", settings, cells, digits_table, draw_digits)


def classify_digits(split: Split, width: int, depth: int, schedule: Schedule, attacked: int) -> Values:
    torch.manual_seed(0)
    classes = int(split.train_y.max()) + 1
    network = FixedWidthNetwork(split.train_x.shape[1], width=width, depth=depth, out_features=classes)
    train_side_by_side([network], [DIGIT_OBJECTIVE], split, schedule)
    found = evaluate(seal(network), split, DIGIT_RADII, attacked, rounds=4, keep=4)
    return {"width": width, "depth": depth, "data": split.name, **found}


def load_digits(path: Path) -> Split:
    """Digits as (N, 784) on [0, 1]: an .npz with ``images`` and ``labels``, or torchvision's folder of MNIST.

    An .npz is split in file order, four fifths for training. The folder holds ``MNIST/raw/train-images-idx3-ubyte`` and
    its three companions. Raises InputError when nothing is found or the arrays do not fit.
    """
    from torchvision.datasets import MNIST

    try:
        if path.suffix != ".npz":
            parts = [MNIST(path, train=train) for train in (True, False)]
            return Split("MNIST", *(t for part in parts for t in flat(part.data, part.targets)))
        with np.load(path, allow_pickle=False) as file:
            x, y = flat(torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]))
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"no digits in {path}; pass --data with an .npz or torchvision's folder: {error!r}.") from error
    count = len(x) * 4 // 5
    return Split(f"{path.name}, {count} to train", x[:count], y[:count], x[count:], y[count:])


def flat(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, h, w) bytes and N labels as flat floats on [0, 1] and integers."""
    if images.dtype != torch.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        found = f"{images.dtype} {tuple(images.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected uint8 images (N, h, w) with N labels; got {found}")
    return images.flatten(1).float() / 255, labels.long()


def digits_table(cells: Cells) -> str:
    return markdown(
        "width | L | accuracy, % | on the training digits, % | certified ≤ | gradient found",
        [
            f"{r['width']} | {r['depth']} | {100 * r['accuracy']:.2f} | {100 * r['train_accuracy']:.2f} | "
            f"{r['lipschitz_upper']:.6f} | {r['gradient_found']:.3f}"
            for r in cells.values()
        ],
    )


def draw_digits(axis: Axes, cells: Cells) -> None:
    """Certified accuracy against the radius."""
    for i, width in enumerate(sorted({int(r["width"]) for r in cells.values()})):
        for r, style in zip(where(cells, "depth", width=width), ("-", "--", ":"), strict=False):
            shares = [100 * share for share in r["robust_accuracy"]]
            axis.plot(DIGIT_RADII, shares, style, color=f"C{i}", label=f"width {width}, L = {r['depth']}")
    axis.set(xlabel="radius (Euclidean)", ylabel="certified accuracy, %", title=next(iter(cells.values()))["data"])


def train_side_by_side(networks: Sequence[Network], objectives: Sequence[Objective], split: Split, schedule: Schedule) -> None:
    """Train the networks in place, all of one architecture, each on batches of its own order.

    One output: y ∈ {0, 1}, logistic loss. Several: y is a class, cross-entropy. The loss is the mean over the batch,
    summed over the networks: they do not interact, so each is trained as if it were alone. Fewer points than a batch
    make one batch; of the others an incomplete batch is dropped.
    """
    x, y = split.train_x, split.train_y
    parameters, _ = stack_module_state(list(networks))
    forward = vmap(lambda p, inputs: functional_call(networks[0], p, (inputs,)))
    temperature = torch.tensor([objective.temperature for objective in objectives], dtype=x.dtype)[:, None, None]
    constraints = networks[0].constraints({name: p.detach() for name, p in parameters.items()})
    projector = Projector(constraints, isometric=schedule.isometric)
    lift, free = constraints.contractions[0], torch.tensor([objective.free_lift for objective in objectives])
    batch = min(schedule.batch, len(x))
    per_epoch = len(x) // batch

    def batches() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(schedule.seed)
        for _ in range(schedule.epochs):
            shuffled = torch.rand(len(networks), len(x), generator=generator).argsort(1)
            yield from torch.split(shuffled[:, : per_epoch * batch], batch, 1)

    order = batches()

    def loss() -> Tensor:
        chosen = next(order)
        logits, labels = temperature * forward(parameters, x[chosen]), y[chosen]
        if logits.shape[-1] == 1:
            return F.binary_cross_entropy_with_logits(logits[..., 0], labels.to(logits.dtype)) * len(networks)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * len(networks)

    def project() -> None:
        kept = lift[free].clone()
        projector()
        lift[free] = kept

    descend(parameters.values(), loss, project, steps=schedule.epochs * per_epoch, rate=schedule.learning_rate)
    for i, network in enumerate(networks):
        network.load_state_dict({name: value[i].detach() for name, value in parameters.items()})


def evaluate(network: Network, split: Split, radii: Sequence[float], attacked: int, *, rounds: int = 8, keep: int = 16) -> Values:
    """Accuracies, the proved constant of an output, the largest gradient found from ``attacked`` inputs, robustness.

    Robust accuracy: the share classified correctly, with proof for all inputs nearer than each of the ``radii`` (Euclidean).
    """
    radius = certified_radius(network, split.test_x)
    right = correct(copy.deepcopy(network).double(), split.test_x.double(), split.test_y)
    return {
        "accuracy": float(correct(network, split.test_x, split.test_y).double().mean()),
        "train_accuracy": float(correct(network, split.train_x, split.train_y).double().mean()),
        "lipschitz_upper": max(output_lipschitz_upper(network)),
        "gradient_found": largest_gradient_norm(network, split.test_x[:attacked], rounds=rounds, keep=keep),
        "robust_accuracy": [float((right & (radius >= r)).double().mean()) for r in radii],
    }


@torch.no_grad()
def correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether each input is classified as y: the sign of one output, the largest of several."""
    outputs: Tensor = network(x)
    predicted = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
    return predicted == y


def gradient_norms(network: nn.Module, x: Tensor) -> Tensor:
    """max_k ‖∇f_k‖₂ at each input, (N, d) to (N,)."""
    z = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = network(z)
        gradients = [torch.autograd.grad(outputs[:, k].sum(), z, retain_graph=True)[0] for k in range(outputs.shape[1])]
    return torch.stack([g.norm(dim=1) for g in gradients]).amax(0)


def largest_gradient_norm(network: nn.Module, x: Tensor, *, rounds: int = 8, keep: int = 16) -> float:
    """The largest ‖∇f_k‖₂ that a random search in float64 finds: a lower bound of the outputs' Lipschitz constants.

    A gradient of a piecewise affine function is constant near almost every point, so it cannot be ascended; the search
    spreads around the best points so far, at distances that halve from round to round.
    """
    model = copy.deepcopy(network).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    points, best = x.double(), torch.zeros(())
    spread = float(points.std())
    for k in range(rounds + 1):
        norms = gradient_norms(model, points)
        best = torch.maximum(best, norms.amax())
        centres = points[norms.topk(min(keep, len(points))).indices]
        noise = torch.randn(32, *centres.shape, generator=generator, dtype=torch.float64)
        points = torch.cat([centres, (centres + spread * 2.0**-k * noise).flatten(0, 1)])
    return float(best)
