"""What one iteration of ``pnp_lip.large`` costs: processor seconds and peak memory, one process for each size.

``python -m pnp_lip.benchmarks.large --out costs.csv`` makes benchmarks/records/large.csv. The numbers do not depend on the
image, which is noise.
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

import torch

from pnp_lip.large import solve
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.pretrained import load_pretrained
from pnp_lip.solvers import ForwardBackward

__all__ = ["main", "measure"]

CASES = (  # denoiser, rows, columns, chunk
    *(("tiny", rows, columns, 512) for rows, columns in ((1024, 1024), (1024, 2048), (2048, 2048), (4096, 4096))),
    *(("tiny", 4096, 4096, chunk) for chunk in (1024, 2048)),
    *(("grey", rows, columns, 512) for rows, columns in ((1024, 1024), (1024, 2048), (2048, 2048))),
    ("grey", 2048, 2048, 1024),
)
COLUMNS = ("denoiser", "rows", "columns", "chunk", "cpu_seconds", "peak_mb", "idle_mb", "torch")


def measure(name: str, rows: int, columns: int, chunk: int) -> tuple[object, ...]:
    """One row: the second of two iterations with a Gaussian PSF of 15 x 15, and the peak of both."""
    torch.set_num_threads(1)
    blur = Blur(gaussian_psf(2.5, size=15), (1, rows, columns), padding="zeros")
    solver = ForwardBackward(load_pretrained(name), sigma=0.03, box=(0, 1), tol=0)
    y = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)).numpy()
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        solve(solver, y, blur, out=Path(folder, "run"), chunk=chunk, max_iter=1)
        before = time.process_time()
        solve(solver, y, blur, out=Path(folder, "run"), chunk=chunk, max_iter=2)
        seconds = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return name, rows, columns, chunk, round(seconds, 2), round(peak), round(idle), torch.__version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="the table, a CSV file")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.case:
        name, *sizes = given.case
        with Path(given.out).open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(measure(name, *map(int, sizes)))
        return
    Path(given.out).write_text(",".join(COLUMNS) + "\n")
    for case in CASES:
        command = [sys.executable, "-m", "pnp_lip.benchmarks.large", "--out", given.out, "--case", *map(str, case)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
