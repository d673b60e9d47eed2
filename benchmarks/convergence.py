"""Do the solvers converge where the theorems say so, how fast, and what happens without a certificate?

Every solver on every forward model with the shipped denoiser, plain and accelerated, and with an uncertified network.
"""

import functools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pnp_lip.benchmarks.config import ConvergenceConfig
from pnp_lip.benchmarks.networks import untrained
from pnp_lip.benchmarks.photographs import sha256_of
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, Record, Row, Table, timed
from pnp_lip.certificates import certify, firm
from pnp_lip.operators import Blur, FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography, gaussian_psf
from pnp_lip.pretrained import load_pretrained
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers import Anderson, KrasnoselskiiMann, Solver, licensed
from pnp_lip.solvers.licences import SOLVERS

__all__ = ["run", "tables"]

SCHEMES = (KrasnoselskiiMann, Anderson)
PLAIN = KrasnoselskiiMann.__name__
FALLING = 0.7  # a run is slow, and does not cycle, if its second half lowered the least residual by this factor


def run(config: ConvergenceConfig, to: Destination, priors: Sequence[Prior] = ()) -> Row:
    """The record of every solver on every forward model; continues the one that is there."""
    x = test_image(config.size)
    record = Record.open(to, "convergence", config, {"image": sha256_of(x)})
    for name, physics in forward_models(config.size):
        y = physics.A(x)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(config.seed))
        y = y + config.noise * y.abs().max() * noise
        for label, solver in solvers(config):
            key = {"operator": name, "solver": type(solver).__name__, "denoiser": label,
                   "scheme": type(solver.scheme).__name__}  # fmt: skip
            record.measure(key, functools.partial(solved, solver, y, physics, x, config, label == "certified"))
    return record.content


def solvers(config: ConvergenceConfig) -> Iterator[tuple[str, Solver]]:
    """Every solver with every denoiser that it may or may not take."""
    certified = load_pretrained("grey").eval()
    dncnn = untrained("DnCNN", config.seed, in_channels=1, out_channels=1, depth=7, nf=24)
    enough = licensed(certify(certified))
    for kind in SOLVERS:
        net = certified if kind.__name__ in enough else firm(certified).eval()
        for scheme in SCHEMES:
            yield "certified", kind(net, sigma=config.sigma, tol=config.tol, scheme=scheme())
        yield "DnCNN, untrained", kind(dncnn, sigma=config.sigma, tol=config.tol)


def solved(solver: Solver, y: Tensor, physics: PhysicsLike, x: Tensor, config: ConvergenceConfig, certified: bool) -> Row:
    """One run: how it ended, the time it took, and that of its ``examination`` as a share of 50 iterations."""
    most, guarantee = (config.max_iter, "require") if certified else (config.uncertified_max_iter, "report")
    examine(solver, y, physics, guarantee)  # proofs are made once
    _, examined = timed(lambda: examine(solver, y, physics, guarantee))
    result, times = timed(lambda: solver.solve(y, physics, reference=x, max_iter=most, guarantee=guarantee))
    history = result.history
    return {
        "examination": examined["cpu_seconds"] / (50 * times["cpu_seconds"] / result.iterations),
        "status": result.status,
        "outcome": outcome(result.status, history.relative, history.psnr[-1]),
        "iterations": result.iterations,
        "relative_residual": history.relative[-1],
        "psnr": history.psnr[-1],
        "cpu_seconds": times["cpu_seconds"],
        "proved": result.guarantee.proved,
    }


@torch.no_grad()
def examine(solver: Solver, y: Tensor, physics: PhysicsLike, guarantee: str) -> None:
    """All that a run does beside its iterations: the examination before it, and the comparison after it."""
    prepared = solver.prepare(y, physics, guarantee=guarantee)
    prepared.witness.changed(prepared.maps, solver.denoiser)


def outcome(status: str, relative: Sequence[float], psnr: float) -> str:
    """In a word: settled, diverged (an error larger than the image), slow (still falling) or cycled (no longer falling)."""
    if status == "converged":
        return "settled"
    if status == "diverged" or psnr < 0:
        return "diverged"
    half = len(relative) // 2
    return "slow" if min(relative[half:]) < FALLING * min(relative[:half]) else "cycled"


def forward_models(n: int) -> Iterator[tuple[str, PhysicsLike]]:
    """The forward models of the table, for images of n × n pixels."""
    shape = (1, n, n)
    for padding in ("circular", "zeros"):
        yield f"blur, {padding}", Blur(gaussian_psf(1.5), shape, padding=padding)
    for views in (32, 180):
        parallel = ParallelBeam(np.arange(views) * (180 / views))
        yield f"CT parallel, {views} views", ParallelBeamTomography(parallel, shape)
    fan = FanBeam(np.arange(60) * 6.0, source_distance=2.0 * n, detector_distance=2.0 * n, det_spacing=2.0)
    yield "CT fan, 60 views", FanBeamTomography(fan, shape)


def test_image(size: int) -> Tensor:
    """A part of skimage's camera image, reduced to (1, 1, size, size)."""
    from skimage.data import camera
    from skimage.transform import resize

    crop = resize(camera()[40:296, 120:376] / 255.0, (size, size), anti_aliasing=True)
    return torch.from_numpy(crop).float()[None, None]


def tables(content: Row) -> list[Table]:
    """Iterations with the certified denoiser, and what happens with the others."""

    def cost(row: Row) -> str:
        return f"{row['iterations']} ({row['cpu_seconds']:.1f})" if row["outcome"] == "settled" else str(row["outcome"])

    def ending(row: Row) -> str:
        return f"{row['outcome']}, {row['relative_residual']:.0e}, {row['psnr']:.1f} dB"

    rows = [r for r in content["rows"] if "solver" in r and "error" not in r]
    certified = [r for r in rows if r["denoiser"] == "certified"]
    here = content["environments"][-1]
    machine = [f"{name} {here['versions'][name]}" for name in ("pnp-lip", "torch", "deepinv")]
    machine += [here["system"], f"{here['threads']} thread(s)"]
    made = [Table(note=f"Settings: {json.dumps(content['settings'])}, {', '.join(machine)}.")]
    for scheme in dict.fromkeys(r["scheme"] for r in certified):
        note = f"Certified denoiser, {scheme}: iterations (CPU seconds) until it settled, or what happened instead."
        chosen = [r for r in certified if r["scheme"] == scheme]
        made += [Table(note=note), by_operator(chosen, cost)]
    for label in dict.fromkeys(r["denoiser"] for r in rows if r["denoiser"] != "certified"):
        note = f"{label}, uncertified: outcome, relative residual, PSNR."
        made += [Table(note=note), by_operator([r for r in rows if r["denoiser"] == label], ending)]
    plain = {(r["operator"], r["solver"]): r["iterations"] for r in certified if r["scheme"] == PLAIN}
    ratios = [plain[r["operator"], r["solver"]] / r["iterations"] for r in certified if r["scheme"] != PLAIN]
    text = f"Plain over accelerated iterations: median {statistics.median(ratios):.1f}, least {min(ratios):.1f}."
    examined = [r["examination"] for r in certified if "examination" in r]  # older records lack it
    if examined:
        text += f" Examination, of 50 iterations: median {statistics.median(examined):.1%}, most {max(examined):.1%}."
    return [*made, Table(note=text)]


def by_operator(rows: Sequence[Row], show: Callable[[Row], str]) -> Table:
    """One row for each solver, one column for each operator."""
    names = tuple(dict.fromkeys(r["operator"] for r in rows))
    lines = []
    for solver in dict.fromkeys(r["solver"] for r in rows):
        found = {r["operator"]: show(r) for r in rows if r["solver"] == solver}
        lines.append((solver, *(found.get(name, "-") for name in names)))
    return Table("", ("solver", *names), tuple(lines))
