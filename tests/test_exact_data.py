"""Max-min forms from data: breakpoints, samples, finite sets; what is exact is, what is approximate keeps its bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pnp_lip import certify
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.spectral.norm_bound import sum_of_squares
from pnp_lip.theory import (
    MaxMin,
    covering_cosine_lower,
    distance_to_points,
    lipschitz_extension,
    piecewise_linear,
    sphere_directions,
    to_fixed_width,
    to_unbounded_width,
)


def both(f: MaxMin, x: np.ndarray) -> list[np.ndarray]:
    """The values of both networks, certified."""
    networks = [to_unbounded_width(f), to_fixed_width(f)]
    assert all(certify(network).lipschitz_upper <= 1 for network in networks)
    with torch.no_grad():
        return [network(torch.tensor(x))[:, 0].numpy() for network in networks]


@pytest.mark.parametrize("seed", range(5))
def test_piecewise_linear_functions_of_one_variable(seed: int) -> None:
    generator = np.random.default_rng(seed)
    knots = np.cumsum(generator.uniform(0.1, 1, 33))
    slopes = generator.choice([-1, 1, 0.5, 0], 32) if seed % 2 else generator.uniform(-1, 1, 32)
    values = np.concatenate([[0.3], 0.3 + np.cumsum(slopes * np.diff(knots))])
    f = piecewise_linear(torch.tensor(knots), torch.tensor(values))
    t = np.linspace(knots[0] - 3, knots[-1] + 3, 10_000)
    expected = np.interp(t, knots, values)
    expected += np.minimum(t - knots[0], 0) * slopes[0] + np.maximum(t - knots[-1], 0) * slopes[-1]
    for found in both(f, t[:, None]):
        assert np.abs(found - expected).max() <= 1e-12
    assert f.terms <= 32 + 2 * (len(f.groups) - 1)


def test_one_piece_is_affine_and_errors_are_told() -> None:
    line = piecewise_linear(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0]))
    assert line.terms == 1 and line(torch.tensor([[4.0]])).item() == 3
    with pytest.raises(InputError, match=r"\[-1, 1\]; got 2 in size"):
        piecewise_linear(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
    with pytest.raises(InputError, match="increasing"):
        piecewise_linear(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 0.0]))
    with pytest.raises(ShapeError, match="n >= 1"):
        piecewise_linear(torch.tensor([0.0]), torch.tensor([0.0]))


def samples(dimension: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of a 1-Lipschitz function with steep parts, so that some pairs of samples are tight."""
    generator = np.random.default_rng([7, dimension])
    points = generator.standard_normal((count, dimension))
    return points, np.abs(np.linalg.norm(points, axis=1) - 1)


def round_cones(points: np.ndarray, values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """McShane's least extension."""
    return np.max([y - np.linalg.norm(x - p, axis=1) for p, y in zip(points, values, strict=True)], axis=0)


@pytest.mark.parametrize(("dimension", "count"), [(1, 12), (5, 6), pytest.param(2, 12, marks=pytest.mark.slow)])
def test_the_extension_interpolates_lies_above_mcshane_and_is_exact_on_the_line(dimension: int, count: int) -> None:
    points, values = samples(dimension, count)
    f = lipschitz_extension(torch.tensor(points), torch.tensor(values))
    upper = -lipschitz_extension(torch.tensor(points), -torch.tensor(values))
    for g in (f, upper):
        for found in both(g, points):
            assert np.abs(found - values).max() <= 1e-12
    x = 2 * np.random.default_rng(0).standard_normal((2000, dimension))
    least = round_cones(points, values, x)
    greatest = -round_cones(points, -values, x)
    for found, above in zip(both(f, x), both(upper, x), strict=True):
        assert (found >= least - 1e-12).all() and (above <= greatest + 1e-12).all()
        if dimension == 1:
            assert np.abs(found - least).max() <= 1e-12 and np.abs(above - greatest).max() <= 1e-12


def test_axes_alone_would_not_interpolate() -> None:
    """A tight pair along a diagonal: the cone of ‖·‖_∞ is too wide there, and one direction more repairs it."""
    points, values = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([5.0, 0.0])
    f = lipschitz_extension(points, values)
    assert torch.allclose(f(points), values.double(), atol=1e-14, rtol=0)
    assert [len(group) for group in f.groups] == [5, 4]


@pytest.mark.parametrize(("dimension", "level"), [(2, 1), (2, 4), (2, 16), (3, 3)])
def test_the_error_against_round_cones_keeps_its_bound(dimension: int, level: int) -> None:
    points, values = samples(dimension, 4)
    cosine = covering_cosine_lower(dimension, level)
    f = lipschitz_extension(torch.tensor(points), torch.tensor(values), sphere_directions(dimension, level))
    x = 2 * np.random.default_rng(0).standard_normal((5000, dimension))
    excess = f(torch.tensor(x)).numpy() - round_cones(points, values, x)
    farthest = np.max([np.linalg.norm(x - p, axis=1) for p in points], axis=0)
    assert (excess >= -1e-12).all() and (excess <= (1 - cosine) * farthest + 1e-12).all()
    assert excess.max() > 1e-5  # so that the bound speaks of something


def test_distances_are_exact_for_their_norm_and_bounded_for_the_round_one() -> None:
    points = np.random.default_rng(3).standard_normal((9, 2))
    x = 2 * np.random.default_rng(4).standard_normal((10_000, 2))
    differences = x[:, None] - points
    for found in both(distance_to_points(torch.tensor(points)), x):
        assert np.abs(found - np.abs(differences).max(2).min(1)).max() <= 1e-12
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) / math.sqrt(2)  # the norm ‖·‖₁/√2
    for found in both(distance_to_points(torch.tensor(points), torch.tensor(signs)), x):
        assert np.abs(found - np.abs(differences).sum(2).min(1) / math.sqrt(2)).max() <= 1e-12
    exact = np.linalg.norm(differences, axis=2).min(1)
    polygon = distance_to_points(torch.tensor(points), sphere_directions(2, 8))(torch.tensor(x)).numpy()
    assert (polygon <= exact + 1e-12).all() and (polygon >= covering_cosine_lower(2, 8) * exact - 1e-12).all()


@pytest.mark.parametrize(("dimension", "level"), [(1, 0), (1, 3), (2, 0), (2, 1), (2, 7), (3, 2), (4, 1), (4, 2), (6, 1)])
def test_directions_cover_the_sphere(dimension: int, level: int) -> None:
    u = sphere_directions(dimension, level)
    axes = level == 0 or dimension == 1
    assert len(u) == (2 * dimension if axes else (2 * level + 1) ** dimension - (2 * level - 1) ** dimension)
    assert all(sum_of_squares(row) <= 1 for row in u.tolist())
    assert len(torch.unique(u, dim=0)) == len(u) and {tuple(r) for r in u.tolist()} == {tuple(r) for r in (-u).tolist()}
    z = torch.randn(20_000, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    corner = torch.ones(1, dimension, dtype=torch.float64)
    support = (torch.nn.functional.normalize(torch.cat([z, corner])) @ u.T).amax(1)
    assert covering_cosine_lower(dimension, level) <= float(support.min()) <= 1
    if level == 0:
        assert float(support.min()) == pytest.approx(covering_cosine_lower(dimension), abs=1e-12)  # attained at the corner


def test_samples_and_directions_that_make_no_sense_are_refused() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(InputError, match="samples 0 and 1 differ by 2 at a distance of 1"):
        lipschitz_extension(points, torch.tensor([0.0, 2.0]))
    with pytest.raises(InputError, match="differ by 1 at a distance of 0"):
        lipschitz_extension(torch.zeros(2, 1), torch.tensor([0.0, 1.0]))
    with pytest.raises(InputError, match="finite"):
        lipschitz_extension(points * math.inf, torch.zeros(2))
    with pytest.raises(ShapeError, match="values"):
        lipschitz_extension(points, torch.zeros(3))
    with pytest.raises(ShapeError, match=r"\(m, 2\)"):
        distance_to_points(points, torch.eye(3))
    with pytest.raises(InputError, match="norm at most 1"):
        distance_to_points(points, 2 * torch.eye(2))
    with pytest.raises(InputError, match="level of at least 0"):
        sphere_directions(2, -1)
    with pytest.raises(InputError, match="more than"):
        covering_cosine_lower(10, 5)
    twice = torch.cat([points, points])
    assert torch.equal(lipschitz_extension(twice, torch.zeros(4))(points), torch.zeros(2, dtype=torch.float64))
