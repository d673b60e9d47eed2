"""From records to Markdown tables and one self-contained page: sortable tables, a comparison of pictures, curves."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pnp_lip.benchmarks import certificates, convergence, operators, speed, summaries
from pnp_lip.benchmarks.plots import residual_plot
from pnp_lip.benchmarks.record import read_record
from pnp_lip.benchmarks.summaries import best_of_ours
from pnp_lip.benchmarks.tables import Table, parse_markdown
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically

__all__ = ["find_records", "write_report"]

SUMMARIES: dict[str, Callable[[Mapping[str, Any]], list[Table]]] = {
    "denoising": summaries.summarise,
    "deblurring": summaries.summarise,
    "ct": summaries.summarise,
    "certificates": certificates.summarise,
    "speed": speed.summarise,
}


def find_records(places: Sequence[str | Path]) -> list[Path]:
    """The files among ``places``, and the records (of this version) in the folders among them.

    Raises InputError when there is none.
    """
    paths: list[Path] = []
    for place in map(Path, places):
        paths += [p for p in sorted(place.glob("*.json")) if is_record(p)] if place.is_dir() else [place]
    if not paths:
        raise InputError(f"no records (.json) in {', '.join(map(str, places))}.")
    return paths


def is_record(path: Path) -> bool:
    """Whether ``read`` understands the file."""
    try:
        read(path)
    except InputError:
        return False
    return True


def write_report(paths: Sequence[Path], out: str | Path) -> list[Path]:
    """Write NAME.md for each record, and report.html with all of them, into ``out``; returns what was written.

    Raises InputError for a file that is no record of a benchmark.
    """
    out = Path(out)
    sections = [read(path) for path in paths]
    written = [write_text(out / f"{s.name}.md", s.markdown()) for s in sections]
    page = resources.files("pnp_lip.benchmarks").joinpath("page.html").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{html.escape(s.name)}">{html.escape(s.name)}</a>' for s in sections)
    page = page.replace("<!-- contents -->", links).replace("<!-- sections -->", "".join(s.html() for s in sections))
    return [*written, write_text(out / "report.html", page)]


@dataclasses.dataclass(frozen=True)
class Section:
    """A record's name and tables, and the HTML that stands before and after them on the page."""

    name: str
    tables: list[Table]
    before: str = ""
    after: str = ""

    def markdown(self) -> str:
        """The tables under a heading."""
        return f"# {self.name}\n\n" + "\n".join(table.markdown() for table in self.tables)

    def html(self) -> str:
        """The page's section."""
        name, body = html.escape(self.name), "".join(table.html() for table in self.tables)
        return f'<section id="{name}"><h2>{name}</h2>{self.before}{body}{self.after}</section>'


def write_text(path: Path, text: str) -> Path:
    """Write a text file in one atomic step."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> Section:
    """The section of a record of any benchmark. Raises InputError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable record ({error}).") from error
    if isinstance(content, list) and content and "quantity" in content[0]:
        return Section(path.stem, parse_markdown(operators.table(content)))
    if isinstance(content, dict) and "cells" in content:
        return Section(path.stem, parse_markdown(convergence.render(content)))
    content = read_record(path)
    if content["benchmark"] not in SUMMARIES:
        raise InputError(f"{path}: no benchmark is called {content['benchmark']!r}.")
    before = comparison(content, path.parent) + curves(content)
    return Section(path.stem, SUMMARIES[content["benchmark"]](content), before, made_with(content))


def made_with(content: Mapping[str, Any]) -> str:
    """Settings and environment, folded."""
    facts = {key: content[key] for key in ("settings", "data", "environments")}
    return f"<details><summary>settings and machine</summary><pre>{html.escape(json.dumps(facts, indent=1))}</pre></details>"


def comparison(content: Mapping[str, Any], folder: Path) -> str:
    """Two pictures over each other with a slider between them, any two of the record's."""
    files = {name: folder / file for name, file in content["pictures"].get("files", {}).items()}
    encoded = {
        name: "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
        for name, file in files.items()
        if file.is_file()
    }
    if len(encoded) < 2:
        return ""
    case = ", ".join(str(v) for v in content["pictures"]["case"].values())
    left, right = first_choice(content, list(encoded))
    captions = dict.fromkeys(encoded, "")
    for row in content["rows"]:
        if all(row.get(k) == v for k, v in content["pictures"]["case"].items()) and row.get("psnr") is not None:
            captions[row["prior"]] = f", {row['psnr']:.2f} dB"

    def choice(title: str, chosen: str) -> str:
        options = ""
        for name in encoded:
            text, mark = html.escape(name + captions.get(name, "")), " selected" if name == chosen else ""
            options += f'<option value="{html.escape(name)}"{mark}>{text}</option>'
        return f"<label>{title}<select>{options}</select></label>"

    pictures = json.dumps(encoded).replace("<", "\\u003c")
    choices = choice("left", left) + choice("right", right)
    return (
        f'<h3>{html.escape(case)}</h3><div class="compare"><div class="choice">{choices}</div>'
        f'<div class="stage"><img src="{encoded[right]}" alt="{html.escape(right)}">'
        f'<img class="over" src="{encoded[left]}" alt="{html.escape(left)}"><i></i></div>'
        '<input type="range" min="0" max="100" value="50" aria-label="where the pictures meet">'
        f'<script type="application/json">{pictures}</script></div>'
    )


def first_choice(content: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str]:
    """What the page shows at first: total variation or the data, and our best."""
    ours = best_of_ours(content)
    right = ours if ours is not None and ours in names else names[-1]
    left = next(name for name in ("TV", "data", *names) if name in names and name != right)
    return left, right


def curves(content: Mapping[str, Any]) -> str:
    """The residuals of the pictured case."""
    found = {row["prior"]: row["curve"] for row in content["rows"] if row.get("curve")}
    case = ", ".join(str(v) for v in content["pictures"].get("case", {}).values())
    return residual_plot(found, f"Relative residual ‖v − Tv‖/‖v‖: {case}")
