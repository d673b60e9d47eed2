"""The README's table: one line for each prior, from the records of denoising, deblurring and tomography."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pnp_lip.benchmarks.record import read_record
from pnp_lip.benchmarks.summaries import about_guides, describe_data, label, mean_psnr, measured, settled
from pnp_lip.benchmarks.tables import Table
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically

__all__ = ["BEGIN", "END", "GROUPS", "headline", "insert", "read_all"]

BEGIN, END = "<!-- headline: begin -->", "<!-- headline: end -->"
GROUPS = {"denoising": "σ·255 = 25", "deblurring": "noise 0.01", "ct": "parallel 60, Gaussian"}
TITLES = {"denoising": "denoising, σ = 25/255", "deblurring": "deblurring, noise 0.01", "ct": "CT, 60 views"}


def read_all(folder: Path) -> dict[str, dict[str, Any]]:
    """The three records of a folder. Raises InputError when one is missing."""
    return {name: read_record(folder / f"{name}.json") for name in GROUPS}


def headline(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown: mean PSNR of each task, how many reconstructions converged, and how many had a proof."""
    names: dict[str, float] = {}
    for kind, content in records.items():
        for name in content["priors"]:
            value = mean_psnr(content, name, GROUPS[kind])
            if value is not None and (kind == "deblurring" or name not in names):
                names[name] = value if kind == "deblurring" else value - 1000
    rows = tuple(row(records, name) for name in sorted(names, key=lambda n: -names[n]))
    header = ("prior", *(TITLES[kind] for kind in records), "converged", "proved")
    note = " ".join(f"{TITLES[kind]}: {describe_data(content)}" for kind, content in records.items())
    guides = about_guides(records["deblurring"])
    note = f"{guides} {note}" if guides else note
    return Table("", header, rows).markdown() + f"\nMean PSNR in dB; ✓: proved nonexpansive. {note}\n"


def row(records: Mapping[str, Mapping[str, Any]], name: str) -> tuple[str, ...]:
    """One prior's line."""
    cells, runs = [], []
    shown = min(
        (label(c, name) for c in records.values() if name in c["priors"]), key=len
    )  # ticked only if in all tasks
    for kind, content in records.items():
        if name not in content["priors"]:
            cells.append("–")
            continue
        found = measured(content, name, GROUPS[kind])
        value = mean_psnr(content, name, GROUPS[kind])
        cells.append("diverged" if found and value is None else "–" if value is None else f"{value:.2f}")
        runs += [r for r in found if "status" in r]
    if not runs:
        return (shown, *cells, "–", "–")
    done, proved = sum(map(settled, runs)), sum(r["proved"] for r in runs)
    return (shown, *cells, f"{done} of {len(runs)}", f"{proved} of {len(runs)}")


def insert(page: Path, text: str, marks: Sequence[str] = (BEGIN, END)) -> None:
    """Replace what stands between the page's two markers. Raises InputError for a page without them."""
    whole = page.read_text(encoding="utf-8")
    if any(whole.count(mark) != 1 for mark in marks):
        raise InputError(f"{page}: expected the markers {marks[0]} and {marks[1]} once each.")
    before, after = whole.split(marks[0])[0], whole.split(marks[1])[1]
    with write_atomically(page) as temporary:
        temporary.write_text(f"{before}{marks[0]}\n\n{text}\n{marks[1]}{after}", encoding="utf-8")
