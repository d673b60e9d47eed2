"""The demonstration's picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from pnp_lip.solvers import Result

__all__ = ["draw"]


def draw(
    path: Path,
    clean: Tensor,
    images: Mapping[str, Tensor],
    record: Mapping[str, Any],
    results: Mapping[str, Sequence[Result]],
) -> None:
    """The clean image, each of ``images`` with its figures of merit, and below them a detail and the convergence.

    Solutions that guide the next one are dashed, and the next one's curve begins where theirs ends.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7.9))
    grid = figure.add_gridspec(2, 4, left=0.01, right=0.985, top=0.92, bottom=0.07, wspace=0.04, hspace=0.14)
    panels = {"photograph": clean, **images}
    rows, columns = (slice(n // 6, n // 6 + n * 3 // 8) for n in clean.shape[-2:])
    for i, (name, image) in enumerate(panels.items()):
        axis = figure.add_subplot(grid[0, i])
        axis.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        quality = (
            f"\n{record['psnr'][name]:.2f} dB, SSIM {record['ssim'][name]:.3f}" if name in record["psnr"] else "\n"
        )
        axis.set_title(name + quality, fontsize=12)
        axis.axis("off")
        if i:
            detail = figure.add_subplot(grid[1, i - 1])
            detail.imshow(image[0, 0, rows, columns].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            detail.set_title(f"{name}, detail", fontsize=10)
            detail.axis("off")
    frame = grid[1, 3].get_position(figure)
    curve = figure.add_axes((frame.x0 + 0.05, frame.y0, frame.width - 0.05, frame.height - 0.01))
    for i, (name, rounds) in enumerate(results.items()):
        proved, start = all(result.guarantee.proved for result in rounds), 0
        for result in rounds:
            last, relative = result is rounds[-1], result.history.relative
            label = f"{name}: {'proved' if proved else 'no proof'}" if last else None
            at = range(start, start + len(relative))
            curve.semilogy(at, relative, f"C{i}" + ("-" if last else "--"), label=label)
            start += len(relative)
    curve.set(xlabel="iteration", ylabel="‖x − Tx‖ / ‖x‖", title="convergence")
    curve.grid(alpha=0.3)
    curve.legend(fontsize=9)
    figure.savefig(path, dpi=90)
