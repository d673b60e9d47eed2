"""Data of any common shape and type as images (B, C, H, W) on [0, 1], and the way back."""

import contextlib
import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.images import CLIPPED, NOISE_REACH
from pnp_lip.noise import estimate_noise

__all__ = ["Data", "Frame", "plain"]

Data = Tensor | NDArray[np.generic]

CHANNELS = (1, 2, 3, 4)  # grey and colour, without and with alpha
DARKEST = 0.1  # largest value of a picture on [0, 1]
DEVIATIONS, SIDE = 6, 8  # of the noise, within which all pixels lie; of blocks, whose means lie within an eighth of that
FARTHEST = 3.0  # by which noise takes an image out of [0, 1]: of a level of a half
MARGIN = 0.1  # of a range that only the data show, on each side: restored extremes lie beyond the blurred ones
CAMERAS = (10, 12, 14, 16)  # bits that unsigned numbers of 16 bits may hold


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """Where images came from: ``order`` of the axes in (B, C, H, W), ``low`` and ``high`` what 0 and 1 stand for.

    ``natural``: low and high are known from the type, and an image does not leave them. ``y`` are the images without the
    ``alpha`` that is put back at the end.
    """

    y: Tensor
    source: Data
    order: tuple[int, ...]
    alpha: Tensor | None
    low: float
    high: float
    natural: bool

    @classmethod
    def of(cls, data: Data, value_range: tuple[float, float] | None = None, device: str | torch.device = "cpu") -> "Frame":
        """The images behind numpy or torch data (H, W), (H, W, C), (C, H, W), (B, C, H, W) or (B, H, W, C), C = 1 to 4.

        With 2 or 4 channels the last one is alpha. Unsigned integers of 8 bits end at 255; those of 16 bits at the first of
        2¹⁰, 2¹², 2¹⁴ and 2¹⁶, less one, that holds them. Floats in [−0.5, 1.5] that exceed 0.1 are on [0, 1], and those
        that only noise takes farther out. All other numbers get a range of their own, a tenth wider on each side than they
        are, but not below 0 if they are not. Raises ShapeError for other shapes; InputError for complex numbers, masks, NaN,
        infinite values, and a range that does not hold the data.
        """
        data = data if isinstance(data, Tensor) else np.asarray(data)  # a Pillow image, too
        order, axes = layout(data)
        array = data if isinstance(data, np.ndarray) else plain(data).numpy()
        if array.dtype.kind not in "fiu":
            raise InputError(f"expected real numbers; got {array.dtype}.")
        if not np.isfinite(array).all():
            raise InputError("the image holds NaN or infinite values; repair them first.")
        x = torch.from_numpy(array.reshape(axes).transpose(order).astype(np.float64))
        alpha = x[:, -1:].clone() if x.shape[1] in (2, 4) else None
        x = x if alpha is None else x[:, :-1]
        low, high, natural = range_of(x, array.dtype) if value_range is None else (*value_range, True)
        if not -math.inf < low < high < math.inf:
            raise InputError(f"a range is LOW < HIGH, both finite; got {low:g} and {high:g}.")
        y = x.sub(low).div_(high - low)
        if natural and not near_unit(y):
            found = f"[{float(x.min()):.4g}, {float(x.max()):.4g}]"
            raise InputError(f"the values lie in {found}, far outside of the range [{low:g}, {high:g}] that was stated.")
        return cls(y.float().to(device), data, order, alpha, low, high, natural)

    @property
    def unit(self) -> float:
        """What a noise level of 1 on [0, 1] is in the units in which it is stated: the data's, or white's of 8 and 16 bits."""
        return 1.0 if dtype_of(self.source) in (np.uint8, np.uint16) else self.high - self.low

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the range."""
        if self.natural and (dtype_of(self.source) != np.uint16 or self.high == 65535):
            return ()
        how = "" if self.natural else "; the noise level is in these units; --range LOW:HIGH or value_range= states another one"
        return (f"values are taken as lying in [{self.low:g}, {self.high:g}]{how}",)

    def back(self, x: Tensor) -> tuple[Data, tuple[str, ...]]:
        """Images in the shape, type and range of the data, and what was lost."""
        x = x.detach().cpu()
        notes = []
        share = float(((x <= 0) | (x >= 1)).sum()) / x.numel()
        if not self.natural and share > CLIPPED:
            notes.append(f"{share:.1%} of the result lies at an end of [{self.low:g}, {self.high:g}]; state a wider range")
        x = x.double().mul(self.high - self.low).add_(self.low)
        x = x if self.alpha is None else torch.cat([x, self.alpha], 1)
        array = x.numpy().transpose(np.argsort(self.order)).reshape(tuple(self.source.shape))
        kind = dtype_of(self.source)
        if kind.kind in "iu":
            limits = torch.iinfo(getattr(torch, kind.name))
            array = np.clip(np.rint(array, out=array), limits.min, limits.max, out=array)
        if isinstance(self.source, np.ndarray):
            return array.astype(self.source.dtype), tuple(notes)
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.source), tuple(notes)


def plain(x: Tensor) -> Tensor:
    """On the processor, of a type that numpy knows."""
    return x.detach().cpu().float() if x.dtype == torch.bfloat16 else x.detach().cpu()


def dtype_of(data: Data) -> np.dtype[np.generic]:
    """The type of the numbers, as numpy's."""
    if isinstance(data, np.ndarray):
        return data.dtype
    return np.dtype(str(data.dtype).removeprefix("torch.").replace("bfloat", "float"))


def layout(data: Data) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of four axes that gives (B, C, H, W), and the data's shape with these four axes."""
    shape = tuple(data.shape)
    last, first = (0, 3, 1, 2), (0, 1, 2, 3)
    if 0 not in shape and len(shape) == 2:
        return first, (1, 1, *shape)
    if 0 not in shape and len(shape) in (3, 4):
        four = shape if len(shape) == 4 else (1, *shape)
        choices = {last: four[3], first: four[1]}
        for order in (last, first) if isinstance(data, np.ndarray) and len(shape) == 3 else (first, last):
            if choices[order] in CHANNELS:
                return order, four
    stack = f" A stack of grey images has the shape ({shape[0]}, 1, {shape[1]}, {shape[2]})." if len(shape) == 3 else ""
    raise ShapeError(f"expected an image (H, W), (H, W, 3) or (3, H, W), or images (B, C, H, W); got shape {shape}.{stack}")


def range_of(x: Tensor, kind: np.dtype[np.generic]) -> tuple[float, float, bool]:
    """What black and white are, and whether the type says so."""
    low, high = float(x.min()), float(x.max())
    if kind == np.uint8:
        return 0.0, 255.0, True
    if kind == np.uint16:
        return 0.0, float(next(2**bits - 1 for bits in CAMERAS if high < 2**bits)), True
    if kind.kind == "f" and (high > DARKEST or high == low) and near_unit(x):
        return 0.0, 1.0, True
    span = (high - low) or 1.0
    return (0.0 if low >= 0 else low - MARGIN * span), high + MARGIN * span, False


def near_unit(x: Tensor) -> bool:
    """Whether images leave [0, 1] by no more than NOISE_REACH, or than the noise that they show takes them and their means."""
    if NOISE_REACH < (far := beyond(x)) <= FARTHEST:
        with contextlib.suppress(InputError):  # too small a picture shows nothing
            noise = DEVIATIONS * float(estimate_noise(x).max())
            return far <= noise and beyond(F.avg_pool2d(x, SIDE)) <= noise / SIDE
    return far <= NOISE_REACH


def beyond(x: Tensor) -> float:
    """How far numbers leave [0, 1]."""
    return max(-float(x.min()), float(x.max()) - 1)
