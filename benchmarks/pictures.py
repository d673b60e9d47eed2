"""Figures of the benchmarks: how often each prior is how near to the best, and reconstructions with the same part enlarged."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from pnp_lip.benchmarks.record import Row, read_record
from pnp_lip.benchmarks.summaries import AXES, CASE, group_of, measured
from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically

__all__ = ["behind_the_best", "draw_insets", "plot_profile"]

LARGEST = 4.0  # dB behind the best, the end of the plot
ZOOM = 3  # times


def behind_the_best(content: Row) -> dict[str, list[float]]:
    """For each prior that has every problem: how many dB it stays behind the best on each, sorted."""
    priors = [name for name in content["priors"] if measured(content, name)]
    found = {name: {tuple(map(r.get, CASE)): r["psnr"] for r in measured(content, name)} for name in priors}
    problems = set().union(*found.values())
    complete = {name: values for name, values in found.items() if set(values) == problems}
    best = {p: max(values[p] for values in complete.values()) for p in problems} if complete else {}
    return {name: sorted(best[p] - values[p] for p in problems) for name, values in complete.items()}


def plot_profile(paths: Sequence[Path], path: Path) -> Path:
    """For each record and group a plot: the share of problems on which a prior is within so many dB of the best.

    Raises InputError where no record is a comparison of priors.
    """
    from matplotlib.figure import Figure

    contents = [read_record(p) for p in paths]
    parts = [part for content in contents if content["benchmark"] in AXES for part in groups(content)]
    if not parts:
        raise InputError("a profile needs a record of denoising, deblurring, twelve or ct.")
    figure = Figure(figsize=(5.5 * len(parts), 4.2), layout="constrained")
    for axes, (title, content) in zip(np.ravel(figure.subplots(1, len(parts))), parts, strict=True):
        for name, gaps in sorted(behind_the_best(content).items(), key=lambda item: sum(item[1])):
            shares = np.arange(1, len(gaps) + 1) / len(gaps)
            ours = content["priors"][name]["ours"]
            style = {"linewidth": 2.4 if ours else 1.2, "linestyle": "-" if ours else "--"}
            axes.step([0, *gaps, max(LARGEST, gaps[-1])], [0, *shares, 1], where="post", label=name, **style)
        axes.set(title=title, xlim=(0, LARGEST), ylim=(0, 1.02), xlabel="dB behind the best", ylabel="share of problems")
        axes.legend(fontsize="x-small", loc="lower right")
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=110)
    return path


def groups(content: Row) -> list[tuple[str, Row]]:
    """The record split by noise level or scanner, each with a title."""
    titles = dict.fromkeys(group_of(content, row) for row in content["rows"])
    split = [(t, {**content, "rows": [r for r in content["rows"] if group_of(content, r) == t]}) for t in titles]
    return [(f"{content['benchmark']}, {title}", part) for title, part in split]


def draw_insets(images: Mapping[str, Tensor], corner: tuple[int, int], side: int, path: Path) -> Path:
    """Images (1, 1, H, W) by title, side by side, each with its part of ``side`` pixels from ``corner`` enlarged below it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(2.2 * len(images), 4.6), layout="constrained")
    (top, left), axes = corner, figure.subplots(2, len(images), squeeze=False)
    for column, (title, x) in enumerate(images.items()):
        pixels = x[0, 0].clamp(0, 1).numpy()
        for axis, shown in zip(axes[:, column], (pixels, pixels[top : top + side, left : left + side]), strict=True):
            axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
        axes[0, column].add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="tab:orange"))
        axes[0, column].set_title(title, fontsize="small")
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=110)
    return path
