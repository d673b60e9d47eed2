"""How fast the error falls with width and depth, for fixed 1-Lipschitz targets: by construction, and by training."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pnp_lip.theory.certificates import output_lipschitz_upper
from pnp_lip.theory.constraints import Projector, descend, seal
from pnp_lip.theory.exact import MaxMin, lipschitz_extension, piecewise_linear, sphere_directions, to_unbounded_width
from pnp_lip.theory.experiments.experiment import Cells, Experiment, Values, markdown, where
from pnp_lip.theory.networks import FixedWidthNetwork, Network, UnboundedWidthNetwork

__all__ = ["approximation_rate_experiment"]

BATCH, RATE = 256, 2e-2  # points of a step, Adam's learning rate


def approximation_rate_experiment(*, quick: bool = False) -> Experiment:
    """Errors on a fine grid against size, for four families of networks; ``quick``: two sizes of each.

    Exact constructions: sin on [−π, π] interpolated at equidistant knots (error h²/8, h the distance of knots), and the
    polyhedral McShane extension of |‖x‖ − 0.7| on [−1, 1]² from N samples on a grid, with 8⌈N^¼⌉ directions.
    Trained: the same target in the plane, least squares, Adam, isometric layers, both families, mean of the seeds. The
    largest error for the former, for the latter the root mean square, which is what they are trained for.
    """
    steps, seeds = (30, 1) if quick else (1500, 2)
    sizes = [curve.sizes[: 2 if quick else None] for curve in CURVES.values()]
    cells = {
        f"{name}, {curve.unit} {size}": functools.partial(compute, name, size, steps, seeds)
        for (name, curve), chosen in zip(CURVES.items(), sizes, strict=True)
        for size in chosen
    }
    settings = {"steps": steps, "seeds": seeds, "sizes": sizes, "batch": BATCH, "rate": RATE}
    return Experiment("approximation-rate", settings, cells, table, draw)


def compute(name: str, size: int, steps: int, seeds: int) -> Values:
    return {"curve": name, "size": size, **CURVES[name].measure(size, steps, seeds)}


def circle_distance(x: Tensor) -> Tensor:
    """|‖x‖ − 0.7|, 1-Lipschitz, with a kink along the circle and at the origin."""
    return torch.abs(x.norm(dim=-1) - 0.7)


def square_grid(side: int) -> Tensor:
    """side² points of [−1, 1]²."""
    t = torch.linspace(-1, 1, side, dtype=torch.float64)
    return torch.cartesian_prod(t, t)


def interpolate(knots: int) -> Values:
    t = torch.linspace(-math.pi, math.pi, knots + 1, dtype=torch.float64)
    points = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)[:, None]
    return constructed(piecewise_linear(t, t.sin()), points, points[:, 0].sin(), points)


def extend(side: int) -> Values:
    samples, points = square_grid(side), square_grid(101)
    directions = sphere_directions(2, math.ceil(math.sqrt(side)))
    f = lipschitz_extension(samples, circle_distance(samples), directions)
    sizes = {"size": side**2, "directions": len(directions)}
    return {**constructed(f, points, circle_distance(points), points[::100]), **sizes}


@torch.no_grad()
def constructed(f: MaxMin, points: Tensor, target: Tensor, compared: Tensor) -> Values:
    """Sizes and errors of the networks that equal f, which is checked at the ``compared`` points."""
    wide = to_unbounded_width(f)
    return {
        "error": float((f(points) - target).abs().max()),
        "network_differs_by": float((wide(compared)[:, 0] - f(compared)).abs().max()),
        "width": f.terms,
        "depth": len(wide.layers),
        "depth_at_fixed_width": f.terms - 1,  # as ``to_fixed_width`` makes it
    }


def train(make: Callable[[int], Network], size: int, steps: int, seeds: int) -> Values:
    """Fit the target with networks of this size."""
    points = square_grid(101)
    errors, constants, largest = [], [], []
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = make(size)
        project = Projector(network.constraints(), isometric=True)
        descend(network.parameters(), functools.partial(variance, network), project, steps=steps, rate=RATE)
        with torch.no_grad():
            difference = seal(network).double()(points)[:, 0] - circle_distance(points)
        errors.append(float(difference.std()))
        largest.append(float((difference - difference.mean()).abs().max()))
        constants.append(max(output_lipschitz_upper(network)))
    error = sum(errors) / seeds
    return {"error": error, "errors": errors, "largest_errors": largest, "lipschitz_upper": max(constants)}


def variance(network: Network) -> Tensor:
    """Least squares at random points of the square, up to a constant, as the readout has no bias."""
    x = 2 * torch.rand(BATCH, 2) - 1
    residual: Tensor = network(x)[:, 0] - circle_distance(x)
    return residual.var()


class Curve(NamedTuple):
    """Errors of one kind of networks: what its sizes count, the sizes, ``measure(size, steps, seeds)``."""

    unit: str
    sizes: tuple[int, ...]
    measure: Callable[[int, int, int], Values]


WIDE = functools.partial(train, lambda width: UnboundedWidthNetwork(2, width=width, depth=4))
DEEP = functools.partial(train, lambda depth: FixedWidthNetwork(2, depth=depth))
CURVES = {
    "interpolation of sin": Curve("knots", (4, 8, 16, 32, 64, 128), lambda size, *_: interpolate(size)),
    "extension of the distance to a circle": Curve("samples", (3, 5, 7, 9), lambda size, *_: extend(size)),
    "trained, Theorem 3.1, L = 4": Curve("width", (2, 4, 8, 16, 32), WIDE),
    "trained, Theorem 4.1": Curve("depth", (2, 4, 8, 16, 32), DEEP),
}


def slope(cells: list[Values], against: str) -> float:
    """The slope of the least-squares line through (log size, log error).

    >>> round(slope([{"n": 1, "error": 1.0}, {"n": 2, "error": 0.25}, {"n": 4, "error": 0.0625}], "n"), 6)
    -2.0
    """
    x, y = (np.log([r[name] for r in cells]) for name in (against, "error"))
    return float(np.polyfit(x, y, 1)[0])


def table(cells: Cells) -> str:
    rows = []
    for name, curve in CURVES.items():
        chosen = where(cells, "size", curve=name)
        errors = ", ".join(f"{r['size']}: {r['error']:.2e}" for r in chosen)
        against_width = f"{slope(chosen, 'width'):.2f}" if "width" in chosen[0] else "-"
        rows.append(f"{name} | {curve.unit} | {errors} | {slope(chosen, 'size'):.2f} | {against_width}")
    return markdown("networks | size | error, by size | slope against size | slope against width (Theorem 3.1)", rows)


def draw(axis: Axes, cells: Cells) -> None:
    """Error against size, both axes logarithmic, with the fitted lines."""
    for i, name in enumerate(CURVES):
        chosen = where(cells, "size", curve=name)
        sizes, errors, exponent = [r["size"] for r in chosen], [r["error"] for r in chosen], slope(chosen, "size")
        centre, middle = (math.exp(sum(map(math.log, values)) / len(values)) for values in (sizes, errors))
        axis.loglog(sizes, errors, "o", color=f"C{i}", label=f"{name}: slope {exponent:.2f}")
        axis.loglog(sizes, [middle * (size / centre) ** exponent for size in sizes], "-", color=f"C{i}", lw=1)
    axis.set(xlabel="knots, samples, width or depth", ylabel="largest error; trained: root mean square")
