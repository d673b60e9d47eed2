"""Handwritten digits against width and depth, with the fixed-width family."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.theory.constraints import seal
from pnp_lip.theory.experiments.classifiers import Objective, Schedule, Split, evaluate, train_side_by_side
from pnp_lip.theory.experiments.experiment import Cells, Experiment, Values, markdown, where
from pnp_lip.theory.networks import FixedWidthNetwork

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["load_digits", "mnist_experiment"]

OBJECTIVE = Objective(temperature=5.0)
SHALLOW, RATES = 10, (5e-3, 2e-3)  # up to this depth, and beyond: at 5e-3 wide networks of depth 20 train badly
RADII = tuple(round(0.1 * k, 1) for k in range(16))  # Euclidean, for images of 28 × 28 pixels on [0, 1]


def mnist_experiment(data: Path | None = None, *, quick: bool = False) -> Experiment:
    """Accuracy, constants and certified robustness for width 50, 100, 200 × depth 5, 10, 20; ``quick``: one small cell.

    Cross-entropy of 5·f(x), ten outputs that are 1-Lipschitz each, residual layers kept isometric. ``data`` as in
    ``load_digits``, which is read here.
    """
    sizes = [(20, 2)] if quick else [(width, depth) for width in (50, 100, 200) for depth in (5, 10, 20)]
    epochs, attacked = (1, 32) if quick else (50, 256)
    split = load_digits(data)
    schedules = {depth: Schedule(epochs, learning_rate=RATES[depth > SHALLOW], isometric=True) for _, depth in sizes}
    cells = {
        f"width {width}, L = {depth}": functools.partial(compute, split, width, depth, schedules[depth], attacked)
        for width, depth in sizes
    }
    training = {str(depth): dataclasses.asdict(schedule) for depth, schedule in schedules.items()}
    settings = {"data": split.name, "sizes": sizes, "training": training, "attacked": attacked}
    settings |= {"protocol": dataclasses.asdict(OBJECTIVE), "radii": RADII}
    return Experiment("mnist", settings, cells, table, draw)


def compute(split: Split, width: int, depth: int, schedule: Schedule, attacked: int) -> Values:
    schedule = dataclasses.replace(schedule, batch=min(schedule.batch, len(split.train_x)))
    torch.manual_seed(0)
    classes = int(split.train_y.max()) + 1
    network = FixedWidthNetwork(split.train_x.shape[1], width=width, depth=depth, out_features=classes)
    train_side_by_side([network], [OBJECTIVE], split.train_x, split.train_y, schedule)
    found = evaluate(seal(network), split, RADII, attacked, rounds=4, keep=4)
    return {"width": width, "depth": depth, "data": split.name, **found}


def table(cells: Cells) -> str:
    return markdown(
        [
            ("width", lambda r: str(r["width"])),
            ("L", lambda r: str(r["depth"])),
            ("accuracy, %", lambda r: f"{100 * r['accuracy']:.2f}"),
            ("on the training digits, %", lambda r: f"{100 * r['train_accuracy']:.2f}"),
            ("certified ≤", lambda r: f"{r['lipschitz_upper']:.6f}"),
            ("gradient found", lambda r: f"{r['gradient_found']:.3f}"),
        ],
        list(cells.values()),
    )


def draw(left: Axes, right: Axes, cells: Cells) -> None:
    """Accuracy against depth, and certified accuracy against the radius."""
    for i, width in enumerate(sorted({int(r["width"]) for r in cells.values()})):
        chosen = where(cells, "depth", width=width)
        accuracies = [100 * r["accuracy"] for r in chosen]
        left.plot([r["depth"] for r in chosen], accuracies, "o-", color=f"C{i}", label=f"width {width}")
        for r, style in zip(chosen, ("-", "--", ":"), strict=False):
            shares = [100 * share for share in r["robust_accuracy"]]
            right.plot(RADII, shares, style, color=f"C{i}", label=f"width {width}, L = {r['depth']}")
    left.set(xlabel="depth L", ylabel="test accuracy, %", title=next(iter(cells.values()))["data"])
    right.set(xlabel="radius (Euclidean)", ylabel="certified accuracy, %", title="certified robustness")


def load_digits(path: Path | None) -> Split:
    """Digits as (N, 784) on [0, 1]: an .npz with ``images`` and ``labels``, or the folder with MNIST's original files.

    An .npz is split in file order, four fifths for training. A folder is searched for the files as torchvision
    stores them (``MNIST/raw/train-images-idx3-ubyte``, perhaps with .gz), 60,000 for training and 10,000 for testing; without a
    path the folder ``data`` is taken. Raises InputError when nothing is found or the arrays do not fit.
    """
    path = Path("data") if path is None else path
    if path.suffix == ".npz":
        if not path.is_file():
            raise InputError(f"{path}: no such file.")
        with np.load(path, allow_pickle=False) as file:
            if not {"images", "labels"} <= set(file):
                raise InputError(f"{path}: expected the arrays `images` and `labels`; got {sorted(file)}.")
            x, y = as_tensors(file["images"], file["labels"], path)
        count = len(x) * 4 // 5
        return Split(f"{path.name}, {count} to train", x[:count], y[:count], x[count:], y[count:])
    parts = [
        as_tensors(read_idx(path, f"{part}-images-idx3-ubyte"), read_idx(path, f"{part}-labels-idx1-ubyte"), path)
        for part in ("train", "t10k")
    ]
    return Split("MNIST", *parts[0], *parts[1])


def as_tensors(images: np.ndarray, labels: np.ndarray, path: Path) -> tuple[Tensor, Tensor]:
    """(N, h, w) bytes and N labels as flat floats on [0, 1] and integers."""
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        found = f"{images.dtype} {images.shape} and {labels.shape}"
        raise InputError(f"{path}: expected uint8 images (N, h, w) with N labels; got {found}.")
    x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
    return x, torch.from_numpy(labels.astype(np.int64))


def read_idx(folder: Path, name: str) -> np.ndarray:
    """An array of bytes in MNIST's format: 0, 0, 8, dimensions, then big-endian sizes, then the data."""
    found = [p for base in (folder, folder / "raw", folder / "MNIST" / "raw") for p in sorted(base.glob(f"{name}*"))]
    if not found:
        raise InputError(f"no {name} under {folder}; pass --data with torchvision's folder of MNIST, or an .npz file.")
    data = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise InputError(f"{found[0]}: not a file of bytes in MNIST's format.")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", count=data[3], offset=4))
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != math.prod(shape):
        raise InputError(f"{found[0]}: expected {shape} bytes; got {len(values)}. The file is cut off.")
    return values.reshape(shape)
