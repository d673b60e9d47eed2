"""Speed, accuracy and certificates of the forward models beside other packages; ASTRA takes part if it is installed.

Times are CPU times, medians of repeats within one process, and only their ratios are compared with the bars.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import partial

import torch

from pnp_lip.benchmarks import operator_accuracy, operator_speed
from pnp_lip.benchmarks.config import OperatorsConfig
from pnp_lip.benchmarks.operator_accuracy import Work
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, Record, Row
from pnp_lip.benchmarks.tables import Table

__all__ = ["run", "tables"]

SCANS = ("tilt_series8.npz", "cranium8.npz")  # electron tomography and head slices, in the folder ``measured``


def run(config: OperatorsConfig, to: Destination, priors: Sequence[Prior] = ()) -> Row:
    """The record of all measurements, a row for each, on one thread; continues the one that is there."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    files = [] if config.measured is None else [config.measured / name for name in SCANS]
    data = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    record = Record.open(to, "operators", config, data)
    for case, work in cases(config).items():
        if record.find("rows", {"case": case}) is None:
            for m in work():
                row = record.add("rows", {"case": case, "quantity": m.quantity}, m.figures())
                record.tell(", ".join(cells(row)))
    return record.content


def cases(config: OperatorsConfig) -> dict[str, Work]:
    """The measurements, by case."""
    n = config.repeats
    found: dict[str, Work] = {}
    for side, views, bars in ((256, 180, (12.0, 25.0)), (512, 360, (20.0, 40.0)))[: 1 + config.large]:
        found[f"parallel {side}^2, {views} views"] = partial(operator_speed.parallel, side, views, n, bars)
    found["fan 256^2, 360 views"] = partial(operator_speed.fan, 256, 360, n, (15.0, 40.0))
    if importlib.util.find_spec("astra") is not None:
        for kind, model, bar in (("strip", "strip", 15.0), ("linear", "joseph", 8.0)):
            found[f"ASTRA {kind} 256^2, 180 views"] = partial(operator_speed.astra, kind, model, 256, 180, n, bar)
    found |= operator_accuracy.cases()
    if config.measured is not None:
        tilts, slices = (config.measured / name for name in SCANS)
        found["electron tomography 256^2, 77 tilts"] = partial(operator_accuracy.tilt_series, tilts)
        found["head CT 256^2, fan beam, 360 views"] = partial(operator_accuracy.cranium, slices)
    return found


def cells(row: Row) -> tuple[str, ...]:
    """One measurement and what it had to reach."""
    least, most = row["at_least"], row["at_most"]
    bar = f"≤ {most:g}" if most is not None else "" if least is None else f"≥ {least:g}"
    return (row["case"], row["quantity"], f"{row['value']:.3g}", bar + ("" if row["met"] else " (missed)"))


def tables(content: Row) -> list[Table]:
    """The measurements with what each had to reach."""
    return [Table("", ("case", "quantity", "value", "bar"), tuple(map(cells, content["rows"])))]
