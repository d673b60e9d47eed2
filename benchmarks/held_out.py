"""How near to the best strength ``choose_for_scan`` comes, beside total variation whose strength is chosen by the same rule.

python -m pnp_lip.benchmarks.held_out --out held_out.csv --phantom cranium8.npz
"""

import argparse
import csv
import dataclasses
import functools
import math
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.baselines import SmoothedTotalVariation
from pnp_lip.benchmarks.tasks import load_slices, photon_noise, validation_slices
from pnp_lip.images import psnr
from pnp_lip.operators import ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.phantoms import Ellipse, ellipse_image
from pnp_lip.pretrained import load_pretrained
from pnp_lip.solvers import Choice, Variational, choose_by_held_out
from pnp_lip.solvers.parameter_choice import climb, with_settings
from pnp_lip.solvers.scan_strength import LOOSE, SCAN_TOL, SCAN_WEIGHT, choose_for_scan, noise_of_scan

__all__ = ["run"]

Row = dict[str, object]

GEOMETRIES = ("parallel 60", "parallel 30", "limited 60")  # the last one sees 120 of 180 degrees
NOISES = ("Gaussian 0.01", "Poisson 1e3", "Poisson 1e4", "Poisson 1e5")  # of the largest datum; photons a ray
TV_EXPECTED = 0.07  # weight of total variation in units of the noise; the best ones in made-up scans lay between 0.01 and 0.11
TV_FACTORS = tuple(2 ** (k / 2) for k in range(-8, 9))
VENTRICLES: tuple[Ellipse, ...] = ((-0.01, 0.09, 0.27, -0.15, 0.08, 12.0), (-0.01, 0.09, 0.27, 0.15, 0.08, -12.0))  # 26 HU
LOW_CONTRAST: tuple[Ellipse, ...] = (
    (0.90, 0.71, 0.89, 0.0, 0.0, 0.0),
    (-0.50, 0.64, 0.82, 0.0, 0.0, 0.0),
    *VENTRICLES,
    (0.01, 0.20, 0.14, 0.27, -0.38, 30.0),
    (-0.008, 0.11, 0.20, -0.36, -0.22, 20.0),
    (0.02, 0.05, 0.05, -0.30, 0.42, 0.0),
    (0.30, 0.03, 0.10, 0.0, 0.70, 0.0),
)


@dataclasses.dataclass(frozen=True)
class Scan:
    """One simulated scan; ``physics`` has the norm 1."""

    name: str
    geometry: str
    noise: str
    x: Tensor
    physics: ParallelBeamTomography
    y: Tensor


def low_contrast(n: int) -> Tensor:
    """A head whose ventricles are 26 HU darker than the brain, with a texture of 4 HU."""
    coarse = torch.randn((1, 1, 24, 24), generator=torch.Generator().manual_seed(1))
    brain = ellipse_image(n, ((1.0, 0.64, 0.82, 0.0, 0.0, 0.0),)).float()
    texture = 0.0015 * torch.nn.functional.interpolate(coarse, (n, n), mode="bicubic") * brain
    return (ellipse_image(n, LOW_CONTRAST).float()[None, None] + texture).clamp(0, 1)


def contrast(x: Tensor, truth: Tensor) -> float:
    """Mean of a ring around the ventricles less that inside of them, over the true one."""

    def regions(factor: float) -> Tensor:
        return ellipse_image(len(x[0, 0]), tuple((1.0, factor * a, factor * b, u, v, turn) for _, a, b, u, v, turn in VENTRICLES))

    inside, ring = regions(0.8) > 0.99, (regions(1.5) > 0) & (regions(1.2) == 0)
    found, true = (float(i[0, 0][ring].double().mean() - i[0, 0][inside].double().mean()) for i in (x, truth))
    return found / true


@functools.cache
def projector(geometry: str, n: int) -> ParallelBeamTomography:
    """Views evenly over 180°, or over the 120° from 30° on."""
    kind, views = geometry.split()
    arc, first = (120.0, 30.0) if kind == "limited" else (180.0, 0.0)
    beam = ParallelBeam(first + np.arange(int(views)) * arc / int(views), n_det=math.ceil(1.05 * n))
    return ParallelBeamTomography(beam, (1, n, n), normalize=True)


def simulate(name: str, x: Tensor, geometry: str, noise: str) -> Scan:
    """The data of one object, with noise that depends on nothing but the three names."""
    physics, (kind, level) = projector(geometry, x.shape[-1]), noise.split()
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name},{geometry},{noise}".encode()))
    clean = physics.A(x)
    if kind == "Poisson":
        return Scan(name, geometry, noise, x, physics, photon_noise(clean, float(level), generator)[0])
    deviation = float(level) * float(clean.max())
    return Scan(name, geometry, noise, x, physics, clean + deviation * torch.randn(clean.shape, generator=generator))


def measure(scan: Scan, prior: str) -> Row:
    """The chosen strength's PSNR, the best one's on the same grid, contrasts, the work of the choice, and PSNR at tol/10."""
    noise = noise_of_scan(scan.y)
    if prior == "TV":
        solver, parameter = Variational(SmoothedTotalVariation(), curvature=SmoothedTotalVariation.curvature), "weight"
        start = TV_EXPECTED * noise
        values = [start * factor for factor in TV_FACTORS]
        choose: Callable[[], Choice] = lambda: choose_by_held_out(  # noqa: E731
            solver, scan.y, scan.physics, values=values, parameter="weight", start=start, tol=LOOSE * noise
        )
    else:
        solver, parameter = Variational(load_pretrained(prior), weight=SCAN_WEIGHT, tol=SCAN_TOL), "sigma"
        choose = lambda: choose_for_scan(solver, scan.y, scan.physics, noise=noise)  # noqa: E731
    begun = time.process_time()
    choice = choose()
    chosen_in = time.process_time() - begun
    begun = time.process_time()
    alone = choice.solver.solve(scan.y, scan.physics)
    solved_in = time.process_time() - begun
    seen: dict[float, Tensor] = {choice.best[parameter]: choice.result.x}

    def score(value: float) -> float:
        if value not in seen:
            near = seen[min(seen, key=lambda s: abs(math.log(s / value)))]
            loose = dataclasses.replace(with_settings(choice.solver, [{parameter: value}])[0], tol=max(SCAN_TOL, LOOSE * noise))
            seen[value] = loose.solve(scan.y, scan.physics, x0=near).x
        return psnr(seen[value].clamp(0, 1), scan.x)

    start = choice.best[parameter]
    reach = 0 if prior == "TV" else 12
    best, curve = climb(score, [start * 2 ** (k / 4) for k in range(-reach, reach + 1)], start, stride=2)
    finer = None
    if scan.name.startswith("slice"):
        exact = dataclasses.replace(choice.solver, tol=choice.solver.tol / 10)
        finer = psnr(exact.solve(scan.y, scan.physics, x0=choice.result.x, max_iter=4000).x.clamp(0, 1), scan.x)
    low = scan.name == "low contrast"
    return {
        "psnr": curve[start], "best psnr": curve[best] if reach else None,
        "strength": start, "best over chosen strength": best / start if reach else None, "values tried": len(choice.scores),
        "contrast": contrast(choice.result.x, scan.x) if low else None,
        "contrast at the best": contrast(seen[best], scan.x) if low and reach else None,
        "psnr from zero": psnr(alone.x.clamp(0, 1), scan.x), "psnr at tol/10": finer,
        "status": choice.result.status, "cpu s of choice and solution": chosen_in, "cpu s of one solution": solved_in,
    }  # fmt: skip


def scans(phantom: Path | None, side: int) -> list[tuple[str, Tensor, str, str]]:
    """Made-up objects under every second condition, in turn; four head slices with 60 and 30 views and two kinds of noise."""
    head, photograph = validation_slices(side)
    made_up = [(head.name, head.x), ("low contrast", low_contrast(side)), (photograph.name, photograph.x)]
    cases = []
    for i, noise in enumerate(NOISES):
        for j, geometry in enumerate(GEOMETRIES):
            cases += [(*thing, geometry, noise) for k, thing in enumerate(made_up) if (i + j + k) % 2 == 0]
    slices = [] if phantom is None else [(s.name, s.x) for s in load_slices(phantom, None, side)[::2]]
    for geometry, noise in ((g, n) for g in GEOMETRIES[:2] for n in (NOISES[0], NOISES[2])):
        cases += [(*thing, geometry, noise) for thing in slices]
    return cases[::2] + cases[1::2]


def run(out: Path, phantom: Path | None, side: int, priors: Sequence[str] = ("ridge", "TV")) -> None:
    """Write the rows one by one; those that ``out`` has already are kept."""
    done = set()
    if out.exists():
        with out.open() as file:
            done = {(r["object"], r["geometry"], r["noise"], r["prior"]) for r in csv.DictReader(file)}
    for name, x, geometry, noise in scans(phantom, side):
        for prior in priors:
            key = {"object": name, "geometry": geometry, "noise": noise, "prior": prior}
            if tuple(key.values()) in done:
                continue
            row = key | measure(simulate(name, x, geometry, noise), prior)
            with out.open("a") as file:
                writer = csv.DictWriter(file, row)
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phantom", type=Path, help="npz with hu, Hounsfield units (n, rows, columns)")
    parser.add_argument("--side", type=int, default=96)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options.out, options.phantom, options.side)
