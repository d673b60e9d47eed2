"""One call from a sinogram to a slice; the choices are those of ``pnp-lip ct``."""

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.command_line.ct import SIGMAS, choose, linear_images
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.frame import Data
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.potentials import RidgePotential
from pnp_lip.protocols import PhysicsLike
from pnp_lip.restore import Learned, Restoration, prior_of, solutions, solver_of, weights_hash
from pnp_lip.solvers import Choice, Result, Solver, Variational
from pnp_lip.solvers.variational import WEIGHT
from pnp_lip.version import __version__

__all__ = ["reconstruct"]


def reconstruct(
    sinogram: Data,
    geometry: ParallelBeam | FanBeam | Tensor | NDArray[np.floating],
    *,
    denoiser: str | Learned | None = None,
    rounds: int | None = None,
    size: int | None = None,
    sigma: float | None = None,
    misfit: float | None = None,
    tol: float | None = None,
    max_iter: int = 500,
) -> Restoration:
    """The slice behind a sinogram, by default the minimiser with the potential ``ridge``, its strength chosen by held-out views.

    ``sinogram``: −log(I/I₀), numpy or torch, (detectors, views). ``geometry``: a ``ParallelBeam`` or ``FanBeam``, or the angles
    of a parallel beam in degrees. ``size``: pixels a side, by default as many as detector bins. ``sigma``: the noise level that
    the prior assumes, or ``misfit`` the relative data misfit to aim at, instead of the search. It runs on the processor.

    ``image`` is (size, size), of the sinogram's library and type if that is a float, in its units over the unit of length;
    ``result`` as in ``deblur``. Raises InputError or ShapeError for data or settings that cannot be meant.

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
    prior, name, rounds = prior_of(denoiser, rounds, grey="ridge")
    beam = geometry if isinstance(geometry, ParallelBeam | FanBeam) else ParallelBeam(torch.as_tensor(geometry), n_det=y.shape[2])
    side = y.shape[2] if size is None else size
    kind = FanBeamTomography if isinstance(beam, FanBeam) else ParallelBeamTomography
    physics = kind(beam, (1, side, side), normalize=isinstance(prior, RidgePotential))
    measured = float(physics.unit) * y
    _, scale, _ = linear_images(physics, measured)
    choices: list[Choice] = []
    options = argparse.Namespace(misfit=misfit, max_iter=max_iter)

    def search(solver: Solver | Variational, y: Tensor, physics: PhysicsLike, *, x0: Tensor | None) -> Result:
        choices.append(choose(solver, y, physics, SIGMAS if sigma is None else (sigma,), options))
        return choices[-1].result

    results = solutions(solver_of(prior, tol=tol, weight=WEIGHT), measured / scale, physics, rounds, solve=search)
    x = scale * results[-1].x[0, 0]
    floats = np.asarray(sinogram).dtype.kind == "f"
    image: Data = x.numpy() if isinstance(sinogram, np.ndarray) else x
    if floats:
        image = image.astype(sinogram.dtype) if isinstance(sinogram, np.ndarray) else x.to(sinogram)  # type: ignore[union-attr]
    record = {"pnp_lip": __version__, "scale": scale, "geometry": kind.__name__, "denoiser": name,
              "weights_sha256": weights_hash(prior), "sigma": choices[-1].best["sigma"]}  # fmt: skip
    return Restoration(image, results, None, (), record)
