"""The README's table: one line for each prior, from the records of denoising, deblurring and tomography."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pnp_lip.benchmarks.record import Row, read_record
from pnp_lip.benchmarks.summaries import about_guides, describe_data, label, mean_psnr, measured, settled
from pnp_lip.benchmarks.tables import Table

__all__ = ["GROUPS", "headline", "read_all"]

GROUPS = {"denoising": "σ·255 = 25", "deblurring": "noise 0.01", "ct": "parallel 60, Gaussian"}
TITLES = {"denoising": "denoising, σ = 25/255", "deblurring": "deblurring, noise 0.01", "ct": "CT, 60 views"}
BELOW = 1000.0  # dB, subtracted to sort priors without deblurring below all others


def read_all(folder: Path) -> dict[str, Row]:
    """The three records of a folder. Raises InputError when one is missing."""
    return {name: read_record(folder / f"{name}.json") for name in GROUPS}


def headline(records: Mapping[str, Row]) -> str:
    """The table in Markdown: mean PSNR of each task, how many reconstructions converged, and how many had a proof."""
    order: dict[str, float] = {}
    for kind, content in records.items():
        for name in content["priors"]:
            value = mean_psnr(content, name, GROUPS[kind])
            if value is not None and (kind == "deblurring" or name not in order):
                order[name] = value if kind == "deblurring" else value - BELOW
    rows = tuple(cells(records, name) for name in sorted(order, key=lambda n: -order[n]))
    header = ("prior", *(TITLES[kind] for kind in records), "converged", "proved")
    note = ["Mean PSNR in dB; ✓: proved nonexpansive.", about_guides(records["deblurring"])]
    note += [f"{TITLES[kind]}: {describe_data(content)}" for kind, content in records.items()]
    return Table("", header, rows).markdown() + "\n" + " ".join(filter(None, note)) + "\n"


def cells(records: Mapping[str, Row], name: str) -> tuple[str, ...]:
    """One prior's line."""
    found, runs = [], []
    labels = [label(c, name) for c in records.values() if name in c["priors"]]
    for kind, content in records.items():
        rows, value = [], None
        if name in content["priors"]:
            rows, value = measured(content, name, GROUPS[kind]), mean_psnr(content, name, GROUPS[kind])
        found.append(f"{value:.2f}" if value is not None else "diverged" if rows else "–")
        runs += [r for r in rows if "status" in r]
    shares = ("–", "–")
    if runs:
        shares = tuple(f"{n} of {len(runs)}" for n in (sum(map(settled, runs)), sum(r["proved"] for r in runs)))
    return (min(labels, key=len), *found, *shares)  # ticked only if it is in all tasks
