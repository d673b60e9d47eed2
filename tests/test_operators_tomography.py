"""Tomography against closed forms, against other implementations' conventions, and its errors."""

from __future__ import annotations

import math
import os
from typing import Any

import deepinv
import numpy as np
import pytest
import scipy.sparse
import torch
from operator_cases import dense
from skimage.transform import radon

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators import (
    FanBeam,
    FanBeamTomography,
    ParallelBeam,
    ParallelBeamTomography,
    attenuation_to_hounsfield,
    from_scipy,
    hounsfield_to_attenuation,
    sparse_operator,
)
from pnp_lip.operators.collatz_wielandt import collatz_wielandt
from pnp_lip.operators.filtered_back_projection import fan_weights
from pnp_lip.operators.phantoms import ellipse_image, ellipse_sinogram
from pnp_lip.operators.scan_geometry import Grid

DETECTOR = {"n_det", "det_spacing", "det_offset", "pixel_size", "model"}
HALF = np.arange(0, 180, 3.0)


def rand(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def entries(geometry: Any, angle: float, height: int, width: int | None = None) -> tuple[torch.Tensor, ...]:
    """Bins, pixels (row by row) and weights of one view."""
    view = geometry.view(angle, Grid((height, width or height), geometry.sides)).tocoo()
    bins, pixels = (torch.from_numpy(index).long() for index in view.coords)
    return bins, pixels, torch.from_numpy(view.data)


def blob(n: int) -> torch.Tensor:
    line = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return torch.exp(-((line[None] - n / 8) ** 2 + (line[:, None] + n / 9) ** 2) / (2 * (n / 12) ** 2))[None, None]


@pytest.fixture(scope="module")
def phantom() -> torch.Tensor:
    return ellipse_image(256, samples=6)[None, None].float()


@pytest.mark.parametrize("model", ["strip", "joseph"])
def test_sinogram_of_the_phantom_is_accurate(model: str, phantom: torch.Tensor) -> None:
    n, n_det, x = 256, 363, phantom
    physics = ParallelBeamTomography(ParallelBeam(HALF, n_det=n_det, model=model), (1, n, n))
    truth = ellipse_sinogram(n, torch.from_numpy(HALF), n_det)
    assert float((physics.A(x)[0, 0] - truth).norm() / truth.norm()) < 0.008
    if model == "strip":
        mass = physics.A(x)[0, 0].double().sum(0)  # every view holds the whole mass, pixel by pixel
        torch.testing.assert_close(mass, mass.mean().expand_as(mass), rtol=2e-5, atol=0)


def test_strip_entries_are_areas() -> None:
    # 45°: the shadow of a unit pixel is a triangle of base √2 and area 1; the half plane through a vertex takes half.
    _, pixels, weights = entries(ParallelBeam([45.0], n_det=4, det_spacing=math.sqrt(0.5)), 45.0, 2)
    for pixel in range(4):
        mine = weights[pixels == pixel]
        assert float(mine.sum()) * math.sqrt(0.5) == pytest.approx(1, abs=1e-12)
        assert mine.tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    generator = np.random.default_rng(0)
    angles = generator.uniform(0, 180, 5)
    geometry = ParallelBeam(angles, n_det=9, det_spacing=0.7, det_offset=0.2, pixel_size=1.3)
    for angle in angles:
        bins, pixels, weights = entries(geometry, float(angle), 3)
        points = generator.uniform(-0.65, 0.65, (200_000, 2))
        t = points @ [math.cos(math.radians(angle)), math.sin(math.radians(angle))]  # the central pixel
        index = np.floor((t - 0.2 + 4.5 * 0.7) / 0.7).astype(int)
        share = np.bincount(index, minlength=9) / len(points) * 1.3**2 / 0.7
        exact = torch.zeros(9, dtype=torch.float64).index_add(0, bins[pixels == 4], weights[pixels == 4])
        np.testing.assert_allclose(exact.numpy(), share, atol=0.01)


def test_joseph_is_exact_for_linear_images() -> None:
    n, angle = 15, 33.0
    bins, pixels, weights = entries(ParallelBeam([angle], n_det=5, model="joseph"), angle, n)
    line = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    x = (2.0 + 0.1 * line[None, :] - 0.05 * line[:, None]).flatten()
    projection = torch.zeros(5, dtype=torch.float64).index_add(0, bins, weights * x[pixels])
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for b in range(5):  # the ray crosses all rows; the integral over rows of the linear function along it
        t = b - 2
        heights = -line
        values = 2.0 + 0.1 * (t - heights * sine) / cosine + 0.05 * heights
        assert float(projection[b]) == pytest.approx(float(values.sum() / cosine), rel=1e-11)  # places are rounded to 2⁻³⁶ pixels


@pytest.mark.parametrize("angles", [np.arange(0, 180, 15.0), np.arange(0, 360, 22.5), np.array([1.0, 44.0, 46.0, 89.0, 91.0])])
@pytest.mark.parametrize(("n", "n_det"), [(8, 12), (8, 11), (9, 12), (9, 13)])
@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_symmetric_product_is_the_plain_matrix(angles: np.ndarray, n: int, n_det: int, beam: str) -> None:
    if beam == "parallel":
        physics: Any = ParallelBeamTomography(ParallelBeam(angles, n_det=n_det), (1, n, n), dtype=torch.float64)
    else:
        geometry = FanBeam(angles, n_det=n_det, source_distance=11.0, detector_distance=4.0)
        physics = FanBeamTomography(geometry, (1, n, n), dtype=torch.float64)
    plain = torch.zeros(n_det, len(angles), n * n, dtype=torch.float64)
    for number, angle in enumerate(angles):
        bins, pixels, weights = entries(physics.geometry, float(angle) + physics.geometry.turn, n)
        plain[:, number].index_put_((bins, pixels), weights, accumulate=True)
    torch.testing.assert_close(dense(physics), plain.flatten(0, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("offset", [1.5, -1.0, 0.7, -2.3, 9.1, 0.5 + 1e-12])
@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_an_offset_keeps_rays_and_adjoint(beam: str, offset: float, model: int) -> None:
    n, angles, detector = 9, np.arange(0, 180, 7.5), {"n_det": 12, "det_offset": 0.9 * offset, "det_spacing": 0.9}
    if beam == "parallel":
        geometry: Any = ParallelBeam(angles, model=ParallelBeam.models[model], **detector)
    else:
        distances = {"source_distance": 11.0, "detector_distance": 4.0}
        geometry = FanBeam(2 * angles, model=FanBeam.models[model], **distances, **detector)
    physics: Any = (ParallelBeamTomography if beam == "parallel" else FanBeamTomography)(geometry, (1, n, n), dtype=torch.float64)
    plain = torch.zeros(12, len(angles), n * n, dtype=torch.float64)
    for number, angle in enumerate(geometry.degrees):
        bins, pixels, weights = entries(geometry, float(angle) + geometry.turn, n)
        plain[:, number].index_put_((bins, pixels), weights, accumulate=True)
    matrix = dense(physics)
    # Bins that are sums of two rows: entries below 1e-6 of them are not stored. Joseph's places are rounded to 2⁻³⁶ pixels.
    cut = physics.plan.index.shape[0] > 1
    torch.testing.assert_close(matrix, plain.flatten(0, 1), rtol=0, atol=1e-6 if cut else 1e-10 if model else 1e-11)
    data = torch.eye(len(matrix), dtype=torch.float64).reshape(-1, 1, 12, len(angles))
    torch.testing.assert_close(physics.A_adjoint(data).flatten(1), matrix, rtol=0, atol=1e-12)
    assert cut == (beam == "parallel" and model == 0 and offset in (0.7, -2.3))
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    assert norm <= physics.norm_upper <= 1.01 * norm and physics.norm_lower <= norm
    x, y = rand(2, 1, n, n), rand(2, 1, 12, len(angles), seed=1)
    assert abs(float((physics.A(x) * y).sum() - (x * physics.A_adjoint(y)).sum())) < 1e-12 * float(physics.A(x).norm() * y.norm())
    free = type(physics)(geometry, (1, n, n), storage="free", dtype=torch.float64)
    torch.testing.assert_close(free.A(x), physics.A(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("offset", "rows", "entries"), [(1.5, 45, 1.05), (0.7, 86, 1.6)])
def test_an_offset_costs_little(offset: float, rows: int, entries: float) -> None:
    angles, size = np.arange(0, 180, 3.0), (1, 64, 64)
    physics = ParallelBeamTomography(ParallelBeam(angles, n_det=85, det_offset=offset), size)
    centred = ParallelBeamTomography(ParallelBeam(angles, n_det=85), size)
    assert physics.matrix is not None and centred.matrix is not None
    assert len(physics.plan.group) == 8 and physics.plan.rows <= rows + 1
    assert len(physics.matrix.forward_values) < entries * len(centred.matrix.forward_values)
    actual = 16 * len(physics.matrix.forward_values)
    assert 0.7 * actual < physics.bytes_needed < 1.5 * actual


def test_symmetry_saves_what_it_should() -> None:
    physics = ParallelBeamTomography(ParallelBeam(np.arange(0, 180, 1.0), n_det=23), (1, 16, 16))
    full = sum(len(entries(physics.geometry, float(a), 16)[0]) for a in range(180))
    assert physics.matrix is not None
    assert full / len(physics.matrix.forward_values) > 7
    assert len(physics.plan.group) == 8 and len(physics.plan.base_angles) == 46


@pytest.mark.skipif(not torch._C.has_mkl, reason="torch has one engine only")
def test_engines_and_chunks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rand(9, 2, 12, 12)
    physics = ParallelBeamTomography(np.arange(0, 180, 15.0), (2, 12, 12), dtype=torch.float64)
    monkeypatch.setattr(sparse_operator, "COLUMNS_FOR_BAG", 10**6)
    y = physics.A(x)
    back = physics.A_adjoint(y)
    torch.testing.assert_close(torch.cat([physics.A(image[None]) for image in x]), y, rtol=0, atol=1e-12)
    monkeypatch.setattr(sparse_operator, "COLUMNS_FOR_BAG", 0)
    torch.testing.assert_close(physics.A(x), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(physics.A_adjoint(y), back, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_orientation_is_that_of_skimage_and_deepinv() -> None:
    n = 67  # with n and the number of bins odd, skimage's centre of rotation is the middle of the image, as ours
    x = blob(n)
    ours = ParallelBeamTomography(HALF, (1, n, n), dtype=torch.float64).A(x)[0, 0].numpy()
    theirs = radon(x[0, 0].numpy(), HALF, circle=False)
    assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)
    options = {"pixel_spacing": 1.0, "source_radius": 100.0, "detector_radius": 60.0}
    parameters = options | {"n_detector_pixels": 151, "detector_spacing": 1.0}
    angles = np.arange(0, 360, 30.0)
    reference = deepinv.physics.Tomography(
        angles=torch.from_numpy(angles), img_width=n, normalize=False, fan_beam=True, fan_parameters=parameters
    )
    geometry = FanBeam(angles, source_distance=100.0, detector_distance=60.0, n_det=151)
    fan = FanBeamTomography(geometry, (1, n, n))
    y, y_reference = fan.A(x.float()), reference.A(x.float())
    bins = torch.arange(151.0)[:, None]
    middle = ((y - y_reference)[0, 0] * bins).sum(0) / y[0, 0].sum(0)
    assert float(middle.abs().max()) < 1.2  # half a pixel of centre convention, magnified 1.6 times
    assert float((y - y_reference).norm() / y.norm()) < 0.15


def test_far_source_is_the_parallel_beam() -> None:
    n, x = 12, rand(1, 1, 12, 12)
    geometry = FanBeam(HALF, source_distance=1e7, detector_distance=0.0, n_det=17)
    fan = FanBeamTomography(geometry, (1, n, n), dtype=torch.float64)
    parallel = ParallelBeamTomography(ParallelBeam(HALF - 90, n_det=17), (1, n, n), dtype=torch.float64)
    torch.testing.assert_close(fan.A(x), parallel.A(x), rtol=0, atol=1e-4)


def test_lengths_scale_the_data() -> None:
    x = rand(1, 1, 10, 10)
    unit = ParallelBeamTomography(ParallelBeam(HALF, n_det=15), (1, 10, 10), dtype=torch.float64)
    geometry = ParallelBeam(HALF, n_det=15, pixel_size=0.3, det_spacing=0.3)
    metres = ParallelBeamTomography(geometry, (1, 10, 10), dtype=torch.float64)
    torch.testing.assert_close(metres.A(x), 0.3 * unit.A(x), rtol=0, atol=1e-5)  # entries of 1e-6 may come or go
    beam = FanBeam(HALF, source_distance=30.0, detector_distance=20.0)
    fan = FanBeamTomography(beam, (1, 10, 10), dtype=torch.float64)
    y = fan.A(torch.ones(1, 1, 10, 10, dtype=torch.float64))
    assert float(y[..., 0, :].max()) == 0 or fan.geometry.count >= 24  # the default detector covers the image


@pytest.mark.parametrize("name", ["ramp", "shepp-logan", "hann"])
def test_filtered_back_projection_recovers_a_smooth_image(name: str) -> None:
    n, x = 64, blob(64)
    tolerance = {"ramp": 0.02, "shepp-logan": 0.03, "hann": 0.12}[name]
    fine = ParallelBeam(np.arange(0, 180, 2.0), pixel_size=0.5, det_spacing=0.4)
    parallel = ParallelBeamTomography(fine, (1, n, n), dtype=torch.float64)
    normalised = ParallelBeamTomography(np.arange(0, 180, 2.0), (1, n, n), dtype=torch.float64, normalize=True)
    beam = FanBeam(np.arange(0, 360, 2.0), source_distance=150.0, detector_distance=90.0)
    fan = FanBeamTomography(beam, (1, n, n), dtype=torch.float64)
    for physics in (parallel, normalised, fan):
        x_hat = physics.fbp(physics.A(x), filter=name)
        assert float((x_hat - x).norm() / x.norm()) < tolerance
    with pytest.raises(InputError, match="filter"):
        parallel.fbp(parallel.A(x), filter="cosine")


@pytest.mark.parametrize("start", [0.0, 137.0])
@pytest.mark.parametrize("extra", [0.0, 40.0])
def test_a_short_scan_gets_parkers_weights(start: float, extra: float) -> None:
    n, x = 64, blob(64)
    opening = 2 * math.degrees(math.asin(64 / math.sqrt(2) / 150.0))

    def scan(angles: np.ndarray) -> FanBeamTomography:
        geometry = FanBeam(angles, source_distance=150.0, detector_distance=90.0)
        return FanBeamTomography(geometry, (1, n, n), dtype=torch.float64)

    angles = start + np.arange(0, 180 + opening + extra, 1.5)
    short = scan(angles)
    x_hat = short.fbp(short.A(x))
    assert float((x_hat - x).norm() / x.norm()) < 0.02
    full = scan(np.arange(0, 360, 1.5))
    assert float((x_hat - full.fbp(full.A(x))).norm() / x.norm()) < 0.02
    too_short = scan(angles[:121])
    with pytest.raises(InputError, match=r"at least 21\d°.*cover 18\d°"):
        too_short.fbp(too_short.A(x))


def test_every_line_of_a_short_scan_counts_once() -> None:
    fan = torch.linspace(-0.2, 0.2, 9, dtype=torch.float64)
    angles = torch.arange(0, 205, 0.5, dtype=torch.float64)
    step, share = fan_weights(angles, fan, 0.2)
    assert float(step.sum()) == pytest.approx(math.radians(205), rel=1e-9)
    beta = angles + 0.25
    for bin_ in range(1, 8):  # the line (β, γ) is also (β + 180° − 2γ, −γ)
        other = beta + 180 - 2 * math.degrees(float(fan[bin_]))
        both = other <= float(beta[-1])
        opposite = np.interp(other[both].numpy(), beta.numpy(), share[8 - bin_].numpy())
        np.testing.assert_allclose(share[bin_][both].numpy() + opposite, 1, atol=5e-3)
        before = beta - 180 - 2 * math.degrees(float(fan[bin_]))
        alone = (other > 205) & (before < 0)
        assert torch.allclose(share[bin_][alone], torch.ones(int(alone.sum()), dtype=torch.float64), atol=1e-6)


def test_weighted_data_come_back_through_fbp() -> None:
    n, x = 32, blob(32)
    weights = torch.rand(46, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    plain = ParallelBeamTomography(HALF, (1, n, n), dtype=torch.float64)
    weighted = ParallelBeamTomography(HALF, (1, n, n), dtype=torch.float64, weights=weights)
    torch.testing.assert_close(weighted.A(x), weighted.apply_weights(plain.A(x)), rtol=0, atol=1e-12)
    torch.testing.assert_close(weighted.fbp(weighted.A(x)), plain.fbp(plain.A(x)), rtol=0, atol=1e-10)


def test_missing_wedge_gets_no_credit() -> None:
    angles = np.arange(-60, 61, 2.0)
    physics = ParallelBeamTomography(angles, (1, 32, 32), dtype=torch.float64)
    x = blob(32)
    assert float(physics.fbp(physics.A(x)).abs().max()) < 1.2 * float(x.max())


def disk(n: int, radius: float) -> torch.Tensor:
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).square()
    return 0.02 * (line[:, None] + line[None] <= radius**2).double()[None, None]


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_fbp_of_a_displaced_detector(beam: str, side: float) -> None:
    n, x, detector = 64, disk(64, 25.0), {"n_det": 48, "det_offset": 17.3 * side}
    distances = {"source_distance": 200.0, "detector_distance": 0.0}

    def scan(angles: np.ndarray) -> Any:
        if beam == "parallel":
            return ParallelBeamTomography(ParallelBeam(angles, **detector), (1, n, n), dtype=torch.float64)
        return FanBeamTomography(FanBeam(angles, **distances, **detector), (1, n, n), dtype=torch.float64)

    full, half = scan(np.arange(0, 360, 2.0)), scan(np.arange(0, 220, 2.0))
    inside = disk(n, 20.0) > 0
    values = full.fbp(full.A(x))[inside]
    assert float((values - 0.02).abs().mean()) < 3e-4 and abs(float(values.mean()) - 0.02) < 2e-4
    with pytest.raises(InputError, match="displaced detector needs views over a full turn"):
        half.fbp(half.A(x))


def test_fbp_needs_a_displaced_detector_that_reaches_the_axis() -> None:
    beyond = ParallelBeamTomography(ParallelBeam(np.arange(0, 360, 5.0), n_det=10, det_offset=9.0), (1, 32, 32))
    with pytest.raises(InputError, match="past the axis"):
        beyond.fbp(beyond.A(torch.ones(1, 1, 32, 32)))


def test_fbp_interpolates_dead_bins_and_refuses_infinite_data() -> None:
    n, x, weights = 64, blob(64), torch.ones(91, 60, dtype=torch.float64)
    weights[[30, 41, 42, 60]] = 0
    physics = ParallelBeamTomography(ParallelBeam(HALF, n_det=91), (1, n, n), weights=weights, dtype=torch.float64)
    whole = ParallelBeamTomography(ParallelBeam(HALF, n_det=91), (1, n, n), dtype=torch.float64)
    y = whole.A(x)
    assert float((physics.fbp(physics.apply_weights(y)) - whole.fbp(y)).norm() / x.norm()) < 0.02
    bad = y.clone()
    bad[..., 41, :] = float("inf")
    torch.testing.assert_close(physics.fbp(bad), physics.fbp(physics.apply_weights(y)), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match=r"60 data are NaN or infinite.*weight 0"):
        whole.fbp(bad)
    weights[:, 3] = 0  # a view without any datum counts as 0
    dead = ParallelBeamTomography(ParallelBeam(HALF, n_det=91), (1, n, n), weights=weights, dtype=torch.float64)
    assert bool(torch.isfinite(dead.fbp(dead.apply_weights(y))).all())


def test_fbp_extends_truncated_rows() -> None:
    n, x = 64, disk(64, 29.0)
    physics = ParallelBeamTomography(ParallelBeam(np.arange(0, 180, 2.0), n_det=36), (1, n, n), dtype=torch.float64)
    inside = physics.fbp(physics.A(x))[disk(n, 15.0) > 0]
    assert float(inside.std()) < 1.5e-3 and abs(float(inside.mean()) - 0.02) < 4e-3


def test_norm_of_a_larger_operator_is_tight() -> None:
    physics = ParallelBeamTomography(np.arange(0, 180, 4.0), (1, 32, 32))
    matrix = dense(physics)
    norm = float(torch.linalg.eigvalsh(matrix.T @ matrix)[-1].sqrt())
    assert norm <= physics.norm_upper <= 1.001 * norm
    assert 0.999 * norm <= physics.norm_lower <= norm


def test_admm_like_sequence_needs_few_conjugate_gradient_steps() -> None:
    n = 64
    physics = ParallelBeamTomography(np.arange(0, 180, 4.0), (1, n, n), normalize=True)
    x_true = ellipse_image(n)[None, None].float()
    y = physics.A(x_true)
    x = physics.fbp(y)
    dual, steps = torch.zeros_like(x), 0
    size = float(x.norm())
    for k in range(30):
        v = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x + dual, (1, 1, 1, 1), mode="replicate"), 3, 1)
        v = 0.7 * (x + dual) + 0.3 * v
        dual = dual + x - v
        result = physics.solve_prox(v - dual, y, 1000.0, x0=x, tol=0.02 * size / (k + 1) ** 1.2)
        assert result.converged
        x, steps = result.x, steps + result.iterations
    assert steps <= 160


@pytest.mark.parametrize(
    ("angles", "options", "error", "message"),
    [
        ([], {}, InputError, "non-empty"),
        ([0.0, float("nan")], {}, InputError, "NaN"),
        ([[0.0]], {}, InputError, "non-empty list"),
        ([0.0], {"det_spacing": -1.0}, InputError, "det_spacing"),
        ([0.0], {"pixel_size": 0.0}, InputError, "pixel_size"),
        ([0.0], {"n_det": 0}, InputError, "n_det"),
        ([0.0], {"det_offset": float("inf")}, InputError, "det_offset"),
        ([0.0], {"model": "siddon"}, InputError, "model"),
        ([0.0], {"storage": "disk"}, InputError, "storage"),
        ([0.0], {"mask": "square"}, InputError, "mask"),
        ([0.0], {"mask": torch.ones(3, 3)}, ShapeError, "mask"),
        ([0.0], {"mask": -torch.ones(8, 8)}, InputError, "mask"),
        ([0.0], {"weights": torch.ones(3, 3)}, ShapeError, "weights"),
        ([0.0], {"weights": -torch.ones(12, 1)}, InputError, "weights"),
        ([0.0], {"dtype": torch.float16}, ShapeError, "dtype"),
    ],
)
def test_bad_settings_are_refused(angles: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        detector = {name: options.pop(name) for name in DETECTOR & set(options)}
        ParallelBeamTomography(ParallelBeam(angles, **detector), (1, 8, 8), **options)


def test_a_matrix_too_large_for_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 14, raising=False)  # bytes a page, pages
    with pytest.raises(InputError, match=r"GB.*storage=\"free\""):
        ParallelBeamTomography([0.0], (1, 8, 8))
    assert ParallelBeamTomography([0.0], (1, 8, 8), storage="free").norm_upper > 0


def test_bad_fan_geometry_is_refused() -> None:
    with pytest.raises(InputError, match="inside the object"):
        FanBeamTomography(FanBeam([0.0], source_distance=5.0, detector_distance=1.0), (1, 8, 8))
    with pytest.raises(InputError, match="detector_distance"):
        FanBeam([0.0], source_distance=9.0, detector_distance=-1.0)
    with pytest.raises(InputError, match="model"):
        FanBeam([0.0], source_distance=9.0, detector_distance=1.0, model="strip")
    with pytest.raises(TypeError, match="source_distance"):
        FanBeamTomography([0.0], (1, 8, 8))
    with pytest.raises(InputError, match="must be a ParallelBeam"):
        ParallelBeamTomography(FanBeam([0.0], source_distance=9.0, detector_distance=1.0), (1, 8, 8))
    with pytest.raises(InputError, match="`n_det` is still open"):
        entries(ParallelBeam([0.0]), 0.0, 8)


def test_memory_estimate_is_close() -> None:
    for physics in (
        ParallelBeamTomography(np.arange(0, 180, 2.0), (1, 64, 64)),
        FanBeamTomography(FanBeam(np.arange(0, 360, 2.0), source_distance=128.0, detector_distance=128.0), (1, 64, 64)),
    ):
        assert physics.matrix is not None
        actual = 2 * 8 * len(physics.matrix.forward_values)
        assert 0.7 * actual < physics.bytes_needed < 1.5 * actual


def test_from_scipy_refuses_what_does_not_fit() -> None:
    eye = scipy.sparse.eye_array(4).tocsr()
    with pytest.raises(ShapeError, match="columns"):
        from_scipy(eye, (1, 3, 3))
    with pytest.raises(ShapeError, match="data_shape"):
        from_scipy(eye, (1, 2, 2), data_shape=(3, 1))
    with pytest.raises(InputError, match="scipy sparse"):
        from_scipy(np.eye(4), (1, 2, 2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN"):
        from_scipy(eye * float("nan"), (1, 2, 2))
    with pytest.raises(ShapeError, match="real"):
        from_scipy(eye * 1j, (1, 2, 2))
    differences = scipy.sparse.diags_array([-np.ones(1600), np.ones(1599)], offsets=[0, 1]).tocsr()
    signed = from_scipy(differences, (1, 40, 40))
    assert 1.99 < signed.norm_lower <= signed.norm_upper < 2.005  # beyond the dense route: |D| has the norm of D


def test_collatz_wielandt_survives_slow_operators() -> None:
    physics = ParallelBeamTomography([20.0], (1, 16, 16), dtype=torch.float64)
    norm = float(torch.linalg.matrix_norm(dense(physics), 2))
    start = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    found = collatz_wielandt(physics.A_adjoint_A, start, rounding=1e-12, tol=1e-9, max_iter=3)
    assert found.lower_sq <= norm**2 * (1 + 1e-12) and found.upper_sq >= norm**2 * (1 - 1e-12)


def test_hounsfield_round_trip() -> None:
    hu = torch.tensor([-1200.0, -1000.0, 0.0, 1500.0])
    mu = hounsfield_to_attenuation(hu)
    torch.testing.assert_close(attenuation_to_hounsfield(mu), hu.clamp_min(-1000), rtol=1e-6, atol=1e-3)
    with pytest.raises(InputError, match="water"):
        hounsfield_to_attenuation(hu, water=0.0)


def test_a_number_of_views_is_no_list_of_angles() -> None:
    for count in (180, 180.0, torch.tensor(180)):
        with pytest.raises(InputError, match=r"`angles` is a list of degrees; got .*180.*pass"):
            ParallelBeamTomography(count, (1, 8, 8))  # type: ignore[arg-type]


def test_an_array_of_numpy_is_refused_as_such() -> None:
    physics = ParallelBeamTomography([0.0, 90.0], (1, 8, 8))
    with pytest.raises(ShapeError, match=r"image as a torch tensor; got ndarray"):
        physics.A(np.zeros((1, 1, 8, 8), dtype=np.float32))


@pytest.mark.parametrize("gamma", [10.0, 100.0])
def test_many_views_are_preconditioned(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    n, x = 64, ellipse_image(64)[None, None].float()
    fewer = ParallelBeamTomography(np.arange(15) * 12.0, (1, n, n), normalize=True)
    assert fewer.preconditioner(torch.tensor([[[[gamma]]]])) is None
    physics = ParallelBeamTomography(np.arange(30) * 6.0, (1, n, n), normalize=True)
    y, z, tol = physics.A(x), torch.zeros_like(x), 3e-4 * float(x.norm())
    helped = physics.solve_prox(z, y, gamma, tol=tol)
    monkeypatch.setattr(ParallelBeamTomography, "preconditioner", lambda self, gamma: None)
    alone = physics.solve_prox(z, y, gamma, tol=tol)
    assert helped.converged and alone.converged
    assert helped.iterations <= 0.75 * alone.iterations
    assert float((helped.x - alone.x).norm()) <= float(helped.error_bound + alone.error_bound)


def test_turning_about_another_centre() -> None:
    """deepinv and scikit-image turn about pixel n//2: for even n that is ours on an image with one row and column more."""
    n, angles = 64, np.arange(0, 180, 5.0)
    x = ellipse_image(n)[None, None]
    theirs = torch.from_numpy(radon(x[0, 0].numpy(), angles, circle=False))
    geometry = ParallelBeam(angles, n_det=91)
    wider = torch.nn.functional.pad(x, (0, 1, 0, 1))
    shifted = ParallelBeamTomography(geometry, (1, n + 1, n + 1), dtype=torch.float64).A(wider)[0, 0]
    plain = ParallelBeamTomography(geometry, (1, n, n), dtype=torch.float64).A(x)[0, 0]
    assert float((shifted - theirs).norm() / theirs.norm()) < 0.005
    assert float((plain - theirs).norm() / theirs.norm()) > 0.05
