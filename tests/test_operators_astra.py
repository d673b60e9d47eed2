"""ASTRA's geometries as forward models: against ASTRA's own products; certified, or said not to be."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from solver_cases import denoiser

from pnp_lip.errors import GuaranteeError, InputError, ShapeError
from pnp_lip.operators.astra import AstraProjector, from_astra
from pnp_lip.solvers import ForwardBackward, LeastSquares

astra = pytest.importorskip("astra")


def geometries(fan: bool, rows: int = 10) -> tuple[dict[str, object], dict[str, object]]:
    angles = np.linspace(0, 2 * math.pi if fan else math.pi, 9, endpoint=False)
    shape = ("fanflat", 1.5, 15, angles, 40.0, 20.0) if fan else ("parallel", 1.0, 15, angles)
    return astra.create_proj_geom(*shape), astra.create_vol_geom(rows, 34)


@pytest.mark.parametrize(("fan", "kind"), [(False, None), (False, "strip"), (True, None)])
def test_plane_geometries_are_certified(fan: bool, kind: str | None) -> None:
    projection, volume = geometries(fan)
    physics = from_astra(projection, volume, kind=kind)
    x = torch.rand(1, 1, 10, 34, generator=torch.Generator().manual_seed(0))
    own = AstraProjector(projection, volume, kind=kind or ("line_fanflat" if fan else "linear"))
    assert tuple(physics.A(x).shape) == (1, 1, 9, 15)
    assert torch.allclose(physics.A(x), own.A(x), atol=1e-4)
    y = torch.rand(1, 1, 9, 15, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(physics.A_adjoint(y), own.A_adjoint(y), atol=1e-4)
    bound = physics.norm_bound()
    assert bound.lower <= bound.upper < 1.001 * bound.lower


def test_projectors_without_a_matrix_are_said_to_be_uncertified() -> None:
    """As GPU projectors are: their norm is asked for, and their adjoint held against examples."""
    projection, volume = geometries(False, 34)  # up to 1024 pixels the columns of A bound its norm
    physics, prior = AstraProjector(projection, volume, kind="linear"), denoiser()
    y = physics.A(torch.ones(1, 1, 34, 34))
    with pytest.raises(GuaranteeError, match="an upper bound of"):
        ForwardBackward(prior).solve(y, physics)
    norm = from_astra(projection, volume).norm_upper
    result = ForwardBackward(prior, data_term=LeastSquares(norm_upper=norm), tol=1e-3).solve(y, physics)
    assert result.guarantee.title == "proved given your statement" and result.history.status == "converged"
    work = physics.projector.BP
    physics.projector.BP = lambda v: work(v) * np.linspace(0.9, 1.1, 34, dtype=np.float32)
    with pytest.raises(GuaranteeError, match="A_adjoint"):
        ForwardBackward(prior, data_term=LeastSquares(norm_upper=norm)).solve(y, physics)
    with pytest.raises(ShapeError, match=r"expected the shape \(B, 1, 34, 34\)"):
        physics.A(y)


def test_other_objects_and_a_missing_toolbox_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    projection, volume = geometries(False)
    with pytest.raises(InputError, match="dictionaries of astra"):
        from_astra(volume, volume)
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(InputError, match="pip install astra-toolbox"):
        from_astra(projection, volume)
