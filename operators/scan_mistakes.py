"""Mistakes in the description of a scan that the data give away: a transposed sinogram, a sign, radians."""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators.scan_geometry import ScanGeometry
from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["likely_mistake"]

SIDE = 64  # pixels; on a coarse image the comparison takes less time than one reconstruction
WEIGHT = 3000.0  # of the data in units of 1/‖A‖²
TOLERANCE = 1e-3  # of the image, for data and operator of norm 1
BETTER = 0.9  # of the misfit. Phantoms with 0-5 % noise and offsets from half a bin: 0.06-0.96 with the right sign


def likely_mistake(physics: SymmetricTomography, y: Tensor) -> str | None:
    """What is probably wrong with this scan, because its data fit another description much better; None if nothing is.

    Compared are the relative misfits of Tikhonov's image on a coarse grid. Tried: the transposed sinogram, if it is square;
    the offset with the other sign; angles in radians, if they lie within one turn of these.
    """
    scan, bins, views = physics.geometry, *y.shape[2:]
    others: dict[str, tuple[ScanGeometry, Tensor]] = {}
    if bins == views:
        others["the sinogram seems to be transposed: it is (bins, views)"] = scan, y.mT
    if scan.det_offset:
        others["the offset seems to have the wrong sign"] = dataclasses.replace(scan, det_offset=-scan.det_offset), y
    if views > 1 and float(np.abs(scan.degrees).max()) <= 2 * math.pi:
        others["the angles seem to be radians"] = dataclasses.replace(scan, angles=np.rad2deg(scan.degrees)), y
    if not others:
        return None
    own = coarse_misfit(physics, scan, y)
    found = {message: coarse_misfit(physics, *other) for message, other in others.items()}
    message = min(found, key=lambda text: found[text])
    if not found[message] < BETTER * own:
        return None
    return f"{message} (the data are then missed by {found[message]:.1%} instead of {own:.1%})"


def coarse_misfit(physics: SymmetricTomography, scan: ScanGeometry, y: Tensor) -> float:
    """‖Ax − y‖/‖y‖ for x = argmin γ/2 ‖Ax − y‖² + ½ ‖x‖² on at most 64 × 64 pixels; infinite for an impossible scan."""
    size = physics.img_size[1:]
    coarse = min(SIDE, size[0]), min(SIDE, size[1])
    sides = scan.sides[0] * size[0] / coarse[0], scan.sides[1] * size[1] / coarse[1]
    pixels = dataclasses.replace(scan, pixel_size=sides[0] if sides[0] == sides[1] else sides)
    try:
        small = type(physics)(pixels, (1, *coarse), normalize=True, dtype=physics.unit.dtype)
    except InputError:
        return math.inf
    first = y[:1, :1] / float(y[:1, :1].norm())
    x = small.solve_prox(torch.zeros(1, 1, *coarse, dtype=y.dtype), first, WEIGHT, tol=TOLERANCE).x
    return float((small.A(x) - first).norm() / first.norm())
