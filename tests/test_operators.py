"""Claims that every operator makes, over the whole registry."""

from __future__ import annotations

import copy

import pytest
import torch
from operator_cases import CASES, OperatorCase, dense, dense_adjoint

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.operators import Blur, ParallelBeam, ParallelBeamTomography, certify_norm

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
    for physics in (
        tiny,
        Blur(torch.full((3, 3), 1e-171, dtype=torch.float64), (1, 16, 16), padding="zeros", dtype=torch.float64),
    ):
        with pytest.raises(CertificateError, match="products of the operator's entries vanish"):
            physics.norm_bound()
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
