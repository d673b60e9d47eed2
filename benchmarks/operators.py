"""Speed of the forward models beside other packages; ASTRA takes part if it is installed.

Times are CPU times, medians of repeats within one process, and only their ratios are compared with the bars.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from pnp_lip.benchmarks.config import OperatorsConfig
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, Record, Row, Table, timed
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography, from_scipy
from pnp_lip.protocols import PhysicsLike

__all__ = ["run", "tables"]

CACHED = 256  # pixels of a side up to which deepinv's parallel mode fits; at 512 it needs 10 GB and is no faster
SLOW_REPEATS, FAN_REPEATS = 3, 5  # of deepinv's products above that size, and of its fan beam's
ROUNDS = 3  # in which functions are timed in turns


def run(config: OperatorsConfig, to: Destination, priors: Sequence[Prior] = ()) -> Row:
    """The record of all measurements, a row for each, on one thread; continues the one that is there."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    record = Record.open(to, "operators", config, {})
    n = config.repeats
    cases: dict[str, Callable[[], list[Row]]] = {}
    for side, views, bars in ((256, 180, (12.0, 25.0)), (512, 360, (20.0, 40.0)))[: 1 + config.large]:
        cases[f"parallel {side}^2, {views} views"] = partial(parallel, side, views, n, bars)
    cases["fan 256^2, 360 views"] = partial(fan, 256, 360, n, (15.0, 40.0))
    if importlib.util.find_spec("astra") is not None:
        for kind, model, bar in (("strip", "strip", 15.0), ("linear", "joseph", 8.0)):
            cases[f"ASTRA {kind} 256^2, 180 views"] = partial(beside_astra, kind, model, 256, 180, n, bar)
    for case, work in cases.items():
        if record.find("rows", {"case": case}) is None:
            for figures in work():
                row = record.add("rows", {"case": case, "quantity": figures["quantity"]}, figures)
                record.tell(", ".join(cells(row)))
    return record.content


def figure(quantity: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> Row:
    """A quantity, its value, and the bars it has to reach where there are any."""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {"quantity": quantity, "value": value, "at_least": at_least, "at_most": at_most, "met": met}


def cells(row: Row) -> tuple[str, ...]:
    """One measurement and what it had to reach."""
    least, most = row["at_least"], row["at_most"]
    bar = f"≤ {most:g}" if most is not None else "" if least is None else f"≥ {least:g}"
    return (row["case"], row["quantity"], f"{row['value']:.3g}", bar + ("" if row["met"] else " (missed)"))


def tables(content: Row) -> list[Table]:
    """The measurements with what each had to reach."""
    return [Table("", ("case", "quantity", "value", "bar"), tuple(map(cells, content["rows"])))]


def milliseconds(functions: Sequence[Callable[[], object]], repeats: Sequence[int]) -> list[float]:
    """Median CPU times of several functions, timed in turns so that the machine's other work falls on all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, count, collected in zip(functions, repeats, times, strict=True):
            function()  # the warm-up
            collected += [timed(function, 9)[1]["cpu_seconds"] for _ in range(-(-count // ROUNDS))]
    return [1e3 * float(np.median(collected)) for collected in times]


def beside_deepinv(
    ours: PhysicsLike, others: Sequence[PhysicsLike], n: int, repeats: tuple[int, int], bars: tuple[float, float]
) -> list[Row]:
    """Forward and adjoint of ours against the fastest of the others."""
    x = torch.rand(1, 1, n, n)
    found = []
    for i, (quantity, bar) in enumerate(zip(("forward", "adjoint"), bars, strict=True)):
        works = [(partial(p.A, x), partial(p.A_adjoint, p.A(x)))[i] for p in (ours, *others)]
        mine, *rest = milliseconds(works, [repeats[0], *[repeats[1]] * len(others)])
        found += [
            figure(f"{quantity} ms", mine),
            figure(f"{quantity} ms of deepinv", min(rest)),
            figure(f"{quantity} times faster than deepinv", min(rest) / mine, at_least=bar),
        ]
    return found


def parallel(n: int, views: int, repeats: int, bars: tuple[float, float]) -> list[Row]:
    """Parallel beam against deepinv's exact Tomography, in its faster mode."""
    from deepinv.physics import Tomography

    angles = np.arange(views) * (180.0 / views)
    ours = ParallelBeamTomography(ParallelBeam(angles, n_det=math.ceil(math.sqrt(2) * n)), (1, n, n))
    others = [
        Tomography(torch.from_numpy(angles), n, circle=False, normalize=False, parallel_computation=mode)
        for mode in ((True, False) if n <= CACHED else (False,))
    ]
    return beside_deepinv(ours, others, n, (repeats, repeats if n <= CACHED else SLOW_REPEATS), bars)


def fan(n: int, views: int, repeats: int, bars: tuple[float, float]) -> list[Row]:
    """Fan beam against deepinv's."""
    from deepinv.physics import Tomography

    angles, distance, bins, spacing = np.arange(views) * (360.0 / views), 2.0 * n, 400, 2.0
    beam = FanBeam(angles, source_distance=distance, detector_distance=distance, n_det=bins, det_spacing=spacing)
    geometry = {"pixel_spacing": 1.0, "source_radius": distance, "detector_radius": distance, "n_detector_pixels": bins,
                "detector_spacing": spacing}  # fmt: skip
    other = Tomography(
        angles=torch.from_numpy(angles), img_width=n, circle=False, normalize=False, parallel_computation=False,
        fan_beam=True, fan_parameters=geometry,
    )  # fmt: skip
    return beside_deepinv(FanBeamTomography(beam, (1, n, n)), [other], n, (repeats, FAN_REPEATS), bars)


def beside_astra(kind: str, model: str, n: int, views: int, repeats: int, bar: float) -> list[Row]:
    """Against ASTRA's projector of a ``kind`` on the CPU, and agreement with its exported matrix."""
    import astra  # type: ignore[import-not-found]

    angles, n_det = np.arange(views) * (180.0 / views), math.ceil(math.sqrt(2) * n)
    x = torch.rand(1, 1, n, n)
    ours = ParallelBeamTomography(ParallelBeam(angles, n_det=n_det, model=model), (1, n, n))
    y = ours.A(x)
    geometry = astra.create_proj_geom("parallel", 1.0, n_det, np.deg2rad(angles))
    projector = astra.create_projector(kind, geometry, astra.create_vol_geom(n, n))
    theirs = astra.OpTomo(projector)
    image, data = x[0, 0].numpy().ravel(), y[0, 0].T.contiguous().numpy().ravel()
    found = []
    for name, pair in (
        ("forward", (partial(ours.A, x), partial(theirs.__matmul__, image))),
        ("adjoint", (partial(ours.A_adjoint, y), partial(theirs.T.__matmul__, data))),
    ):
        mine, other = milliseconds(pair, [repeats, repeats])
        found.append(figure(f"{name} times faster than ASTRA", other / mine, at_least=bar))
    exported = from_scipy(astra.matrix.get(astra.projector.matrix(projector)), (1, n, n), data_shape=(views, n_det))
    difference = float((exported.A(x)[0, 0].T - y[0, 0]).norm() / y.norm())
    astra.projector.delete(projector)
    return [*found, figure("relative difference from the exported matrix", difference, at_most=1e-3)]
