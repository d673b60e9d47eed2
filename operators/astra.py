"""ASTRA's projectors as forward models: certified where their matrix can be had, and as they are otherwise."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pnp_lip.errors import InputError
from pnp_lip.operators.foreign_operator import ForeignOperator
from pnp_lip.operators.sparse_operator import SparseOperator

__all__ = ["AstraProjector", "from_astra"]

Geometry = dict[str, Any]
DEFAULTS = {"parallel": "linear", "parallel_vec": "linear", "fanflat": "line_fanflat", "fanflat_vec": "line_fanflat"}


def from_astra(
    projection: Geometry, volume: Geometry, *, kind: str | None = None, dtype: torch.dtype = torch.float32
) -> "SparseOperator | AstraProjector":
    """The forward model of ASTRA's geometries: ``astra.create_proj_geom(...)`` and ``astra.create_vol_geom(...)``.

    In the plane, ASTRA's CPU projector of this ``kind`` ("linear", "line", "strip", or with "_fanflat") is exported as a matrix,
    once: ``from_scipy`` of it has the exact adjoint, and a certified norm as ASTRA's entries are ≥ 0. Data (B, 1, views, bins).

    In space ASTRA projects on a GPU only, from which no matrix can be had: an ``AstraProjector``, without a certificate.
    ``ConeBeamTomography`` has one.

    Raises InputError without astra-toolbox, and for geometries that are none.
    """
    astra = imported()
    name = projection.get("type") if isinstance(projection, dict) else None
    if name is None or not isinstance(volume, dict) or "GridRowCount" not in volume:
        raise InputError("expected the dictionaries of astra.create_proj_geom and astra.create_vol_geom.")
    if name not in DEFAULTS:
        return AstraProjector(projection, volume)
    projector = astra.create_projector(kind or DEFAULTS[name], projection, volume)
    try:
        number = astra.projector.matrix(projector)
        matrix = astra.matrix.get(number)
        astra.matrix.delete(number)
    finally:
        astra.projector.delete(projector)
    size, views = (volume["GridRowCount"], volume["GridColCount"]), astra.geom_size(projection)[0]
    return SparseOperator(matrix, (1, *size), data_shape=(views, matrix.shape[0] // views), dtype=dtype)


class AstraProjector(ForeignOperator):
    """ASTRA's forward and back projection as they are, in float32: volumes (B, 1, …) to data (B, 1, …), shapes of ASTRA.

    A ``ForeignOperator``: no rule bounds its norm, and ASTRA's back projection on GPUs is no exact transpose. ``kind`` is
    ASTRA's name, "cuda3d" by default.
    """

    def __init__(self, projection: Geometry, volume: Geometry, *, kind: str = "cuda3d") -> None:
        astra = imported()
        projector = astra.OpTomo(astra.create_projector(kind, projection, volume))
        sizes = (1, *astra.geom_size(volume)), (1, *astra.geom_size(projection))
        super().__init__(lambda x: projector.FP(x[0]), lambda y: projector.BP(y[0]), *sizes, precision=np.float32)
        self.projector = projector


def imported() -> ModuleType:
    """ASTRA, or InputError with the way to install it."""
    try:
        return importlib.import_module("astra")
    except ImportError as error:
        raise InputError("ASTRA is missing: pip install astra-toolbox") from error
