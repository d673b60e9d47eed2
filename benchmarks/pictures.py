"""Figures of the benchmarks: how often each prior is how near to the best, and reconstructions with the same part enlarged."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from pnp_lip.benchmarks.photographs import SIDE, NamedImage, central_crop, photograph
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.problem import Budget
from pnp_lip.benchmarks.record import Row, read_record
from pnp_lip.benchmarks.summaries import AXES, CASE, group_of, measured
from pnp_lip.benchmarks.tasks import blurred, load_psfs
from pnp_lip.errors import InputError
from pnp_lip.images import psnr, write_atomically

__all__ = ["behind_the_best", "draw_insets", "plot_profile", "restored"]

LARGEST = 4.0  # dB behind the best, the end of the plot


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
    names = list(dict.fromkeys(name for _, content in parts for name in content["priors"]))
    figure = Figure(figsize=(5.5 * len(parts), 4.2), layout="constrained")
    for axes, (title, content) in zip(np.ravel(figure.subplots(1, len(parts))), parts, strict=True):
        for name, gaps in sorted(behind_the_best(content).items(), key=lambda item: sum(item[1])):
            shares = np.arange(1, len(gaps) + 1) / len(gaps)
            ours = content["priors"][name]["ours"]
            style = {"linewidth": 2.4 if ours else 1.2, "linestyle": "-" if ours else "--", "color": f"C{names.index(name)}"}
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


def restored(record: Path, priors: Sequence[Prior]) -> dict[str, Tensor]:
    """The truth, the data and each prior's reconstruction of the record's first problem, at the strengths of the record.

    Raises InputError for other records than of deblurring scikit-image's photographs, and for a prior without a row there.
    """
    content = read_record(record)
    if content["benchmark"] != "deblurring" or content["data"]["source"] != "scikit-image":
        raise InputError(f"{record}: pictures show scikit-image's photographs; expected a record of `pnp-lip bench deblurring`.")
    key = {name: content["rows"][0][name] for name in ("image", "kernel", "noise")}
    chosen = {row["prior"]: row["strength"] for row in content["rows"] if "psnr" in row and key.items() <= row.items()}
    missing = [prior.name for prior in priors if prior.name not in chosen]
    if missing:
        raise InputError(f"{record}: no row of {', '.join(missing)} for {key['image']}; there are {', '.join(chosen)}.")
    x = central_crop(photograph(key["image"], SIDE), content["settings"]["photographs"]["crop"], key["image"])
    psf = load_psfs(None)[key["kernel"]]
    seen = blurred(NamedImage(key["image"], x), key["kernel"], psf, key["noise"], content["settings"]["seed"]).make()
    images = {"truth": x, "data": seen.y}
    for prior in priors:
        images[prior.name] = prior.restore(chosen[prior.name], seen, 1e-5, Budget(10_000, math.inf), None).x
    return {name: image if name == "truth" else image.clamp(0, 1) for name, image in images.items()}


def draw_insets(images: Mapping[str, Tensor], corner: tuple[int, int], side: int, path: Path) -> Path:
    """Images (1, 1, H, W) by name, side by side, each with its part of ``side`` pixels from ``corner`` enlarged below it.

    Below each name but the first stands the PSNR against the first.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(2.2 * len(images), 4.6), layout="constrained")
    (top, left), axes = corner, figure.subplots(2, len(images), squeeze=False)
    truth = next(iter(images.values()))
    for column, (name, x) in enumerate(images.items()):
        pixels = x[0, 0].clamp(0, 1).numpy()
        for axis, shown in zip(axes[:, column], (pixels, pixels[top : top + side, left : left + side]), strict=True):
            axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
        axes[0, column].add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="tab:orange"))
        axes[0, column].set_title(f"{name}\n{psnr(x, truth):.2f} dB" if column else name, fontsize="small")
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=110)
    return path
