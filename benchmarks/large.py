"""What large images cost: processor seconds and peak memory, in one process of one thread for each size.

``python -m pnp_lip.benchmarks.large --out FOLDER`` measures an iteration of ``pnp_lip.large`` (large.csv) and a single pass of
``denoiser.tiled`` (large-pass.csv), which it draws (large-pass.png) and prints as a table; ``--only large-pass`` does the
latter alone. The numbers do not depend on the image, which is noise.
"""

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.large import solve
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.potentials import RidgePotential
from pnp_lip.pretrained import load_pretrained
from pnp_lip.solvers import ForwardBackward, Variational

__all__ = ["iteration", "main", "pass_table", "single_pass"]

Row = dict[str, object]
STATED = ("denoiser", "rows", "columns", "chunk")  # what a case states
CASES: dict[str, tuple[tuple[object, ...], ...]] = {
    "large": (
        *(("tiny", rows, columns, 512) for rows, columns in ((1024, 1024), (1024, 2048), (2048, 2048), (4096, 4096))),
        *(("tiny", 4096, 4096, chunk) for chunk in (1024, 2048)),
        *(("grey", rows, columns, 512) for rows, columns in ((1024, 1024), (1024, 2048), (2048, 2048))),
        ("grey", 2048, 2048, 1024),
        ("ridge", 2048, 2048, 512),
        ("ridge", 2048, 2048, 1024),
    ),
    "large-pass": tuple(("tiny", side, side, 2048) for side in (256, 512, 1024, 2048, 4096, 8192)),
}
COMPARED = 2048  # pixels a side up to which a pass is compared with other windows, the whole image among them


def iteration(name: str, rows: int, columns: int, chunk: int) -> Row:
    """One iteration after the first, with a Gaussian PSF of 15 x 15, and the peak of all: of a potential the mean of ten, of
    which the last is computed in float64."""
    blur, prior = Blur(gaussian_psf(2.5, size=15), (1, rows, columns), padding="zeros"), load_pretrained(name)
    if isinstance(prior, RidgePotential):
        solver: ForwardBackward | Variational = Variational(prior, sigma=0.06, weight=0.15)
    else:
        solver = ForwardBackward(cast(GradientFlowDenoiser, prior), sigma=0.03, box=(0, 1), tol=0)
    y, idle = noise(rows, columns).numpy(), peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        solve(solver, y, blur, out=Path(folder, "run"), chunk=chunk, max_iter=1)
        before, more = time.process_time(), 1 if isinstance(solver, ForwardBackward) else 10
        solve(solver, y, blur, out=Path(folder, "run"), chunk=chunk, max_iter=1 + more)
        seconds = (time.process_time() - before) / more
    return {"cpu_seconds": round(seconds, 2), "peak_mb": peak_mb(), "idle_mb": idle}


@torch.no_grad()
def single_pass(name: str, rows: int, columns: int, chunk: int) -> Row:
    """D(x) in windows of ``chunk`` pixels, and the largest difference from windows of 200 and 777 pixels and a single one."""
    denoiser, x = cast(GradientFlowDenoiser, load_pretrained(name)), noise(rows, columns)[None, None]
    denoiser(x[..., :64, :64], 0.1)  # the first call sets things up
    idle, before = peak_mb(), time.process_time()
    found = denoiser.tiled(x, 0.1, tile=chunk)
    row: Row = {"cpu_seconds": round(time.process_time() - before, 2), "peak_mb": peak_mb(), "idle_mb": idle, "difference": ""}
    if rows <= COMPARED:
        others = (denoiser.tiled(x, 0.1, tile=tile) for tile in (200, 777, rows))
        row["difference"] = max(float((other - found).abs().max()) for other in others)
    return row


def noise(rows: int, columns: int) -> Tensor:
    """The image."""
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))


def peak_mb() -> int:
    """The most memory that this process has held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def pass_table(rows: Sequence[dict[str, str]]) -> str:
    """The table of ``large-pass`` for the documentation, and how time grows with the pixels from a megapixel on."""
    lines = ["| image | CPU s | CPU s per megapixel | peak, MB | largest difference |", "|---|---|---|---|---|"]
    for row in rows:
        pixels, seconds = int(row["rows"]) * int(row["columns"]), float(row["cpu_seconds"])
        lines.append(
            f"| {row['rows']} × {row['columns']} | {seconds:.2f} | {seconds * 1e6 / pixels:.2f} | {int(row['peak_mb']):,} "
            f"| {row['difference'] or '–'} |"
        )
    return "\n".join([*lines, "", f"Time grows with the pixels to the power {exponent(rows):.2f}."])


def exponent(rows: Sequence[dict[str, str]]) -> float:
    """The slope of log seconds over log pixels, by least squares."""
    pixels, seconds = ([float(row[name]) for row in rows] for name in ("rows", "cpu_seconds"))
    return float(np.polyfit(2 * np.log(pixels), np.log(seconds), 1)[0])


def draw_passes(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Seconds and memory over megapixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    megapixels = [int(row["rows"]) * int(row["columns"]) / 1e6 for row in rows]
    for axes, name, label in zip(figure.subplots(1, 2), ("cpu_seconds", "peak_mb"), ("CPU seconds", "peak, MB"), strict=True):
        axes.semilogx(megapixels, [float(row[name]) for row in rows], "o-")
        axes.set(xlabel="megapixels", ylabel=label, **({"yscale": "log"} if name == "cpu_seconds" else {"ylim": (0, None)}))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case in a process of its own, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="the folder of the tables")
    parser.add_argument("--only", choices=CASES, help="one of the tables")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.case is not None:
        case, measure = CASES[given.only][given.case], {"large": iteration, "large-pass": single_pass}[given.only]
        torch.set_num_threads(1)
        row = {**dict(zip(STATED, case, strict=True)), **measure(*case), "torch": torch.__version__}
        path = given.out / f"{given.only}.csv"
        with path.open("a" if given.case else "w", newline="") as file:
            table = csv.DictWriter(file, list(row), lineterminator="\n")
            table.writeheader() if given.case == 0 else None
            table.writerow(row)
        return
    for name in [given.only] if given.only else CASES:
        for i in range(len(CASES[name])):
            command = [sys.executable, "-m", "pnp_lip.benchmarks.large", "--only", name, "--case", str(i)]
            subprocess.run([*command, "--out", str(given.out)], check=True)
        if name == "large-pass":
            rows = list(csv.DictReader((given.out / "large-pass.csv").open(newline="")))
            draw_passes(rows, given.out / "large-pass.png")
            sys.stdout.write(pass_table(rows) + "\n")


if __name__ == "__main__":
    main()
