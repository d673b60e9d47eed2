"""What is proved of the two universal families: joint constants, constants of single outputs, radii of classifiers.

The calculus of blocks runs on two partitions of the state and the smaller constant counts. With one block it multiplies
norms, which suits trained networks. With single coordinates (in the fixed-width family: three of them and a block) it
proves the exact constructions, whose lifts have norms far above one. Importing this module registers the rules.
"""

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor, nn

from pnp_lip.certificates import MapBound, Proof, describe
from pnp_lip.certificates.calculus import round_up, sqrt_up
from pnp_lip.certificates.certify import join, own_rule
from pnp_lip.certificates.plain import affine
from pnp_lip.certificates.settings import check_slopes
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.fingerprint import require_unmodified
from pnp_lip.layers import GradientFlowLinear
from pnp_lip.spectral import norm_bound
from pnp_lip.theory.block_calculus import Affine, Blocks, Flow, State
from pnp_lip.theory.networks import SCALARS, BlockAffine, FixedWidthNetwork, MaxMinLayer, Network, UnboundedWidthNetwork

__all__ = ["certified_radius", "output_lipschitz_upper"]

RTOL = 1e-3  # relative tightness of the children's norms, as in ``certify``; the constants here do not depend on it
SLACK = 1 + 1e-12  # covers the rounding of a difference of two rows in float64, and of a quotient
SMALLEST = 1e-300  # a divisor instead of a constant zero, whose radius is unbounded


def output_lipschitz_upper(network: Network) -> tuple[float, ...]:
    """An upper bound of the Lipschitz constant of each output alone, |f_k(x) − f_k(y)| ≤ L_k ‖x − y‖₂.

    ``certify`` bounds the outputs jointly, which for m outputs may be up to √m times as much. Raises CertificateError for
    subclasses, which may override ``forward``, for children of another type than the family has, for hooks and for
    constrained weights (``theory.plain`` makes them plain).

    >>> from pnp_lip.theory import UnboundedWidthNetwork, seal
    >>> max(output_lipschitz_upper(seal(UnboundedWidthNetwork(2, width=4, depth=2, out_features=3)))) <= 1
    True
    """
    describe_parts(network, "", RTOL)
    return rows_upper(network, network.readout.weight)


@torch.no_grad()
def certified_radius(network: Network, x: Tensor) -> Tensor:
    """A radius for each input within which no perturbation (Euclidean) changes the predicted class, (N, d) to (N,).

    One output: r(x) = |f(x)|/L, the class being the sign. Several: r(x) = min_{j≠i} (f_i(x) − f_j(x))/L_ij with i the
    predicted class and L_ij a certified Lipschitz constant of f_i − f_j = (v_i − v_j)ᵀ z(x), z the state before the readout.

    The L_ij come from the rows of V and are at most √2 if f is jointly 1-Lipschitz, at most 2 if only each output is.

    f(x) is evaluated in float64; its rounding is not counted. Raises InputError when ``x`` is not (N, d), CertificateError
    as ``output_lipschitz_upper``. Source: Tsuzuku, Sato & Sugiyama (2018), Section 4, with a constant for each pair.

    >>> from pnp_lip.theory import UnboundedWidthNetwork, seal
    >>> network = seal(UnboundedWidthNetwork(2, width=4, depth=2, out_features=3))
    >>> margin = network(torch.ones(1, 2)).sort().values.diff()[0, -1]
    >>> bool(certified_radius(network, torch.ones(1, 2))[0] >= margin / 2**0.5 * (1 - 1e-5))
    True
    """
    describe_parts(network, "", RTOL)
    if x.ndim != 2:
        raise InputError(f"expected inputs (N, {network.lift.weight.shape[1]}); got {tuple(x.shape)}.")
    outputs: Tensor = copy.deepcopy(network).double()(x.double())
    v = network.readout.weight.detach().cpu().double()
    if len(v) == 1:
        return outputs[:, 0].abs() / max(rows_upper(network, v)[0] * SLACK, SMALLEST)
    pairs = rows_upper(network, (v[:, None] - v).flatten(0, 1))
    constants = torch.tensor(pairs, dtype=torch.float64).view(len(v), len(v))
    first = outputs.argmax(1)
    margins = outputs.gather(1, first[:, None]) - outputs
    radius: Tensor = margins / (constants.to(outputs.device)[first] * SLACK).clamp_min(SMALLEST)
    return radius.scatter(1, first[:, None], torch.inf).amin(1)


@own_rule(MaxMinLayer)
def certify_max_min(layer: MaxMinLayer, path: str, rtol: float) -> Proof:
    """Sorting and Φ act on different coordinates, and sorting is nonexpansive."""
    if type(layer.inner) is not GradientFlowLinear:
        raise CertificateError(f"`{join(path, 'inner')}` is a {type(layer.inner).__name__}, no GradientFlowLinear.")
    inner = describe(layer.inner, join(path, "inner"), rtol)
    return dataclasses.replace(inner, bound=MapBound(max(Fraction(1), inner.bound.lipschitz), None))


@own_rule(BlockAffine)
def certify_block_affine(layer: BlockAffine, path: str, rtol: float) -> Proof:
    width = len(layer.bias)  # along which a result of one number would be broadcast
    shapes = tuple(layer.rows.shape), tuple(layer.lower.shape), tuple(layer.bias.shape)
    if shapes != ((SCALARS, width), (width - SCALARS, width - SCALARS), (width,)):
        raise CertificateError(f"`{path}` has rows, a lower block and a bias of the shapes {shapes}, which do not fit.")
    return affine(layer, path, norm_bound(block_matrix(layer).cpu(), rtol=rtol))


@own_rule(UnboundedWidthNetwork, FixedWidthNetwork)
def certify_network(network: Network, path: str, rtol: float) -> Proof:
    """The least Lipschitz constant that a partition proves, with the children's lines."""
    parts = describe_parts(network, path, rtol)
    constant, failures = min((attempt(network, path, b) for b in partitions(network)), key=lambda found: found[0])
    lines = tuple(line for part in parts for line in part.layers)
    return Proof(MapBound(constant, None), lines, failures, tuple(s for part in parts for s in part.stated))


def attempt(network: Network, path: str, blocks: Blocks) -> tuple[Fraction, tuple[str, ...]]:
    """The Lipschitz constant that this partition proves, and the factors that raise it above one."""
    passed = states(network, path, blocks)
    v = network.readout.weight
    jointly, rows = (Affine("", v, cut)(passed[-1]).lipschitz for cut in ([range(len(v))], alone(len(v))))
    constant = min(*jointly, sqrt_up(sum((c**2 for c in rows), Fraction(0))))
    largest = [*(max(state.lipschitz) for state in passed), constant]
    names = [*(factor.path for factor in factors(network, path, blocks)), join(path, "readout")]
    failures = [
        f"`{name}` takes the largest constant from {float(old):.9g} to {float(new):.9g}, "
        f"counted in {len(passed[1].blocks)} block(s)"
        for name, old, new in zip(names, largest, largest[1:], strict=False)
        if new > max(old, Fraction(1))
    ]
    return constant, tuple(failures) if constant > 1 else ()


def rows_upper(network: Network, rows: Tensor) -> tuple[float, ...]:
    """The Lipschitz constant of each row · z(x), z the state before the readout: the least that a partition proves."""
    each = Affine("", rows, alone(len(rows)))
    found = [each(states(network, "", blocks)[-1]).lipschitz for blocks in partitions(network)]
    return tuple(round_up(min(constants)) for constants in zip(*found, strict=True))


def states(network: Network, path: str, blocks: Blocks) -> list[State]:
    """The state after each factor before the readout, the input first."""
    first = State([range(network.lift.weight.shape[1])], (Fraction(1),))  # one block, the identity
    return list(itertools.accumulate(factors(network, path, blocks), lambda z, factor: factor(z), initial=first))


def partitions(network: Network) -> tuple[Blocks, Blocks]:
    """All in one block; the finest partition that the family's layers respect."""
    size = len(network.lift.weight)
    fixed = isinstance(network, FixedWidthNetwork)
    return [range(size)], [*alone(SCALARS), range(SCALARS, size)] if fixed else alone(size)


def alone(size: int) -> Blocks:
    return [[k] for k in range(size)]


def factors(network: Network, path: str, blocks: Blocks) -> Iterator[Affine | Flow]:
    """The factors before the readout, each as the calculus of blocks sees it."""
    width = len(network.lift.weight)
    yield Affine(join(path, "lift"), network.lift.weight, blocks)
    for i, layer in enumerate(network.layers):
        name = join(path, f"layers.{i}")
        if isinstance(layer, MaxMinLayer):
            yield Flow(name, torch.eye(2, width).diff(dim=0), 1.0, 1.0)  # sorts the first two
            layer, name = layer.inner, f"{name}.inner"
        if isinstance(layer, GradientFlowLinear):
            weight = nn.functional.pad(layer.weight, (width - layer.weight.shape[1], 0))
            yield Flow(name, weight, float(layer.tau.detach()), check_slopes(layer.activation, name)[1])
        between = network.affines[i] if isinstance(network, FixedWidthNetwork) else None
        if isinstance(between, BlockAffine):
            yield Affine(join(path, f"affines.{i}"), block_matrix(between), blocks)


def block_matrix(layer: BlockAffine) -> Tensor:
    """[R; 0 B]."""
    return torch.cat([layer.rows, nn.functional.pad(layer.lower, (SCALARS, 0))]).detach()


def describe_parts(network: Network, path: str, rtol: float) -> list[Proof]:
    """The proofs of the children. Network and children must have the very types that the theorems speak of.

    A subclass may override ``forward``, and constrained weights may change: both raise CertificateError, as hooks do.
    """
    require_unmodified(network)
    if type(network) not in (UnboundedWidthNetwork, FixedWidthNetwork):
        raise CertificateError(
            f"expected an UnboundedWidthNetwork or a FixedWidthNetwork itself; got {type(network).__name__}. A subclass is "
            "refused because it may override `forward`."
        )
    fixed, depth = isinstance(network, FixedWidthNetwork), range(len(network.layers))
    expected: dict[str, type[nn.Module]] = {"lift": nn.Linear}
    expected |= {f"layers.{i}": MaxMinLayer if fixed else GradientFlowLinear for i in depth}
    expected |= {f"affines.{i}": BlockAffine for i in depth} if fixed else {}
    expected["readout"] = nn.Linear
    inner: dict[str, type[nn.Module]] = {f"layers.{i}.inner": GradientFlowLinear for i in depth} if fixed else {}
    checked: dict[str, type[nn.Module]] = dict.fromkeys(("layers", "affines") if fixed else ("layers",), nn.ModuleList)
    for name, kind in {**checked, **expected, **inner}.items():
        child = network.get_submodule(name)
        if type(child) is not kind:
            where = f"`{join(path, name)}` is a {type(child).__name__}"
            raise CertificateError(f"{where} where the family has a {kind.__name__}; no rule covers such a network.")
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CertificateError(f"`{join(path, name)}` holds NaN or infinite values; load intact weights.")
    return [describe(network.get_submodule(name), join(path, name), rtol) for name in expected]
