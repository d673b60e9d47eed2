"""Training a potential: the loss is that of a minimiser, and is differentiated through the equation that it solves.

x̂ minimises ½‖Ax − y‖² + λR_θ(x), so that Aᵀ(Ax̂ − y) + λ∇R_θ(x̂) = 0. A change of θ moves x̂ by −λH⁻¹ ∂_θ∇R_θ(x̂),
H = AᵀA + λR''(x̂). With g the derivative of the loss in x̂ and H v = g, the derivative in θ is that of −λ⟨v, ∇R_θ(x̂)⟩, x̂ and
v held fixed. No iteration of the solver is kept.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pnp_lip.errors import InputError
from pnp_lip.operators.conjugate_gradient import conjugate_gradient
from pnp_lip.potentials import RidgePotential
from pnp_lip.potentials.ridge_potential import RidgeAtLevel, transfer_function
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers.examiner import Identity
from pnp_lip.solvers.variational import NOISE_FACTOR, WEIGHT
from pnp_lip.training.curvature import CappedRise, FixedFall, constrain_curvature, release_curvature
from pnp_lip.training.problems import TrainingProblem, draw, random_reconstruction, taken
from pnp_lip.training.training_run import Penalty, TrainingRun, TrainingSettings, log_error

__all__ = ["PotentialRun", "denoised", "implicit_loss", "minimise", "new_potential"]

WARM_UP = 50  # steps in which the learning rate grows to its largest value
SCALAR_RATE = 5.0  # slopes, limits and scales, stored as logarithms, learn so many times faster than filters
BETAS = (0.9, 0.98)  # of Adam
Effort = tuple[int, int, int]  # iterations of a problem's first visit and of a later one, steps of its adjoint equation
DENOISING: Effort = (40, 20, 12)
RECONSTRUCTION: Effort = (80, 40, 20)
VALIDATION = 60  # iterations
IDENTITY = Identity()


class PotentialRun(TrainingRun[RidgePotential]):
    """The state of a run that trains a potential.

    Problems denoise, with σ as in ``TrainingRun.corrupt``, or, the share ``equilibrium`` of them, reconstruct random blurs
    and scans, with the σ and λ that ``Variational`` suggests. Half of the steps take a problem from before, whose solution
    goes on from where it stood. A potential that is not constrained yet gets the defaults of ``constrain_curvature``.
    """

    def __init__(
        self, potential: RidgePotential, images: Sequence[Tensor], settings: TrainingSettings, penalty: Penalty | None = None
    ) -> None:
        width = potential.weight.shape[-1]
        if penalty is not None:
            raise InputError("a potential is trained without a penalty: leave out `penalty`.")
        if settings.patches.size < 3 * width:
            raise InputError(f"filters of {width} pixels need patches of at least {3 * width}; got {settings.patches.size}.")
        if not parametrize.is_parametrized(potential):
            constrain_curvature(potential)
        super().__init__(potential, images, settings)
        self.warm_up = WARM_UP
        self.constraint = {
            "rho": next(m.rho for m in potential.modules() if isinstance(m, FixedFall)),
            "curvature_limit": next(m.limit for m in potential.modules() if isinstance(m, CappedRise)),
        }
        filters, scalars = ([p for n, p in potential.named_parameters() if ("weight" in n) == wanted] for wanted in (True, False))
        groups = ({"params": filters, "rate": 1.0}, {"params": scalars, "rate": SCALAR_RATE})
        self.optimisers = [torch.optim.Adam(groups, betas=BETAS)]

    def loss(self) -> Tensor:
        """The mean over images of the log of the mean squared error of their patches' minimisers."""
        x = self.sampler()
        return implicit_loss(self.denoiser, taken(self.pool, lambda: self.problem(x), self.generator))

    def problem(self, x: Tensor) -> TrainingProblem:
        """A new problem with these images."""
        problems = self.settings.problems
        if draw(0, 1, self.generator) < problems.equilibrium:
            problem = random_reconstruction(x.to(self.device), self.generator, problems.scans)
            return dataclasses.replace(problem, sigma=NOISE_FACTOR * problem.sigma, weight=WEIGHT)
        sigma, y = self.corrupt(x)
        return TrainingProblem(x.to(self.device), y, IDENTITY, sigma, y)

    def result(self) -> RidgePotential:
        """The averaged potential with plain weights and ‖W‖ ≤ 1."""
        return release_curvature(cast(RidgePotential, self.averaged.module.eval()))


def denoised(potential: RidgePotential, y: Tensor, sigma: float) -> Tensor:
    """argmin_x ½‖x − y‖² + R_σ(x) by a fixed number of steps: for scores, without a bound of the distance."""
    return minimise(potential.at(sigma), IDENTITY, y, y, VALIDATION)


def implicit_loss(potential: RidgePotential, problem: TrainingProblem, effort: Effort | None = None) -> Tensor:
    """The loss of the problem's minimiser, whose gradient is the implicit one; the problem then starts from there.

    A border as wide as the filters is left out, because a patch goes on there where a photograph does not.
    """
    physics, sigma, border = problem.physics, problem.sigma, potential.weight.shape[-1] - 1
    first, again, steps = effort or (DENOISING if physics is IDENTITY else RECONSTRUCTION)
    weight = problem.weight
    with parametrize.cached():
        level = potential.at(sigma)
        found = minimise(level, physics, problem.y, problem.x_hat, again if problem.visited else first, weight)
        problem.x_hat, problem.visited = found, True
        x_hat = found.clone().requires_grad_()
        inner = (..., slice(border, -border or None), slice(border, -border or None))
        loss = log_error(x_hat[inner], problem.x[inner])
        (g,) = torch.autograd.grad(loss, x_hat)
        v = solve_adjoint(level, physics, found, g, steps, weight)
        product = weight * gradient_product(potential, found, v, sigma)
    return loss.detach() - (product - product.detach())


def gradient_product(potential: RidgePotential, x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """⟨v, ∇R_σ(x)⟩ = ⟨Wv, φ_σ(Wx)⟩, a number that can be differentiated in the parameters."""
    height, width = x.shape[-2:]
    margin = 0 if potential.padding_mode == "circular" else potential.weight.shape[-1] // 2
    pair = F.pad(torch.stack([x, v]), (margin,) * 4)
    size = (height + 2 * margin, width + 2 * margin)
    transformed = torch.fft.rfft2(pair)[:, :, None] * transfer_function(potential.weight, size)
    responses = torch.fft.irfft2(transformed.sum(3), s=size)
    of_x, of_v = responses[..., margin : margin + height, margin : margin + width]
    product: Tensor = (of_v * potential.activation(of_x, torch.tensor(sigma))).sum()
    return product


@torch.no_grad()
def minimise(level: RidgeAtLevel, physics: PhysicsLike, y: Tensor, start: Tensor, iterations: int, weight: float = 1.0) -> Tensor:
    """Near the minimiser of ½‖Ax − y‖² + λR_σ(x), ‖A‖ ≤ 1, by Nesterov's method, begun anew where its momentum leads uphill.

    Source: O'Donoghue & Candès (2015), the gradient scheme.
    """
    lipschitz = 1 + weight * sum(slope for slope, _ in level.clips if slope > 0)
    x = z = start
    t = 1.0
    for _ in range(iterations):
        g = physics.A_adjoint(physics.A(z) - y) + weight * level.grad(z)
        x, before = z - g / lipschitz, x
        if float((g * (x - before)).sum()) > 0:
            t = 1.0
        t, momentum = (1 + math.sqrt(1 + 4 * t * t)) / 2, t - 1
        z = x + momentum / t * (x - before)
    return x


@torch.no_grad()
def solve_adjoint(level: RidgeAtLevel, physics: PhysicsLike, x: Tensor, g: Tensor, steps: int, weight: float = 1.0) -> Tensor:
    """v with (AᵀA + λR''_σ(x)) v ≈ g by conjugate gradients; for blurs the matrix need not be positive."""
    hessian = level.hessian(x)
    return conjugate_gradient(lambda v: physics.A_adjoint(physics.A(v)) + weight * hessian(v), g, g.new_zeros(len(g)), steps)[0]


def new_potential(*, in_channels: int = 1, filters: int = 48, kernel_size: int = 13) -> RidgePotential:
    """Random filters, and slopes and limits from which training succeeds."""
    potential = RidgePotential(in_channels=in_channels, filters=filters, kernel_size=kernel_size, rising=1, falling=1)
    potential.activation.set_profile([18.0], [0.8], [0.025], [0.8])
    return potential
