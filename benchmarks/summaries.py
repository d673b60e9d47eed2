"""From the record of a comparison to its tables: quality, convergence and proof, margins, strengths, bars."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pnp_lip.benchmarks.tables import Table

__all__ = ["about_guides", "best_of_ours", "gain", "group_of", "mean_psnr", "summarise"]

Row = Mapping[str, Any]
AXES = {"denoising": ("sigma",), "deblurring": ("noise",), "ct": ("geometry", "noise")}
UNITS = {"denoising": "σ·255 = {}", "deblurring": "noise {}", "ct": "{}, {}"}


def summarise(content: Mapping[str, Any]) -> list[Table]:
    """All tables of a record of denoising, deblurring or tomography."""
    tables = [quality(content), behaviour(content)]
    if content["benchmark"] != "denoising":
        tables.append(margins(content))
    tables += [strengths(content), *bars(content), *skipped(content), *failures(content)]
    return tables


def group_of(content: Mapping[str, Any], row: Row) -> str:
    """The column a row belongs to."""
    kind = content["benchmark"]
    return UNITS[kind].format(*(f"{row[a]:g}" if isinstance(row[a], float) else row[a] for a in AXES[kind]))


def measured(content: Mapping[str, Any], prior: str, group: str | None = None) -> list[Row]:
    """The rows of a prior without an error."""
    rows = [r for r in content["rows"] if r["prior"] == prior and "error" not in r]
    return [r for r in rows if group is None or group_of(content, r) == group]


def settled(row: Row) -> bool:
    """Whether a run ended at the tolerance."""
    return bool(row.get("status") == "converged")


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known."""
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def mean_psnr(content: Mapping[str, Any], prior: str, group: str | None = None) -> float | None:
    """The mean PSNR of a prior's runs that did not diverge."""
    return mean(r["psnr"] for r in measured(content, prior, group) if r.get("status") != "diverged")


def groups(content: Mapping[str, Any]) -> list[str]:
    """The columns, in the order of the record."""
    return list(dict.fromkeys(group_of(content, r) for r in content["rows"]))


def ordered(content: Mapping[str, Any]) -> list[str]:
    """The priors with results, best first."""
    names = [name for name in content["priors"] if measured(content, name)]
    return sorted(names, key=lambda name: -(mean_psnr(content, name) or -1e9))


def quality(content: Mapping[str, Any]) -> Table:
    """Mean PSNR and SSIM."""
    columns = groups(content)

    def cell(prior: str, group: str) -> str:
        rows = measured(content, prior, group)
        good = [r for r in rows if r.get("status") != "diverged"]
        lost = f" ({len(rows) - len(good)} of {len(rows)} diverged)" if len(good) < len(rows) else ""
        average, similarity = mean(r["psnr"] for r in good), mean(r["ssim"] for r in good)
        if average is not None and similarity is not None:
            return f"{average:.2f} / {similarity:.3f}{lost}"
        misfit = mean(r.get("misfit") for r in good)
        return f"misfit {misfit:.3f}{lost}" if misfit is not None else lost.strip(" ()") or "–"

    rows = tuple((label(content, p), *(cell(p, g) for g in columns)) for p in ordered(content))
    return Table(
        "Quality: mean PSNR (dB) / SSIM", ("prior", *columns), rows, "✓: proved nonexpansive. " + describe_data(content)
    )


def label(content: Mapping[str, Any], prior: str) -> str:
    """The prior's name, with a tick where it is certified."""
    return f"{prior} ✓" if content["priors"][prior]["certified"] else prior


def describe_data(content: Mapping[str, Any]) -> str:
    """What the record ran on."""
    data, crop = content["data"], content["settings"].get("crop")
    size = f", central {crop} × {crop} pixels" if crop else ""
    kernels = f", kernels {', '.join(data['kernels'])}" if "kernels" in data else ""
    count = f"{len(data['images'])} image{'s' if len(data['images']) > 1 else ''} of {data['source']}"
    return f"{count}{size}{kernels}; strengths chosen on {', '.join(data['validation'])}."


def behaviour(content: Mapping[str, Any]) -> Table:
    """Size, bound, convergence, proof and cost of each prior."""
    one_pass = content["benchmark"] == "denoising"
    header = ["prior", "parameters", "Lipschitz ≤", "α ≤"]
    header += [] if one_pass else ["solver", "converged", "proved", "iterations", "diverged"]
    rows = []
    for name in ordered(content):
        about, runs = content["priors"][name], measured(content, name)
        bound, alpha = about["lipschitz_upper"], about["averagedness"]
        cells = [label(content, name), f"{about['parameters']:,}", "none" if bound is None else upwards(bound),
                 "–" if alpha is None else upwards(alpha)]  # fmt: skip
        if not one_pass:
            cells += convergence_cells(about, runs)
        rows.append((*cells, f"{statistics.fmean(r['cpu_seconds'] for r in runs):.2f}"))
    limits = content["settings"].get("limits", {})
    note = "" if one_pass else (
        f"Converged: relative residual at most {limits['tol']:g}, within {limits['uncertified_max_iter']} iterations and "
        f"{limits['uncertified_seconds']:g} s of processor time where nothing is proved."
    )  # fmt: skip
    note = " ".join(part for part in (note, about_guides(content)) if part)
    return Table(
        "Convergence, proof and cost" if not one_pass else "Size, bound and cost", (*header, "CPU s"), tuple(rows), note
    )


def about_guides(content: Mapping[str, Any]) -> str:
    """What "guided" means and what is proved of it, where such a prior took part."""
    if not any(about.get("before") for about in content["priors"].values()):
        return ""
    if content["benchmark"] == "denoising":
        return "Guided: a second pass whose clips follow the first one's result; nonexpansive for a fixed guide only."
    improved = any("annealer_sha256" in about for about in content["priors"].values())
    guide = "the first solution" + (", in deblurring what the annealer makes of it" if improved else "")
    return (
        f"Guided: solved twice, the second time with clips that follow {guide}; both runs are proved, the "
        "second with its guide held fixed; iterations and seconds are those of both."
    )


def upwards(bound: float) -> str:
    """A bound with five digits, never below itself.

    >>> upwards(0.99727928)
    '0.99728'
    """
    from decimal import ROUND_CEILING, Context, Decimal

    return f"{float(Decimal(bound).normalize(Context(prec=5, rounding=ROUND_CEILING))):g}"


def convergence_cells(about: Row, runs: Sequence[Row]) -> list[str]:
    """Solver, shares of runs, median iterations."""
    if not any("status" in r for r in runs):
        return ["none", "–", "–", "–", "–"]
    count = len(runs)
    done, proved, lost = (
        sum(map(settled, runs)),
        sum(r["proved"] for r in runs),
        sum(r["status"] == "diverged" for r in runs),
    )
    iterations = f"{statistics.median(r['iterations'] for r in runs):.0f}"
    return [about["solver"], f"{done} of {count}", f"{proved} of {count}", iterations, f"{lost} of {count}"]


def best_of_ours(content: Mapping[str, Any]) -> str | None:
    """Our certified prior with the highest mean PSNR."""
    names = [n for n in ordered(content) if content["priors"][n]["ours"] and content["priors"][n]["certified"]]
    return names[0] if names else None


def gain(content: Mapping[str, Any], ours: str, other: str, group: str, *, converged: bool) -> tuple[float | None, int]:
    """Mean of PSNR(ours) − PSNR(other) over the group's problems, or those where the other converged; and their number."""
    axes = [k for k in ("image", "kernel", "geometry", "noise", "sigma") if any(k in r for r in content["rows"])]
    mine = {tuple(r.get(k) for k in axes): r["psnr"] for r in measured(content, ours, group)}
    differences = [
        mine[at] - r["psnr"]
        for r in measured(content, other, group)
        if (at := tuple(r.get(k) for k in axes)) in mine and r["psnr"] is not None and mine[at] is not None
        and (settled(r) or not converged)
    ]  # fmt: skip
    return mean(differences), len(differences)


def margins(content: Mapping[str, Any]) -> Table:
    """How far our best stands above each other prior."""
    ours = best_of_ours(content)
    others = [n for n in ordered(content) if n != ours]
    if ours is None:
        return Table("", (), (), "None of our priors took part, so that there is no margin to show.")

    def cell(prior: str, group: str) -> str:
        iterates = any("status" in r for r in measured(content, prior, group))
        value, count = gain(content, ours, prior, group, converged=iterates)
        return "–" if value is None else f"{value:+.2f} ({count})"

    columns = groups(content)
    rows = tuple((label(content, p), *(cell(p, g) for g in columns)) for p in others)
    note = "On the problems where the other prior converged; their number in brackets. Positive: ours is better."
    return Table(f"{ours} above the others, in dB", ("prior", *columns), rows, note)


def strengths(content: Mapping[str, Any]) -> Table:
    """What was chosen on the validation images; a star marks the end of the grid."""
    names = list(dict.fromkeys(t["group"] for t in content["tuning"]))

    def cell(prior: str, group: str) -> str:
        found = next((t for t in content["tuning"] if t["prior"] == prior and t["group"] == group), None)
        if found is None or "strength" not in found:
            return "–"
        grid = content["priors"][prior]["grid"]
        return f"{found['strength']:g}{'*' if found['strength'] in (min(grid), max(grid)) else ''}"

    rows = tuple((p, *(cell(p, g) for g in names)) for p in content["priors"])
    return Table("Strengths chosen on the validation images", ("prior", *names), rows, "A star: the end of the grid.")


def bars(content: Mapping[str, Any]) -> list[Table]:
    """What this benchmark was built to find out, met or missed."""
    ours = best_of_ours(content)
    if ours is None or content["benchmark"] == "denoising":
        return []
    group = "noise 0.01" if content["benchmark"] == "deblurring" else "parallel 60, Gaussian"
    asked = {"deblurring": (("TV", 1.0, False), ("dncnn-penalised", 0.5, False), ("dncnn", -0.7, True)),
             "ct": (("FBP", 2.0, False), ("TV", 1.0, False))}[content["benchmark"]]  # fmt: skip
    rows = []
    for other, least, converged in asked:
        value, count = (
            gain(content, ours, other, group, converged=converged) if other in content["priors"] else (None, 0)
        )
        if value is not None:
            met = "met" if value >= least else "missed"
            where = " where it converged" if converged else ""
            rows.append(
                (f"{ours} above {other}{where}, {group}", f"≥ {least:+.1f} dB", f"{value:+.2f} dB ({count})", met)
            )
    runs = [r for n, p in content["priors"].items() if p["ours"] and p["certified"] for r in measured(content, n)]
    good = sum(settled(r) and r["proved"] for r in runs)
    tolerance = content["settings"]["limits"]["tol"]
    rows.append((f"our runs that reach {tolerance:g} with a valid guarantee", "all", f"{good} of {len(runs)}",
                 "met" if good == len(runs) else "missed"))  # fmt: skip
    return [Table("Bars", ("what", "bar", "found", ""), tuple(rows))]


def skipped(content: Mapping[str, Any]) -> list[Table]:
    """Who did not take part."""
    rows = tuple((name, reason) for name, reason in content["skipped"].items())
    return [Table("Skipped", ("prior", "why"), rows)] if rows else []


def failures(content: Mapping[str, Any]) -> list[Table]:
    """Who raised an error, and which."""
    seen: dict[tuple[str, str], int] = {}
    for row in content["rows"]:
        if "error" in row:
            seen[row["prior"], row["error"]] = seen.get((row["prior"], row["error"]), 0) + 1
    rows = tuple((name, f"{error} ({count} times)") for (name, error), count in seen.items())
    return [Table("Failed", ("prior", "error"), rows)] if rows else []
