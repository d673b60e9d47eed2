"""Speed, accuracy and certificates of the forward models, side by side with other packages.

``python -m pnp_lip.benchmarks.operators`` writes the record; ASTRA takes part if it is installed. Times are CPU times,
medians of repeats within one process, and only their ratios are compared with the bars.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import platform
import warnings
from pathlib import Path

import torch

from pnp_lip.benchmarks.operator_accuracy import accuracy, admm_steps, cranium, norms, prox_errors, tilt_series
from pnp_lip.benchmarks.operator_record import Record
from pnp_lip.benchmarks.operator_speed import speed_astra, speed_fan, speed_parallel
from pnp_lip.images import write_atomically

__all__ = ["OperatorsConfig", "main", "run", "table"]

BEGIN, END = "<!-- operators: begin -->", "<!-- operators: end -->"


@dataclasses.dataclass(frozen=True)
class OperatorsConfig:
    """What to run: ``large`` adds 512² / 360 views; ``data`` is a folder with tilt_series8.npz and cranium8.npz."""

    repeats: int = 15
    threads: int = 1
    seed: int = 0
    large: bool = False
    data: Path | None = None
    pictures: Path | None = None


def run(config: OperatorsConfig) -> list[Record]:
    """All measurements, one record each: case, quantity, value, and the bar it has to meet where there is one."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    records = speed_parallel(256, 180, config.repeats, bars=(12.0, 25.0))
    if config.large:
        records += speed_parallel(512, 360, config.repeats, bars=(20.0, 40.0))
    records += speed_fan(256, 360, config.repeats, bars=(15.0, 40.0))
    if importlib.util.find_spec("astra"):
        records += speed_astra(256, 180, config.repeats)
    records += accuracy() + norms() + prox_errors() + admm_steps()
    if config.data is not None:
        records += tilt_series(config.data, config.pictures) + cranium(config.data, config.pictures)
    environment = {
        "seed": config.seed,
        "threads": config.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepinv": importlib.metadata.version("deepinv"),
        "device": "cpu",
    }
    return [record | environment for record in records]


def table(records: list[Record]) -> str:
    """The records as a table in Markdown, with what each had to reach."""
    lines = ["| case | quantity | value | bar |", "|---|---|---|---|"]
    for item in records:
        bar = "" if item["at_most"] is None else f"≤ {item['at_most']:g}"
        bar = bar if item["at_least"] is None or item["at_most"] is not None else f"≥ {item['at_least']:g}"
        missed = "" if item["met"] else " (missed)"
        lines.append(f"| {item['case']} | {item['quantity']} | {item['value']:.3g} | {bar}{missed} |")
    return "\n".join(lines) + "\n"


def insert_table(page: Path, records: list[Record]) -> None:
    """Replace what stands between the page's two operators markers by the table."""
    text = page.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    with write_atomically(page) as temporary:
        temporary.write_text(f"{head}{BEGIN}\n{table(records)}{END}{tail}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run, write the record, and fail if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "operators.json")
    parser.add_argument("--large", action="store_true", help="also 512^2 with 360 views (deepinv: 3 GB, a minute)")
    parser.add_argument("--data", type=Path, help="folder with tilt_series8.npz and cranium8.npz")
    parser.add_argument("--pictures", type=Path, help="folder for reconstructions to look at")
    parser.add_argument("--page", type=Path, help="a page of the documentation whose table is to be renewed")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other packages' remarks on their own defaults
        config = OperatorsConfig(options.repeats, large=options.large, data=options.data, pictures=options.pictures)
        records = run(config)
    with write_atomically(options.record) as temporary:
        temporary.write_text(json.dumps(records, indent=1) + "\n")
    if options.page is not None:
        insert_table(options.page, records)
    return 0 if all(item["met"] for item in records) else 1


if __name__ == "__main__":
    raise SystemExit(main())
