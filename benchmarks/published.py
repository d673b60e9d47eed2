"""Published ridge regularisers, read from the files of their networks, as potentials that can be certified.

``python -m pnp_lip.benchmarks.published FILE.npz ... --out PAIRS.npz`` writes images that refute their claim ‖W‖ ≤ 1.
"""

import argparse
import math
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.layers.activations import SIGMA_RANGE
from pnp_lip.potentials import RidgePotential
from pnp_lip.training.curvature import compose

__all__ = ["expanded", "load_published"]

ARRAYS = {"conv0": 4, "conv1": 4, "conv2": 4, "knots": 1, "phi": 1, "slopes": 1, "scaling_levels": 1, "scaling": 2,
          "conv_norm": 0}  # fmt: skip  # by name, with their numbers of axes
KNOTS = 128  # noise levels at which scales are kept: between them the file's interpolation is met to 1e-3
SHIFT = 1e-5  # a network's scale is s = exp(a)/(level + SHIFT), a linear between the levels of the file
SAME_SLOPE = 1e-4  # of the steepest: slopes that differ by less are one, as stored values of φ are rounded to float32
ODD = 1e-4  # of the largest value: how far φ may be from odd, and from the integral of its slopes


def load_published(path: str | Path, *, padding_mode: str = "zeros") -> RidgePotential:
    """The regulariser in an .npz file, ∇R_σ(x) = Wᵀ φ(s(σ) Wx)/s(σ), as a ``RidgePotential`` in evaluation mode.

    W is the composition of ``conv0``, ``conv1`` and ``conv2`` over √``conv_norm``. Here it is one convolution; the published
    network pads between the three, so that the two differ near the borders only. φ is piecewise linear, odd, and constant
    beyond its ``knots``, hence a sum of clips. The file gives s of each channel at ``scaling_levels`` (255σ). Between them
    log(s·255σ) is linear, here between 128 levels from 0.5 to 55. Beyond the file's last level the potential is that of the
    last level, scaled: R_σ(x) = c² R_{σ/c}(x/c).

    Raises InputError for a file of another layout. Source: Goujon, Neumayer & Unser (2024), whose code is at
    github.com/axgoujon/weakly_convex_ridge_regularizer; of their convex regularisers, Goujon et al. (2022).
    """
    arrays = read(Path(path))
    weight = compose(*(torch.from_numpy(arrays[f"conv{i}"]) for i in range(3))) / math.sqrt(arrays["conv_norm"])
    clips = clips_of(arrays["knots"], arrays["phi"], arrays["slopes"], path)
    rise, rise_limit = [c for c, _ in clips if c > 0], [t for c, t in clips if c > 0]
    fall, fall_limit = [-c for c, _ in clips if c < 0], [t for c, t in clips if c < 0]
    filters, channels, size, _ = weight.shape
    levels, scaling = arrays["scaling_levels"], arrays["scaling"]
    if scaling.shape != (len(levels), filters) or (np.diff(levels) <= 0).any() or levels[0] < 0 or (scaling <= 0).any():
        raise InputError(
            f"{path}: `scaling` must hold a positive number for each increasing level and each of {filters} filters."
        )
    potential = RidgePotential(
        in_channels=channels, filters=filters, kernel_size=size, rising=len(rise), falling=len(fall), knots=KNOTS,
        padding_mode=padding_mode,
    )  # fmt: skip
    at = 255 * np.geomspace(*SIGMA_RANGE, KNOTS)
    exponent = np.log(scaling * (levels[:, None] + SHIFT))
    exponent = np.stack([np.interp(at, levels, column) for column in exponent.T], 1)
    potential.activation.set_profile(rise, fall, rise_limit, fall_limit)
    with torch.no_grad():
        potential.weight.copy_(weight)
        potential.activation.log_scale.copy_(torch.from_numpy(np.log(255 * (1 + SHIFT / at))[:, None] - exponent))
    return potential.eval().requires_grad_(False)


def as_published(path: str | Path) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """W and Wᵀ as the published network runs them in float64: each of its three convolutions pads with zeros."""
    arrays = read(Path(path))
    weights = [torch.from_numpy(arrays[f"conv{i}"]).double() for i in range(3)]
    scale = math.sqrt(arrays["conv_norm"])

    def forward(x: Tensor) -> Tensor:
        for weight in weights:
            x = functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return x / scale

    def adjoint(z: Tensor) -> Tensor:
        for weight in reversed(weights):
            z = functional.conv_transpose2d(z, weight, padding=weight.shape[-1] // 2)
        return z / scale

    return forward, adjoint


def expanded(path: str | Path, *, side: int = 64, steps: int = 300) -> tuple[float, Tensor]:
    """‖Wx‖²/‖x‖² of the published network, and the image x of ``side``² pixels that has it: with 0 a pair that proves it.

    x comes from a power iteration. The files' ``conv_norm`` bounds the composition on the torus; zero padding between the
    convolutions voids that bound.
    """
    forward, adjoint = as_published(path)
    channels = torch.from_numpy(read(Path(path))["conv0"]).shape[1]
    x = torch.randn((1, channels, side, side), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        x = adjoint(forward(x / x.norm()))
    x = (x / x.norm()).float().double()  # as it is stored
    return float(forward(x).square().sum() / x.square().sum()), x


def read(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays in float64. Raises InputError unless all are there, finite, and of the right number of axes."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name].astype(np.float64) for name in ARRAYS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected an .npz file with {', '.join(ARRAYS)} ({error}).") from error
    wrong = [n for n, axes in ARRAYS.items() if arrays[n].ndim != axes or not arrays[n].size or not np.isfinite(arrays[n]).all()]
    if wrong:
        found = ", ".join(f"{name} {arrays[name].shape}" for name in wrong)
        raise InputError(f"{path}: expected finite numbers, {ARRAYS} axes; got {found}.")
    if not arrays["conv_norm"] > 0:
        raise InputError(f"{path}: `conv_norm` must be positive; got {arrays['conv_norm']}.")
    kernels = [arrays[f"conv{i}"].shape for i in range(3)]
    fits = kernels[0][0] == kernels[1][1] and kernels[1][0] == kernels[2][1]
    if not fits or any(h != w or h % 2 == 0 for _, _, h, w in kernels):
        raise InputError(f"{path}: three convolutions with square odd kernels must follow each other; got {kernels}.")
    return arrays


def clips_of(knots: np.ndarray, phi: np.ndarray, slopes: np.ndarray, path: str | Path) -> list[tuple[float, float]]:
    """Numbers (c, t) with φ(u) = Σ c·clip(u, ±t): c is the slope below t minus the slope above. Raises InputError."""
    gaps = np.diff(knots)
    largest = np.abs(phi).max() if len(phi) == len(knots) else math.nan
    off = [np.abs(phi + phi[::-1]).max(), np.abs(knots + knots[::-1]).max() * largest / np.abs(knots).max()]
    if len(slopes) != len(gaps) or not (gaps > 0).all() or not max(off) <= ODD * largest:
        raise InputError(f"{path}: φ must be odd, with a value at each of its increasing knots and a slope between them.")
    steepest = np.abs(slopes).max()
    if np.abs(phi[0] + np.concatenate([[0.0], np.cumsum(slopes * gaps)]) - phi).max() > ODD * largest:
        raise InputError(f"{path}: `slopes` are not those of `phi`.")
    if abs(slopes[-1]) > SAME_SLOPE * steepest:
        raise InputError(f"{path}: φ must be constant beyond its knots; its last slope is {slopes[-1]:.3g}.")
    slopes = (slopes + slopes[::-1]) / 2
    positive = knots > ODD * knots[-1]
    ends, inside = knots[positive], slopes[positive[1:]]
    clips, start, previous = [], 0, 0
    merged: list[tuple[float, float]] = []  # a slope and where it ends
    for k in range(1, len(ends) + 1):
        if k == len(ends) or abs(inside[k] - inside[k - 1]) > SAME_SLOPE * steepest:
            widths = np.diff(np.concatenate([[previous], ends[start:k]]))
            merged.append((float(np.average(inside[start:k], weights=widths)), float(ends[k - 1])))
            start, previous = k, ends[k - 1]
    for (slope, t), (after, _) in zip(merged, [*merged[1:], (0.0, 0.0)], strict=True):
        if slope != after and abs(slope - after) > SAME_SLOPE * steepest:
            clips.append((slope - after, t))
    if not any(c > 0 for c, _ in clips):
        raise InputError(f"{path}: φ never rises.")
    return clips


def main() -> None:
    """Write the pairs, and say what they prove."""
    parser = argparse.ArgumentParser(prog="python -m pnp_lip.benchmarks.published")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="PAIRS.npz")
    options = parser.parse_args()
    found = {path.stem: expanded(path) for path in options.files}
    with write_atomically(options.out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: x[0].float().numpy() for name, (_, x) in found.items()})  # type: ignore[arg-type]
    for name, (ratio, x) in found.items():
        sys.stdout.write(f"{name}: ‖W‖² ≥ {ratio:.4f} on {x.shape[-1]} x {x.shape[-1]} pixels\n")


if __name__ == "__main__":
    main()
