"""From the record of a comparison to its tables: quality, convergence and proof, margins, strengths, bars."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, Context, Decimal

from pnp_lip.benchmarks.record import Row, Table

__all__ = ["about_guides", "about_ticks", "describe_data", "gain", "label", "mean_psnr", "measured", "settled", "tables"]

AXES = {"denoising": ("sigma",), "deblurring": ("noise",), "ct": ("geometry", "noise")}
UNITS = {"denoising": "σ·255 = {}", "deblurring": "noise {}", "ct": "{}, {}"}
CASE = ("image", "kernel", "geometry", "noise", "sigma")  # the fields that name a case
BARS = {  # the group, and by how many dB ours has to be above which prior, on all cases or where that one converged
    "deblurring": ("noise 0.01", (("TV", 1.0, False), ("dncnn-penalised", 0.5, False), ("dncnn", -0.7, True))),
    "ct": ("parallel 60, Gaussian", (("FBP", 2.0, False), ("TV", 1.0, False))),
}


def tables(content: Row) -> list[Table]:
    """All tables of a record of denoising, deblurring or tomography."""
    errors = Counter((row["prior"], row["error"]) for row in content["rows"] if "error" in row)
    failed = tuple((name, f"{error} ({count} times)") for (name, error), count in errors.items())
    compared = [] if content["benchmark"] == "denoising" else [margins(content)]
    optional = [Table("Skipped", ("prior", "why"), tuple(content["skipped"].items())),
                Table("Failed", ("prior", "error"), failed)]  # fmt: skip
    made = [quality(content), behaviour(content), *objectives(content), *compared, strengths(content), *bars(content)]
    return made + [table for table in optional if table.rows]


def group_of(content: Row, row: Row) -> str:
    """The column a row belongs to."""
    kind = content["benchmark"]
    return UNITS[kind].format(*(f"{row[a]:g}" if isinstance(row[a], float) else row[a] for a in AXES[kind]))


def measured(content: Row, prior: str, group: str | None = None) -> list[Row]:
    """The rows of a prior without an error."""
    rows = [r for r in content["rows"] if r["prior"] == prior and "error" not in r]
    return [r for r in rows if group is None or group_of(content, r) == group]


def settled(row: Row) -> bool:
    """Whether a run ended at the tolerance."""
    return bool(row.get("status") == "converged")


def mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def mean_psnr(content: Row, prior: str, group: str | None = None) -> float | None:
    """The mean PSNR of a prior's runs that did not diverge."""
    return mean(r["psnr"] for r in measured(content, prior, group) if r.get("status") != "diverged")


def ordered(content: Row) -> list[str]:
    """The priors with results, best first."""
    names = [name for name in content["priors"] if measured(content, name)]
    return sorted(names, key=lambda name: -(mean_psnr(content, name) or -1e9))


def label(content: Row, prior: str) -> str:
    """The prior's name, with a tick where it is certified."""
    return f"{prior} ✓" if content["priors"][prior]["certified"] else prior


def per_group(content: Row, cell: Callable[[str, str], str], title: str, note: str, without: str = "") -> Table:
    """A table with a row for each prior, best first, and a column for each group, in the order of the rows."""
    groups = tuple(dict.fromkeys(group_of(content, r) for r in content["rows"]))
    rows = tuple((label(content, p), *(cell(p, g) for g in groups)) for p in ordered(content) if p != without)
    return Table(title, ("prior", *groups), rows, note)


def quality(content: Row) -> Table:
    """Mean PSNR and SSIM."""

    def cell(prior: str, group: str) -> str:
        rows = measured(content, prior, group)
        good = [r for r in rows if r.get("status") != "diverged"]
        lost = f"{len(rows) - len(good)} of {len(rows)} diverged" if len(good) < len(rows) else ""
        average, similarity = mean(r["psnr"] for r in good), mean(r["ssim"] for r in good)
        if average is None or similarity is None:
            return lost or "–"
        return f"{average:.2f} / {similarity:.3f}" + (f" ({lost})" if lost else "")

    note = f"{about_ticks(content)} {describe_data(content)}"
    return per_group(content, cell, "Quality: mean PSNR (dB) / SSIM", note)


def about_ticks(content: Row) -> str:
    """What a tick says."""
    potentials = any(about.get("curvature") for about in content["priors"].values())
    return f"✓: proved nonexpansive{', or an objective of proved curvature' if potentials else ''}."


def describe_data(content: Row) -> str:
    """What the record ran on."""
    data, crop = content["data"], content["settings"].get("photographs", {}).get("crop")
    size = f", central {crop} × {crop} pixels" if crop else ""
    kernels = f", kernels {', '.join(data['kernels'])}" if "kernels" in data else ""
    count = f"{len(data['images'])} image{'s' if len(data['images']) > 1 else ''} of {data['source']}"
    return f"{count}{size}{kernels}; strengths chosen on {', '.join(data['validation'])}."


def behaviour(content: Row) -> Table:
    """Size, bound, convergence, proof and cost of each prior."""
    one_pass = content["benchmark"] == "denoising"
    iterates = () if one_pass else ("solver", "converged", "proved", "iterations", "diverged")
    kinds = any(r.get("kind") for r in content["rows"])  # older records have none
    rows = []
    for name in ordered(content):
        about, runs = content["priors"][name], measured(content, name)
        bound, alpha = about["lipschitz_upper"], about["averagedness"]
        cells = [label(content, name), f"{about['parameters']:,}", "none" if bound is None else upwards(bound)]
        cells += ["–" if alpha is None else upwards(alpha)]
        if not one_pass and any("status" in r for r in runs):
            ends = [[settled(r) for r in runs], [r["proved"] for r in runs], [r["status"] == "diverged" for r in runs]]
            done, proved, lost = (f"{sum(end)} of {len(runs)}" for end in ends)
            cells += [about["solver"], done, proved, f"{statistics.median(r['iterations'] for r in runs):.0f}", lost]
        elif not one_pass:
            cells += ["none", "–", "–", "–", "–"]
        if kinds:
            cells += [", ".join(dict.fromkeys(r["kind"] for r in runs if r.get("kind"))) or "–"]
        rows.append((*cells, f"{statistics.fmean(r['cpu_seconds'] for r in runs):.2f}"))
    note = about_guides(content)
    if not one_pass:
        limits = content["settings"]["limits"]
        note = (
            f"Converged: relative residual at most {limits['tol']:g}; without a proof within "
            f"{limits['uncertified_max_iter']} iterations and {limits['uncertified_seconds']:g} s of processor time. {note}"
        ).strip()
    title = "Size, bound and cost" if one_pass else "Convergence, proof and cost"
    header = ("prior", "parameters", "Lipschitz ≤", "α ≤", *iterates, *(["limit"] if kinds else []), "CPU s")
    return Table(title, header, tuple(rows), note)


def objectives(content: Row) -> list[Table]:
    """Of each potential its curvature, and of its solutions how stationary they are, and how far from the minimiser."""
    rows = []
    for name in ordered(content):
        ends, runs = content["priors"][name].get("curvature"), measured(content, name)
        if ends is None:
            continue
        known = [r["distance"] for r in runs if r.get("distance") is not None]
        changes = [abs(r["psnr"] - r["psnr_tol10"]) for r in runs if "psnr_tol10" in r]
        stationary = [r["stationarity"] for r in runs if "stationarity" in r]
        largest = [f"{max(values):.1e}" if values else "–" for values in (stationary, known)]
        change = f"{max(changes):.3f} dB" if changes else "–"
        rows.append((label(content, name), upwards(-ends[0]), upwards(ends[1]), *largest, change))
    note = (
        "Curvature in [−ρ, L]. The largest of all runs: the distance of 0 from ∂J(x), the proved distance of x from the "
        "minimiser (root mean squares per pixel; – without a proof), and the change of the PSNR at a tenth of the tolerance."
    )
    header = ("prior", "ρ ≤", "L ≤", "stationarity", "proved distance", "change")
    return [Table("Objectives", header, tuple(rows), note)] if rows else []


def about_guides(content: Row) -> str:
    """What "guided" means and what is proved of it, if such a prior took part."""
    if not any(about.get("before") for about in content["priors"].values()):
        return ""
    if content["benchmark"] == "denoising":
        return "Guided: a second pass, guided by the result of the first; nonexpansive only for a constant guide."
    improved = any("annealer_sha256" in about for about in content["priors"].values())
    guide = "the first solution" + (", which the annealer improves in deblurring" if improved else "")
    return (
        f"Guided: solved twice; the second solve is guided by {guide}. Each solve converges; the second treats the guide as "
        "constant. Iterations and seconds are those of both."
    )


def upwards(bound: float) -> str:
    """A bound with five digits, never below itself.

    >>> upwards(0.99727928)
    '0.99728'
    """
    return f"{float(Decimal(bound).normalize(Context(prec=5, rounding=ROUND_CEILING))):g}"


def is_ours(about: Row) -> bool:
    return bool(about["ours"] and about["certified"])


def best_of_ours(content: Row) -> str | None:
    """Our certified prior with the highest mean PSNR."""
    return next((name for name in ordered(content) if is_ours(content["priors"][name])), None)


def gain(content: Row, ours: str, other: str, group: str, *, converged: bool) -> tuple[float | None, int]:
    """Mean of PSNR(ours) − PSNR(other) over the group's problems, or those where the other converged; and their number."""
    mine = {tuple(map(r.get, CASE)): r["psnr"] for r in measured(content, ours, group)}
    theirs = [r for r in measured(content, other, group) if settled(r) or not converged]
    pairs = [(mine.get(tuple(map(r.get, CASE))), r["psnr"]) for r in theirs]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return mean(differences), len(differences)


def margins(content: Row) -> Table:
    """How far our best stands above each other prior."""
    ours = best_of_ours(content)
    if ours is None:
        return Table(note="None of our priors took part, so there is no margin to show.")

    def cell(prior: str, group: str) -> str:
        iterates = any("status" in r for r in measured(content, prior, group))
        value, count = gain(content, ours, prior, group, converged=iterates)
        return "–" if value is None else f"{value:+.2f} ({count})"

    note = "On the problems where the other prior converged; their number in brackets. Positive: ours is better."
    return per_group(content, cell, f"{ours} above the others, in dB", note, without=ours)


def strengths(content: Row) -> Table:
    """What was chosen on the validation images; a star marks the end of the grid."""
    names = list(dict.fromkeys(t["group"] for t in content["tuning"]))
    chosen = {(t["prior"], t["group"]): t["strength"] for t in content["tuning"]}

    def cell(prior: str, group: str) -> str:
        if (prior, group) not in chosen:
            return "–"
        grid, strength = content["priors"][prior]["grid"], chosen[prior, group]
        return f"{strength:g}{'*' if strength in (min(grid), max(grid)) else ''}"

    rows = tuple((p, *(cell(p, g) for g in names)) for p in content["priors"])
    return Table("Strengths chosen on the validation images", ("prior", *names), rows, "A star: the end of the grid.")


def bars(content: Row) -> list[Table]:
    """What this benchmark was built to find out, met or missed."""
    ours = best_of_ours(content)
    if ours is None or content["benchmark"] not in BARS:
        return []
    group, asked = BARS[content["benchmark"]]
    rows = []
    for other, least, converged in asked:
        value, count = gain(content, ours, other, group, converged=converged)
        if value is not None:
            what = f"{ours} above {other}{' where it converged' if converged else ''}, {group}"
            met = "met" if value >= least else "missed"
            rows.append((what, f"≥ {least:+.1f} dB", f"{value:+.2f} dB ({count})", met))
    runs = [r for n, about in content["priors"].items() if is_ours(about) for r in measured(content, n)]
    good, tolerance = sum(settled(r) and r["proved"] for r in runs), content["settings"]["limits"]["tol"]
    met = "met" if good == len(runs) else "missed"
    rows.append((f"our runs that reach {tolerance:g} with a valid guarantee", "all", f"{good} of {len(runs)}", met))
    return [Table("Bars", ("what", "bar", "found", ""), tuple(rows))]
