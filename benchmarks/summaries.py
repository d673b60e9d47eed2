"""From the record of a comparison to its tables: quality, cost and proof, margins, strengths."""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, Context, Decimal

from pnp_lip.benchmarks.record import Row, Table

__all__ = ["AXES", "describe_data", "ending", "gain", "guarantee", "how_settled", "label", "mean_psnr",
           "measured", "pairs", "quality", "tables"]  # fmt: skip

AXES = {"denoising": ("sigma",), "deblurring": ("noise",), "ct": ("geometry", "noise")}
UNITS = {"denoising": "σ·255 = {}", "deblurring": "noise {}", "ct": "{}, {}"}
CASE = ("image", "kernel", "geometry", "noise", "sigma")  # the fields that name a case
UNIT = "TV"  # the prior whose cost is 1
TIE = 0.05  # dB: a smaller difference is neither a win nor a loss


def tables(content: Row) -> list[Table]:
    """All tables of a record of denoising, deblurring or tomography."""
    errors = Counter((row["prior"], row["error"]) for row in content["rows"] if "error" in row)
    failed = tuple((name, f"{error} ({count} times)") for (name, error), count in errors.items())
    optional = [Table("Skipped", ("prior", "why"), tuple(content["skipped"].items())),
                Table("Failed", ("prior", "error"), failed)]  # fmt: skip
    made = [quality(content), behaviour(content), margins(content), strengths(content)]
    return made + [table for table in optional if table.rows]


def group_of(content: Row, row: Row) -> str:
    """The column a row belongs to."""
    kind = content["benchmark"]
    return UNITS[kind].format(*(f"{row[a]:g}" if isinstance(row[a], float) else row[a] for a in AXES[kind]))


def measured(content: Row, prior: str, group: str | None = None) -> list[Row]:
    """The rows of a prior without an error."""
    rows = [r for r in content["rows"] if r["prior"] == prior and "error" not in r]
    return [r for r in rows if group is None or group_of(content, r) == group]


def mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def mean_psnr(content: Row, prior: str, group: str | None = None, of: str = "psnr") -> float | None:
    """The mean PSNR of a prior's runs that did not diverge, or their mean at the strength best for each problem ("oracle")."""
    return mean(r.get(of) for r in measured(content, prior, group) if r.get("status") != "diverged")


def ordered(content: Row) -> list[str]:
    """The priors with results, best first."""
    names = [name for name in content["priors"] if measured(content, name)]
    return sorted(names, key=lambda name: -(mean_psnr(content, name) or -1e9))


def label(content: Row, prior: str) -> str:
    """The prior's name, in bold where it is ours."""
    return f"**{prior}**" if content["priors"][prior]["ours"] else prior


def per_group(content: Row, cell: Callable[[str, str], str], title: str, note: str, without: str = "") -> Table:
    """A table with a row for each prior, best first, and a column for each group, in the order of the rows."""
    groups = tuple(dict.fromkeys(group_of(content, r) for r in content["rows"]))
    rows = tuple((label(content, p), *(cell(p, g) for g in groups)) for p in ordered(content) if p != without)
    return Table(title, ("prior", *groups), rows, note)


def quality(content: Row) -> Table:
    """Mean PSNR, and that of the best strengths."""

    def cell(prior: str, group: str) -> str:
        rows = measured(content, prior, group)
        lost = sum(r.get("status") == "diverged" for r in rows)
        average, best = mean_psnr(content, prior, group), mean_psnr(content, prior, group, "oracle")
        diverged = f"{lost} of {len(rows)} diverged" if lost else ""
        if average is None:
            return diverged or "–"
        return f"{average:.2f}" + (f" / {best:.2f}" if best is not None else "") + (f" ({diverged})" if lost else "")

    oracles = any("oracle" in r for r in content["rows"])
    note = "After the stroke: with the strength that is best for each problem, which nobody knows. " if oracles else ""
    table = per_group(content, cell, "Mean PSNR in dB", f"Ours in bold. {note}{describe_data(content)}")
    unit = {tuple(map(r.get, CASE)): r for r in measured(content, UNIT)}
    more = [(guarantee(content, p), ratio(measured(content, p), unit, "cpu_seconds")) for p in ordered(content)]
    header = (*table.header, "guarantee", f"time / {UNIT}'s")
    return dataclasses.replace(table, header=header, rows=tuple(a + b for a, b in zip(table.rows, more, strict=True)))


def describe_data(content: Row) -> str:
    """What the record ran on."""
    data, settings = content["data"], content["settings"]
    if "images" not in data:
        return "Problems of your own."
    crop = settings.get("photographs", {}).get("crop")
    size = f", central {crop} × {crop} pixels" if crop else ""
    turns = " in turn" if settings.get("paired") else ""
    kernels = f", kernels {', '.join(data['kernels'])}{turns}" if "kernels" in data else ""
    count = f"{len(data['images'])} image{'s' if len(data['images']) > 1 else ''} of {data['source']}"
    return f"{count}{size}{kernels}; strengths chosen on {', '.join(data['validation'])}."


def guarantee(content: Row, prior: str) -> str:
    """The class of a prior's guarantee, from its rows; older records say only whether a run was proved."""
    rows = [{"guarantee": "proved" if r.get("proved") else "none", **r} for r in measured(content, prior)]
    found = Counter(r["guarantee"] for r in rows if r.get("status") != "out of time")
    return "; ".join(f"{text} ({n} of {len(rows)})" if n < len(rows) else text for text, n in found.items()) or "none"


def ending(rows: list[Row]) -> str:
    """How many runs ended at a solution, and how the others did; a dash for methods that do not iterate to one."""
    ends = Counter(r["status"] for r in rows if "status" in r)
    if not ends or set(ends) == {"finished"}:
        return "–"
    others = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in ends.items() if status != "converged")
    return f"{ends['converged']} of {sum(ends.values())}" + (f" ({others})" if others else "")


def behaviour(content: Row) -> Table:
    """Guarantee, convergence and cost of each prior."""
    unit = {tuple(map(r.get, CASE)): r for r in measured(content, UNIT)}
    rows = []
    for name in ordered(content):
        about, runs = content["priors"][name], measured(content, name)
        change = max((abs(r["psnr_tol10"] - r["psnr"]) for r in runs if "psnr_tol10" in r), default=None)
        bound = about["lipschitz_upper"]
        steps = [r["iterations"] for r in runs if "iterations" in r]
        rows.append((
            label(content, name),
            about["solver"] if any("status" in r for r in runs) else "one call",
            ending(runs),
            "–" if change is None else f"{change:.3f}",
            f"{statistics.median(steps):.0f}" if steps else "1",
            ratio(runs, unit, "memory"),
            f"{about['parameters']:,}",
            "none" if bound is None else upwards(bound),
        ))  # fmt: skip
    header = ("prior", "method", "converged", "change", "iterations", "memory", "parameters", "Lipschitz ≤")
    return Table("Convergence and cost", header, tuple(rows), f"{how_settled(content)} {costs(content)}".strip())


def ratio(runs: list[Row], unit: dict[tuple[object, ...], Row], what: str) -> str:
    """The median over the problems of a cost in units of TV's."""
    pairs = [(r.get(what), unit.get(tuple(map(r.get, CASE)), {}).get(what)) for r in runs]
    found = [a / b for a, b in pairs if a is not None and b]
    return f"{statistics.median(found):.2g}" if found else "–"


def how_settled(content: Row) -> str:
    """What "converged" and "change" mean, and what a run may spend."""
    limits = content["settings"].get("limits")
    if limits is None or "seconds" not in limits:
        return ""
    return (
        "Converged: a tenth of the tolerance changes the PSNR by less than 0.02 dB; the largest such change, in dB, is under "
        f"“change”. A run may spend {limits['seconds']:g} s of processor time and {limits['max_iter']:,} iterations."
    )


def costs(content: Row) -> str:
    """What the ratios of time and memory are."""
    seconds = [r["cpu_seconds"] for r in measured(content, UNIT)]
    threads = sorted({e["threads"] for e in content["environments"]})
    if not seconds:
        return ""
    return (
        f"Processor time to the solution and memory beyond the package's own, in units of {UNIT}'s, whose mean is "
        f"{statistics.fmean(seconds):.2g} s with {' or '.join(map(str, threads))} thread{'s' if threads != [1] else ''}; "
        "medians over the problems."
    )


def upwards(bound: float) -> str:
    """A bound with five digits, never below itself.

    >>> upwards(0.99727928)
    '0.99728'
    """
    return f"{float(Decimal(bound).normalize(Context(prec=5, rounding=ROUND_CEILING))):g}"


def pairs(content: Row, ours: str, other: str, group: str | None = None) -> list[tuple[float, float]]:
    """The PSNR of two priors on the problems that both have."""
    mine = {tuple(map(r.get, CASE)): r["psnr"] for r in measured(content, ours, group)}
    both = [(mine.get(tuple(map(r.get, CASE))), r["psnr"]) for r in measured(content, other, group)]
    return [(a, b) for a, b in both if a is not None and b is not None]


def gain(content: Row, ours: str, other: str, group: str | None = None) -> float | None:
    """The mean of PSNR(ours) − PSNR(other) over the problems that both have."""
    return mean(a - b for a, b in pairs(content, ours, other, group))


def margins(content: Row) -> Table:
    """How far our best proved prior stands above each other one, and on how many problems."""
    mine = [name for name in ordered(content) if content["priors"][name]["ours"]]
    proved = (n for n in mine if content["priors"][n]["certified"] or guarantee(content, n).endswith("proved"))
    ours = next(proved, None)
    if ours is None:
        return Table(note="None of our priors took part, so there is no margin to show.")

    def cell(prior: str, group: str) -> str:
        value, both = gain(content, ours, prior, group), pairs(content, ours, prior, group)
        wins, losses = (sum(sign * (a - b) > TIE for a, b in both) for sign in (1, -1))
        return "–" if value is None else f"{value:+.2f} ({wins} : {losses})"

    note = f"Positive: ours is better. In brackets: problems won and lost by more than {TIE} dB."
    return per_group(content, cell, f"{ours} above the others, in dB", note, without=ours)


def strengths(content: Row) -> Table:
    """What was chosen on the validation images; a star marks the end of the grid, "given" what was not chosen."""
    names = list(dict.fromkeys(t["group"] for t in content["tuning"]))
    chosen = {(t["prior"], t["group"]): t["strength"] for t in content["tuning"]}

    def cell(prior: str, group: str) -> str:
        grid = content["priors"][prior]["grid"]
        if (prior, group) not in chosen:
            return "–"
        if len(grid) == 1:
            return "given"
        strength = chosen[prior, group]
        return f"{strength:.3g}{'*' if strength in (min(grid), max(grid)) else ''}"

    rows = tuple((p, *(cell(p, g) for g in names)) for p in content["priors"])
    stars = any(text.endswith("*") for row in rows for text in row[1:])
    note = "The largest within 0.05 dB of the best mean PSNR of the validation images." + (
        " A star: the end of the grid." if stars else ""
    )
    return Table("Strengths", ("prior", *names), rows, note)
