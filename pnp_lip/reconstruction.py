"""From a sinogram to a slice: scale, strength and solution, for ``reconstruct`` and for ``pnp-lip ct``."""

import dataclasses
import math
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.frame import Data
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.scan_mistakes import likely_mistake
from pnp_lip.potentials import Potential
from pnp_lip.protocols import PhysicsLike
from pnp_lip.restore import DEFAULTS, Learned, Restoration, prior_of, solver_of, weights_hash
from pnp_lip.solvers import Choice, Result, Solver, Variational, choose_by_discrepancy, choose_by_held_out
from pnp_lip.solvers.scan_strength import SCAN_TOL, SCAN_WEIGHT, choose_for_scan, levels_for_scan, noise_of_scan
from pnp_lip.version import __version__

__all__ = ["LARGE_MISFIT", "Projector", "Slice", "choose", "linear_images", "reconstruct", "solve_slice"]

Projector: TypeAlias = ParallelBeamTomography | FanBeamTomography

# Noise levels on [0, 1] that a denoiser may assume, a factor of √2 apart: next to the best one up to 0.5 dB are lost.
SIGMAS = tuple(0.00125 * 2 ** (k / 2) for k in range(15))
BRIGHT = 0.75  # where the brightest thousandth of FBP, or else of Tikhonov, is put on the prior's scale [0, 1]
METAL = 1.25  # brightness on that scale from which on the box ends at twice the brightest pixel instead of 1
LARGE_MISFIT = 0.1  # relative misfit that is expected at most of a level that the user states
TIKHONOV = 3000.0  # weight of the data in units of 1/‖A‖²


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """The choice of a strength with its solution, the noise (rms) of the data, and the upper end of the box."""

    choice: Choice
    noise: float
    top: float

    @property
    def result(self) -> Result:
        """The solution."""
        return self.choice.result


def reconstruct(
    sinogram: Data,
    geometry: ParallelBeam | FanBeam | Tensor | NDArray[np.floating],
    *,
    denoiser: str | Learned | None = None,
    size: int | None = None,
    sigma: float | None = None,
    misfit: float | None = None,
    tol: float | None = None,
    max_iter: int = 2000,
) -> Restoration:
    """The slice behind a sinogram, by default the minimiser with the potential ``ridge``, its strength chosen by ``choose``.

    ``sinogram``: −log(I/I₀), numpy or torch, (detectors, views). ``geometry``: a ``ParallelBeam`` or ``FanBeam``, or the angles
    of a parallel beam in degrees. ``size``: pixels a side, by default as many as detector bins. ``sigma``: the noise level that
    the prior assumes, or ``misfit`` the relative data misfit to aim at, instead of the search. It runs on the processor.

    ``image`` is (size, size), of the sinogram's library and type if that is a float, in its units over the unit of length;
    ``result`` as in ``deblur``; ``notes`` name a likely mistake in the geometry. Raises InputError or ShapeError for data or
    settings that cannot be meant.

    >>> from pnp_lip.operators import demo_sinogram
    >>> scan = demo_sinogram()
    >>> found = reconstruct(scan.y[0, 0, :, ::30], scan.angles[::30], sigma=0.05, tol=1e-3, size=32)
    >>> found.image.shape, found.result.guarantee.proved
    (torch.Size([32, 32]), True)
    """
    if misfit is not None and not 0 < misfit < 1:
        raise InputError(f"`misfit` is a fraction of the data's norm, in (0, 1); got {misfit}.")
    if sinogram.ndim != 2 or 0 in sinogram.shape:
        raise ShapeError(f"a sinogram has the shape (detectors, views); got {tuple(sinogram.shape)}.")
    y = torch.as_tensor(np.asarray(sinogram, dtype=np.float32))[None, None]
    if not bool(y.isfinite().all()):
        raise InputError("the sinogram holds NaN or infinite values; repair them first.")
    prior, name = prior_of(denoiser, DEFAULTS["ct"])
    beam = geometry if isinstance(geometry, ParallelBeam | FanBeam) else ParallelBeam(torch.as_tensor(geometry), n_det=y.shape[2])
    side = y.shape[2] if size is None else size
    kind = FanBeamTomography if isinstance(beam, FanBeam) else ParallelBeamTomography
    physics = kind(beam, (1, side, side), normalize=isinstance(prior, Potential))
    measured = float(physics.unit) * y
    images, scale, _ = linear_images(physics, measured)
    found = solve_slice(
        measured / scale, physics, images["Tikhonov"], prior, sigma=sigma, misfit=misfit, tol=tol, max_iter=max_iter
    )
    x = scale * found.result.x[0, 0]
    image: Data = x
    if isinstance(sinogram, np.ndarray):
        image = x.numpy().astype(sinogram.dtype if sinogram.dtype.kind == "f" else np.float32)
    elif sinogram.is_floating_point():
        image = x.to(sinogram)
    record = {
        "pnp_lip": __version__,
        "scale": scale,
        "geometry": kind.__name__,
        "denoiser": name,
        "weights_sha256": weights_hash(prior),
        "sigma": found.choice.best["sigma"],
    }
    mistake = likely_mistake(physics, y)
    return Restoration(image, found.result, None, () if mistake is None else (mistake,), record)


def solve_slice(
    y: Tensor, physics: Projector, tikhonov: Tensor, prior: Learned, *, sigma: float | None, misfit: float | None,
    tol: float | None, max_iter: int,
) -> Slice:  # fmt: skip
    """The prior's image of data on its scale, of which Tikhonov's is known."""
    residual = physics.A(tikhonov) - y
    noise = noise_of_scan(y, residual)
    # Of measured data a fit misses more than the noise: what no image explains is no better known.
    assumed = max(noise, float(residual.double().square().mean().sqrt()))
    brightest = float(tikhonov.max())
    top = 1.0 if brightest <= METAL else 2 * brightest
    tol = SCAN_TOL if tol is None and isinstance(prior, Potential) else tol
    solver = dataclasses.replace(solver_of(prior, tol=tol, weight=SCAN_WEIGHT), box=(0.0, top))
    choice = choose(solver, y, physics, assumed, sigma=sigma, misfit=misfit, max_iter=max_iter)
    return Slice(choice, noise, top)


def choose(
    solver: Solver | Variational, y: Tensor, physics: PhysicsLike, noise: float, *, sigma: float | None, misfit: float | None,
    max_iter: int,
) -> Choice:  # fmt: skip
    """The level that predicts held-out views, or the largest one that fits to the ``misfit``; a ``sigma`` is only solved."""
    potential = isinstance(solver, Variational)
    if sigma is None and misfit is None:
        if potential:
            return choose_for_scan(solver, y, physics, noise=noise, max_iter=max_iter)
        return choose_by_held_out(solver, y, physics, values=SIGMAS, max_iter=max_iter)
    goal = (misfit or LARGE_MISFIT) * float(y.double().norm()) / math.sqrt(y.numel())
    values = (sigma,) if sigma is not None else levels_for_scan(goal) if potential else SIGMAS
    return choose_by_discrepancy(solver, y, physics, noise=goal, values=values, max_iter=max_iter)


def linear_images(physics: Projector, measured: Tensor) -> tuple[dict[str, Tensor], float, dict[str, str]]:
    """Filtered back-projection and Tikhonov's image over their scale, and why the first is missing, where it is.

    Without it, Tikhonov is solved on the scale of the plain back-projection Aᵀy / AᵀA1 and sets the final one.
    """
    images, missing = {}, {}
    try:
        first = images["FBP"] = physics.fbp(measured, filter="hann")
    except InputError as error:  # the views miss lines
        missing["FBP"] = str(error)
        ones = physics.A_adjoint_A(torch.ones(1, 1, *physics.img_size[1:]))
        first = physics.A_adjoint(measured) / ones.clamp_min(1e-3 * float(ones.max()))
    scale = scale_of(first, measured)
    gamma, tol = TIKHONOV / physics.norm_upper**2, 1e-3 * math.sqrt(first.numel())
    images["Tikhonov"] = scale * physics.solve_prox(torch.zeros_like(first), measured / scale, gamma, tol=tol).x
    if missing:
        scale = scale_of(images["Tikhonov"], measured)
    return {name: image / scale for name, image in images.items()}, scale, missing


def scale_of(first: Tensor, measured: Tensor) -> float:
    """What the prior's 1 stands for in the data's units; InputError for data that no positive image has."""
    scale = float(np.quantile(first.numpy(), 0.999)) / BRIGHT
    if not (scale > 0 and float(measured.mean()) > 0):
        raise InputError("this sinogram is not that of a positive image; take −log(I/I₀) of transmitted intensities.")
    return scale
