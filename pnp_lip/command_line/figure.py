"""The picture of a run: what was given, what came out, a detail of each, and the convergence."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.images import write_atomically
from pnp_lip.solvers import Result

__all__ = ["draw", "draw_restored"]

DETAIL = 96  # pixels a side of the detail that shows single pixels, of a small image a third of its sides
PANEL = 500  # pixels of the shorter side of a panel: more are averaged


def draw(
    path: Path,
    source: tuple[str, Tensor],
    images: Mapping[str, Tensor],
    runs: Mapping[str, Result],
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


def draw_restored(path: Path, images: Mapping[str, Tensor], result: Result | None) -> None:
    """Each of ``images``, the first of them the input, above a detail: where the second one differs most from the first.

    Images are (1, C, H, W) on [0, 1], C = 1 or 3. The convergence follows where there is one.
    """
    before, after, *_ = images.values()
    h, w = before.shape[2:]
    size = tuple(min(DETAIL, max(1, side // 3)) for side in (h, w))
    top, left = busiest((after - before).abs().mean(1, keepdim=True), size)
    k = max(1, min(h, w) // PANEL)
    iterated = result is not None and result.iterations > 1
    columns = len(images) + iterated
    figure = Figure(figsize=(4 * columns, 4 * (min(h / w, 2) + size[0] / size[1]) + 0.8), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False, height_ratios=(min(h / w, 2), size[0] / size[1]))
    for column, (title, image) in enumerate(images.items()):
        show(axes[0, column], title, F.avg_pool2d(image, k) if k > 1 else image)
        corner, (height, width) = (left / k - 0.5, top / k - 0.5), (side / k for side in size)
        frame = Rectangle(corner, width, height, fill=False, color="red", linewidth=1.2)
        axes[0, column].add_patch(frame)
        show(axes[1, column], f"detail, {size[1]} x {size[0]} pixels", image[..., top : top + size[0], left : left + size[1]])
    if result is not None and iterated:
        axes[0, -1].axis("off")
        draw_convergence(axes[1, -1], {"pnp-lip": result})
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def busiest(change: Tensor, size: tuple[int, ...]) -> tuple[int, int]:
    """The corner of the window of this size with the largest mean of (1, 1, H, W), on a grid of a quarter of its sides."""
    stride = (max(1, size[0] // 4), max(1, size[1] // 4))
    means = F.avg_pool2d(change, size, stride)[0, 0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return row * stride[0], column * stride[1]


def show(axis: Axes, title: str, image: Tensor, labels: tuple[str, str] | None = None) -> None:
    """One panel: an image on [0, 1], grey or in colour, or data of any range with labelled axes."""
    if labels is None:
        pixels = image[0].clamp(0, 1).movedim(0, -1).numpy()
        axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], "gray", vmin=0, vmax=1, interpolation="nearest")
        axis.axis("off")
    else:
        axis.imshow(image[0, 0].numpy(), "gray", aspect="auto")
        axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.set_title(title)


def draw_convergence(axis: Axes, runs: Mapping[str, Result]) -> None:
    """The relative residual, or an objective's stationarity, of each run."""
    for name, result in runs.items():
        relative = [r or None for r in result.history.relative]  # a residual of zero has no logarithm
        axis.semilogy(range(len(relative)), relative, label=f"{name}: {result.guarantee.title}")
    axis.set(xlabel="iteration", ylabel="residual, or stationarity of an objective", title="convergence")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
