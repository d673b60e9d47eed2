"""Speed and memory of the projectors beside deepinv's and ASTRA's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from pnp_lip.benchmarks.record import Row
from pnp_lip.benchmarks.timing import megabytes, milliseconds_side_by_side, timed
from pnp_lip.operators import FanBeamTomography, ParallelBeamTomography, from_scipy
from pnp_lip.operators.tomography import SymmetricTomography

if TYPE_CHECKING:
    from deepinv.physics import Tomography

__all__ = ["Measurement", "astra", "fan", "parallel"]

CACHED = 256  # pixels of a side up to which deepinv's parallel mode fits; at 512 it needs 10 GB and is no faster
SLOW_REPEATS = 3  # of deepinv's products above that size


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A quantity, its value, and the bars it has to reach where there are any."""

    quantity: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    def figures(self) -> Row:
        """What a record says of it."""
        met = (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )
        return {"value": self.value, "at_least": self.at_least, "at_most": self.at_most, "met": met}


def beside_deepinv(
    ours: SymmetricTomography, others: Sequence[Tomography], repeats: tuple[int, int], bars: tuple[float, float]
) -> list[Measurement]:
    """Forward and adjoint of ours against the fastest of the others, and the memory of both."""
    x = torch.rand(1, *ours.img_size)
    found = []
    for i, (quantity, bar) in enumerate(zip(("forward", "adjoint"), bars, strict=True)):
        works = [(partial(p.A, x), partial(p.A_adjoint, p.A(x)))[i] for p in (ours, *others)]
        mine, *rest = milliseconds_side_by_side(works, [repeats[0], *[repeats[1]] * len(others)])
        found += [
            Measurement(f"{quantity} ms", mine),
            Measurement(f"{quantity} ms of deepinv", min(rest)),
            Measurement(f"{quantity} times faster than deepinv", min(rest) / mine, at_least=bar),
        ]
    stored = min(megabytes(other) for other in others)
    return [
        *found,
        Measurement("megabytes stored", megabytes(ours)),
        Measurement("megabytes stored by deepinv", stored),
    ]


def parallel(n: int, views: int, repeats: int, bars: tuple[float, float]) -> list[Measurement]:
    """Parallel beam against deepinv's exact Tomography, in its faster mode."""
    from deepinv.physics import Tomography

    angles = np.arange(views) * (180.0 / views)
    ours, setup = timed(lambda: ParallelBeamTomography(angles, (1, n, n), n_det=math.ceil(math.sqrt(2) * n)))
    degrees = torch.from_numpy(angles)
    others = [
        Tomography(angles=degrees, img_width=n, circle=False, normalize=False, parallel_computation=mode)
        for mode in ((True, False) if n <= CACHED else (False,))
    ]
    found = beside_deepinv(ours, others, (repeats, repeats if n <= CACHED else SLOW_REPEATS), bars)
    return [*found, Measurement("setup s", setup["cpu_seconds"])]


def fan(n: int, views: int, repeats: int, bars: tuple[float, float]) -> list[Measurement]:
    """Fan beam against deepinv's."""
    from deepinv.physics import Tomography

    angles, distance, bins, spacing = np.arange(views) * (360.0 / views), 2.0 * n, 400, 2.0
    ours = FanBeamTomography(
        angles, (1, n, n), source_distance=distance, detector_distance=distance, n_det=bins, det_spacing=spacing
    )
    geometry = {
        "pixel_spacing": 1.0,
        "source_radius": distance,
        "detector_radius": distance,
        "n_detector_pixels": bins,
        "detector_spacing": spacing,
    }
    other = Tomography(
        angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False, parallel_computation=False,
        fan_beam=True, fan_parameters=geometry,
    )  # fmt: skip
    return beside_deepinv(ours, [other], (repeats, 5), bars)


def astra(kind: str, model: str, n: int, views: int, repeats: int, bar: float) -> list[Measurement]:
    """Against ASTRA's projector of a ``kind`` on the CPU, and agreement with its exported matrix."""
    import astra  # type: ignore[import-not-found]

    angles, n_det = np.arange(views) * (180.0 / views), math.ceil(math.sqrt(2) * n)
    x = torch.rand(1, 1, n, n)
    ours = ParallelBeamTomography(angles, (1, n, n), n_det=n_det, model=model)
    y = ours.A(x)
    geometry = astra.create_proj_geom("parallel", 1.0, n_det, np.deg2rad(angles))
    projector = astra.create_projector(kind, geometry, astra.create_vol_geom(n, n))
    theirs = astra.OpTomo(projector)
    image, data = x[0, 0].numpy().ravel(), y[0, 0].T.contiguous().numpy().ravel()
    pairs = {
        "forward": (partial(ours.A, x), partial(theirs.__matmul__, image)),
        "adjoint": (partial(ours.A_adjoint, y), partial(theirs.T.__matmul__, data)),
    }
    found = []
    for name, pair in pairs.items():
        mine, other = milliseconds_side_by_side(pair, [repeats, repeats])
        found.append(Measurement(f"{name} times faster than ASTRA", other / mine, at_least=bar))
    exported = from_scipy(astra.matrix.get(astra.projector.matrix(projector)), (1, n, n), data_shape=(views, n_det))
    difference = float((exported.A(x)[0, 0].T - y[0, 0]).norm() / y.norm())
    astra.projector.delete(projector)
    return [*found, Measurement("relative difference from the exported matrix", difference, at_most=1e-3)]
