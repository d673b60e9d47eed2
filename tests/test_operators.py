"""Claims that every operator makes, over the whole registry."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from deepinv.physics import Denoising, GaussianNoise, stack
from operator_cases import CASES, OperatorCase, dense, dense_adjoint

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.operators import (
    Blur,
    CertifiedPhysics,
    ParallelBeam,
    ParallelBeamTomography,
    certify_norm,
    from_scipy,
    gaussian_psf,
    norm_rule,
    stated_norm,
)
from pnp_lip.operators.norm_rules import KEPT
from pnp_lip.operators.sparse_operator import SparsePair
from pnp_lip.spectral import Method, NormBound

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def rand(*size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@every_case
def test_dot_products_agree_to_rounding(case: OperatorCase) -> None:
    physics = case.build(torch.float64)
    x, y = rand(2, *physics.img_size), rand(2, *physics.data_size, seed=1)
    ax = physics.A(x)
    left, right = (ax * y).sum(), (x * physics.A_adjoint(y)).sum()
    assert abs(left - right) <= 1e-12 * ax.norm() * y.norm()


@every_case
def test_adjoint_is_the_transpose_column_by_column(case: OperatorCase) -> None:
    physics = case.build(torch.float64)
    matrix = dense(physics)
    torch.testing.assert_close(dense_adjoint(physics).T, matrix, rtol=0, atol=1e-13 * float(matrix.norm()))


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_bounds_enclose_the_norm_of_the_stored_operator(case: OperatorCase, dtype: torch.dtype) -> None:
    physics = case.build(dtype)
    norm = float(torch.linalg.matrix_norm(dense(physics), 2))
    bound = physics.norm_bound()
    assert bound.upper >= norm * (1 - 1e-14)
    assert bound.lower <= norm * (1 + 1e-14)
    assert bound.upper <= norm * (1 + case.gap)
    assert bound.lower >= norm * (1 - 1e-2)
    assert certify_norm(physics) is bound


@every_case
def test_deepinv_reads_the_upper_bound(case: OperatorCase) -> None:
    physics = case.build(torch.float32)
    x = torch.zeros(physics.img_size)
    assert float(physics.compute_norm(x, squared=False)) >= physics.norm_upper
    assert float(physics.compute_sqnorm(x)) >= physics.norm_upper**2
    assert float(physics.compute_sqnorm(x)) <= physics.norm_upper**2 * (1 + 1e-6)


@every_case
def test_linear_batched_and_of_the_declared_size(case: OperatorCase) -> None:
    physics = case.build(torch.float64)
    x = rand(3, *physics.img_size)
    y = physics.A(x)
    assert tuple(y.shape) == (3, *physics.data_size)
    torch.testing.assert_close(torch.cat([physics.A(image[None]) for image in x]), y, rtol=0, atol=1e-13)
    torch.testing.assert_close(physics.A(2 * x[:1] - 3 * x[1:2]), 2 * y[:1] - 3 * y[1:2], rtol=0, atol=1e-12)


@every_case
def test_float32_agrees_with_float64(case: OperatorCase) -> None:
    physics = case.build(torch.float32)
    x = rand(1, *physics.img_size, dtype=torch.float32)
    wide = physics.forward_map(x.double())
    assert (physics.A(x).double() - wide).norm() <= 1e-6 * physics.norm_upper * x.norm()


@every_case
def test_differentiable_twice(case: OperatorCase) -> None:
    physics = case.build(torch.float64)
    x = rand(1, *physics.img_size).requires_grad_()
    y = rand(1, *physics.data_size, seed=1).requires_grad_()
    for function, argument in ((physics.A, x), (physics.A_adjoint, y)):
        assert torch.autograd.gradcheck(function, argument, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda v, f=function: f(v).square(), argument, fast_mode=True)


@every_case
def test_torch_func_transforms(case: OperatorCase) -> None:
    physics = case.build(torch.float64)
    x, v = rand(2, *physics.img_size), rand(2, *physics.img_size, seed=1)
    y, w = physics.A(x), physics.A(v)
    _, tangent = torch.func.jvp(physics.A, (x,), (v,))
    torch.testing.assert_close(tangent, w, rtol=0, atol=1e-12)
    _, pull_back = torch.func.vjp(physics.A, x)
    torch.testing.assert_close(pull_back(y)[0], physics.A_adjoint(y), rtol=0, atol=1e-11)


@every_case
@pytest.mark.parametrize(
    ("gamma", "dtype"), [(1.0, torch.float32), (1e3, torch.float32), (1e6, torch.float32), (1e6, torch.float64)]
)
def test_prox_error_is_within_the_reported_bound(case: OperatorCase, gamma: float, dtype: torch.dtype) -> None:
    physics = case.build(dtype)
    z, x = rand(2, *physics.img_size, dtype=dtype), rand(2, *physics.img_size, dtype=dtype, seed=1)
    y = physics.A(x)
    result = physics.solve_prox(z, y, gamma, tol=1e-4, max_iter=200)
    error = (result.x.double().flatten(1) - exact_prox(physics, z, y, gamma)).norm(dim=1)
    assert (error <= result.error_bound).all()
    if result.converged:
        assert (result.error_bound <= 1e-4).all()
    if gamma == 1.0:
        assert result.converged


def exact_prox(physics: object, z: torch.Tensor, y: torch.Tensor, gamma: float) -> torch.Tensor:
    """By a singular value decomposition, accurate for every γ."""
    u, s, vt = torch.linalg.svd(dense(physics), full_matrices=False)  # type: ignore[arg-type]
    z, y = z.double().flatten(1), y.double().flatten(1)
    along = z @ vt.T
    return z + ((along + gamma * s * (y @ u)) / (1 + gamma * s**2) - along) @ vt


@every_case
def test_prox_l2_is_differentiable(case: OperatorCase) -> None:
    physics = case.build(torch.float64)
    z = rand(2, *physics.img_size).requires_grad_()
    y = rand(2, *physics.data_size, seed=1).requires_grad_()
    gamma = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)

    def prox(z: torch.Tensor, y: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return physics.prox_l2(z, y, gamma, tol=1e-10)

    assert torch.autograd.gradcheck(prox, (z, y, gamma), fast_mode=True, eps=1e-4, atol=1e-5)


@every_case
def test_state_dict_and_clone_keep_operator_and_certificate(case: OperatorCase) -> None:
    physics = case.build(torch.float64)
    x = rand(1, *physics.img_size)
    before = physics.norm_bound()
    copies = [physics.clone(), copy.deepcopy(physics)]
    fresh = case.build(torch.float64)
    fresh.load_state_dict(physics.state_dict())
    for other in (*copies, fresh):
        torch.testing.assert_close(other.A(x), physics.A(x), rtol=0, atol=0)
        assert other.norm_bound() == before


@every_case
def test_wrong_shape_dtype_and_settings_are_refused(case: OperatorCase) -> None:
    physics = case.build(torch.float32)
    x = torch.zeros(1, *physics.img_size)
    y = torch.zeros(1, *physics.data_size)
    for wrong in (x[0], x[..., 1:], x.double()):
        with pytest.raises(ShapeError):
            physics.A(wrong)
    for wrong in (y[0], y[..., 1:], y.double()):
        with pytest.raises(ShapeError):
            physics.A_adjoint(wrong)
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="gamma"):
            physics.solve_prox(x, y, gamma)
    with pytest.raises(InputError, match="tol"):
        physics.solve_prox(x, y, 1.0, tol=0.0)
    with pytest.raises(ShapeError, match="same number"):
        physics.solve_prox(x, torch.cat([y, y]), 1.0)
    with pytest.raises(ShapeError, match="gamma"):
        physics.solve_prox(x, y, torch.ones(3))
    with pytest.raises(ShapeError):
        physics.A(torch.zeros(1, *physics.img_size, device="meta"))


def test_certificate_follows_the_weights() -> None:
    physics = Blur(torch.ones(3, 3) / 9, (1, 8, 8))
    assert physics.norm_upper == pytest.approx(1)
    physics.psf.mul_(2)
    assert physics.norm_upper == pytest.approx(2)
    torch.testing.assert_close(physics.A(torch.ones(1, 1, 8, 8)), torch.full((1, 1, 8, 8), 2.0))
    physics.load_state_dict(Blur(torch.ones(3, 3) / 3, (1, 8, 8)).state_dict())
    assert physics.norm_upper == pytest.approx(3)


def test_prox_warm_start_and_tolerance_are_absolute() -> None:
    physics = Blur(torch.ones(3, 3) / 9, (1, 12, 12), padding="zeros", dtype=torch.float64)
    z, y = rand(1, 1, 12, 12), rand(1, 1, 12, 12, seed=1)
    solution = physics.solve_prox(z, y, 100.0, tol=4e-9)
    assert solution.converged and solution.iterations > 0
    again = physics.solve_prox(z, y, 100.0, x0=solution.x, tol=1e-8)
    assert again.iterations == 0
    small = physics.solve_prox(1e-6 * z, 1e-6 * y, 100.0, tol=4e-9)
    assert 0 < small.iterations < solution.iterations


def test_prox_l2_warns_when_it_stops_early() -> None:
    physics = Blur(torch.ones(3, 3) / 9, (1, 12, 12), padding="zeros")
    with pytest.warns(RuntimeWarning, match="error of at most"):
        physics.prox_l2(None, torch.ones(1, 1, 12, 12), 1e4, max_iter=1, tol=1e-6)


def test_entries_whose_products_vanish_are_refused_a_bound() -> None:
    angles = [0.0, 40.0, 90.0]
    tiny = ParallelBeamTomography(ParallelBeam(angles, pixel_size=1e-23, det_spacing=1e-23), (1, 16, 16))
    with pytest.raises(CertificateError, match="products of the operator's entries vanish"):
        tiny.norm_bound()
    usual = Blur(torch.full((3, 3), 1.0, dtype=torch.float64), (1, 16, 16), padding="zeros", dtype=torch.float64)
    faint = Blur(torch.full((3, 3), 1e-171, dtype=torch.float64), (1, 16, 16), padding="zeros", dtype=torch.float64)
    assert faint.norm_upper == pytest.approx(1e-171 * usual.norm_upper, rel=1e-3)
    moderate = ParallelBeamTomography(ParallelBeam(angles, pixel_size=1e-9, det_spacing=1e-9), (1, 16, 16))
    usual = ParallelBeamTomography(angles, (1, 16, 16))
    assert moderate.norm_upper == pytest.approx(1e-9 * usual.norm_upper, rel=1e-4)


def test_a_detector_that_no_ray_meets_cannot_be_normalised() -> None:
    with pytest.raises(InputError, match="no ray meets the image"):
        ParallelBeamTomography(ParallelBeam([0.0], det_offset=100.0), (1, 4, 4), normalize=True)


def test_listed_angles_keep_their_digits() -> None:
    listed = [0.1 + 0.2 * k for k in range(90)]
    a = ParallelBeamTomography(listed, (1, 16, 16), dtype=torch.float64)
    b = ParallelBeamTomography(torch.tensor(listed, dtype=torch.float64), (1, 16, 16), dtype=torch.float64)
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(a.A(x), b.A(x))


class Quadrupled(Blur):
    """Computes something else than its base."""

    def forward_map(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * super().forward_map(x)

    def adjoint_map(self, y: torch.Tensor) -> torch.Tensor:
        return 4 * super().adjoint_map(y)


class QuadrupledPair(SparsePair):
    def product(self, x: torch.Tensor, **options: bool) -> torch.Tensor:
        return 4 * super().product(x, **options)


SIZE = (1, 8, 8)
KINDS: dict[str, Callable[[], Any]] = {
    "circular": lambda: Blur(gaussian_psf(1.0, size=5), SIZE),
    "zeros": lambda: Blur(gaussian_psf(1.0, size=5), SIZE, padding="zeros"),
    "replicate": lambda: Blur(gaussian_psf(1.0, size=5), SIZE, padding="replicate"),
    "large": lambda: Blur(gaussian_psf(1.0, size=5), (1, 24, 24), padding="valid"),
    "ct": lambda: ParallelBeamTomography(range(0, 180, 15), SIZE, weights=torch.ones(12, 12), normalize=True),
    "free": lambda: ParallelBeamTomography(range(0, 180, 15), SIZE, storage="free", normalize=True),
    "sparse": lambda: from_scipy(scipy.sparse.random_array((20, 64), density=0.3, rng=np.random.default_rng(0)), SIZE),
}


def put(name: str, value: Any) -> Callable[[Any], None]:
    return lambda physics: setattr(physics, name, value)


def write(*names: str, factor: float = 4.0, first: int | None = None) -> Callable[[Any], None]:
    """A write that leaves no trace in the version of a tensor."""

    def change(physics: Any) -> None:
        for name in names:
            tensor = physics
            for part in name.split("."):
                tensor = getattr(tensor, part)
            tensor.data.view(-1)[:first].mul_(factor)

    return change


def fill(name: str, value: int) -> Callable[[Any], None]:
    return lambda physics: getattr(physics, name).data.fill_(value)


def write_in_inference_mode(physics: Any) -> None:
    with torch.inference_mode():
        physics.tensors[0].mul_(4)


FINER = ParallelBeam(range(0, 180, 15), n_det=12, det_spacing=0.25)
VALUES = ("matrix.forward_values", "matrix.adjoint_values")
TAMPERINGS: list[tuple[str, Callable[[Any], object]]] = [
    ("circular", put("__class__", Quadrupled)),
    ("circular", lambda physics: setattr(physics, "forward_map", lambda x: 4 * Blur.forward_map(physics, x))),
    ("circular", lambda physics: setattr(physics, "transfer", lambda *a: 4 * Blur.transfer(physics, *a))),
    ("circular", put("norm_bound", lambda: NormBound(0.1, 0.1, Method.SYMBOL))),
    ("circular", lambda physics: physics.register_forward_hook(lambda module, x, y: 4 * y)),
    ("circular", write("psf")),
    ("circular", write_in_inference_mode),
    ("circular", write("psf", factor=float("nan"), first=1)),
    ("circular", put("padding", "replicate")),
    ("circular", put("img_size", (1, 6, 6))),
    ("zeros", write("psf")),
    ("zeros", write_in_inference_mode),
    ("zeros", put("padding", "circular")),
    ("zeros", put("grid", (8, 8))),
    ("zeros", put("shift", (0, 0))),
    ("zeros", put("data_size", (1, 4, 8))),
    ("zeros", put("psf", torch.ones(1, 3, 3))),
    ("zeros", put("psf", torch.ones(2, 5, 5))),
    ("replicate", put("padding", "circular")),
    ("replicate", put("padding", "unheard of")),
    ("replicate", put("rows_index", None)),
    ("replicate", fill("rows_index", 0)),
    ("large", write("psf")),
    ("ct", write("unit")),
    ("ct", write(*VALUES)),
    ("ct", write(VALUES[0])),
    ("ct", write(VALUES[1], first=1)),
    ("ct", write(*VALUES, factor=-1.0, first=20)),
    ("ct", lambda physics: physics.matrix.forward_columns.data.fill_(1000)),
    ("ct", write("root_weights", factor=5.0)),
    ("ct", write("root_weights", factor=-1.0, first=12)),
    ("ct", put("image_mask", torch.full((8, 8), 4.0))),
    ("ct", put("image_mask", torch.ones(2, 1, 8, 8))),
    ("ct", put("geometry", FINER)),
    ("ct", put("bins", 5)),
    ("ct", put("plan", ParallelBeamTomography(range(0, 180, 10), SIZE).plan)),
    *(("ct", fill(name, 27)) for name in ("index", "pixels", "places", "position")),
    ("free", write("unit")),
    ("free", put("geometry", FINER)),
    ("free", put("image_mask", torch.full((8, 8), 4.0))),
    ("free", put("bins", 5)),
    *(("free", fill(name, 27)) for name in ("index", "pixels", "places", "position")),
    ("sparse", write(*VALUES)),
    ("sparse", write(VALUES[0])),
    ("sparse", write(VALUES[0], factor=-40.0, first=1)),
    ("sparse", lambda physics: setattr(physics.matrix, "product", lambda x, **options: 4 * x)),
    ("sparse", lambda physics: setattr(physics.matrix, "__class__", QuadrupledPair)),
    ("sparse", lambda physics: physics.matrix.forward_rows.data[3:4].add_(50)),
    ("sparse", put("matrix", from_scipy(scipy.sparse.eye_array(64) * 9, SIZE).matrix)),
]


@pytest.mark.parametrize(("kind", "tamper"), TAMPERINGS, ids=[f"{k}-{i}" for i, (k, _) in enumerate(TAMPERINGS)])
def test_what_is_claimed_after_tampering_is_true_or_refused(kind: str, tamper: Callable[[Any], object]) -> None:
    physics = KINDS[kind]()
    certify_norm(physics)
    physics.A(torch.ones(1, *physics.img_size))
    tamper(physics)
    readings: list[Callable[[], float]] = [
        lambda: certify_norm(physics).upper,
        lambda: physics.norm_upper,
        lambda: float(physics.compute_norm(None)),
        lambda: float(physics.compute_sqnorm(None)) ** 0.5,
        lambda: certify_norm(Denoising() * physics).upper,
    ]
    claims = []
    for read in readings:
        try:
            claims.append(read())
        except CertificateError:
            continue
    assert len(claims) in (0, len(readings))
    if claims:
        norm = float(torch.linalg.matrix_norm(dense(physics), 2))
        assert all(norm * (1 - 1e-12) <= claim <= norm * 1.01 for claim in claims)
        assert physics.norm_lower <= norm * (1 + 1e-12)


def test_a_patched_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    physics, original = KINDS["circular"](), Blur.on_grid
    with monkeypatch.context() as patch:
        patch.setattr(Blur, "on_grid", lambda self, *a: 4 * original(self, *a))
        with pytest.raises(CertificateError, match="on_grid"):
            certify_norm(physics)
        with pytest.raises(CertificateError, match="on_grid"):
            _ = physics.norm_upper
    assert certify_norm(physics).upper == pytest.approx(1)


@pytest.mark.parametrize("side", [8, 160])  # PSFs below and above the size up to which values are compared
def test_A_follows_writes_that_leave_no_trace(side: int) -> None:
    physics = Blur(torch.full((side, side), 1 / side**2, dtype=torch.float64), (1, side, side), dtype=torch.float64)
    x = torch.ones(1, *physics.img_size, dtype=torch.float64)
    physics.A(x), certify_norm(physics)
    physics.psf.data.mul_(4)
    if side == 8:
        torch.testing.assert_close(physics.A(x), 4 * x)
    assert certify_norm(physics).upper == pytest.approx(4)
    torch.testing.assert_close(physics.A(x), 4 * x)
    physics.A_adjoint(x)
    physics.psf.data.mul_(2)
    physics.transfer(torch.float32, physics.grid, physics.shift)  # kept of the state in between
    physics.psf.data.mul_(0.5)
    assert certify_norm(physics).upper == pytest.approx(4)
    torch.testing.assert_close(physics.A(x.double()), 4 * x)
    torch.testing.assert_close(physics.forward_map(x.float()), 4 * x.float())


def test_an_operator_of_inference_mode_is_followed() -> None:
    with torch.inference_mode():
        physics = ParallelBeamTomography(range(0, 180, 15), SIZE, normalize=True)
        before = physics.norm_upper
        physics.matrix.forward_values.mul_(4)
        physics.matrix.adjoint_values.mul_(4)
        assert before <= 1 and physics.norm_upper == pytest.approx(4 * before)


def test_nothing_is_kept_in_the_object() -> None:
    physics = KINDS["zeros"]()
    fields = set(vars(physics))
    certify_norm(physics)
    physics.solve_prox(torch.ones(1, *SIZE), torch.ones(1, *SIZE), 1.0)
    assert set(vars(physics)) == fields and physics in KEPT
    other = copy.deepcopy(physics)
    assert other not in KEPT
    count = len(KEPT)
    del physics
    gc.collect()
    assert len(KEPT) < count


def test_the_noise_is_no_part_of_the_norm() -> None:
    physics = Blur(gaussian_psf(1.0), SIZE, noise_model=GaussianNoise(0.1))
    bound = certify_norm(physics)
    physics.update(sigma=torch.tensor(0.3))
    assert certify_norm(physics) is bound
    physics.set_noise_model(GaussianNoise(0.2))
    assert certify_norm(physics) is bound


def test_the_closed_form_is_what_A_says() -> None:
    physics = KINDS["zeros"]()
    with pytest.raises(AttributeError):
        physics.closed_form_prox = True
    assert not physics.closed_form_prox and KINDS["circular"]().closed_form_prox


class Doubled(CertifiedPhysics):
    """A user's operator: A = 2."""

    data_size = SIZE

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.register_buffer("two", torch.tensor(2.0))

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.two,)

    @property
    def product_rounding(self) -> float:
        return 2.0**-53

    def forward_map(self, x: torch.Tensor) -> torch.Tensor:
        return self.two * x

    def adjoint_map(self, y: torch.Tensor) -> torch.Tensor:
        return self.two * y

    def bound_norm(self) -> NormBound:
        return NormBound(float(self.two), float(self.two), Method.CLOSED_FORM)


class Renamed(Doubled):
    pass


def test_a_users_operator_needs_a_rule_and_counts_as_stated() -> None:
    for physics in (Doubled(), Quadrupled(gaussian_psf(1.0), SIZE)):
        with pytest.raises(CertificateError, match=f"@norm_rule.{type(physics).__name__}"):
            certify_norm(physics)
        with pytest.raises(CertificateError, match="no rule"):
            _ = physics.norm_upper
    assert certify_norm(Quadrupled(gaussian_psf(1.0), SIZE), nonnegative=True).upper == pytest.approx(4, rel=2e-3)
    assert not stated_norm(Doubled()) and not stated_norm(KINDS["circular"]())
    norm_rule(Doubled)(lambda physics, size: physics.bound_norm())
    physics = Doubled()
    assert certify_norm(physics).upper == physics.norm_upper == 2
    physics.two.data.fill_(3)
    assert certify_norm(physics).upper == 3
    assert stated_norm(physics) and stated_norm(Denoising() * physics)
    assert stated_norm(stack(physics, KINDS["circular"]()))
    result = physics.solve_prox(torch.ones(1, *SIZE), torch.zeros(1, *SIZE), 1.0)
    torch.testing.assert_close(result.x, torch.full((1, *SIZE), 0.1))
    with pytest.raises(CertificateError, match="no rule"):
        certify_norm(Renamed())


@pytest.mark.parametrize("taps", [(3, 5), (4, 2), (1, 6)])
@pytest.mark.parametrize("padding", ["circular", "zeros", "valid", "reflect"])
def test_a_blur_starts_at_the_data_where_they_lie(taps: tuple[int, int], padding: str) -> None:
    """A delta with any sum: x itself, its border repeated where there are no data."""
    psf = torch.zeros(taps)
    psf[taps[0] // 2, taps[1] // 2] = 3.0
    physics, x = Blur(psf, (1, 12, 11), padding=padding), torch.rand(2, 1, 12, 11, generator=torch.Generator().manual_seed(0))
    start = physics.starting_image(physics.A(x))
    seen = physics.A_adjoint(torch.ones_like(physics.A(x))) > 1
    assert start.shape == x.shape
    torch.testing.assert_close(start[seen], x[seen])
    assert set(start[~seen].tolist()) <= set(start[seen].tolist())


def test_a_psf_of_little_sum_starts_at_the_adjoint() -> None:
    physics = Blur(torch.tensor([[1.0, -1.0]]), (1, 8, 8), padding="valid")
    y = physics.A(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(physics.starting_image(y), physics.A_adjoint(y))
