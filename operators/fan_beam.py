"""Fan-beam tomography with a flat detector."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from deepinv.physics import NoiseModel
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators.filtered_back_projection import fan_fbp
from pnp_lip.operators.footprints import Detector, Entries, fan_footprint, joseph_fan
from pnp_lip.operators.parallel_beam import as_detector, require_length
from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["FanBeamTomography"]


class FanBeamTomography(SymmetricTomography):
    """Line integrals along the rays from a point source to the bins of a flat detector, both turning about the image.

    ::

        θ = 0:                 ┌───────────┐              │ bin 0
                               │     │     │              │
          source ∗─────────────┼────axis───┼──────────────┤  flat detector, t grows downwards
                               │     │     │              │
                               └───────────┘              │
                  source_distance          detector_distance

    The source turns at −source_distance (cos θ, sin θ), y upwards; t grows along (sin θ, −cos θ) and is 0 where the
    ray through the axis lands; bins and pixels are placed as for the parallel beam. This is deepinv's convention
    (``Tomography(fan_beam=True)``), up to half a pixel in the centre of rotation: a far source at θ sees what
    parallel rays see at θ − 90°.

    ``model="footprint"``: separable footprints, a trapezoid on the detector times the chord of the central ray (Long,
    Fessler & Balter 2010, SF-TR); ``model="joseph"``: the ray to the middle of each bin with linear interpolation.
    Entries are nonnegative.

    ``source_distance`` and ``detector_distance`` (axis to detector, 0 or more) in the unit of ``pixel_size`` and
    ``det_spacing``. ``n_det`` defaults to what covers the image. Data (B, C, n_det, n_angles), angles in degrees. The
    other settings are those of ``ParallelBeamTomography``.

    Raises InputError if the source lies inside the image's circumscribed circle. The detector may: its distance is a mere
    scale, and 0 places it on the axis.

    >>> physics = FanBeamTomography([0.0, 90.0], (1, 4, 4), source_distance=1e6, detector_distance=0.0, n_det=4)
    >>> torch.allclose(physics(torch.ones(1, 1, 4, 4)), torch.full((1, 1, 4, 2), 4.0), atol=1e-4)
    True
    """

    def __init__(
        self,
        angles: Sequence[float] | NDArray[Any] | Tensor,
        img_size: tuple[int, int, int],
        *,
        source_distance: float,
        detector_distance: float,
        n_det: int | None = None,
        det_spacing: float = 1.0,
        det_offset: float = 0.0,
        pixel_size: float = 1.0,
        model: str = "footprint",
        mask: str | Tensor | None = None,
        weights: Tensor | None = None,
        normalize: bool = False,
        storage: str = "sparse",
        kernel: str = "auto",
        max_memory: float | None = None,
        noise_model: NoiseModel | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        n = img_size[-1]
        detector = fan_detector(n, pixel_size, source_distance, detector_distance, n_det, det_spacing, det_offset)
        self.source_distance, self.distance = float(source_distance), float(source_distance + detector_distance)
        if model not in VIEWS:
            raise InputError(f"`model` must be one of {', '.join(VIEWS)}; got {model!r}.")
        geometry = (n, pixel_size, detector, self.source_distance, self.distance)
        super().__init__(
            angles,
            img_size,
            detector,
            pixel_size,
            view=functools.partial(fan_view, model, *geometry),
            parallel=False,
            turn=TURN,
            mask=mask,
            weights=weights,
            normalize=normalize,
            storage=storage,
            kernel=kernel,
            max_memory=max_memory,
            noise_model=noise_model,
            dtype=dtype,
            device=device,
        )

    @property
    def magnification(self) -> float:
        """Detector over axis scale."""
        return self.distance / self.source_distance

    def fbp(self, y: Tensor, *, filter: str = "ramp") -> Tensor:
        """Filtered back-projection of (weighted) data: ``filter`` is "ramp", "shepp-logan" or "hann".

        The views must cover a full turn or an arc of at least 180° and the fan's opening (Parker's weights); InputError
        otherwise.
        """
        self.check(y, self.data_size, "data")
        return fan_fbp(self, y, filter, self.source_distance, self.distance)


def fan_detector(
    n: int, pixel: float, source: float, beyond: float, n_det: int | None, spacing: float, offset: float
) -> Detector:
    """The detector of a checked geometry, by default wide enough for every ray that meets the image."""
    require_length("pixel_size", pixel)
    require_length("det_spacing", spacing)
    require_length("source_distance", source)
    radius = n * pixel / math.sqrt(2)
    if source <= radius:
        raise InputError(
            f"`source_distance` must exceed the radius {radius:.4g} of the image's circumscribed circle; "
            f"got {source}: the source would turn inside the object."
        )
    if not (math.isfinite(beyond) and beyond >= 0):
        raise InputError(f"`detector_distance` must be zero or a positive length; got {beyond}.")
    if n_det is None:
        edge = radius / math.sqrt(source**2 - radius**2) * (source + beyond)  # where the tangent ray lands
        n_det = math.ceil(2 * (edge + abs(offset)) / spacing)
    return as_detector(n_det, spacing, offset)


TURN = -90.0  # deepinv's fan beam starts a quarter turn before its parallel beam, and so do our public angles
VIEWS = {"footprint": fan_footprint, "joseph": joseph_fan}


def fan_view(
    model: str,
    n: int,
    pixel: float,
    detector: Detector,
    source: float,
    distance: float,
    angle: float,
    first_bin: int,
) -> Entries:
    """The entries of one view."""
    return VIEWS[model](angle, n, pixel, detector, source, distance, first_bin)
