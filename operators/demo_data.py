"""A measured sinogram that ships with the package."""

import dataclasses
from importlib import resources

import numpy as np
import torch
from torch import Tensor

__all__ = ["Sinogram", "demo_sinogram"]


@dataclasses.dataclass(frozen=True)
class Sinogram:
    """Data (1, 1, detectors, views), float32, with the angles of the views in degrees, bins as wide as pixels."""

    y: Tensor
    angles: Tensor
    source: str


def demo_sinogram() -> Sinogram:
    """One slice of a measured electron-tomography tilt series: a needle seen from 77 tilts, −76° … 76° by 2°.

    256 bins, parallel beam, rotation axis at the detector's middle, detector counts; 28° are missing, no truth is known.
    Stored as 16-bit integers, that is to half a count of at most 64,000.

    Source: HAADF-STEM tilt series of the test data of ETSpy, aligned there; National Institute of Standards and Technology,
    public domain.

    >>> data = demo_sinogram()
    >>> tuple(data.y.shape), data.angles[[0, -1]].tolist()
    ((1, 1, 256, 77), [-76.0, 76.0])
    """
    with (
        resources.files("pnp_lip.operators").joinpath("tilt_series.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        counts = archive["sinogram"].astype(np.float32) * archive["step"]
        angles, source = torch.from_numpy(archive["angles"]), str(archive["source"])
    return Sinogram(torch.from_numpy(counts)[None, None], angles, source)
