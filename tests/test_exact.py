"""The exact constructions: equality with the formula, the certificate, its mutations, and their sizes."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from pnp_lip import certify
from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.spectral.norm_bound import sum_of_squares
from pnp_lip.theory import (
    FixedWidthNetwork,
    MaxMin,
    UnboundedWidthNetwork,
    to_fixed_width,
    to_unbounded_width,
)
from pnp_lip.theory.exact import tournament

BUILDERS = {"unbounded": to_unbounded_width, "fixed": to_fixed_width}
POINTS = 10_000


def random_max_min(dimension: int, pieces: int, *, seed: int = 0) -> MaxMin:
    """Unit slopes, groups of random sizes that use every piece and share some, either sign."""
    generator = np.random.default_rng([seed, dimension, pieces])
    slopes = generator.standard_normal((pieces, dimension))
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    cuts = np.sort(generator.choice(np.arange(1, pieces), size=int(generator.integers(0, pieces)), replace=False))
    groups = [[*group.tolist(), int(generator.integers(pieces))] for group in np.split(generator.permutation(pieces), cuts)]
    offsets = generator.standard_normal(pieces)
    return MaxMin(torch.tensor(slopes), torch.tensor(offsets), groups, int(generator.choice([-1, 1])))


def ceil_log2(n: int) -> int:
    """⌈log₂ n⌉, without rounding."""
    return (n - 1).bit_length()


def brute_force(f: MaxMin, x: np.ndarray) -> np.ndarray:
    """The formula in extended precision."""
    pieces = x.astype(np.longdouble) @ f.slopes.numpy().astype(np.longdouble).T + f.offsets.numpy()
    return f.sign * np.max([pieces[:, list(group)].min(1) for group in f.groups], axis=0)


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("pieces", [1, 3, 64])
@pytest.mark.parametrize("dimension", range(1, 11))
def test_networks_equal_the_formula_and_are_certified(family: str, pieces: int, dimension: int) -> None:
    f = random_max_min(dimension, pieces)
    network = BUILDERS[family](f)
    x = 3 * np.random.default_rng(1).standard_normal((POINTS, dimension))
    with torch.no_grad():
        error = np.abs(network(torch.tensor(x))[:, 0].numpy() - brute_force(f, x)).max()
    assert error <= 1e-12
    assert certify(network).lipschitz_upper <= 1  # exactly: no tolerance
    depth, width = len(network.layers), network.lift.out_features
    if family == "fixed":
        assert (depth, width) == (f.terms - 1, dimension + 3)
    else:
        most = ceil_log2(max(map(len, f.groups))) + ceil_log2(len(f.groups))
        assert ceil_log2(f.terms) <= depth <= most and width == f.terms


@pytest.mark.parametrize("family", BUILDERS)
def test_the_certificate_is_attained(family: str) -> None:
    """Every slope is a unit vector, so the gradient has length one wherever it exists: the bound is no overestimate."""
    f = random_max_min(4, 16)
    network = BUILDERS[family](f)
    x = torch.randn(100, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = torch.func.vmap(torch.func.jacrev(network))(x)[:, 0]
    assert torch.allclose(gradients.norm(dim=1), torch.ones(100, dtype=torch.float64), atol=1e-12)
    assert certify(network).lipschitz_upper == 1


def mutation_target(family: str) -> UnboundedWidthNetwork | FixedWidthNetwork:
    """max(min(x₁, x₂, x₃), min(x₄, x₅)) with unit slopes."""
    return BUILDERS[family](MaxMin(torch.eye(5), torch.zeros(5), [[0, 1, 2], [3, 4]]))


def mutations(family: str) -> list[str]:
    """Every weight and step whose growth makes the network expansive."""
    names = [name for name, _ in mutation_target(family).named_parameters()]
    silent = ("bias", "inner.weight", "inner.tau")  # offsets do not matter to the slope; Φ has τ = 0
    unread = ("affines.1.lower", "affines.2.lower", "affines.3.lower")  # all terms are loaded by then
    return [name for name in names if not name.endswith(silent) and name not in unread]


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in BUILDERS for name in mutations(family)])
def test_one_per_cent_more_is_caught(family: str, name: str) -> None:
    network = mutation_target(family)
    assert certify(network).nonexpansive  # and the cache must not hide what follows
    with torch.no_grad():
        network.get_parameter(name).mul_(1.01)
    with pytest.raises(CertificateError, match=name.rpartition(".")[0]):
        certify(network).require_nonexpansive()


@pytest.mark.parametrize("family", BUILDERS)
def test_a_single_entry_is_caught(family: str) -> None:
    network = BUILDERS[family](random_max_min(3, 8))
    assert certify(network).nonexpansive
    with torch.no_grad():
        network.lift.weight.view(-1)[int(network.lift.weight[0].abs().argmax())] *= 1.01
    assert not certify(network).nonexpansive


def test_building_leaves_the_random_numbers_alone() -> None:
    f = random_max_min(2, 5)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, second = to_fixed_width(f), to_unbounded_width(f)
    assert torch.equal(torch.rand(3), expected)
    for network, build in ((first, to_fixed_width), (second, to_unbounded_width)):
        again = build(f).state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())
        assert certify(copy.deepcopy(network)).nonexpansive


@pytest.mark.parametrize("sizes", [[1], [5], [1, 1, 1], [64, *[1] * 64], [3, 1, 4, 1, 5, 9, 2, 6]])
def test_a_tournament_sorts_disjoint_pairs_and_halves(sizes: list[int]) -> None:
    rounds, winner = tournament(sizes)
    values = np.random.default_rng(0).standard_normal((sum(sizes), 50))
    expected = np.max([group.min(0) for group in np.split(values, np.cumsum(sizes)[:-1])], axis=0)
    for pairs in rounds:
        used = [k for pair in pairs for k in pair]
        assert len(used) == len(set(used))
        for p, q in pairs:
            values[[p, q]] = np.sort(values[[p, q]], axis=0)
    assert np.array_equal(values[winner], expected)
    total = sum(sizes)
    assert sum(len(pairs) for pairs in rounds) == total - 1  # every comparison retires one term
    assert ceil_log2(total) <= len(rounds) <= ceil_log2(max(sizes)) + ceil_log2(len(sizes))


def test_depth_of_a_plain_maximum_is_the_logarithm() -> None:
    f = MaxMin(torch.ones(64, 1), torch.arange(64.0), [[k] for k in range(64)])
    wide, narrow = to_unbounded_width(f), to_fixed_width(f)
    assert len(wide.layers) == 6 and wide.lift.weight.shape[0] == 64
    assert len(narrow.layers) == 63 and narrow.lift.weight.shape[0] == 1 + 3
    assert math.isclose(float(torch.linalg.matrix_norm(wide.lift.weight.detach(), 2)), 8.0)
    assert certify(wide).lipschitz_upper == certify(narrow).lipschitz_upper == 1


def test_negation_exchanges_maxima_and_minima() -> None:
    f = random_max_min(3, 9)
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    opposite = -f
    assert torch.equal(opposite(x), -f(x)) and torch.equal((-opposite)(x), f(x))
    assert torch.allclose(to_fixed_width(opposite)(x)[:, 0], -f(x), atol=1e-12, rtol=0)


def test_slopes_are_inside_the_ball_exactly_and_hardly_moved() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(500, 7, generator=generator, dtype=torch.float64))
    assert any(sum_of_squares(row) > 1 for row in rows.tolist())  # so that there is something to show
    f = MaxMin(rows, torch.zeros(500), [range(500)])
    assert all(sum_of_squares(row) <= 1 for row in f.slopes.tolist())
    assert float((f.slopes - rows).abs().max()) <= 1e-15


def test_what_is_no_max_min_form_is_refused() -> None:
    eye, zeros = torch.eye(2), torch.zeros(2)
    with pytest.raises(InputError, match=r"norm at most 1 .* got 1\.00000001"):
        MaxMin(eye.double() * (1 + 1e-8), zeros, [[0]])
    with pytest.raises(InputError, match="indices of the 2 pieces"):
        MaxMin(eye, zeros, [[0, 2]])
    with pytest.raises(InputError, match="empty one"):
        MaxMin(eye, zeros, [[0], []])
    with pytest.raises(InputError, match="empty one"):
        MaxMin(eye, zeros, [])
    with pytest.raises(InputError, match="finite"):
        MaxMin(eye, zeros * math.nan, [[0]])
    with pytest.raises(InputError, match="`sign`"):
        MaxMin(eye, zeros, [[0]], 2)
    with pytest.raises(ShapeError, match="offsets"):
        MaxMin(eye, torch.zeros(3), [[0]])
    with pytest.raises(ShapeError, match=r"\(\.\.\., 2\)"):
        MaxMin(eye, zeros, [[0]])(torch.zeros(3))
