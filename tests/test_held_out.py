"""Strengths chosen by held-out views: the score is what it says, the chosen value is near the best one, bad input is refused."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.operators import Blur, ParallelBeam, ParallelBeamTomography, gaussian_psf
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers import Variational, choose_by_held_out, choose_by_reference
from pnp_lip.solvers.parameter_choice import power, vertex

N, VIEWS = 24, 12
VALUES = [0.02 * 2.0**k for k in range(-6, 5)]


def differences() -> RidgePotential:
    """A convex potential: the Huber function of differences between neighbours."""
    p = RidgePotential(filters=2, kernel_size=3, rising=1, falling=1, padding_mode="zeros")
    weight = torch.zeros(2, 1, 3, 3)
    weight[0, 0, 1, 1:] = torch.tensor([-0.35, 0.35])
    weight[1, 0, 1:, 1] = torch.tensor([-0.35, 0.35])
    p.activation.set_profile([8.0], [0.0], [0.05], [1.0])
    with torch.no_grad():
        p.weight.copy_(weight)
    return p.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scan() -> tuple[ParallelBeamTomography, torch.Tensor, torch.Tensor]:
    geometry = ParallelBeam(np.arange(VIEWS) * 180.0 / VIEWS, n_det=36)
    physics = ParallelBeamTomography(geometry, (1, N, N), normalize=True)
    x = ellipse_image(N).reshape(1, 1, N, N).float()
    y = physics.A(x)
    return physics, x, y + 0.03 * float(y.abs().max()) * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))


def test_other_weights_share_the_matrix(scan: tuple[ParallelBeamTomography, torch.Tensor, torch.Tensor]) -> None:
    physics, x, y = scan
    weights = torch.rand(36, VIEWS, generator=torch.Generator().manual_seed(1))
    twin, before = physics.with_weights(weights), physics.A(x)
    torch.testing.assert_close(twin.A(x), weights.sqrt() * before)
    torch.testing.assert_close(twin.A_adjoint(y), physics.A_adjoint(weights.sqrt() * y))
    assert twin.matrix is physics.matrix and torch.equal(physics.A(x), before) and physics.root_weights is None
    dense = torch.stack([twin.A(e.reshape(1, 1, N, N)).flatten() for e in torch.eye(N * N)]).double()
    assert twin.norm_lower <= float(torch.linalg.matrix_norm(dense, 2)) * (1 + 1e-6) <= twin.norm_upper * (1 + 2e-6)
    for bad in (-weights, weights[1:], weights * math.nan):
        with pytest.raises((InputError, ValueError)):
            physics.with_weights(bad)


def test_the_score_is_the_misfit_of_views_that_were_not_used(
    scan: tuple[ParallelBeamTomography, torch.Tensor, torch.Tensor],
) -> None:
    physics, _, y = scan
    solver = Variational(differences(), weight=0.15, tol=1e-6)
    choice = choose_by_held_out(solver, y, physics, values=VALUES, every=4, folds=1)
    assert [c["sigma"] for c in choice.candidates] == sorted((c["sigma"] for c in choice.candidates), reverse=True)
    held_out = torch.arange(VIEWS) % 4 == 0
    angles = np.arange(VIEWS)[~held_out.numpy()] * 180.0 / VIEWS
    fewer = ParallelBeamTomography(ParallelBeam(angles, n_det=36), (1, N, N))
    k = 2
    unit = float(physics.unit)
    alone = Variational(differences(), sigma=choice.candidates[k]["sigma"], weight=0.15 / unit**2, tol=1e-6 / unit**2)
    x_hat = alone.solve(y[..., ~held_out] / unit, fewer).x
    left = y[..., held_out]
    assert choice.scores[k] == pytest.approx(filtered(physics.A(x_hat)[..., held_out] - left) / filtered(left), rel=2e-3)


def filtered(views: torch.Tensor) -> float:
    """‖Q r‖ by the spectrum's definition, a detector of 36 bins extended to 72."""
    line, ω = np.arange(36), np.arange(72)
    spectrum = np.exp(-2j * np.pi * np.outer(ω, line) / 72) @ views[0, 0].double().numpy()
    ramp = np.maximum(np.minimum(ω, 72 - ω), 0.25) / 72
    return float(np.sqrt((ramp[:, None] * np.abs(spectrum) ** 2).sum() / 72))


def test_the_filter_weighs_each_frequency_by_its_size() -> None:
    point = torch.zeros(1, 1, 64, 2)
    point[0, 0, 20, 1] = 3.0
    assert power(point) == pytest.approx(9 * 0.25, rel=1e-3)  # the mean of |ω| on [−1/2, 1/2] is 1/4
    wave = torch.cos(torch.arange(64.0) * math.pi * 0.5)[None, None, :, None]  # |ω| = 1/4
    assert power(wave) == pytest.approx(0.25 * 32, rel=0.02)
    assert power(torch.ones(1, 1, 64, 1)) < 0.02 * 64


def test_the_ramp_turns_the_misfit_of_all_views_into_the_error_of_the_image() -> None:
    geometry = ParallelBeam(np.arange(60) * 3.0, n_det=68)
    physics = ParallelBeamTomography(geometry, (1, 48, 48))
    blurs = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0)) * ellipse_image(48)[None, None].float()
    smooth = torch.nn.functional.avg_pool2d(blurs, 5, 1, 2)
    ratios = [power(physics.A(e[None])) / float(e.square().sum()) for e in (blurs[0], smooth[0], smooth[1])]
    plain = [float(physics.A(e[None]).square().sum()) / float(e.square().sum()) for e in (blurs[0], smooth[0], smooth[1])]
    assert max(ratios) < 1.3 * min(ratios) and max(plain) > 2 * min(plain)


def test_a_parabola_is_lowest_at_its_vertex() -> None:
    for at in (-0.3, 0.0, 0.4):
        points = [(t, 2 * (t - at) ** 2 + 5) for t in (-1.0, 0.2, 1.0)]
        assert vertex(points) == pytest.approx(at, abs=1e-12)
        assert vertex(points[:2]) == 0.2 and vertex([*points[:2], (1.0, math.inf)]) == 0.2


def test_an_expectation_is_followed_as_long_as_it_predicts_well(
    scan: tuple[ParallelBeamTomography, torch.Tensor, torch.Tensor],
) -> None:
    physics, _, y = scan
    search = functools.partial(
        choose_by_held_out, Variational(differences(), weight=0.15, tol=3e-6), y, physics, values=VALUES, every=4, tol=1e-5
    )
    free = search()
    best = free.best["sigma"]
    assert free.best in free.candidates and free.scores[free.candidates.index(free.best)] == min(free.scores)
    near, far = search(start=1.3 * best), search(start=64 * best)
    scores = {c["sigma"]: s for c, s in zip(near.candidates, near.scores, strict=True)}
    assert min(scores, key=scores.__getitem__) == pytest.approx(best)
    lowest = vertex([(math.log(s), scores[s] ** 2) for s in sorted(scores) if best / 3 < s < best * 3])
    assert math.log(near.best["sigma"]) == pytest.approx(lowest + 2 / 3 * (math.log(1.3 * best) - lowest))
    assert far.best["sigma"] < 4 * best  # which predicts badly
    assert near.solver.tol == 3e-6 and near.result.status == "converged"  # while it searches it is larger
    assert len(near.scores) < 6 < len(far.scores) < len(VALUES)


@pytest.mark.parametrize("change", [{"start": 0.0}, {"start": math.nan}, {"values": [0.0, 0.1]}])
def test_values_and_the_expectation_are_positive(
    scan: tuple[ParallelBeamTomography, torch.Tensor, torch.Tensor], change: dict[str, object]
) -> None:
    physics, _, y = scan
    with pytest.raises(InputError, match="positive and finite"):
        choose_by_held_out(Variational(differences()), y, physics, **{"values": VALUES, **change})  # type: ignore[arg-type]


def test_the_choice_is_near_the_oracle(scan: tuple[ParallelBeamTomography, torch.Tensor, torch.Tensor]) -> None:
    physics, x, y = scan
    solver = Variational(differences(), weight=0.15, tol=1e-5)
    choice = choose_by_held_out(solver, y, physics, values=VALUES, every=4, folds=4)
    oracle = choose_by_reference(solver, y, physics, x, {"sigma": VALUES})
    assert choice.result.guarantee.proved and choice.best == {"sigma": choice.solver.sigma}
    assert choice.scores[choice.candidates.index(choice.best)] == min(choice.scores)
    assert max(oracle.scores) - psnr(choice.result.x, x) < 0.5 < max(oracle.scores) - min(oracle.scores)
    assert len(choice.scores) < len(VALUES)  # the smallest values were left out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 1}, "every"),
        ({"every": 13}, "every"),
        ({"folds": 0}, "folds"),
        ({"folds": 7}, "folds"),
        ({"values": []}, "one value"),
    ],
)
def test_bad_folds_are_refused(
    scan: tuple[ParallelBeamTomography, torch.Tensor, torch.Tensor], change: dict[str, object], message: str
) -> None:
    physics, _, y = scan
    with pytest.raises(InputError, match=message):
        choose_by_held_out(Variational(differences()), y, physics, **{"values": VALUES, **change})  # type: ignore[arg-type]


def test_other_operators_have_no_views() -> None:
    with pytest.raises(InputError, match="views can be held out of parallel and fan beam scans only; got Blur"):
        choose_by_held_out(Variational(differences()), torch.rand(1, 1, 8, 8), Blur(gaussian_psf(1.0), (1, 8, 8)), values=[0.1])
