"""What a second worker gains: a volume of 64 slices by ``pnp-lip ct``, and an image on the disk by ``pnp_lip.large``.

``python -m pnp_lip.benchmarks.workers volume`` and ``python -m pnp_lip.benchmarks.workers mosaic --megapixels 24``. Both need a
machine of two cores that does nothing else, print seconds, their ratio and, of the mosaic, the memory of each worker, and say
whether the results are equal to the bit. At up to four megapixels the mosaic is compared with the solver in memory, too.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pnp_lip.benchmarks.large import noise, peak_mb
from pnp_lip.large import solve
from pnp_lip.large.jobs import zarr
from pnp_lip.operators import Blur, ParallelBeam, ParallelBeamTomography, gaussian_psf
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.pretrained import load_pretrained
from pnp_lip.solvers import ForwardBackward

__all__ = ["main", "mosaic", "volume"]

SLICES, SIDE, VIEWS, PHOTONS = 64, 64, 60, 2e4
STEP = 1.9  # below 2/‖A‖² for both: in memory the bound of ‖A‖ is sharper, and steps that differ would hide what windows do
IN_MEMORY = 4e6  # pixels up to which the solver in memory computes the same
COMMAND = [sys.executable, "-c", "import sys; from pnp_lip.command_line import main; sys.exit(main(sys.argv[1:]))"]


def volume(folder: Path) -> None:
    """A scan of 64 slices with one worker and with two, start included."""
    import h5py

    projector = ParallelBeamTomography(ParallelBeam(np.arange(VIEWS) * 180 / VIEWS, n_det=SIDE), (1, SIDE, SIDE))
    y = projector.A(3 / SIDE * ellipse_image(SIDE)[None, None].float())[0, 0].T.numpy()
    heights = np.linspace(0.5, 1, SLICES)[:, None]
    counts = np.random.default_rng(0).poisson(PHOTONS * np.exp(-y[:, None] * heights))
    with h5py.File(folder / "scan.h5", "w") as file:
        file["exchange/data"] = counts.astype(np.uint16)
        file["exchange/data_white"] = np.full((1, SLICES, SIDE), PHOTONS, np.uint16)
        file["exchange/theta"] = np.arange(VIEWS) * 180 / VIEWS
    seconds, found = [], []
    for jobs in ("1", "2"):
        arguments = ["ct", "scan.h5", "--sigma", "0.01", "--out", jobs, "--jobs", jobs, "--quiet"]
        started = time.perf_counter()
        subprocess.run([*COMMAND, *arguments], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        seconds.append(time.perf_counter() - started)
        found.append(np.load(folder / jobs / "volume.npy"))
    say_ratio(seconds, np.array_equal(*found))


def mosaic(folder: Path, megapixels: float, denoiser: str, iterations: int, chunk: int) -> None:
    """Grey deblurring from Zarr to Zarr by one worker and by two."""
    from distributed import Client, LocalCluster

    columns = round((1.5e6 * megapixels) ** 0.5)
    rows = round(1e6 * megapixels / columns)
    blur = Blur(gaussian_psf(2.5, size=15), (1, rows, columns), padding="zeros")
    solver = ForwardBackward(load_pretrained(denoiser), sigma=0.03, step=STEP, box=(0, 1), tol=0)
    y = zarr().create_array(str(folder / "y"), shape=(rows, columns), chunks=(chunk, chunk), dtype="float32")
    y[:] = noise(rows, columns).numpy()
    seconds, found = [], []
    for workers in (1, 2):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            client.run(torch.set_num_threads, 1)
            started = time.perf_counter()
            out = folder / str(workers)
            result = solve(solver, y, blur, out=out, chunk=chunk, max_iter=iterations, client=client, progress=True)
            seconds.append(time.perf_counter() - started)
            sys.stdout.write(f"{rows} x {columns}, {workers} workers: peak MB of each {sorted(client.run(peak_mb).values())}\n")
        found.append(hashlib.sha256(result.x[:].tobytes()).digest())
    say_ratio(seconds, found[0] == found[1])
    if rows * columns <= IN_MEMORY:
        data = torch.from_numpy(y[:])[None, None]
        known = solver.solve(data, blur, x0=data.clamp(0, 1), max_iter=iterations).x[0, 0].numpy()
        sys.stdout.write(f"largest difference from the solver in memory: {np.abs(known - result.x[:]).max():.1e}\n")


def say_ratio(seconds: Sequence[float], equal: bool) -> None:
    """Seconds of one worker and of two."""
    one, two = seconds
    same = "the same bytes" if equal else "OTHER BYTES"
    sys.stdout.write(f"one worker {one:.1f} s, two {two:.1f} s, ratio {one / two:.2f}; {same}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the two comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["volume", "mosaic"])
    parser.add_argument("--megapixels", type=float, default=24.0)
    parser.add_argument("--denoiser", default="tiny")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--chunk", type=int, default=1024)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "volume":
            volume(Path(folder))
        else:
            mosaic(Path(folder), given.megapixels, given.denoiser, given.iterations, given.chunk)


if __name__ == "__main__":
    main()
