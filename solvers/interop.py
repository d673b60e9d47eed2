"""Both directions between this package and deepinv: their denoisers as fixed maps here, our solvers as theirs there."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from pnp_lip.errors import InputError
from pnp_lip.solvers.admm import ADMM
from pnp_lip.solvers.data_terms import LeastSquares
from pnp_lip.solvers.douglas_rachford import DouglasRachford
from pnp_lip.solvers.forward_backward import ForwardBackward
from pnp_lip.solvers.half_quadratic import HalfQuadratic
from pnp_lip.solvers.krasnoselskii_mann import KrasnoselskiiMann
from pnp_lip.solvers.red import RED
from pnp_lip.solvers.result import Result
from pnp_lip.solvers.solver import Solver

__all__ = ["FixedMap", "fixed_map", "to_deepinv"]


class FixedMap(nn.Module):
    """A denoiser whose warm start is dropped before each call, so that D(x, σ) depends on x and σ alone.

    deepinv's TVDenoiser and TGVDenoiser otherwise begin where their last call ended.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        """D(x, σ) from a cold start."""
        for module in self.denoiser.modules():
            if warm_starts(module):
                setattr(module, "restart", True)  # noqa: B010 (torch types attributes of modules as tensors)
        denoised: Tensor = self.denoiser(x, sigma)
        return denoised


def fixed_map(denoiser: Any) -> Any:
    """The denoiser as a map that does not change from call to call; itself when there is nothing to mend.

    Warm starts are dropped (``FixedMap``). An ``EquivariantDenoiser`` that draws its transformations at random averages over
    all eight rotations by 90° and reflections instead. Solvers apply this to every denoiser by themselves.
    """
    if not isinstance(denoiser, nn.Module):
        return denoiser
    if draws_transformations(denoiser):
        from deepinv.models import EquivariantDenoiser
        from deepinv.transform import Reflect, Rotate

        # Spelled out, because random=False of deepinv 0.5.0 passes a misnamed axis and still draws its reflections.
        group = Rotate(n_trans=4, multiples=90, positive=True) * Reflect(n_trans=2, dim=[-1])
        return EquivariantDenoiser(fixed_map(denoiser.denoiser), transform=group).eval()
    return FixedMap(denoiser) if any(warm_starts(m) for m in denoiser.modules()) else denoiser


def warm_starts(module: nn.Module) -> bool:
    """Whether a module keeps a state from call to call, in deepinv's manner."""
    return isinstance(getattr(module, "restart", None), bool) and hasattr(module, "x2")


def draws_transformations(denoiser: nn.Module) -> bool:
    """Whether an equivariant denoiser uses other transformations at each call: several draws do not form the same set."""
    transform = getattr(denoiser, "eval_transform", None)
    if transform is None or not hasattr(transform, "get_params"):
        return False
    with torch.random.fork_rng(devices=[]):
        draws = [sorted_parameters(transform.get_params(torch.zeros(1, 1, 4, 4))) for _ in range(8)]
    return any(draw != draws[0] for draw in draws)


def sorted_parameters(parameters: dict[str, Any]) -> list[list[str]]:
    """A draw of transformations as a comparable set."""
    return [sorted(str(row) for row in torch.as_tensor(parameters[name]).tolist()) for name in sorted(parameters)]


def to_deepinv(solver: Solver, y: Tensor, physics: Any, *, max_iter: int | None = None) -> Any:
    """deepinv's algorithm with the step that ``solver`` would use: PGD, ADMM, DRS, HQS or, for RED, gradient descent.

    The result is called as ``model(y, physics, init=x0)`` and iterates the same map. It has none of our checks or monitoring;
    ``solver.check(y, physics)`` says what is proved. Raises InputError for what deepinv has no twin of: other solvers, a box,
    another data term than least squares, an acceleration.
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
    settings = one_step_settings(solver, y, physics)
    denoiser = fixed_map(solver.denoiser)
    return getattr(optim, twins[type(solver)])(
        data_fidelity=optim.L2(),
        prior=optim.RED(denoiser) if isinstance(solver, RED) else optim.PnP(denoiser),
        stepsize=settings["step"],
        lambda_reg=settings["weight"] if isinstance(solver, RED) else 1.0,
        sigma_denoiser=solver.sigma,
        max_iter=solver.max_iter if max_iter is None else max_iter,
        early_stop=True,
        thres_conv=solver.tol,
    )


def one_step_settings(solver: Solver, y: Tensor, physics: Any) -> dict[str, Any]:
    """The parameters the solver derives for these data."""
    result: Result = dataclasses.replace(solver, max_iter=1).solve(y, physics)
    return result.settings
