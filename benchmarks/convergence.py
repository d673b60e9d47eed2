"""Do the solvers converge where the theorems say so, how fast, and what happens without a certificate?

``run(Config())`` measures every solver on every forward model with the shipped denoiser, plain and accelerated, and with
two uncertified networks, one untrained and one trained here on scikit-image's photographs; ``python -m
pnp_lip.benchmarks.convergence RECORD.json`` writes the record and ``RECORD.md``, the tables made from it. An interrupted
run goes on where it was; ``--quick`` takes small images, loose tolerance and few iterations.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import deepinv
import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip import firm, load_pretrained
from pnp_lip.images import write_atomically
from pnp_lip.operators import Blur, FanBeam, FanBeamTomography, ParallelBeamTomography, gaussian_psf
from pnp_lip.solvers import (
    ADMM,
    RED,
    Anderson,
    DavisYin,
    DouglasRachford,
    ForwardBackward,
    HalfQuadratic,
    KrasnoselskiiMann,
    PrimalDual,
    ProximalRED,
    Solver,
)
from pnp_lip.solvers.loop import Callback
from pnp_lip.version import __version__

__all__ = ["Cell", "Config", "overhead", "render", "run"]

SOLVERS = (ForwardBackward, HalfQuadratic, ADMM, DouglasRachford, DavisYin, RED, ProximalRED, PrimalDual)
NEED_FIRM = (ADMM, DouglasRachford, DavisYin, PrimalDual)
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured: image side, noise levels of data and denoiser, the tolerance and the limits, the seed."""

    size: int = 32
    noise: float = 0.01
    sigma: float = 0.03
    tol: float = 1e-5
    max_iter: int = 5000
    uncertified_max_iter: int = 300
    training_steps: int = 300
    seed: int = 0


QUICK = Config(size=16, tol=1e-3, max_iter=300, uncertified_max_iter=20, training_steps=10)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: what, how it ended, and the time it took (CPU seconds of the process)."""

    operator: str
    solver: str
    denoiser: str
    scheme: str
    status: str
    outcome: str
    iterations: int
    relative_residual: float
    psnr: float
    cpu_seconds: float
    proved: bool


def run(config: Config, done: Sequence[Cell] = ()) -> Iterator[Cell]:
    """Every cell of the tables, those that are ``done`` without measuring them again."""
    x = test_image(config.size)
    known = {(c.operator, c.solver, c.denoiser, c.scheme): c for c in done}
    for name, physics in operators(config):
        y = physics.A(x)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(config.seed))
        y = y + config.noise * y.abs().max() * noise
        for label, solver in solvers(config):
            key = (name, type(solver).__name__, label, type(solver.scheme).__name__)
            yield known[key] if key in known else measure(solver, y, physics, x, name, label)


def solvers(config: Config) -> Iterator[tuple[str, Solver]]:
    """Every solver with every denoiser that it may or may not take."""
    certified = load_pretrained("grey").eval()
    for kind in SOLVERS:
        net = firm(certified) if kind in NEED_FIRM else certified
        for scheme in (KrasnoselskiiMann(), Anderson()):
            options: dict[str, Any] = {"tol": config.tol, "max_iter": config.max_iter, "scheme": scheme}
            yield "certified", kind(net, sigma=config.sigma, **options)
        for label, network in uncertified(config):
            options = {"tol": config.tol, "max_iter": config.uncertified_max_iter, "guarantee": "report"}
            yield label, kind(network, sigma=config.sigma, **options)


def measure(solver: Solver, y: Tensor, physics: Any, x: Tensor, operator: str, denoiser: str) -> Cell:
    """One run and its record."""
    started = time.process_time()
    result = solver.solve(y, physics, reference=x)
    cell = Cell(
        operator=operator,
        solver=type(solver).__name__,
        denoiser=denoiser,
        scheme=type(solver.scheme).__name__,
        status=result.status,
        outcome=outcome(result.status, result.history.relative, result.history.psnr[-1]),
        iterations=result.iterations,
        relative_residual=result.history.relative[-1],
        psnr=result.history.psnr[-1],
        cpu_seconds=time.process_time() - started,
        proved=result.guarantee.proved,
    )
    log.info("%s", cell)
    return cell


def outcome(status: str, relative: Sequence[float], psnr: float) -> str:
    """In a word: settled, diverged (an error larger than the image), slow (still falling) or cycled (no longer falling)."""
    if status == "converged":
        return "settled"
    if status == "diverged" or psnr < 0:
        return "diverged"
    half = len(relative) // 2
    return "slow" if min(relative[half:]) < 0.7 * min(relative[:half]) else "cycled"


def operators(config: Config) -> Iterator[tuple[str, Any]]:
    """The forward models of the table."""
    n = config.size
    shape = (1, n, n)
    for padding in ("circular", "zeros"):
        yield f"blur, {padding}", Blur(gaussian_psf(1.5), shape, padding=padding)
    for views in (32, 180):
        yield f"CT parallel, {views} views", ParallelBeamTomography(np.arange(views) * (180 / views), shape)
    fan = FanBeam(np.arange(60) * 6.0, source_distance=2.0 * n, detector_distance=2.0 * n, det_spacing=2.0)
    yield "CT fan, 60 views", FanBeamTomography(fan, shape)


def test_image(size: int) -> Tensor:
    """A part of skimage's camera image, reduced to (1, 1, size, size)."""
    from skimage.data import camera
    from skimage.transform import resize

    crop = resize(camera()[40:296, 120:376] / 255.0, (size, size), anti_aliasing=True)
    return torch.from_numpy(crop).float()[None, None]


def uncertified(config: Config) -> Iterator[tuple[str, nn.Module]]:
    """deepinv's DnCNN, as initialised and trained."""
    yield "DnCNN, untrained", network(config.seed)
    if config.training_steps:
        yield "DnCNN, trained", trained(config)


def network(seed: int) -> nn.Module:
    """A DnCNN with seven layers of 24 channels."""
    torch.manual_seed(seed)
    net: nn.Module = deepinv.models.DnCNN(1, 1, depth=7, nf=24, pretrained=None)
    return net.eval()


TRAINED: dict[Config, nn.Module] = {}


def trained(config: Config) -> nn.Module:
    """The same network trained at one noise level on patches of skimage's images, without any constraint."""
    if config not in TRAINED:
        net = network(config.seed).train()
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(config.seed)
        for _ in range(config.training_steps):
            clean = patches(generator)
            noisy = clean + config.sigma * torch.randn(clean.shape, generator=generator)
            loss = (net(noisy, config.sigma) - clean).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        log.info("trained DnCNN: mean squared error %.2e, noise %.2e", float(loss), config.sigma**2)
        TRAINED[config] = net.eval()
    return TRAINED[config]


def patches(generator: torch.Generator, count: int = 8, size: int = 40) -> Tensor:
    """Random patches of skimage's moon, coins, page and brick."""
    from skimage import data

    images = [data.moon(), data.coins(), data.page(), data.brick()]
    rows = []
    for _ in range(count):
        image = images[int(torch.randint(len(images), (1,), generator=generator))]
        top, left = (int(torch.randint(side - size, (1,), generator=generator)) for side in image.shape)
        rows.append(torch.from_numpy(image[top : top + size, left : left + size] / 255.0).float())
    return torch.stack(rows)[:, None]


def overhead(config: Config, *, size: int = 128, iterations: int = 30) -> dict[str, float]:
    """The share of a run's CPU time that is spent outside the denoiser and the operator, by iteration scheme."""
    shares = {}
    for scheme in (KrasnoselskiiMann(), Anderson()):
        clock = Clock()
        physics = Blur(gaussian_psf(1.5), (1, size, size), padding="circular")
        y = physics.A(test_image(size))
        for name in ("A", "A_adjoint"):
            setattr(physics, name, clock.timed(getattr(physics, name)))
        net = load_pretrained("grey").eval()
        solver = ForwardBackward(
            clock.timed(net),
            sigma=config.sigma,
            tol=0,
            max_iter=iterations,
            assume_nonexpansive=True,
            scheme=scheme,
        )
        marks: list[tuple[float, float]] = []
        solver.solve(y, physics, callback=clock.recorder(marks))
        total, inside = marks[-1][0] - marks[4][0], marks[-1][1] - marks[4][1]  # past the warm-up
        shares[type(scheme).__name__] = 1 - inside / total
    return shares


class Clock:
    """Adds up the CPU time spent in functions."""

    def __init__(self) -> None:
        self.spent = 0.0

    def recorder(self, marks: list[tuple[float, float]]) -> Callback:
        """A callback that notes the time of the process and the time spent in functions."""

        def note(k: int, x: Tensor, relative: tuple[float, ...]) -> None:
            marks.append((time.process_time(), self.spent))

        return note

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to ``spent``."""

        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            started = time.process_time()
            result = function(*arguments, **keywords)
            self.spent += time.process_time() - started
            return result

        return wrapper


def render(record: dict[str, Any]) -> str:
    """The tables of a record, as markdown."""
    cells = [Cell(**cell) for cell in record["cells"]]
    names = list(dict.fromkeys(cell.operator for cell in cells))
    text = [f"Settings: `{json.dumps(record['config'])}`, {record['versions']}.", ""]
    certified = [c for c in cells if c.denoiser == "certified"]
    for scheme in dict.fromkeys(c.scheme for c in certified):
        text += [
            f"**Certified denoiser, {scheme}**: iterations (CPU seconds) until it settled, or what happened instead.",
            "",
        ]
        chosen = [c for c in certified if c.scheme == scheme]
        text += grid(
            chosen, names, lambda c: f"{c.iterations} ({c.cpu_seconds:.1f})" if c.outcome == "settled" else c.outcome
        )
    for label in dict.fromkeys(c.denoiser for c in cells if c.denoiser != "certified"):
        text += [f"**{label}, uncertified**: outcome, relative residual, PSNR.", ""]
        chosen = [c for c in cells if c.denoiser == label]
        text += grid(chosen, names, lambda c: f"{c.outcome}, {c.relative_residual:.0e}, {c.psnr:.1f} dB")
    ratios = speedups(certified)
    text += [f"Plain over accelerated iterations: median {statistics.median(ratios):.1f}, least {min(ratios):.1f}."]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in record["overhead"].items())
    return "\n".join([*text, f"Time outside denoiser and operator: {shares}.", ""])


def grid(cells: list[Cell], names: list[str], show: Callable[[Cell], str]) -> list[str]:
    """One row for each solver, one column for each operator."""
    rows = ["| solver | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for solver in dict.fromkeys(c.solver for c in cells):
        found = {c.operator: show(c) for c in cells if c.solver == solver}
        rows.append(f"| {solver} | " + " | ".join(found.get(name, "-") for name in names) + " |")
    return [*rows, ""]


def speedups(cells: list[Cell]) -> list[float]:
    """Iterations of the plain scheme over those of the accelerated one, for every operator and solver."""
    plain = {(c.operator, c.solver): c.iterations for c in cells if c.scheme == "KrasnoselskiiMann"}
    return [plain[c.operator, c.solver] / c.iterations for c in cells if c.scheme != "KrasnoselskiiMann"]


def measured(config: Config, path: Path) -> dict[str, Any]:
    """Everything that was measured, with what it was measured on; written to ``path`` after every cell.

    An incomplete record of the same settings and versions found there is gone on with.
    """
    versions = f"pnp-lip {__version__}, torch {torch.__version__}, deepinv {deepinv.__version__}"
    versions = f"{versions}, {platform.machine()}, {torch.get_num_threads()} thread(s)"
    record: dict[str, Any] = {"config": dataclasses.asdict(config), "versions": versions, "complete": False}
    found = json.loads(path.read_text()) if path.exists() else {}
    same = found.get("complete") is False and all(found.get(k) == record[k] for k in ("config", "versions"))
    record["overhead"] = found["overhead"] if same else overhead(config)
    record["cells"] = []
    for cell in run(config, [Cell(**c) for c in found["cells"]] if same else ()):
        record["cells"].append(dataclasses.asdict(cell))
        if len(record["cells"]) > (len(found["cells"]) if same else 0):
            write(path, record)
    record["complete"] = True
    write(path, record)
    return record


def write(path: Path, record: dict[str, Any]) -> None:
    """Replace the record in one step."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the record and its tables."""
    from pnp_lip.benchmarks import report  # which imports this module

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--size", type=int, default=Config.size)
    parser.add_argument("--quick", action="store_true", help="a minute: small images, tolerance 1e-3, short training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    config = dataclasses.replace(QUICK, size=min(options.size, QUICK.size)) if options.quick else Config(options.size)
    measured(config, options.record)
    report.write_text(options.record.with_suffix(".md"), report.read(options.record).markdown())


if __name__ == "__main__":
    main()
