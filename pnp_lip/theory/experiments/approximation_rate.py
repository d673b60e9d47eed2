"""How fast the error falls with width and depth, for fixed 1-Lipschitz targets: by construction, and by training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pnp_lip.theory.certificates import output_lipschitz_upper
from pnp_lip.theory.directions import sphere_directions
from pnp_lip.theory.exact_networks import to_unbounded_width
from pnp_lip.theory.experiments.cells import Cell, Experiment, Record, Records, Tick, markdown
from pnp_lip.theory.extension import lipschitz_extension
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.max_min import MaxMin
from pnp_lip.theory.piecewise_linear import piecewise_linear
from pnp_lip.theory.projection import Projector, seal
from pnp_lip.theory.to_fixed_width import to_fixed_width
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork

__all__ = ["approximation_rate_experiment", "fitted_slope"]

Network = UnboundedWidthNetwork | FixedWidthNetwork
CURVES = {
    "interpolation of sin": "knots",
    "extension of the distance to a circle": "samples",
    "trained, Theorem 3.1, L = 4": "width",
    "trained, Theorem 4.1": "depth",
}
BATCH, RATE = 256, 2e-2


def circle_distance(x: Tensor) -> Tensor:
    """|‖x‖ − 0.7|, 1-Lipschitz, with a kink along the circle and at the origin."""
    distance: Tensor = x.norm(dim=-1)
    return (distance - 0.7).abs()


def square_grid(side: int) -> Tensor:
    """side² points of [−1, 1]²."""
    t = torch.linspace(-1, 1, side, dtype=torch.float64)
    return torch.cartesian_prod(t, t)


def approximation_rate_experiment(*, quick: bool = False) -> Experiment:
    """Errors on a fine grid against size, for four families of networks; ``quick``: two sizes of each.

    Exact constructions: sin on [−π, π] interpolated at equidistant knots (error h²/8, h the distance of knots), and the
    polyhedral McShane extension of |‖x‖ − 0.7| on [−1, 1]² from N samples on a grid, with 8⌈N^¼⌉ directions.
    Trained: the same target in the plane, least squares, Adam, isometric layers, both families, mean of the seeds. The
    largest error for the former, for the latter the root mean square, which is what they are trained for.
    """
    steps, seeds = (30, 1) if quick else (1500, 2)
    sizes = [(4, 8), (3, 5), (4, 8), (2, 4)] if quick else [
        (4, 8, 16, 32, 64, 128), (3, 5, 7, 9), (2, 4, 8, 16, 32), (2, 4, 8, 16, 32)]  # fmt: skip
    cells: dict[str, Cell] = {}
    for (curve, unit), values in zip(CURVES.items(), sizes, strict=True):
        for size in values:
            work, compute = cell(curve, size, steps, seeds)
            cells[f"{curve}, {unit} {size}"] = Cell(work, compute)
    settings = {"steps": steps, "seeds": seeds, "sizes": sizes, "batch": BATCH, "rate": RATE}
    return Experiment("approximation-rate", settings, cells, table, draw)


def cell(curve: str, size: int, steps: int, seeds: int) -> tuple[int, Callable[[Tick], Record]]:
    """The work and the computation of one point of a curve."""
    if curve.startswith("interpolation"):
        return 1, lambda tick: interpolate(curve, size, tick)
    if curve.startswith("extension"):
        return 1, lambda tick: extend(curve, size, tick)
    return steps * seeds, lambda tick: train(curve, size, steps, seeds, tick)


def interpolate(curve: str, knots: int, tick: Tick) -> Record:
    """The piecewise linear interpolant of sin, as a network of either family."""
    t = torch.linspace(-math.pi, math.pi, knots + 1, dtype=torch.float64)
    f = piecewise_linear(t, t.sin())
    points = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)[:, None]
    record = constructed(curve, f, points, points[:, 0].sin(), points)
    tick()
    return {**record, "size": knots}


def extend(curve: str, side: int, tick: Tick) -> Record:
    """The extension of side² samples."""
    samples = square_grid(side)
    directions = sphere_directions(2, math.ceil(math.sqrt(side)))
    f = lipschitz_extension(samples, circle_distance(samples), directions)
    points = square_grid(101)
    record = constructed(curve, f, points, circle_distance(points), points[::100])
    tick()
    return {**record, "size": side**2, "directions": len(directions)}


@torch.no_grad()
def constructed(curve: str, f: MaxMin, points: Tensor, target: Tensor, compared: Tensor) -> Record:
    """Sizes and errors of the two networks that equal f, which is checked at the ``compared`` points."""
    wide = to_unbounded_width(f)
    difference = float((wide(compared)[:, 0] - f(compared)).abs().max())
    return {
        "curve": curve,
        "error": float((f(points) - target).abs().max()),
        "network_differs_by": difference,
        "width": f.terms,
        "depth": len(wide.layers),
        "depth_at_fixed_width": len(to_fixed_width(f).layers) if f.terms <= 256 else f.terms - 1,
    }


def train(curve: str, size: int, steps: int, seeds: int, tick: Tick) -> Record:
    """Fit the target; ``size`` is the width of the wide family or the depth of the other."""
    errors, constants, largest = [], [], []
    for seed in range(seeds):
        torch.manual_seed(seed)
        wide = "3.1" in curve
        network: Network = UnboundedWidthNetwork(2, width=size, depth=4) if wide else FixedWidthNetwork(2, depth=size)
        fit(network, steps, tick)
        with torch.no_grad():
            points = square_grid(101)
            difference = network.double()(points)[:, 0] - circle_distance(points)
            errors.append(float(difference.std()))
            largest.append(float((difference - difference.mean()).abs().max()))
        constants.append(max(output_lipschitz_upper(network)))
    return {
        "curve": curve,
        "size": size,
        "error": sum(errors) / seeds,
        "errors": errors,
        "largest_errors": largest,
        "lipschitz_upper": max(constants),
    }


def fit(network: Network, steps: int, tick: Tick) -> None:
    """Least squares at random points of the square, up to a constant, as the readout has no bias."""
    project = Projector(network.constraints(), isometric=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        x = 2 * torch.rand(BATCH, 2) - 1
        residual = network(x)[:, 0] - circle_distance(x)
        optimiser.zero_grad()
        residual.var().backward()
        optimiser.step()
        schedule.step()
        project()
        tick()
    seal(network)


def fitted_slope(sizes: list[float], errors: list[float]) -> float:
    """The slope of the least-squares line through (log size, log error).

    >>> round(fitted_slope([1.0, 2.0, 4.0], [1.0, 0.25, 0.0625]), 6)
    -2.0
    """
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (sizes, errors))
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def curves(records: Records) -> dict[str, list[Record]]:
    """The records of each curve, by size."""
    return {
        curve: sorted((r for r in records.values() if r["curve"] == curve), key=lambda r: r["size"]) for curve in CURVES
    }


def table(records: Records) -> str:
    """Errors and slopes."""
    header = ["networks", "size", "error, by size", "slope against size", "slope against width (Theorem 3.1)"]
    rows = []
    for curve, chosen in curves(records).items():
        errors = [r["error"] for r in chosen]
        by_width = [f"{fitted_slope([r['width'] for r in chosen], errors):.2f}"] if "width" in chosen[0] else ["-"]
        listed = ", ".join(f"{r['size']}: {r['error']:.2e}" for r in chosen)
        rows.append(
            [curve, CURVES[curve], listed, f"{fitted_slope([r['size'] for r in chosen], errors):.2f}", *by_width]
        )
    return markdown(header, rows)


def draw(path: Path, records: Records) -> None:
    """Error against size, both axes logarithmic, with the fitted lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for i, (curve, chosen) in enumerate(curves(records).items()):
        axis = panels[i // 2]
        sizes, errors = [float(r["size"]) for r in chosen], [r["error"] for r in chosen]
        slope = fitted_slope(sizes, errors)
        middle = math.exp(sum(math.log(e) for e in errors) / len(errors))
        centre = math.exp(sum(math.log(s) for s in sizes) / len(sizes))
        axis.loglog(sizes, errors, "o", color=f"C{i}", label=f"{curve}: slope {slope:.2f}")
        axis.loglog(sizes, [middle * (s / centre) ** slope for s in sizes], "-", color=f"C{i}", lw=1)
    texts = (
        ("exact constructions", "knots or samples N", "largest error"),
        ("trained", "width or depth", "root mean square error"),
    )
    for axis, (title, label, error) in zip(panels, texts, strict=True):
        axis.set(xlabel=label, ylabel=error, title=title)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=9)
    figure.savefig(path, dpi=90)
