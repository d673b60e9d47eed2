"""The two data sets of the experiments: two moons, drawn here, and handwritten digits, from files."""

from __future__ import annotations

import dataclasses
import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_lip.errors import InputError

__all__ = ["Split", "load_digits", "two_moons"]


@dataclasses.dataclass(frozen=True)
class Split:
    """Inputs (N, d), float32, with labels (N), int64, for training and for testing; ``name`` says which data these are."""

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def two_moons(points: int = 4000, *, noise: float = 0.1, train: float = 0.2, seed: int = 0) -> Split:
    """Two half circles of radius 1, (cos t, sin t) and (1 − cos t, ½ − sin t), with normal noise, standardised.

    Each coordinate has mean 0 and standard deviation 1 over all points. ``train`` is the share of each class for training.
    Raises InputError unless 0 < ``train`` < 1, ``noise`` ≥ 0 and there are at least ten points.

    >>> split = two_moons(100)
    >>> split.train_x.shape, split.test_x.shape, int(split.train_y.sum())
    (torch.Size([20, 2]), torch.Size([80, 2]), 10)
    """
    if not 0 < train < 1 or points < 10 or not noise >= 0:
        raise InputError(f"two moons need 0 < train < 1, noise >= 0, points >= 10; got {train}, {noise}, {points}.")
    generator = torch.Generator().manual_seed(seed)
    half = points // 2
    t = torch.linspace(0, math.pi, half, dtype=torch.float64)
    moons = torch.stack([t.cos(), t.sin()], 1), torch.stack([1 - t.cos(), 0.5 - t.sin()], 1)
    x = torch.cat(moons)
    x = x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    x = ((x - x.mean(0)) / x.std(0, correction=0)).float()
    y = torch.arange(2).repeat_interleave(half)
    count = round(train * half)
    order = torch.stack([torch.randperm(half, generator=generator) + k * half for k in range(2)])
    inside, outside = order[:, :count].flatten(), order[:, count:].flatten()
    return Split("two moons", x[inside], y[inside], x[outside], y[outside])


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
        raise InputError(
            f"{path}: expected uint8 images (N, h, w) with N labels; got {images.dtype} {images.shape} and {labels.shape}."
        )
    x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
    return x, torch.from_numpy(labels.astype(np.int64))


def read_idx(folder: Path, name: str) -> np.ndarray:
    """An array of bytes in MNIST's format: 0, 0, 8, dimensions, then big-endian sizes, then the data."""
    found = [p for base in (folder, folder / "raw", folder / "MNIST" / "raw") for p in sorted(base.glob(f"{name}*"))]
    if not found:
        raise InputError(
            f"no {name} under {folder}; pass --data with the folder that holds torchvision's MNIST files or with an .npz "
            "file of `images` and `labels`."
        )
    data = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise InputError(f"{found[0]}: not a file of bytes in MNIST's format.")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", count=data[3], offset=4))
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != math.prod(shape):
        raise InputError(f"{found[0]}: expected {shape} bytes; got {len(values)}. The file is cut off.")
    return values.reshape(shape)
