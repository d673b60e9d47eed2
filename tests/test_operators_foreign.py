"""Operators of PyLops, scico and scipy, and pairs of functions: the same products, honest about their norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.ndimage import correlate, gaussian_filter
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from solver_cases import denoiser

from pnp_lip.errors import CertificateError, GuaranteeError, InputError, ShapeError
from pnp_lip.operators import ForeignOperator, SparseOperator, certify_norm, from_linear_operator
from pnp_lip.solvers import ForwardBackward, LeastSquares

MATRIX = np.random.default_rng(0).standard_normal((12, 20))
X = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LARGE = (1, 33, 32)  # above 1024 pixels nothing bounds the norm of what is not known


def blur(sign: float = 1.0) -> Any:
    """A small blur with circular borders, as functions: A and Aᵀ."""
    kernel = np.array([[0.1, 0.2, 0.0], [0.1, 0.3, 0.1], [0.0, 0.1, sign * 0.1]])[None]
    return (lambda x: correlate(x, kernel, mode="wrap"), lambda y: correlate(y, kernel[:, ::-1, ::-1], mode="wrap"))


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array, aslinearoperator])
def test_scipy(make: Any) -> None:
    physics = from_linear_operator(make(MATRIX), (1, 4, 5), dtype=torch.float64)
    assert isinstance(physics, ForeignOperator if make is aslinearoperator else SparseOperator)
    y = physics.A(X)
    expected = X.flatten(1) @ torch.from_numpy(MATRIX).T
    torch.testing.assert_close(y.flatten(1), expected)
    torch.testing.assert_close(physics.A_adjoint(y).flatten(1), expected @ torch.from_numpy(MATRIX))
    truth = np.linalg.norm(MATRIX, 2)
    bound = certify_norm(physics)
    assert bound.lower <= truth * (1 + 1e-6) and truth <= bound.upper * (1 + 1e-6) < 1.001 * truth


def test_pylops() -> None:
    pylops = pytest.importorskip("pylops")
    physics = from_linear_operator(pylops.FirstDerivative((4, 5), axis=0))
    assert isinstance(physics, ForeignOperator) and physics.img_size == (1, 4, 5) and physics.A(X).shape == (2, 20)
    shaped = from_linear_operator(pylops.FirstDerivative((4, 5), axis=0), data_size=(1, 4, 5))
    torch.testing.assert_close(shaped.A(X)[..., 1:3, :], (X[..., 2:, :] - X[..., :-2, :]) / 2)
    explicit = from_linear_operator(pylops.MatrixMult(MATRIX), (3, 4, 5), (3, 3, 4), dtype=torch.float64)
    assert isinstance(explicit, SparseOperator) and explicit.A(X.expand(2, 3, 4, 5)).shape == (2, 3, 3, 4)
    single = from_linear_operator(pylops.FirstDerivative((4, 5), dtype="float32"))
    assert single.precision == np.float32
    with pytest.raises(InputError, match=r"real operator; got .*FFT2D.* of complex128"):
        from_linear_operator(pylops.signalprocessing.FFT2D((4, 5), dtype="complex128"))


def test_scico() -> None:
    pytest.importorskip("jax")
    linop = pytest.importorskip("scico.linop")
    physics = from_linear_operator(linop.FiniteDifference((6, 5), axes=0, append=0, input_dtype=np.float32))
    assert physics.img_size == (1, 6, 5) and physics.precision == np.float32
    x = X.float()[..., :1].expand(2, 1, 4, 5).repeat(1, 1, 2, 1)[..., :6, :]
    torch.testing.assert_close(physics.A(x).reshape(2, 1, 6, 5)[..., :-1, :], x.diff(dim=-2))


def test_the_norm_is_proved_given_that_no_entry_is_negative_or_the_users_statement() -> None:
    physics = from_linear_operator(blur(), LARGE, LARGE)
    y = physics.A(torch.rand(1, *LARGE, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(GuaranteeError, match="an upper bound of"):
        ForwardBackward(denoiser()).solve(y, physics)
    bound = certify_norm(physics, nonnegative=True)
    assert bound.lower <= 1 <= bound.upper < 1.01
    solver = ForwardBackward(denoiser(), data_term=LeastSquares(norm_upper=bound.upper), tol=1e-3)
    result = solver.solve(y, physics)
    assert result.status == "converged" and result.guarantee.title == "proved given your statement"
    with pytest.raises(CertificateError, match="negative entries"):
        certify_norm(from_linear_operator(blur(-1.0), LARGE, LARGE), nonnegative=True)


@pytest.mark.parametrize("factor", [1 + 1e-8, -1.0])
def test_a_wrong_adjoint_is_refused(factor: float) -> None:
    forward, adjoint = blur()
    with pytest.raises(CertificateError, match="the adjoint is not that of A"):
        from_linear_operator((forward, lambda y: factor * adjoint(y)), LARGE, LARGE)
    with pytest.raises(CertificateError, match="the adjoint is not that of A"):
        from_linear_operator((lambda x: gaussian_filter(x, (0, 1, 1)), lambda y: gaussian_filter(y, (0, 1, 1.1))), LARGE, LARGE)


@pytest.mark.parametrize("share", [-0.01, 0.01])
def test_an_error_that_averages_out_over_random_pairs_is_seen(share: float) -> None:
    """In float32 one per cent of the mean in the adjoint lies below what a random pair shows."""
    constant = np.full(LARGE, 1 / np.sqrt(np.prod(LARGE)))
    forward, adjoint = (
        lambda v, f=f: f(v.reshape(LARGE)).astype(np.float32).reshape(-1)
        for f in (blur()[0], lambda y: blur()[1](y) + share * constant * (constant * y).sum())
    )
    size = 2 * (int(np.prod(LARGE)),)
    with pytest.raises(CertificateError, match="the adjoint is not that of A"):
        from_linear_operator(LinearOperator(size, matvec=forward, rmatvec=adjoint, dtype=np.float32), LARGE)


def test_other_objects_and_sizes_are_refused() -> None:
    operator = aslinearoperator(MATRIX)
    for other, options, error, words in (
        (operator, {}, InputError, r"pass `img_size`, \(C, H, W\)"),
        (operator, {"img_size": (1, 4, 6)}, ShapeError, r"shape \(12, 20\), `img_size` is \(1, 4, 6\)"),
        (operator, {"img_size": (1, 4, 5), "data_size": (5,)}, ShapeError, r"`data_size` \(5,\)"),
        (blur(), {"img_size": (1, 4, 5)}, InputError, "pass `data_size`, the shape of the data"),
        (blur(), {"img_size": (1, 4, 5), "data_size": (7,)}, ShapeError, r"shape \(1, 4, 5\); expected 7 real ones"),
        (LinearOperator((4, 4), matvec=lambda v: v, dtype=complex), {}, InputError, "real operator"),
        (blur(), {"img_size": (1, 4.5, 5), "data_size": (1, 4, 5)}, InputError, r"positive integers; got \(1, 4.5, 5\)"),
        (blur(), {"img_size": (1, 0, 5), "data_size": (1, 4, 5)}, InputError, r"positive integers; got \(1, 0, 5\)"),
        (blur(), {"img_size": 20, "data_size": (1, 4, 5)}, InputError, "positive integers; got 20"),
        (torch.zeros(3, 20), {"img_size": (1, 4, 5)}, InputError, "numpy arrays; got Tensor of torch.float32"),
        ("A", {}, InputError, "two functions .* got str"),
        (np.zeros(3), {}, InputError, "got ndarray"),
    ):
        with pytest.raises(error, match=words):
            from_linear_operator(other, **options)
    with pytest.raises(ShapeError, match=r"A expected the shape \(B, 1, 4, 5\); got \(2, 1, 4, 4\)"):
        from_linear_operator(operator, (1, 4, 5)).A(X[..., :4])
