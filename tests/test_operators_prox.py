"""The prox of few views: by a dense factorisation, and with a preconditioner measured from the operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from operator_cases import CASES, OperatorCase, dense

from pnp_lip.errors import InputError
from pnp_lip.operators import ParallelBeam, ParallelBeamTomography, woodbury
from pnp_lip.operators.phantoms import ellipse_image


def rand(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_dense_prox_is_exact_for_every_gamma(case: OperatorCase) -> None:
    physics = case.build(torch.float64)
    physics.dense_prox = True
    z, y = rand(3, *physics.img_size), rand(3, *physics.data_size, seed=1)
    gammas = torch.tensor([1.0, 1e6, 1e3], dtype=torch.float64)
    result = physics.solve_prox(z, y, gammas, tol=1e-4)
    u, s, vt = torch.linalg.svd(dense(physics), full_matrices=False)
    for i, gamma in enumerate(gammas.tolist()):
        along = vt @ z[i].flatten()
        exact = z[i].flatten() + ((along + gamma * s * (y[i].flatten() @ u)) / (1 + gamma * s**2) - along) @ vt
        error = float((result.x[i].flatten() - exact).norm())
        assert error <= float(result.error_bound[i]) and error <= 1e-7 * float(exact.norm())
    assert result.iterations == 0 and float(result.error_bound[0]) < 1e-9 and float(result.error_bound[2]) < 1e-5


def test_dense_prox_follows_the_operator_and_minds_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    physics = ParallelBeamTomography([0.0, 40.0], (1, 8, 8), dtype=torch.float64)
    physics.dense_prox = True
    z, y = rand(1, 1, 8, 8), rand(1, *physics.data_size)
    first = physics.solve_prox(z, y, 10.0).x
    gram = physics.dense_gram()
    assert physics.dense_gram() is gram
    physics.normalise()
    second = physics.solve_prox(z, y, 10.0)
    assert physics.dense_gram() is not gram and not torch.allclose(first, second.x) and second.converged
    monkeypatch.setattr(woodbury, "physical_memory", lambda: 1e3)
    fresh = ParallelBeamTomography([0.0, 40.0], (1, 8, 8))
    fresh.dense_prox = True
    with pytest.raises(InputError, match=r"GB; set physics\.dense_prox = False"):
        fresh.solve_prox(z.float(), y.float(), 1.0)


@pytest.mark.parametrize("gamma", [10.0, 100.0])
def test_few_views_are_preconditioned(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    n, views = 64, 15
    physics = ParallelBeamTomography(np.arange(views) * (180 / views), (1, n, n), normalize=True)
    x = ellipse_image(n)[None, None].float()
    y, z, tol = physics.A(x), torch.zeros_like(x), 3e-4 * float(x.norm())
    assert physics.preconditioner(torch.tensor([[[[1e4]]]])) is None
    fewer = ParallelBeamTomography(np.arange(7) * (180 / 7), (1, n, n), normalize=True)
    assert fewer.preconditioner(torch.tensor([[[[gamma]]]])) is None
    helped = physics.solve_prox(z, y, gamma, tol=tol)
    monkeypatch.setattr(ParallelBeamTomography, "preconditioner", lambda self, gamma: None)
    alone = physics.solve_prox(z, y, gamma, tol=tol)
    assert helped.converged and alone.converged
    assert helped.iterations <= (0.75 if gamma == 10.0 else 0.9) * alone.iterations
    assert float((helped.x - alone.x).norm()) <= float(helped.error_bound + alone.error_bound)


def test_turning_about_another_centre() -> None:
    """deepinv and scikit-image turn about pixel n//2: for even n that is ours on an image with one row and column more."""
    from skimage.transform import radon

    n, angles = 64, np.arange(0, 180, 5.0)
    x = ellipse_image(n)[None, None]
    theirs = torch.from_numpy(radon(x[0, 0].numpy(), angles, circle=False))
    geometry = ParallelBeam(angles, n_det=91)
    wider = torch.nn.functional.pad(x, (0, 1, 0, 1))
    shifted = ParallelBeamTomography(geometry, (1, n + 1, n + 1), dtype=torch.float64).A(wider)[0, 0]
    plain = ParallelBeamTomography(geometry, (1, n, n), dtype=torch.float64).A(x)[0, 0]
    assert float((shifted - theirs).norm() / theirs.norm()) < 0.005
    assert float((plain - theirs).norm() / theirs.norm()) > 0.05
