"""Speed and memory of the projectors beside deepinv's and ASTRA's."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.operator_record import Record, megabytes, milliseconds_side_by_side, record
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography, from_scipy
from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["speed_astra", "speed_fan", "speed_parallel"]


def forward(physics: Any, x: Tensor) -> Callable[[], Any]:
    """A x, to be timed."""
    return partial(physics.A, x)


def adjoint(physics: Any, x: Tensor) -> Callable[[], Any]:
    """Aᵀ y for data of the physics' own size, to be timed."""
    return partial(physics.A_adjoint, physics.A(x))


def compare(
    case: str, ours: SymmetricTomography, others: list[Any], repeats: tuple[int, int], bars: tuple[float, float]
) -> list[Record]:
    """Forward and adjoint of ours against the fastest of the others, and the memory of both."""
    x = torch.rand(1, *ours.img_size)
    records = []
    for quantity, bar, product in (("forward", bars[0], forward), ("adjoint", bars[1], adjoint)):
        functions = [product(physics, x) for physics in (ours, *others)]
        mine, *rest = milliseconds_side_by_side(functions, [repeats[0], *[repeats[1]] * len(others)])
        theirs = min(rest)
        records += [
            record(case, f"{quantity} ms", mine),
            record(case, f"{quantity} ms of deepinv", theirs),
            record(case, f"{quantity} times faster than deepinv", theirs / mine, at_least=bar),
        ]
    records.append(record(case, "megabytes stored", megabytes(ours)))
    records.append(record(case, "megabytes stored by deepinv", min(megabytes(other) for other in others)))
    return records


def speed_parallel(n: int, views: int, repeats: int, bars: tuple[float, float]) -> list[Record]:
    """Parallel beam against deepinv's exact Tomography, in its faster mode."""
    import deepinv

    angles = np.arange(views) * (180.0 / views)
    start = time.process_time()
    ours = ParallelBeamTomography(ParallelBeam(angles, n_det=int(np.ceil(np.sqrt(2) * n))), (1, n, n))
    setup = time.process_time() - start
    modes = (True, False) if n <= 256 else (False,)  # the parallel mode needs 10 GB at 512² and is no faster
    others = [
        deepinv.physics.Tomography(
            angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False, parallel_computation=mode
        )
        for mode in modes
    ]
    case = f"parallel {n}^2, {views} views"
    return [*compare(case, ours, others, (repeats, repeats if n <= 256 else 3), bars), record(case, "setup s", setup)]


def speed_fan(n: int, views: int, repeats: int, bars: tuple[float, float]) -> list[Record]:
    """Fan beam against deepinv's."""
    import deepinv

    angles = np.arange(views) * (360.0 / views)
    geometry = FanBeam(angles, source_distance=2.0 * n, detector_distance=2.0 * n, n_det=400, det_spacing=2.0)
    ours = FanBeamTomography(geometry, (1, n, n))
    other = deepinv.physics.Tomography(
        angles=torch.from_numpy(angles),
        img_width=n,
        circle=False,
        normalize=False,
        parallel_computation=False,
        fan_beam=True,
        fan_parameters={
            "pixel_spacing": 1.0,
            "source_radius": 2.0 * n,
            "detector_radius": 2.0 * n,
            "n_detector_pixels": 400,
            "detector_spacing": 2.0,
        },
    )
    return compare(f"fan {n}^2, {views} views", ours, [other], (repeats, 5), bars)


def speed_astra(n: int, views: int, repeats: int) -> list[Record]:
    """Against ASTRA's projectors on the CPU, model for model, and agreement with its exported matrices."""
    import astra  # type: ignore[import-not-found]

    angles = np.arange(views) * (180.0 / views)
    n_det = int(np.ceil(np.sqrt(2) * n))
    x = torch.rand(1, 1, n, n)
    volume = astra.create_vol_geom(n, n)
    geometry = astra.create_proj_geom("parallel", 1.0, n_det, np.deg2rad(angles))
    records = []
    for kind, model, bar in (("strip", "strip", 15.0), ("linear", "joseph", 8.0)):
        ours = ParallelBeamTomography(ParallelBeam(angles, n_det=n_det, model=model), (1, n, n))
        y = ours.A(x)
        projector = astra.create_projector(kind, geometry, volume)
        operator = astra.OpTomo(projector)
        image, data = x[0, 0].numpy().ravel(), y[0, 0].T.contiguous().numpy().ravel()
        pairs = (
            ("forward", forward(ours, x), partial(operator.__matmul__, image)),
            ("adjoint", adjoint(ours, x), partial(operator.T.__matmul__, data)),
        )
        case = f"ASTRA {kind} {n}^2, {views} views"
        for name, product, theirs in pairs:
            mine, other = milliseconds_side_by_side([product, theirs], [repeats, repeats])
            records.append(record(case, f"{name} times faster than ASTRA", other / mine, at_least=bar))
        exported = from_scipy(astra.matrix.get(astra.projector.matrix(projector)), (1, n, n), data_shape=(views, n_det))
        difference = float((exported.A(x)[0, 0].T - y[0, 0]).norm() / y.norm())
        records.append(record(case, "relative difference from the exported matrix", difference, at_most=1e-3))
        astra.projector.delete(projector)
    return records
