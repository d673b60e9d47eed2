"""Data to try tomography on: phantoms whose sinograms are known in closed form, and a measured sinogram."""

import dataclasses
import math
from importlib import resources

import numpy as np
import torch
from torch import Tensor

__all__ = ["SHEPP_LOGAN", "Sinogram", "demo_sinogram", "ellipse_image", "ellipse_sinogram"]

Ellipse = tuple[float, float, float, float, float, float]

# Value, half axes, centre and angle (degrees) on [−1, 1]²: Shepp & Logan (1974) with the contrast of Toft (1996).
SHEPP_LOGAN: tuple[Ellipse, ...] = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


def ellipse_image(n: int, ellipses: tuple[Ellipse, ...] = SHEPP_LOGAN, *, samples: int = 8) -> Tensor:
    """Pixel means of a sum of ellipses on an n × n image that spans [−1, 1]², from samples² points a pixel; (n, n).

    >>> round(ellipse_image(32, ((1.0, 1.0, 1.0, 0.0, 0.0, 0.0),)).sum().item() / 256, 2)  # π r², r = 16 pixels
    3.14
    """
    fine = n * samples
    line = (2 * torch.arange(fine, dtype=torch.float64) + 1) / fine - 1
    x, y = line[None, :], -line[:, None]
    image = torch.zeros(fine, fine, dtype=torch.float64)
    for value, a, b, x0, y0, angle in ellipses:
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        u = (x - x0) * cosine + (y - y0) * sine
        v = (y - y0) * cosine - (x - x0) * sine
        image += value * ((u / a).square() + (v / b).square() <= 1)
    return image.reshape(n, samples, n, samples).mean((1, 3))


def ellipse_sinogram(
    n: int, angles: Tensor, n_det: int, ellipses: tuple[Ellipse, ...] = SHEPP_LOGAN, *, spacing: float = 1.0
) -> Tensor:
    """Exact bin means of the parallel projections of a sum of ellipses, lengths in pixels of the n × n image.

    An ellipse of value q and half axes a, b has p(t) = 2qab √(w² − t²)/w², w² = a² cos² + b² sin²; its integral over
    a bin is qab (asin(τ) + τ √(1 − τ²)) between τ = t/w at the bin's edges. Returns (n_det, angles), float64.
    """
    theta = torch.deg2rad(angles.to(torch.float64))[None, :]
    edges = ((torch.arange(n_det + 1, dtype=torch.float64) - n_det / 2) * spacing)[:, None]
    scale = n / 2
    total = torch.zeros(n_det, len(angles), dtype=torch.float64)
    for value, a, b, x0, y0, angle in ellipses:
        turned = theta - math.radians(angle)
        width = scale * torch.sqrt((a * torch.cos(turned)).square() + (b * torch.sin(turned)).square())
        centre = scale * (x0 * torch.cos(theta) + y0 * torch.sin(theta))
        tau = ((edges - centre) / width).clamp(-1, 1)
        area = value * a * b * scale**2 * (torch.asin(tau) + tau * torch.sqrt(1 - tau.square()))
        total += area.diff(dim=0) / spacing
    return total


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
    path = resources.files("pnp_lip.operators").joinpath("tilt_series.npz")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        counts = archive["sinogram"].astype(np.float32) * archive["step"]
        angles, source = torch.from_numpy(archive["angles"]), str(archive["source"])
    return Sinogram(torch.from_numpy(counts)[None, None], angles, source)
