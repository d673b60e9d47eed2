"""DICOM slices of a clinical scanner as attenuation: images to simulate scans of."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators import hounsfield_to_attenuation
from pnp_lip.operators.hounsfield import WATER_ATTENUATION
from pnp_lip.scans.scan import needs

__all__ = ["read_dicom"]


def read_dicom(path: str | Path, *, water: float = WATER_ATTENUATION) -> tuple[Tensor, float]:
    """Slices (slices, 1, H, W) of attenuation in the unit of ``water``, and the side of a pixel in millimetres.

    ``path`` is one file or a folder of a series, sorted along the patient, then by instance. Stored values times the rescale
    slope plus the intercept are Hounsfield units.

    Raises InputError for files that cannot be read, are no CT slices, differ in shape, or have pixels that are not square.
    """
    try:
        import pydicom
    except ImportError as error:
        raise needs("ct") from error
    path = Path(path)
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError(f"{path}: no such DICOM file, or an empty folder.")
    slices = []
    for file in files:
        try:
            data = pydicom.dcmread(file)
            spacing = [float(length) for length in data.PixelSpacing]
            values = data.pixel_array.astype(np.float64) * float(data.RescaleSlope) + float(data.RescaleIntercept)
        except Exception as error:  # pydicom and its decoders have many of their own
            raise InputError(f"{file}: could not be read as a DICOM slice of a CT ({error}).") from error
        if values.ndim != 2 or abs(spacing[0] - spacing[1]) > 1e-6 * spacing[0]:
            raise InputError(f"{file}: expected one slice of square pixels; got {values.shape} with pixels of {spacing} mm.")
        slices.append((order(data), values, spacing[0]))
    if len({(values.shape, side) for _, values, side in slices}) > 1:
        raise InputError(f"{path}: the slices differ in shape or in the size of their pixels.")
    slices.sort(key=lambda entry: entry[0])
    volume = torch.from_numpy(np.stack([values for _, values, _ in slices]))[:, None].float()
    return hounsfield_to_attenuation(volume, water=water), slices[0][2]


def order(data: Any) -> tuple[float, int]:
    """Where a slice lies in its series."""
    position = getattr(data, "ImagePositionPatient", None)
    return (float(position[2]) if position else 0.0, int(getattr(data, "InstanceNumber", None) or 0))
