"""Mistakes in the description of a scan that the data give away: a transposed sinogram, a sign, radians, a misplaced axis."""

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.operators.parallel_beam import ParallelBeam
from pnp_lip.operators.scan_geometry import ScanGeometry
from pnp_lip.operators.tomography import SymmetricTomography

__all__ = ["likely_mistake"]

SIDE = 64  # pixels; on a coarse image the comparison takes less time than one reconstruction
WEIGHT = 3000.0  # of the data in units of 1/‖A‖²
TOLERANCE = 1e-3  # of the image, for data and operator of norm 1
BETTER = 0.9  # of the misfit. Phantoms with 0-5 % noise and offsets from half a bin: 0.06-0.96 with the right sign
FEWEST = 8  # views from which the axis is sought
OFF, SURE = 0.25, 0.05  # bins: an axis that far away is named, if its standard error is below the second
OUTSIDE = 0.02  # of the largest value: what the detector's ends see on average of an object that is not cut off


def likely_mistake(physics: SymmetricTomography, y: Tensor) -> str | None:
    """What is probably wrong with this scan, because its data fit another description much better; None if nothing is.

    Compared are the relative misfits of Tikhonov's image on a coarse grid. Tried: the transposed sinogram, if it is square;
    the offset with the other sign; angles in radians, if they lie within one turn of these. Of parallel beams the axis, too.
    """
    scan, bins, views = physics.geometry, *y.shape[2:]
    others: dict[str, tuple[ScanGeometry, Tensor]] = {}
    if bins == views:
        others["the sinogram seems to be transposed: it is (bins, views)"] = scan, y.mT
    if scan.det_offset:
        others["the offset seems to have the wrong sign"] = dataclasses.replace(scan, det_offset=-scan.det_offset), y
    if views > 1 and float(np.abs(scan.degrees).max()) <= 2 * math.pi:
        others["the angles seem to be radians"] = dataclasses.replace(scan, angles=np.rad2deg(scan.degrees)), y
    if others:
        own = coarse_misfit(physics, scan, y)
        found = {message: coarse_misfit(physics, *other) for message, other in others.items()}
        message = min(found, key=lambda text: found[text])
        if found[message] < BETTER * own:
            return f"{message} (the data are then missed by {found[message]:.1%} instead of {own:.1%})"
    away = axis_away(scan, y[0, 0].double().numpy()) if isinstance(scan, ParallelBeam) else 0.0
    if not away:
        return None
    better = scan.det_offset - away * scan.det_spacing
    return f"the axis of rotation seems to lie {abs(away):.2f} bins from where it is stated; try an offset of {better:.3g}"


def axis_away(scan: ParallelBeam, y: NDArray[np.float64]) -> float:
    """How many bins off the axis is, if that is sure: centres of mass move like c + a cos θ + b sin θ, and c should be 0.

    Only for objects that the detector sees whole. y is (bins, views).
    """
    mass, ends = y.sum(0), np.abs([y[:2].mean(), y[-2:].mean()])
    if len(mass) < FEWEST or not (mass.min() > 0 and ends.max() <= OUTSIDE * y.max()):
        return 0.0
    centres, turn = scan.bin_centres.numpy() @ y / mass / scan.det_spacing, np.deg2rad(scan.degrees)
    waves = np.stack([np.ones_like(turn), np.cos(turn), np.sin(turn)], 1)
    fit, _, rank, _ = np.linalg.lstsq(waves, centres, rcond=None)
    spread = np.linalg.norm(waves @ fit - centres) / math.sqrt(len(turn) - waves.shape[1])
    sure = rank == waves.shape[1] and spread * math.sqrt(np.linalg.inv(waves.T @ waves)[0, 0]) < SURE
    return float(fit[0]) if sure and abs(fit[0]) > OFF else 0.0


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
