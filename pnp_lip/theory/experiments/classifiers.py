"""Classifiers: several copies of one architecture trained as one batched network, and what the tables say of each."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.theory.certificates import certified_radius, output_lipschitz_upper
from pnp_lip.theory.constraints import Projector, descend
from pnp_lip.theory.experiments.experiment import Values
from pnp_lip.theory.networks import Network

__all__ = ["Objective", "Schedule", "Split", "evaluate", "train_side_by_side"]


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
    """Adam with cosine annealing to zero, over ``epochs`` of full batches; ``seed`` orders the batches.

    ``isometric`` keeps the residual layers isometries almost everywhere, as in ``Projector``.
    """

    epochs: int = 1000
    batch: int = 256
    learning_rate: float = 5e-3
    seed: int = 0
    isometric: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not self.learning_rate > 0:
            raise InputError(f"epochs, batch and learning_rate must be positive; got {self}.")


def train_side_by_side(
    networks: Sequence[Network], objectives: Sequence[Objective], x: Tensor, y: Tensor, schedule: Schedule
) -> None:
    """Train the networks in place, all of one architecture, each on batches of its own order.

    One output: y ∈ {0, 1}, logistic loss. Several: y is a class, cross-entropy. The networks do not interact, so each is
    trained as if it were alone. Raises InputError when there are not as many objectives as networks or too few samples.
    """
    if len(networks) != len(objectives) or schedule.batch > len(x):
        expected = f"{len(networks)} objectives, one for each network, and at least {schedule.batch} samples"
        raise InputError(f"expected {expected}; got {len(objectives)} and {len(x)}.")
    parameters, _ = stack_module_state(list(networks))
    forward = vmap(lambda p, inputs: functional_call(networks[0], p, (inputs,)))
    temperature = torch.tensor([objective.temperature for objective in objectives], dtype=x.dtype)[:, None, None]
    constraints = networks[0].constraints({name: p.detach() for name, p in parameters.items()})
    projector = Projector(constraints, isometric=schedule.isometric)
    lift, free = constraints.contractions[0], torch.tensor([objective.free_lift for objective in objectives])
    per_epoch = len(x) // schedule.batch

    def batches() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(schedule.seed)
        for _ in range(schedule.epochs):
            shuffled = torch.rand(len(networks), len(x), generator=generator).argsort(1)
            yield from torch.split(shuffled[:, : per_epoch * schedule.batch], schedule.batch, 1)

    order = batches()

    def loss() -> Tensor:
        chosen = next(order)
        return classification_loss(temperature * forward(parameters, x[chosen]), y[chosen])

    def project() -> None:
        kept = lift[free].clone()
        projector()
        lift[free] = kept

    steps = schedule.epochs * per_epoch
    descend(parameters.values(), loss, project, steps=steps, learning_rate=schedule.learning_rate)
    for i, network in enumerate(networks):
        network.load_state_dict({name: value[i].detach() for name, value in parameters.items()})


def classification_loss(logits: Tensor, y: Tensor) -> Tensor:
    """The mean over the batch, summed over the copies: logistic for one output, cross-entropy for several."""
    copies, _, outputs = logits.shape
    if outputs == 1:
        return F.binary_cross_entropy_with_logits(logits[..., 0], y.to(logits.dtype)) * copies
    return F.cross_entropy(logits.flatten(0, 1), y.flatten()) * copies


def evaluate(
    network: Network, split: Split, radii: Sequence[float], attacked: int, *, rounds: int = 8, keep: int = 16
) -> Values:
    """Accuracies, the proved constant of an output, the largest gradient found from ``attacked`` inputs, robustness."""
    return {
        "accuracy": accuracy(network, split.test_x, split.test_y),
        "train_accuracy": accuracy(network, split.train_x, split.train_y),
        "lipschitz_upper": max(output_lipschitz_upper(network)),
        "gradient_found": largest_gradient_norm(network, split.test_x[:attacked], rounds=rounds, keep=keep),
        "robust_accuracy": robust_accuracy(network, split.test_x, split.test_y, radii),
    }


@torch.no_grad()
def correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether each input is classified as y: the sign of one output, the largest of several."""
    outputs: Tensor = network(x)
    predicted = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
    return predicted == y


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of inputs classified correctly."""
    return float(correct(network, x, y).double().mean())


def robust_accuracy(network: Network, x: Tensor, y: Tensor, radii: Sequence[float]) -> list[float]:
    """The share of inputs classified correctly, with proof for all inputs nearer than each radius (Euclidean)."""
    radius = certified_radius(network, x)
    right = correct(copy.deepcopy(network).double(), x.double(), y)
    return [float((right & (radius >= r)).double().mean()) for r in radii]


def gradient_norms(network: nn.Module, x: Tensor) -> Tensor:
    """max_k ‖∇f_k‖₂ at each input, (N, d) to (N,)."""
    z = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = network(z)
        gradients = [torch.autograd.grad(outputs[:, k].sum(), z, retain_graph=True)[0] for k in range(outputs.shape[1])]
    return torch.stack([g.norm(dim=1) for g in gradients]).amax(0)


def largest_gradient_norm(network: nn.Module, x: Tensor, *, rounds: int = 8, keep: int = 16, seed: int = 0) -> float:
    """The largest ‖∇f_k‖₂ that a random search in float64 finds: a lower bound of the outputs' Lipschitz constants.

    A gradient of a piecewise affine function is constant near almost every point, so it cannot be ascended; the search
    spreads around the best points so far, at distances that halve from round to round.
    """
    model = copy.deepcopy(network).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    points = x.double()
    spread = float(points.std())
    best = torch.zeros(())
    for k in range(rounds + 1):
        norms = gradient_norms(model, points)
        best = torch.maximum(best, norms.amax())
        centres = points[norms.topk(min(keep, len(points))).indices]
        noise = torch.randn(32, *centres.shape, generator=generator, dtype=torch.float64)
        points = torch.cat([centres, (centres + spread * 2.0**-k * noise).flatten(0, 1)])
    return float(best)
