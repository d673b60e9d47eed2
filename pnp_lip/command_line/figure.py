"""The picture of a run: what was given, what came out, a detail of each, and the convergence."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pnp_lip.images import write_atomically
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
    figure = Figure(figsize=(14, 7.6), layout="constrained")
    axes = figure.subplots(2, 1 + len(images))
    show(axes[0, 0], *source, labels)
    draw_convergence(axes[1, 0], runs)
    for column, (title, image) in enumerate(images.items(), start=1):
        h, w = image.shape[2:]
        below = image[..., int(h * corner[0]) :, int(w * corner[1]) :]
        show(axes[0, column], title, image)
        show(axes[1, column], "detail", below[..., : max(1, h // 3), : max(1, w // 3)])
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


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
        titles = [result.guarantee.title for result in results]
        proof = next((title for title in titles if title != "proved"), "proved")
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
