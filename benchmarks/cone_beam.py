"""The cone beam at 128³ and 60 views: seconds, memory, and the distance from an analytic ellipsoid. Writes a CSV file.

python -m pnp_lip.benchmarks.cone_beam benchmarks/records/cone_beam.csv
"""

import csv
import resource
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.record import timed
from pnp_lip.operators import ConeBeam, ConeBeamTomography

__all__ = ["run"]

CUTS = 4  # of a voxel, and of a detector cell, along each side
Point = tuple[float, float, float]


def run(n: int = 128, views: int = 60) -> list[tuple[str, float]]:
    """Quantities and their values; CPU seconds on one thread."""
    torch.set_num_threads(1)
    scan = ConeBeam(np.arange(views) * 360.0 / views, source_distance=4.0 * n, detector_distance=2.0 * n, det_spacing=1.5)
    centre, axes = (0.05 * n, -0.07 * n, 0.03 * n), (0.375 * n, 0.266 * n, 0.32 * n)
    x = ellipsoid(n, centre, axes)[None, None]
    before = peak()
    physics = ConeBeamTomography(scan, (1, n, n, n))
    y, forward = timed(lambda: physics.A(x.float()))
    _, adjoint = timed(lambda: physics.A_adjoint(y))
    found: list[tuple[str, float]] = [
        ("A, CPU s", forward["cpu_seconds"]), ("A_adjoint, CPU s", adjoint["cpu_seconds"]),
        ("peak memory of both above that before, MB", peak() - before),
    ]  # fmt: skip
    points, cells = (chords(physics.geometry, centre, axes, cuts) for cuts in (1, CUTS))
    found += [(f"relative error against an ellipsoid, {name}", distance(y[0, 0], expected)) for name, expected in
              (("mean over each detector cell", cells), ("middle of each detector cell", points))]  # fmt: skip
    back, fdk = timed(lambda: physics.fdk(y))
    found += [("fdk, CPU s", fdk["cpu_seconds"]), ("fdk, relative error", distance(back, x))]
    bound, seconds = timed(physics.norm_bound)
    found += [("norm_bound, CPU s", seconds["cpu_seconds"]), ("norm_upper", bound.upper), ("norm_lower", bound.lower)]
    exact, g = ConeBeamTomography(scan, (1, n, n, n), dtype=torch.float64), torch.Generator().manual_seed(0)
    u, v = (torch.randn(1, *size, dtype=torch.float64, generator=g) for size in (exact.img_size, exact.data_size))
    image, back = exact.A(u), exact.A_adjoint(v)
    gap = abs(float((image * v).sum() - (u * back).sum())) / float(image.norm() * v.norm())
    return [*found, ("dot test in float64, relative", gap), ("peak memory of the process, MB", peak())]


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖/‖b‖."""
    return float((a.double() - b).norm() / b.norm())


def peak() -> float:
    """The largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ellipsoid(n: int, centre: Point, axes: Point) -> Tensor:
    """The share of each voxel inside; centre and half axes along x, y (upwards) and the slices, in voxels."""
    line = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    share, parts = torch.zeros(n, n, n, dtype=torch.float64), [(k + 0.5) / CUTS - 0.5 for k in range(CUTS)]
    x, y, z = ([((s * line + p - c) / a) ** 2 for p in parts] for s, c, a in zip((1, -1, 1), centre, axes, strict=True))
    for one in z:
        for two in y:
            for three in x:
                share += one[:, None, None] + two[:, None] + three < 1
    return share / CUTS**3


def chords(scan: ConeBeam, centre: Point, axes: Point, cuts: int) -> Tensor:
    """The lengths of the rays inside the ellipsoid, averaged over cuts² places of each detector cell."""
    parts = [((k + 0.5) / cuts - 0.5) * scan.det_spacing for k in range(cuts)]
    fan, c, a, views = scan.fan, torch.tensor(centre), torch.tensor(axes), []
    for angle in fan.degrees:
        total = torch.zeros((), dtype=torch.float64)
        for row in parts:
            for column in parts:
                point, direction = fan.rays(float(angle) + fan.turn, fan.bin_centres + column)
                v = (scan.row_centres + row)[:, None, None].expand(-1, len(direction), 1)
                ray = torch.cat([direction.expand(len(v), -1, -1), v], -1)
                start, step = (torch.cat([point[0], torch.zeros(1)]) - c) / a, ray / a
                square, half, rest = step.square().sum(-1), (step * start).sum(-1), start.square().sum() - 1
                total = total + 2 * (half.square() - square * rest).clamp_min(0).sqrt() / square * ray.norm(dim=-1)
        views.append(total / cuts**2)
    return torch.stack(views)


if __name__ == "__main__":
    with Path(sys.argv[1]).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("cone beam, 128^3 voxels, 60 views", "value"))
        writer.writerows((name, f"{value:.3g}") for name, value in run())
