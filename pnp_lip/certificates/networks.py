"""Rules for the two universal families: the calculus of blocks on two partitions of the state, whichever proves more.

On one block it multiplies norms, which is how networks are trained; on single coordinates (the fixed-width family: three of
them and a block) it proves the exact constructions, whose lifts have norms far above one. Importing this module registers
the rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from pnp_lip.certificates.block_calculus import Affine, Blocks, Flow, State, start
from pnp_lip.certificates.calculus import MapBound, round_up, sqrt_up
from pnp_lip.certificates.certify import Proof, check_slopes, describe, join, kind_of, rule
from pnp_lip.certificates.plain import affine
from pnp_lip.errors import CertificateError
from pnp_lip.layers import GradientFlowLinear
from pnp_lip.networks import BlockAffine, FixedWidthNetwork, MaxMinLayer, UnboundedWidthNetwork
from pnp_lip.networks.max_min_layer import SCALARS
from pnp_lip.spectral import norm_bound

__all__ = ["output_lipschitz_upper"]

Network = UnboundedWidthNetwork | FixedWidthNetwork


def output_lipschitz_upper(network: Network) -> tuple[float, ...]:
    """An upper bound of the Lipschitz constant of each output alone, |f_k(x) − f_k(y)| ≤ L_k ‖x − y‖₂.

    ``certify`` bounds the outputs jointly, ‖f(x) − f(y)‖₂, which for m outputs may be up to √m times as much.

    Raises CertificateError for children of unknown type or with hooks.

    >>> from pnp_lip.networks import UnboundedWidthNetwork, seal
    >>> max(output_lipschitz_upper(seal(UnboundedWidthNetwork(2, width=4, depth=2, out_features=3)))) <= 1
    True
    """
    check(network, "", 1e-3)
    constants = [row_constants(network, states(network, "", blocks)[-1]) for blocks in partitions(network)]
    return tuple(round_up(min(pair)) for pair in zip(*constants, strict=True))


@rule(UnboundedWidthNetwork)
def certify_unbounded(network: UnboundedWidthNetwork, path: str, rtol: float) -> Proof:
    return certify_network(network, path, rtol)


@rule(FixedWidthNetwork)
def certify_fixed(network: FixedWidthNetwork, path: str, rtol: float) -> Proof:
    return certify_network(network, path, rtol)


@rule(MaxMinLayer)
def certify_max_min(layer: MaxMinLayer, path: str, rtol: float) -> Proof:
    """Sorting and Φ act on different coordinates, and sorting is nonexpansive."""
    inner = describe(layer.inner, join(path, "inner"), rtol)
    return dataclasses.replace(inner, bound=MapBound(max(Fraction(1), inner.bound.lipschitz), None))


@rule(BlockAffine)
def certify_block_affine(layer: BlockAffine, path: str, rtol: float) -> Proof:
    return affine(layer, path, norm_bound(block_matrix(layer).cpu(), rtol=rtol))


def certify_network(network: Network, path: str, rtol: float) -> Proof:
    """The least Lipschitz constant that a partition proves, with the children's lines."""
    children = check(network, path, rtol)
    attempts = [attempt(network, path, blocks) for blocks in partitions(network)]
    constant, failures = min(attempts, key=lambda found: found[0])
    return Proof(MapBound(constant, None), tuple(line for child in children for line in child.layers), failures)


def attempt(network: Network, path: str, blocks: Blocks) -> tuple[Fraction, tuple[str, ...]]:
    """The Lipschitz constant that this partition proves, and the factors that raise it above one."""
    names = [step.path for step in steps(network, path, blocks)]
    passed = states(network, path, blocks)
    rows = row_constants(network, passed[-1])
    jointly = Affine("", network.readout.weight, [range(len(rows))])(passed[-1]).lipschitz[0]
    constant = min(jointly, sqrt_up(sum((c**2 for c in rows), Fraction(0))))
    largest = [*(max(state.lipschitz) for state in passed), constant]
    way = f"counted in {len(passed[1].blocks)} block(s)"
    failures = [
        f"`{name}` takes the largest constant from {float(old):.9g} to {float(new):.9g}, {way}"
        for name, old, new in zip([*names, join(path, "readout")], largest, largest[1:], strict=False)
        if new > max(old, Fraction(1))
    ]
    return constant, tuple(failures) if constant > 1 else ()


def states(network: Network, path: str, blocks: Blocks) -> list[State]:
    """The state after each factor before the readout, the input first."""
    passed = [start(network.lift.weight.shape[1])]
    for step in steps(network, path, blocks):
        passed.append(step(passed[-1]))
    return passed


def row_constants(network: Network, state: State) -> tuple[Fraction, ...]:
    """The Lipschitz constant of each output."""
    weight = network.readout.weight
    return Affine("", weight, [[k] for k in range(len(weight))])(state).lipschitz


def partitions(network: Network) -> tuple[Blocks, Blocks]:
    """All in one block; the finest partition that the family's layers respect."""
    size = network.lift.weight.shape[0]
    alone = [[k] for k in range(size)]
    fine = alone if isinstance(network, UnboundedWidthNetwork) else [*alone[:SCALARS], list(range(SCALARS, size))]
    return [range(size)], fine


def steps(network: Network, path: str, blocks: Blocks) -> Iterable[Affine | Flow]:
    """The factors before the readout, each as the calculus of blocks sees it."""
    yield Affine(join(path, "lift"), network.lift.weight, blocks)
    for i, layer in enumerate(network.layers):
        name = join(path, f"layers.{i}")
        if isinstance(layer, MaxMinLayer):
            sort = torch.zeros(1, SCALARS + layer.inner.weight.shape[1])
            sort[0, :2] = torch.tensor([-1.0, 1.0])
            yield Flow(name, sort, 1.0, 1.0)
            yield flow(layer.inner, f"{name}.inner", nn.functional.pad(layer.inner.weight, (SCALARS, 0)))
        elif isinstance(layer, GradientFlowLinear):
            yield flow(layer, name, layer.weight)
        if isinstance(network, FixedWidthNetwork):
            between = network.affines[i]
            if isinstance(between, BlockAffine):
                yield Affine(join(path, f"affines.{i}"), block_matrix(between), blocks)


def flow(layer: GradientFlowLinear, path: str, weight: Tensor) -> Flow:
    """A gradient-flow layer, its ``weight`` perhaps padded."""
    return Flow(path, weight, float(layer.tau.detach()), check_slopes(layer.activation, path)[1])


def block_matrix(layer: BlockAffine) -> Tensor:
    """[R; 0 B]."""
    return torch.cat([layer.rows, nn.functional.pad(layer.lower, (SCALARS, 0))]).detach()


def check(network: Network, path: str, rtol: float) -> Sequence[Proof]:
    """The proofs of the children, which must be of the types that the family's ``forward`` was written for."""
    inside: type[nn.Module] = MaxMinLayer if isinstance(network, FixedWidthNetwork) else GradientFlowLinear
    expected: list[tuple[str, nn.Module, type[nn.Module]]] = [("lift", network.lift, nn.Linear)]
    expected += [(f"layers.{i}", m, inside) for i, m in enumerate(network.layers)]
    if isinstance(network, FixedWidthNetwork):
        expected += [(f"affines.{i}", m, BlockAffine) for i, m in enumerate(network.affines)]
    expected.append(("readout", network.readout, nn.Linear))
    for name, child, kind in expected:
        if kind_of(child) is not kind:
            raise CertificateError(
                f"`{join(path, name)}` is a {type(child).__name__} where the family has a {kind.__name__}; nothing is "
                "proved of such a network."
            )
    return [describe(child, join(path, name), rtol) for name, child, _ in expected]
