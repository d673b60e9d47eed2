"""The picture of a run: what was given, what came out, a detail of each, and the convergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pnp_lip.solvers import Result

__all__ = ["draw"]


def draw(
    path: Path,
    source: tuple[str, Tensor],
    images: Mapping[str, Tensor],
    runs: Mapping[str, Sequence[Result]],
    *,
    labels: tuple[str, str] | None = None,
    corner: tuple[float, float] = (1 / 3, 1 / 3),
) -> None:
    """Left the ``source`` above the convergence of the ``runs``, then each of ``images`` above a detail, with its title.

    ``source`` and ``images`` are (1, 1, H, W); ``labels`` are the axes of a source that is not an image on [0, 1];
    ``corner`` is where the detail begins, a third of the height and of the width long, in these units.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7.6), layout="constrained")
    axes = figure.subplots(2, 1 + len(images))
    show(axes[0, 0], *source, labels)
    draw_convergence(axes[1, 0], runs)
    for column, (title, image) in enumerate(images.items(), start=1):
        rows, columns = (
            slice(int(n * c), int(n * c) + max(1, n // 3)) for n, c in zip(image.shape[2:], corner, strict=True)
        )
        show(axes[0, column], title, image)
        show(axes[1, column], "detail", image[..., rows, columns])
    figure.savefig(path, dpi=90, format="png")


def show(axis: Axes, title: str, image: Tensor, labels: tuple[str, str] | None = None) -> None:
    """One panel: an image on [0, 1], or data of any range with labelled axes."""
    if labels is None:
        axis.imshow(image[0, 0].numpy(), "gray", vmin=0, vmax=1, interpolation="nearest")
        axis.axis("off")
    else:
        axis.imshow(image[0, 0].numpy(), "gray", aspect="auto")
        axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.set_title(title)


def draw_convergence(axis: Axes, runs: Mapping[str, Sequence[Result]]) -> None:
    """The relative residuals, one colour for each name; solutions that guide the next one are dashed and come before it."""
    for i, (name, results) in enumerate(runs.items()):
        proof = "proved" if all(result.guarantee.proved for result in results) else "not proved"
        start = 0
        for k, result in enumerate(results):
            last = result is results[-1]
            relative = [r or None for r in result.history.relative]  # a residual of zero has no logarithm
            label = (name if len(results) == 1 else f"{name}, solution {k + 1}") + (f": {proof}" if last else "")
            axis.semilogy(range(start, start + len(relative)), relative, f"C{i}" + ("-" if last else "--"), label=label)
            start += len(relative)
    axis.set(xlabel="iteration", ylabel="‖x − Tx‖ / ‖x‖", title="convergence")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
