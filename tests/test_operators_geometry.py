"""Rectangular images and pixels, curved detectors, the matrix-free pair: against closed forms and plain matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from operator_cases import dense

from pnp_lip.errors import InputError
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.operators.scan_geometry import Grid
from pnp_lip.operators.scan_mistakes import likely_mistake

REGULAR, ODD = np.arange(0, 360, 22.5), np.array([1.0, 44.0, 46.0, 100.0, 217.0])
SPREAD, CENTRE = 4.0, (2.0, -3.0)  # of the Gaussian, in the unit of length


def gaussian(grid: Grid) -> torch.Tensor:
    square = (grid.x - CENTRE[0]).square() + (grid.y - CENTRE[1]).square()
    return torch.exp(-square / (2 * SPREAD**2)).reshape(1, 1, *grid.size)


def line_integrals(point: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Of the Gaussian along whole lines: √(2π) s exp(−d²/(2s²)), d the line's distance from its centre."""
    to_centre = torch.tensor(CENTRE, dtype=torch.float64) - point
    along = direction / direction.norm(dim=1, keepdim=True)
    distance = to_centre[:, 0] * along[:, 1] - to_centre[:, 1] * along[:, 0]
    return math.sqrt(2 * math.pi) * SPREAD * torch.exp(-distance.square() / (2 * SPREAD**2))


def scanner(beam: str, angles: np.ndarray, **detector: Any) -> Any:
    """The geometry and the class of its operator."""
    if beam == "parallel":
        return ParallelBeam(angles, **detector), ParallelBeamTomography
    distances = {"source_distance": 60.0, "detector_distance": 25.0}
    return FanBeam(angles, detector="curved" if beam == "curved" else "flat", **distances, **detector), FanBeamTomography


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize(("size", "pixel"), [((48, 32), 1.0), ((41, 50), 0.9), ((48, 36), (0.8, 1.1))])
@pytest.mark.parametrize("beam", ["parallel", "flat", "curved"])
def test_projections_of_a_gaussian(beam: str, size: tuple[int, int], pixel: Any, model: int) -> None:
    geometry, kind = scanner(beam, REGULAR, det_offset=0.4, pixel_size=pixel)
    geometry, kind = scanner(beam, REGULAR, det_offset=0.4, pixel_size=pixel, model=geometry.models[model])
    physics = kind(geometry, (1, *size), dtype=torch.float64)
    scan = physics.geometry
    truth = [line_integrals(*scan.rays(float(angle) + scan.turn, scan.bin_centres)) for angle in scan.degrees]
    x = gaussian(Grid(size, scan.sides))
    y = physics.A(x)[0, 0]
    assert float((y - torch.stack(truth, 1)).norm() / y.norm()) < 0.012
    free = kind(geometry, (1, *size), dtype=torch.float64, storage="free")
    torch.testing.assert_close(free.A(x)[0, 0], y, rtol=0, atol=1e-10)
    torch.testing.assert_close(free.A_adjoint(y[None, None]), physics.A_adjoint(y[None, None]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("angles", [REGULAR, ODD])
@pytest.mark.parametrize(("size", "pixel"), [((6, 9), 1.0), ((9, 6), 1.0), ((7, 7), (0.8, 1.3))])
@pytest.mark.parametrize("beam", ["parallel", "flat", "curved"])
def test_a_rectangle_has_the_plain_matrix(beam: str, size: tuple[int, int], pixel: Any, angles: np.ndarray, model: int) -> None:
    geometry, kind = scanner(beam, angles, n_det=13, det_offset=0.25, pixel_size=pixel)
    geometry, kind = scanner(beam, angles, n_det=13, det_offset=0.25, pixel_size=pixel, model=geometry.models[model])
    physics = kind(geometry, (1, *size), dtype=torch.float64)
    grid = Grid(size, geometry.sides)
    views = [geometry.view(float(angle) + geometry.turn, grid).toarray() for angle in angles]
    plain, matrix = torch.from_numpy(np.stack(views, 1)).flatten(0, 1), dense(physics)
    torch.testing.assert_close(matrix, plain, rtol=0, atol=2e-6)  # entries of 1e-6 may come or go
    data = torch.eye(len(matrix), dtype=torch.float64).reshape(-1, 1, 13, len(angles))
    torch.testing.assert_close(physics.A_adjoint(data).flatten(1), matrix, rtol=0, atol=1e-13)
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    assert norm <= physics.norm_upper <= 1.01 * norm and physics.norm_lower <= norm


def test_a_rectangle_uses_its_symmetries() -> None:
    square, tall = (ParallelBeamTomography(np.arange(180.0), (1, *size)) for size in ((24, 24), (32, 18)))
    assert len(square.plan.group) == 8 and len(tall.plan.group) == 4
    assert len(square.plan.base_angles) == 46 and len(tall.plan.base_angles) == 91


def test_a_rectangle_is_a_part_of_a_square() -> None:
    x = torch.rand(1, 2, 20, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    geometry = ParallelBeam(REGULAR, n_det=40)
    part = ParallelBeamTomography(geometry, (2, 20, 32), dtype=torch.float64).A(x)
    whole = ParallelBeamTomography(geometry, (2, 32, 32), dtype=torch.float64).A(torch.nn.functional.pad(x, (0, 0, 6, 6)))
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "pixel"), [((48, 64), 1.0), ((56, 48), (0.8, 1.1))])
@pytest.mark.parametrize("beam", ["parallel", "flat", "curved"])
def test_fbp_and_prox_on_a_rectangle(beam: str, size: tuple[int, int], pixel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry, kind = scanner(beam, np.arange(0, 360, 2.0), pixel_size=pixel)
    physics = kind(geometry, (1, *size), normalize=True)
    x = gaussian(Grid(size, physics.geometry.sides)).float()
    y = physics.A(x)
    assert float((physics.fbp(y) - x).norm() / x.norm()) < 0.02
    assert float((physics.fbp(y, filter="hann") - x).norm() / x.norm()) < 0.04
    gamma, tol = 1000.0, 1e-3 * float(x.norm())
    helped = physics.solve_prox(torch.zeros_like(x), y, gamma, tol=tol)
    monkeypatch.setattr(kind, "preconditioner", lambda self, gamma: None)
    alone = physics.solve_prox(torch.zeros_like(x), y, gamma, tol=tol)
    assert helped.converged and alone.converged and helped.iterations <= 0.6 * alone.iterations
    assert float((helped.x - alone.x).norm()) <= float(helped.error_bound + alone.error_bound)


def test_a_curved_short_scan_and_a_displaced_curved_detector() -> None:
    size = (64, 64)
    for angles, detector in ((np.arange(0, 280, 2.0), {}), (np.arange(0, 360, 2.0), {"n_det": 70, "det_offset": 22.0})):
        geometry, kind = scanner("curved", angles, pixel_size=0.7, **detector)
        physics = kind(geometry, (1, *size), dtype=torch.float64)
        x = gaussian(Grid(size, (0.7, 0.7)))
        assert float((physics.fbp(physics.A(x)) - x).norm() / x.norm()) < 0.02


def test_circle_mask_of_a_rectangle() -> None:
    physics = ParallelBeamTomography(ParallelBeam(REGULAR, pixel_size=(1.0, 0.5)), (1, 16, 40), mask="circle")
    assert physics.image_mask is not None
    assert float(physics.image_mask.sum()) * 0.5 == pytest.approx(math.pi * 64, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beam", ["parallel", "flat"])
def test_the_matrix_free_pair_is_exact(beam: str, dtype: torch.dtype) -> None:
    geometry, kind = scanner(beam, np.arange(0, 360, 12.0), det_offset=0.3, model="joseph")
    physics = kind(geometry, (1, 20, 20), storage="free", normalize=True, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 20, 20, dtype=torch.float64, generator=generator)
    y = torch.randn(3, 1, *physics.data_size[1:], dtype=torch.float64, generator=generator)
    # In double precision also for an operator of single precision: the weights are the same stored numbers both ways.
    gap = float((physics.forward_map(x) * y).sum() - (x * physics.adjoint_map(y)).sum())
    assert abs(gap) < 1e-12 * float(physics.forward_map(x).norm() * y.norm())
    norm = float(torch.linalg.matrix_norm(physics.forward_map(torch.eye(400).double().reshape(-1, 1, 20, 20)).flatten(1), 2))
    assert 0.99 <= physics.norm_lower <= norm <= physics.norm_upper <= 1


@pytest.mark.parametrize("turn", [math.pi, 2 * math.pi])
def test_radians_are_recognised(turn: float) -> None:
    for angles in (np.linspace(0, turn, 60, endpoint=False), np.linspace(0, turn, 60), np.linspace(-turn / 2, turn / 2, 31)):
        with pytest.raises(InputError, match=r"cover 2?π, as radians do. Pass numpy.rad2deg"):
            ParallelBeam(angles)
    ParallelBeam(np.linspace(0, 3.0, 60))  # a narrow arc in degrees
    ParallelBeam([0.0, math.pi])


@pytest.mark.parametrize(("stated", "named"), [(0.0, "0.50 bins from where it is stated; try an offset of -0.5"), (-0.5, None)])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_axis_of_scikit_image_is_named(stated: float, named: str | None, noise: float) -> None:
    from skimage.transform import radon

    angles = np.arange(0, 180, 3.0)
    image = np.pad(ellipse_image(48).numpy(), 8)
    y = torch.from_numpy(radon(image, theta=angles)).float()[None, None]
    y = y + noise * float(y.max()) * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    geometry = ParallelBeam(angles, n_det=64, det_offset=stated)
    found = likely_mistake(ParallelBeamTomography(geometry, (1, 65, 65)), y)
    assert found is None if named is None else named[5:30] in str(found) and abs(float(str(found).split()[-1]) + 0.5) < 0.05
    cut_off = ParallelBeamTomography(ParallelBeam(angles, n_det=34, det_offset=stated), (1, 65, 65))
    assert likely_mistake(cut_off, y[:, :, 15:49]) is None  # what lies outside decides where the centres are


@pytest.mark.parametrize("beam", ["parallel", "flat"])
def test_mistakes_are_named(beam: str) -> None:
    angles = np.arange(0, 180, 3.0) * (1 if beam == "parallel" else 2)
    x = ellipse_image(40)[None, None].float()

    def scan(views: np.ndarray = angles, offset: float = 1.5, bins: int = 60) -> Any:
        geometry, kind = scanner(beam, views, det_offset=offset, n_det=bins, det_spacing=1.0 if beam == "parallel" else 1.6)
        return kind(geometry, (1, 40, 40))

    y = scan().A(x)
    y = y + 0.01 * float(y.norm()) / 60 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    assert likely_mistake(scan(), y) is None
    assert "wrong sign" in str(likely_mistake(scan(offset=-1.5), y))
    assert "transposed" in str(likely_mistake(scan(), y.mT))
    few = np.arange(0, 165, 15.0)  # covers no half turn, which the class itself would see
    wedge = scan(few).A(x)
    assert likely_mistake(scan(few), wedge) is None
    assert "radians" in str(likely_mistake(scan(np.deg2rad(few)), wedge))
    assert likely_mistake(scan(few, 0.0), scan(few, 0.0).A(x)) is None  # nothing to try


@pytest.mark.parametrize(
    ("options", "message"), [({"pixel_size": (1.0,)}, "one side or"), ({"pixel_size": (1.0, -1.0)}, "pixel_size")]
)
def test_bad_pixels_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ParallelBeam([0.0], **options)
    with pytest.raises(InputError, match='must be "flat" or "curved"'):
        FanBeam([0.0], source_distance=9.0, detector_distance=1.0, detector="arc")
