"""From records to Markdown tables and one self-contained page: sortable tables, a comparison of pictures, curves."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from pnp_lip.benchmarks import certificates, convergence, operators, speed, summaries
from pnp_lip.benchmarks.plots import residual_plot
from pnp_lip.benchmarks.record import Row, read_record
from pnp_lip.benchmarks.tables import Table
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.pages import insert_table

__all__ = ["find_records", "headline", "renew", "write_report", "write_text"]

GROUPS = {"denoising": "σ·255 = 25", "deblurring": "noise 0.01", "ct": "parallel 60, Gaussian"}
TITLES = {"denoising": "denoising, σ = 25/255", "deblurring": "deblurring, noise 0.01", "ct": "CT, 60 views"}
BELOW = 1000.0  # dB, subtracted to sort priors without deblurring below all others

TABLES: dict[str, Callable[[Row], list[Table]]] = {
    **dict.fromkeys(("denoising", "deblurring", "ct"), summaries.tables),
    "certificates": certificates.tables,
    "convergence": convergence.tables,
    "operators": operators.tables,
    "speed": speed.tables,
}


def find_records(places: Sequence[str | Path]) -> list[Path]:
    """The files among ``places``, and the records (of this version) in the folders among them.

    Raises InputError when there is none.
    """
    paths: list[Path] = []
    for place in map(Path, places):
        for path in sorted(place.glob("*.json")) if place.is_dir() else [place]:
            try:
                read_record(path)
            except InputError:
                if path == place:
                    raise
            else:
                paths.append(path)
    if not paths:
        raise InputError(f"no records (.json) in {', '.join(map(str, places))}.")
    return paths


def write_report(paths: Sequence[Path], out: str | Path) -> list[Path]:
    """Write NAME.md for each record, and report.html with all of them, into ``out``; returns what was written.

    Raises InputError for a file that is no record of a benchmark.
    """
    written, links, sections = [], "", ""
    for path in paths:
        content = read_record(path)
        made = tables_of(path, content)
        written.append(write_text(Path(out) / f"{path.stem}.md", f"# {path.stem}\n\n{markdown(made)}"))
        name = html.escape(path.stem)
        links += f'<a href="#{name}">{name}</a>'
        sections += f'<section id="{name}"><h2>{name}</h2>{comparison(content, path.parent)}{curves(content)}'
        facts = json.dumps({key: content[key] for key in ("settings", "data", "environments")}, indent=1)
        sections += "".join(table.html() for table in made)
        sections += (
            f"<details><summary>settings and machine</summary><pre>{html.escape(facts)}</pre></details></section>"
        )
    page = resources.files("pnp_lip.benchmarks").joinpath("page.html").read_text(encoding="utf-8")
    page = page.replace("<!-- contents -->", links).replace("<!-- sections -->", sections)
    return [*written, write_text(Path(out) / "report.html", page)]


def tables_of(path: Path, content: Row) -> list[Table]:
    """The tables of a record. Raises InputError for one of an unknown benchmark."""
    if content["benchmark"] not in TABLES:
        raise InputError(f"{path}: no benchmark is called {content['benchmark']!r}.")
    return TABLES[content["benchmark"]](content)


def markdown(tables: Sequence[Table]) -> str:
    """Tables one below the other."""
    return "\n".join(table.markdown() for table in tables)


def renew(page: Path, paths: Sequence[Path]) -> None:
    """Renew the tables of a page: those of each record NAME whose marker ``<!-- NAME: begin -->`` it has, and "headline".

    Raises InputError for a page without any of these markers.
    """
    records = {path.stem: read_record(path) for path in paths}
    made = {path.stem: markdown(tables_of(path, records[path.stem])) for path in paths}
    if set(GROUPS) <= set(records):
        made["headline"] = f"\n{headline({name: records[name] for name in GROUPS})}\n"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    names = [name for name in made if f"<!-- {name}: begin -->" in text]
    if not names:
        raise InputError(f"{page}: expected markers such as <!-- headline: begin --> and <!-- headline: end -->.")
    for name in names:
        insert_table(page, name, made[name])


def write_text(path: Path, text: str) -> Path:
    """Write a text file in one atomic step."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def comparison(content: Row, folder: Path) -> str:
    """Two pictures over each other with a slider between them, any two of the record's."""
    files = {name: folder / file for name, file in content["pictures"].get("files", {}).items()}
    encoded = {
        name: "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
        for name, file in files.items()
        if file.is_file()
    }
    if len(encoded) < 2:
        return ""
    case = content["pictures"]["case"]
    rows = [r for r in content["rows"] if all(r.get(k) == v for k, v in case.items()) and r.get("psnr") is not None]
    captions = {r["prior"]: f", {r['psnr']:.2f} dB" for r in rows}
    ours = summaries.best_of_ours(content)
    right = ours if ours in encoded else list(encoded)[-1]
    left = next(name for name in ("TV", "data", *encoded) if name in encoded and name != right)

    def choice(title: str, chosen: str | None) -> str:
        options = ""
        for name in encoded:
            text, mark = html.escape(name + captions.get(name, "")), " selected" if name == chosen else ""
            options += f'<option value="{html.escape(name)}"{mark}>{text}</option>'
        return f"<label>{title}<select>{options}</select></label>"

    pictures = json.dumps(encoded).replace("<", "\\u003c")
    return (
        f'<h3>{html.escape(", ".join(map(str, case.values())))}</h3><div class="compare">'
        f'<div class="choice">{choice("left", left)}{choice("right", right)}</div>'
        f'<div class="stage"><img src="{encoded[str(right)]}" alt="{html.escape(str(right))}">'
        f'<img class="over" src="{encoded[left]}" alt="{html.escape(left)}"><i></i></div>'
        '<input type="range" min="0" max="100" value="50" aria-label="where the pictures meet">'
        f'<script type="application/json">{pictures}</script></div>'
    )


def curves(content: Row) -> str:
    """The residuals of the pictured case."""
    found = {row["prior"]: row["curve"] for row in content["rows"] if row.get("curve")}
    case = ", ".join(str(v) for v in content["pictures"].get("case", {}).values())
    return residual_plot(found, f"Relative residual ‖v − Tv‖/‖v‖: {case}")


def headline(records: Mapping[str, Row]) -> str:
    """The table in Markdown: mean PSNR of each task, how many reconstructions converged, and how many had a proof."""
    order: dict[str, float] = {}
    for kind, content in records.items():
        for name in content["priors"]:
            value = summaries.mean_psnr(content, name, GROUPS[kind])
            if value is not None and (kind == "deblurring" or name not in order):
                order[name] = value if kind == "deblurring" else value - BELOW
    rows = tuple(cells(records, name) for name in sorted(order, key=lambda n: -order[n]))
    header = ("prior", *(TITLES[kind] for kind in records), "converged", "proved")
    note = ["Mean PSNR in dB; ✓: proved nonexpansive.", summaries.about_guides(records["deblurring"])]
    note += [f"{TITLES[kind]}: {summaries.describe_data(content)}" for kind, content in records.items()]
    return Table("", header, rows).markdown() + "\n" + " ".join(filter(None, note)) + "\n"


def cells(records: Mapping[str, Row], name: str) -> tuple[str, ...]:
    """One prior's line."""
    found, runs = [], []
    labels = [summaries.label(c, name) for c in records.values() if name in c["priors"]]
    for kind, content in records.items():
        rows, value = [], None
        if name in content["priors"]:
            rows, value = (
                summaries.measured(content, name, GROUPS[kind]),
                summaries.mean_psnr(content, name, GROUPS[kind]),
            )
        found.append(f"{value:.2f}" if value is not None else "diverged" if rows else "–")
        runs += [r for r in rows if "status" in r]
    shares: tuple[str, ...] = ("–", "–")
    if runs:
        shares = tuple(
            f"{n} of {len(runs)}" for n in (sum(map(summaries.settled, runs)), sum(r["proved"] for r in runs))
        )
    return (min(labels, key=len), *found, *shares)  # ticked only if it is in all tasks
