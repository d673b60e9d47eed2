"""From records to Markdown: a file of tables for each, and the tables inside written pages."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pnp_lip.benchmarks import certificates, convergence, operators, speed, summaries, tasks
from pnp_lip.benchmarks.record import Row, Table, read_record, wrapped
from pnp_lip.benchmarks.summaries import describe_data, ending, guarantee, label, mean_psnr, measured
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically

__all__ = ["find_records", "headline", "renew", "write_report", "write_text"]

GROUPS = {"denoising": "σ·255 = 25", "deblurring": "noise 0.01", "ct": "parallel 60, Gaussian"}
TITLES = {"denoising": "denoising, σ = 25/255", "deblurring": "deblurring, noise 0.01", "ct": "CT, 60 views"}
BELOW = 1000.0  # dB, subtracted to sort priors without deblurring below all others

MAKERS: dict[str, tuple[Callable[..., Row], Callable[[Row], list[Table]]]] = {  # of records, and of their tables
    "denoising": (tasks.denoising, summaries.tables),
    "deblurring": (tasks.deblurring, summaries.tables),
    "ct": (tasks.ct, summaries.tables),
    "certificates": (certificates.run, certificates.tables),
    "convergence": (convergence.run, convergence.tables),
    "operators": (operators.run, operators.tables),
    "speed": (speed.run, speed.tables),
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
    """Write the tables of each record to NAME.md in ``out``; returns what was written.

    Raises InputError for a file that is no record of a benchmark.
    """
    return [write_text(Path(out) / f"{path.stem}.md", f"# {path.stem}\n\n{markdown(path)}") for path in paths]


def markdown(path: Path) -> str:
    """The tables of a record, one below the other. Raises InputError for one of an unknown benchmark."""
    content = read_record(path)
    if content["benchmark"] not in MAKERS:
        raise InputError(f"{path}: no benchmark is called {content['benchmark']!r}.")
    return "\n".join(table.markdown() for table in MAKERS[content["benchmark"]][1](content))


def renew(page: Path, paths: Sequence[Path]) -> None:
    """Renew the tables of a page: of each record NAME what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    "NAME quality" is the first table of a comparison of priors alone. "headline" is the README's table. Raises InputError for
    a page without any of these markers, and for one that does not have both of a name once, in this order.
    """
    made = {path.stem: markdown(path) for path in paths}
    made |= {f"{path.stem} quality": summaries.quality(read_record(path)).markdown() for path in paths if compares(path)}
    if set(GROUPS) <= set(made):
        records = {path.stem: read_record(path) for path in paths if path.stem in GROUPS}
        made["headline"] = f"\n{headline({name: records[name] for name in GROUPS})}\n"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    names = [name for name in made if f"<!-- {name}: begin -->" in text]
    if not names:
        raise InputError(f"{page}: expected markers such as <!-- headline: begin --> and <!-- headline: end -->.")
    for name in names:
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, _, rest = text.partition(begin)
        if text.count(begin) != 1 or rest.count(end) != 1:
            raise InputError(f"{page}: expected the markers {begin} and {end}, in this order; add them to the page.")
        text = f"{head}{begin}\n{made[name]}{end}{rest.partition(end)[2]}"
    write_text(page, text)


def compares(path: Path) -> bool:
    """Whether a record compares priors."""
    return read_record(path)["benchmark"] in summaries.AXES


def write_text(path: Path, text: str) -> Path:
    """Write a text file in one atomic step."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def headline(records: Mapping[str, Row]) -> str:
    """The table in Markdown: mean PSNR of each task, the class of the guarantee, and how many reconstructions converged."""
    order: dict[str, float] = {}
    for kind, content in records.items():
        for name in content["priors"]:
            value = mean_psnr(content, name, GROUPS[kind])
            if value is not None and (kind == "deblurring" or name not in order):
                order[name] = value if kind == "deblurring" else value - BELOW
    rows = tuple(headline_cells(records, name) for name in sorted(order, key=lambda n: -order[n]))
    header = ("prior", *(TITLES[kind] for kind in records), "guarantee of a reconstruction", "converged")
    deblurring = records["deblurring"]
    note = ["Mean PSNR in dB; ours in bold.", summaries.how_settled(deblurring)]
    note += [f"{TITLES[kind]}: {describe_data(content)}" for kind, content in records.items()]
    return Table("", header, rows).markdown() + "\n" + wrapped(" ".join(filter(None, note))) + "\n"


def headline_cells(records: Mapping[str, Row], name: str) -> tuple[str, ...]:
    """One prior's line."""
    found, runs, classes, names = [], [], [], []
    for kind, content in records.items():
        rows, value = measured(content, name, GROUPS[kind]), mean_psnr(content, name, GROUPS[kind])
        found.append(f"{value:.2f}" if value is not None else "diverged" if rows else "–")
        names += [label(content, name)] if name in content["priors"] else []
        if kind != "denoising" and rows:
            runs += rows
            classes.append(guarantee(content, name))
    return (names[0], *found, "; ".join(dict.fromkeys(classes)) or "–", ending(runs))
