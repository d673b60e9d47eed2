"""Training several copies of one architecture as one batched network: small networks spend their time on overhead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from pnp_lip.errors import InputError
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.projection import Projector
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["Protocol", "TrainingSettings", "train_side_by_side"]

Network = UnboundedWidthNetwork | FixedWidthNetwork


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a network is trained: cross-entropy of ``temperature`` · f(x), the lift constrained or left free.

    A 1-Lipschitz f cannot make its logits large; the temperature T does it instead, and the loss rewards margins of
    some multiples of 1/T. T = 1 asks for margins that the constraint forbids, and costs accuracy.
    """

    temperature: float = 20.0
    free_lift: bool = False


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
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
    networks: Sequence[Network],
    protocols: Sequence[Protocol],
    x: Tensor,
    y: Tensor,
    settings: TrainingSettings,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Train the networks in place, all of one architecture, each on batches of its own order; ``tick`` after each epoch.

    One output: y ∈ {0, 1}, logistic loss. Several: y is a class, cross-entropy. The networks do not interact, so each is
    trained as if it were alone. Raises InputError when there are not as many protocols as networks or too few samples.
    """
    if len(networks) != len(protocols) or settings.batch > len(x):
        raise InputError(
            f"expected a protocol for each of {len(networks)} networks and at least {settings.batch} samples; "
            f"got {len(protocols)} and {len(x)}."
        )
    order = sorted(range(len(networks)), key=lambda i: protocols[i].free_lift)
    networks, protocols = [networks[i] for i in order], [protocols[i] for i in order]
    parameters, buffers = stack_module_state(list(networks))
    forward = batched(networks[0], parameters, buffers)
    optimiser = torch.optim.Adam(list(parameters.values()), lr=settings.learning_rate, foreach=True)
    per_epoch = len(x) // settings.batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * per_epoch)
    project = projectors(networks[0], parameters, sum(not p.free_lift for p in protocols), settings.isometric)
    temperature = torch.tensor([p.temperature for p in protocols], dtype=x.dtype)[:, None, None]
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        shuffled = torch.rand(len(networks), len(x), generator=generator).argsort(1)
        for chosen in torch.split(shuffled[:, : per_epoch * settings.batch], settings.batch, 1):
            loss = classification_loss(temperature * forward(x[chosen]), y[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            for step in project:
                step()
        if not bool(torch.isfinite(loss)):
            raise InputError(f"the loss became {float(loss)}; use a smaller learning rate.")
        tick()
    for i, network in enumerate(networks):
        network.load_state_dict({name: value[i].detach() for name, value in parameters.items()})


def batched(base: Network, parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """(copies, N, d) to (copies, N, outputs), each copy with its own parameters."""

    def evaluate(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        outputs: Tensor = functional_call(base, (p, b), (x,))
        return outputs

    return lambda x: vmap(evaluate)(parameters, buffers, x)


def projectors(base: Network, parameters: dict[str, Tensor], constrained: int, isometric: bool) -> list[Projector]:
    """Projected gradient for the first ``constrained`` copies, and for the others without the contraction of the lift."""
    found = []
    for copies, free in ((slice(constrained), False), (slice(constrained, None), True)):
        views = {name: p.detach()[copies] for name, p in parameters.items()}
        if len(views["lift.weight"]):
            c = base.constraints(views)
            c = dataclasses.replace(c, contractions=c.contractions[1:]) if free else c
            found.append(Projector(c, isometric=isometric))
    return found


def classification_loss(logits: Tensor, y: Tensor) -> Tensor:
    """The mean over the batch, summed over the copies: logistic for one output, cross-entropy for several."""
    copies, _, outputs = logits.shape
    if outputs == 1:
        return F.binary_cross_entropy_with_logits(logits[..., 0], y.to(logits.dtype)) * copies
    return F.cross_entropy(logits.flatten(0, 1), y.flatten()) * copies
