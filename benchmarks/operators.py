"""Speed of the forward models beside deepinv's.

Times are CPU times, medians of repeats within one process, and only their ratios are compared with the bars.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from pnp_lip.benchmarks.config import OperatorsConfig
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, Record, Row, Table, timed
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
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
    sizes = ((256, 180, (12.0, 25.0)), (512, 360, (20.0, 40.0)))[: 1 + config.large]
    cases = {f"parallel {side}^2, {views} views": partial(parallel, side, views, n, bars) for side, views, bars in sizes}
    cases["fan 256^2, 360 views"] = partial(fan, 256, 360, n, (15.0, 40.0))
    for case, work in cases.items():
        if record.find("rows", {"case": case}) is None:
            for figures in work():
                row = record.add("rows", {"case": case, "quantity": figures["quantity"]}, figures)
                record.tell(", ".join(cells(row)))
    return record.content


def figure(quantity: str, value: float, at_least: float | None = None) -> Row:
    """A quantity, its value, and the bar it has to reach if there is one."""
    met = at_least is None or value >= at_least
    return {"quantity": quantity, "value": value, "at_least": at_least, "at_most": None, "met": met}


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
