"""From counts to line integrals with weights, and to the projector that belongs to them."""

import dataclasses
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.filtered_back_projection import bridged
from pnp_lip.scans.center import det_offset_of, find_common_center, spread_over
from pnp_lip.scans.scan import Array, check_theta, needs

__all__ = ["Prepared", "dead_bins", "from_projections", "line_integrals", "without_stripes"]

Projector: TypeAlias = ParallelBeamTomography | FanBeamTomography

NEIGHBOURS = 9  # bins whose median a bin is compared with
DEAD_RESPONSE = 0.2  # of its neighbours' flat, below which a bin is dead; above the inverse it is hot
OUTLYING = 12.0  # how many times more than usual, and than its neighbours do, a bin's mean may stand out
STANDS_OUT = 0.1  # of the counts: what a bin must be wrong by at least to be dead and not a stripe
CONSTANT = 0.01  # of the largest integral; where views change less than this, a bin that repeats one value is no fault
WEIGHTS = ("photons", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Slices of a scan: ``y`` (slices, 1, bins, views) line integrals, all finite, ``weights`` (slices, bins, views).

    Where nothing was measured y is 0 and so is the weight; other weights have the mean 1. ``physics`` has no weights yet;
    ``center`` is the bin of the axis, ``dead`` (slices, bins) the bins that are never used.
    """

    y: Tensor
    weights: Tensor
    physics: Projector
    center: float
    dead: Tensor

    def slice(self, number: int) -> tuple[Tensor, Projector]:
        """Weighted data (1, 1, bins, views) and the projector in the same units, for solvers and ``fbp``."""
        physics = cast(Projector, self.physics.with_weights(self.weights[number]))
        return physics.apply_weights(float(physics.unit) * self.y[number : number + 1]), physics


def from_projections(
    data: Array,
    flat: Array | float | None = None,
    dark: Array | float | None = None,
    *,
    theta: Array | None = None,
    center: float | str | None = None,
    fan: FanBeam | None = None,
    weights: str = "photons",
    stripes: bool = False,
    size: int | None = None,
    normalize: bool = False,
) -> Prepared:
    """Everything a solver needs of projections (views, rows, bins) or (views, bins): a slice for each row.

    ``flat`` and ``dark`` are frames (frames, rows, bins), averaged, or one number; without a flat the data are line integrals
    already. ``theta`` in degrees. ``center``: the bin of the axis, counted from 0, None for the middle, or "auto", the median
    of five slices (needs the extra "ct"; parallel beam over half a turn). ``fan``: the scanner, angles included, of fan-beam
    data. ``weights`` as in ``line_integrals``; ``stripes=True`` takes stripes out, see ``without_stripes``. Images have
    ``size`` pixels a side, as many as bins by default, each as wide as a bin.

    Raises InputError, or ShapeError, for parts that do not belong together, non-finite data, and settings that are unknown.
    """
    frames = np.asarray(data)
    frames = frames[:, None] if frames.ndim == 2 else frames
    y, w, dead = line_integrals(frames, flat, dark, weights=weights)
    y = without_stripes(y, w) if stripes else y
    bins, views = y.shape[-2:]
    side = bins if size is None else size
    middle = (bins - 1) / 2
    if fan is not None:
        if theta is not None or center is not None:
            raise InputError("`fan` holds the angles and the offset of its axis; pass neither `theta` nor `center` with it.")
        if len(fan.degrees) != views:
            raise InputError(f"{views} projections, but {len(fan.degrees)} angles.")
        scanner = dataclasses.replace(fan, n_det=bins)
        axis = middle - fan.det_offset / fan.det_spacing
        return Prepared(y=y, weights=w, physics=FanBeamTomography(scanner, (1, side, side), normalize=normalize),
                        center=axis, dead=dead)  # fmt: skip
    if theta is None:
        raise InputError("`theta` is missing: the angle of each view in degrees.")
    degrees = check_theta(np.asarray(theta), views)
    if isinstance(center, str) and center != "auto":
        raise InputError(f'`center` is a bin, "auto" or None; got {center!r}.')
    if center == "auto":
        some = spread_over(range(len(y)))
        center, _ = find_common_center(y[some], w[some], degrees)
    axis = middle if center is None else float(center)
    if not 0 <= axis <= bins - 1:
        raise InputError(f"`center` must lie on the detector, in [0, {bins - 1}]; got {axis}.")
    parallel = ParallelBeam(degrees, n_det=bins, det_offset=det_offset_of(axis, bins))
    physics = ParallelBeamTomography(parallel, (1, side, side), normalize=normalize)
    return Prepared(y=y, weights=w, physics=physics, center=axis, dead=dead)


def line_integrals(
    data: Array, flat: Array | float | None = None, dark: Array | float | None = None, *, weights: str = "photons"
) -> tuple[Tensor, Tensor, Tensor]:
    """y = −log((data − dark)/(flat − dark)) (rows, 1, bins, views), weights (rows, bins, views), dead bins (rows, bins).

    ``data`` (views, rows, bins). ``weights="photons"``: the counts above the dark, whose inverse is the variance of y for
    Poisson noise; without flats e^(−data). "none": equal ones. Either has the mean 1 over what was measured, and is 0 with
    y = 0 for counts that are not positive and for ``dead_bins``.

    Raises InputError for data that are not finite or all dead, ShapeError for flats and darks of another shape.

    >>> y, w, dead = line_integrals(np.array([[[50.0, 100.0, 0.0]]]), 100.0, weights="none")
    >>> y.flatten().tolist() == [np.float32(np.log(2)), 0.0, 0.0], w.flatten().tolist(), dead.flatten().tolist()
    (True, [1.0, 1.0, 0.0], [False, False, True])
    """
    if weights not in WEIGHTS:
        raise InputError(f"`weights` must be one of {', '.join(WEIGHTS)}; got {weights!r}.")
    if data.ndim != 3 or data.dtype.kind not in "fiu" or 0 in data.shape:
        raise InputError(f"expected projections (views, rows, bins) of real numbers; got {data.shape} of {data.dtype}.")
    if flat is None and dark is not None:
        raise InputError("`dark` belongs to counts; pass `flat` too.")
    if not np.isfinite(data).all():
        raise InputError(f"the projections hold {int((~np.isfinite(data)).sum())} NaN or infinite values; set them to 0.")
    if flat is None:
        y, response = np.asarray(data, np.float64), None
        counts = np.exp(-y)
        measured = np.ones(data.shape, bool)
    else:
        background = mean_frame("dark", dark, data.shape[1:])
        response = mean_frame("flat", flat, data.shape[1:]) - background
        counts = data - background
        measured = (counts > 0) & (response > 0)
        y = np.log(np.where(response > 0, response, 1.0) / np.where(measured, counts, 1.0))
    dead = np.stack([dead_bins(y[:, row], measured[:, row], None if response is None else response[row])
                     for row in range(data.shape[1])])  # fmt: skip
    measured &= ~dead
    if not measured.any(axis=(0, 2)).all():
        raise InputError("no counts above the dark are left in a slice; check flat and dark.")
    w = np.where(measured, counts if weights == "photons" else 1.0, 0.0)
    w /= w.sum((0, 2), keepdims=True) / measured.sum((0, 2), keepdims=True)
    y = np.where(measured, y, 0.0)
    turned = (torch.from_numpy(np.ascontiguousarray(a.transpose(1, 2, 0), np.float32)) for a in (y, w))
    integrals, weight = turned
    return integrals[:, None], weight, torch.from_numpy(dead)


def without_stripes(y: Tensor, weights: Tensor) -> Tensor:
    """Line integrals (slices, 1, bins, views) without what is the same in all views of a bin: errors of its gain.

    What an object shows in every view goes too, so it pays for errors of about 2 % and more. Raises InputError without
    algotom.

    Source: Münch et al. (2009), Stripe and ring artifact removal, by Fourier filtering; as in algotom.
    """
    try:
        from algotom.prep.removal import remove_stripe_based_fft
    except ImportError as error:
        raise needs("ct") from error
    cleaned = torch.zeros_like(y)
    for k, (sinogram, w) in enumerate(zip(y[:, 0], weights, strict=True)):
        whole = bridged(sinogram, w > 0).T.double().numpy()
        cleaned[k, 0] = torch.from_numpy(np.ascontiguousarray(remove_stripe_based_fft(whole).T, np.float32))
    return torch.where(weights[:, None] > 0, cleaned, 0.0)


def mean_frame(name: str, frames: Array | float | None, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The mean of frames (frames, rows, bins), (rows, bins) or (bins,), or one number everywhere; none is 0."""
    values = np.asarray(0.0 if frames is None else frames, np.float64)
    values = values.mean(0) if values.ndim == 3 else values
    if values.ndim and values.shape != shape[-values.ndim :]:
        raise ShapeError(f"the {name} has frames of {values.shape}, the projections of {shape}.")
    if not np.isfinite(values).all():
        raise InputError(f"the {name} holds NaN or infinite values.")
    return np.broadcast_to(values, shape)


def dead_bins(y: Array, measured: Array, response: Array | None = None) -> NDArray[np.bool_]:
    """Bins (bins,) of one slice (views, bins) that do not measure: their weight becomes 0.

    Dead is a bin without a single count, or whose flat is far from its neighbours' (below a fifth, above five times), or
    that repeats one value in all views. With flats also one whose mean over the views is 12 times farther from its
    neighbours' median than is usual on the detector and among these neighbours, and by a tenth of the counts at least. The
    last two need 3 views.
    """
    from scipy.ndimage import median_filter

    dead = np.asarray(~measured.any(0))
    if response is not None:
        usual = median_filter(response, NEIGHBOURS, mode="nearest")
        dead = dead | (response < DEAD_RESPONSE * usual) | (response > usual / DEAD_RESPONSE)
    if len(y) < 3:
        return np.asarray(dead)
    count = measured.sum(0)
    mean = np.where(measured, y, 0.0).sum(0) / np.maximum(count, 1)
    alive = np.flatnonzero(~dead)
    change = np.ptp(y, axis=0)
    if len(alive) == 0:
        return np.asarray(dead)
    varies = np.median(change[alive]) > CONSTANT * np.abs(mean).max()
    constant = varies & (change == 0) & (mean != 0)
    if response is None:  # integrals that somebody else made
        return np.asarray(dead | constant)
    apart = np.abs(mean[alive] - median_filter(mean[alive], NEIGHBOURS, mode="nearest"))
    usual = np.maximum(np.median(apart), median_filter(apart, NEIGHBOURS, mode="nearest"))
    dead[alive] |= apart > np.maximum(OUTLYING * usual, STANDS_OUT)
    return np.asarray(dead | constant)
