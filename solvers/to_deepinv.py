"""Our solvers as deepinv's algorithms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pnp_lip.errors import InputError
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.admm import ADMM
from pnp_lip.solvers.data_terms import LeastSquares
from pnp_lip.solvers.douglas_rachford import DouglasRachford
from pnp_lip.solvers.forward_backward import ForwardBackward
from pnp_lip.solvers.half_quadratic import HalfQuadratic
from pnp_lip.solvers.krasnoselskii_mann import KrasnoselskiiMann
from pnp_lip.solvers.red import RED
from pnp_lip.solvers.solver import Solver

if TYPE_CHECKING:
    from deepinv.optim import BaseOptim

__all__ = ["to_deepinv"]


def to_deepinv(solver: Solver, y: Tensor, physics: PhysicsLike, *, max_iter: int = 1000) -> BaseOptim:
    """deepinv's algorithm with the step that ``solver`` would use: PGD, ADMM, DRS, HQS or, for RED, gradient descent.

    The result is called as ``model(y, physics, init=x0)`` and iterates the same map. It has none of our checks or monitoring;
    ``solver.check(y, physics)`` says what is proved. Raises InputError for what deepinv has no twin of: other solvers, a box,
    another data term than least squares, another scheme than the plain iteration.
    """
    from deepinv import optim

    twins = {ForwardBackward: "PGD", ADMM: "ADMM", DouglasRachford: "DRS", HalfQuadratic: "HQS", RED: "GD"}
    if type(solver) not in twins or solver.box is not None:
        names = ", ".join(kind.__name__ for kind in twins)
        raise InputError(f"deepinv has a twin of {names} without a box; got {type(solver).__name__}, box={solver.box}.")
    if type(solver.data_term) is not LeastSquares or solver.scheme != KrasnoselskiiMann():
        raise InputError(
            "deepinv's twin iterates plainly, for ½‖Ax − y‖²; got data_term="
            f"{type(solver.data_term).__name__}, scheme={type(solver.scheme).__name__}."
        )
    p = solver.prepare(y, physics)
    used = p.iteration.parameters
    return getattr(optim, twins[type(solver)])(
        data_fidelity=optim.L2(),
        prior=optim.RED(p.maps.denoiser) if isinstance(solver, RED) else optim.PnP(p.maps.denoiser),
        stepsize=used["step"],
        lambda_reg=used.get("weight", 1.0),
        sigma_denoiser=solver.sigma,
        max_iter=max_iter,
        early_stop=True,
        thres_conv=solver.tol,
    )
