"""Cone beams: against fans, against an ellipsoid, with and without symmetries, in pieces, and end to end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from operator_cases import dense, dense_adjoint

from pnp_lip import SlicedDenoiser, SlicedPotential, Variational, load_pretrained
from pnp_lip.benchmarks.cone_beam import chords, distance, ellipsoid
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators import ConeBeam, ConeBeamTomography, FanBeam, FanBeamTomography, cone_beam, cone_geometry
from pnp_lip.solvers import ForwardBackward, HalfQuadratic

FULL = np.arange(0, 360, 30.0)


def geometry(angles: object = FULL, **options: object) -> ConeBeam:
    return ConeBeam(angles, **{"source_distance": 14.0, "detector_distance": 9.0, **options})  # type: ignore[arg-type]


def test_central_row_is_a_fan() -> None:
    one = ConeBeamTomography(geometry(n_det=(1, 20), det_offset=(0.0, 0.3)), (1, 1, 8, 8), dtype=torch.float64)
    fan = FanBeam(FULL, source_distance=14.0, detector_distance=9.0, n_det=20, det_offset=0.3, model="joseph")
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = FanBeamTomography(fan, (1, 8, 8), dtype=torch.float64).A(x)
    assert torch.allclose(one.A(x[:, :, None])[:, :, :, 0], expected.transpose(2, 3), atol=1e-5)  # its smallest entries are cut


def test_within_one_percent_of_an_ellipsoid() -> None:
    n, centre, axes = 96, (4.5, -6.5, 3.0), (36.0, 25.5, 31.0)
    scan = ConeBeam(np.arange(0, 360, 72.0), source_distance=4 * n, detector_distance=2 * n, det_spacing=1.5)
    physics = ConeBeamTomography(scan, (1, n, n, n))
    found = physics.A(ellipsoid(n, centre, axes)[None, None].float())[0, 0]
    assert distance(found, chords(physics.geometry, centre, axes, 4)) < 0.01  # 0.6 % at 128³: records/cone_beam.csv


@pytest.mark.parametrize("options", [{}, {"n_det": (7, 9)}, {"n_det": (6, 9), "det_offset": (0.4, 0.7)}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_symmetries_and_pieces_change_nothing(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], dtype: torch.dtype
) -> None:
    """The same matrix, to the rounding of its places, view by view, element by element, slab by slab; and Aᵀ is its transpose."""
    size = (1, 4, 6, 6)
    physics = ConeBeamTomography(geometry(**options), size, dtype=dtype)
    matrix = dense(physics)
    assert float((matrix - dense_adjoint(physics).T).abs().max()) < 1e-15 * float(matrix.max())
    assert float(matrix.min()) >= 0
    monkeypatch.setattr(cone_beam, "COPIES", 1)
    monkeypatch.setattr(cone_beam, "HELD", 1)
    x, y = torch.rand(2, *size, dtype=torch.float64), torch.rand(2, *physics.data_size, dtype=torch.float64)
    assert torch.allclose(physics.forward_map(x).flatten(1), x.flatten(1) @ matrix.T, rtol=1e-12)
    assert torch.allclose(physics.adjoint_map(y).flatten(1), y.flatten(1) @ matrix, rtol=1e-12)
    monkeypatch.undo()
    fan = physics.geometry.fan
    plain = cone_geometry.plan_views(
        fan.degrees + fan.turn, np.arange(fan.count)[None], fan.count, quarters=1, turns=False, flips=False, halves=False
    )
    assert len(plain.group) == 1 < len(physics.plan.group)
    monkeypatch.setattr(cone_beam, "plan_orbit", lambda fan: plain)
    assert float((dense(ConeBeamTomography(geometry(**options), size, dtype=dtype)) - matrix).abs().max()) < 1e-5


def test_conversion_keeps_the_weights() -> None:
    physics = ConeBeamTomography(geometry(), (1, 4, 6, 6), normalize=True)
    before = dense(physics)
    assert torch.equal(dense(physics.double()), before)
    assert 0.99 < float(torch.linalg.matrix_norm(before, 2)) <= physics.norm_upper <= 1


@pytest.mark.parametrize("options", [{}, {"n_det": (7, 9)}, {"n_det": (6, 9), "det_offset": (0.4, 0.7)}])
def test_the_norm_of_a_coarser_volume_is_a_start(monkeypatch: pytest.MonkeyPatch, options: dict[str, object]) -> None:
    monkeypatch.setattr(cone_beam, "COARSE", 3)
    physics = ConeBeamTomography(geometry(**options), (1, 4, 6, 6))
    assert physics.coarser() is not None
    norm, bound = float(torch.linalg.matrix_norm(dense(physics), 2)), physics.norm_bound()
    assert bound.lower <= norm <= bound.upper < 1.01 * bound.lower


def test_the_norm_takes_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 64³, where the rows in the middle meet slices in theirs, 15 without either; the coarse volume counts as nothing."""
    n, sizes = 64, list[int]()
    scan = ConeBeam(np.arange(0, 360, 12.0), source_distance=4 * n, detector_distance=2 * n, det_spacing=1.5)
    project = ConeBeamTomography.project
    monkeypatch.setattr(ConeBeamTomography, "project", lambda *a: (sizes.append(a[1].shape[-1]), project(*a))[1])
    bound = ConeBeamTomography(scan, (1, n, n, n)).bound_norm()
    assert bound.upper < 1.01 * bound.lower and sizes.count(n) <= 8 and sizes.count(16) > 0


def test_feldkamp_reads_an_ellipsoid() -> None:
    n, centre, axes = 32, (2.0, -1.0, 1.0), (9.0, 8.0, 10.0)
    x = ellipsoid(n, centre, axes)[None, None].float()
    scan = ConeBeam(np.arange(0, 360, 6.0), source_distance=4 * n, detector_distance=2 * n, det_spacing=1.5)
    physics = ConeBeamTomography(scan, (1, n, n, n), normalize=True)
    y = physics.A(x)
    back = physics.fdk(y)
    assert float((back - x).norm() / x.norm()) < 0.2
    assert float(back[0, 0, 12:20, 14:19, 15:20].mean()) == pytest.approx(1, abs=0.02)
    y[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(InputError, match="1 data are NaN"):
        physics.fdk(y)


def test_wrong_scans_are_refused() -> None:
    for options, message in (
        ({"n_det": 4}, r"`n_det` must be \(of rows, of columns\)"),
        ({"n_det": (0, 4)}, "`n_det` must hold positive integers"),
        ({"det_offset": (math.nan, 0.0)}, "`det_offset` must be finite"),
        ({"voxel_size": -1.0}, "`voxel_size` must be positive"),
        ({"angles": []}, "`angles` must be a non-empty list"),
    ):
        with pytest.raises(InputError, match=message):
            geometry(**options)
    for scan, size, error, message in (
        (geometry(), (1, 4, 6, 5), ShapeError, "needs square slices"),
        (geometry(), (1, 6, 6), ShapeError, r"\(channels, depth, height, width\)"),
        (geometry(), (1, 4, 24, 24), InputError, "`source_distance` must exceed the radius"),
        (geometry(n_det=(60, 4)), (1, 4, 6, 6), InputError, "steeper than 45"),
        (FULL, (1, 4, 6, 6), InputError, "`geometry` must be a ConeBeam"),
    ):
        with pytest.raises(error, match=message):
            ConeBeamTomography(scan, size)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no ray meets the volume"):
        ConeBeamTomography(geometry(n_det=(2, 2), det_offset=(0.0, 60.0)), (1, 4, 6, 6), normalize=True)


@pytest.mark.parametrize("which", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_volume_end_to_end(which: int) -> None:
    """24³ from 15 views with 1 % noise: proved, and above Feldkamp's reconstruction."""
    n = 24
    scan = ConeBeam(np.arange(0, 360, 24.0), source_distance=4 * n, detector_distance=2 * n, det_spacing=1.5)
    physics = ConeBeamTomography(scan, (1, n, n, n), normalize=True)
    x = (0.6 * ellipsoid(n, (0, 0, 0), (8, 9, 10)) + 0.3 * ellipsoid(n, (-2, 2, 0), (3, 3, 3)))[None, None].float()
    y = physics.A(x)
    y = y + 0.01 * y.max() * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    start, prior = physics.fdk(y), SlicedDenoiser(load_pretrained("tiny"))
    error = float((start - x).norm())
    solver = (
        ForwardBackward(prior, sigma=0.03, box=(0, 1), tol=1e-3),
        HalfQuadratic(prior, sigma=0.03, step=20.0, box=(0, 1), tol=1e-2),
        Variational(SlicedPotential(load_pretrained("ridge")), sigma=0.03, weight=0.02, tol=3e-4),
    )[which]
    result = solver.solve(y, physics, x0=start)
    assert result.guarantee.proved and result.history.status == "converged"
    assert float((result.x - x).norm()) < error
