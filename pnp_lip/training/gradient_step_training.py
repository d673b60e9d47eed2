"""Training a gradient-step potential: its gradient step denoises, or its critical points reconstruct.

A critical point x̂ of ½‖Ax − y‖² + λR_θ(x) is differentiated as in ``potential_training``: with g the derivative of the loss in
x̂ and H v = g, H = AᵀA + λR''(x̂), the derivative in θ is that of −λ⟨v, ∇R_θ(x̂)⟩, x̂ and v held fixed.
"""

import dataclasses
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.operators.conjugate_gradient import conjugate_gradient
from pnp_lip.potentials import GradientStepPotential
from pnp_lip.solvers import descent
from pnp_lip.solvers.energy import Energy
from pnp_lip.solvers.variational import SUGGESTED
from pnp_lip.training.problems import TrainingProblem, draw, random_reconstruction, taken
from pnp_lip.training.training_run import TrainingRun, log_error

__all__ = ["GradientStepRun"]

BORDER = 8  # pixels of a patch that do not count: it goes on there where a photograph does not
FIRST, AGAIN, ADJOINT = 45, 20, 12  # iterations of a problem's first visit and of a later one, steps of its adjoint equation
UNKNOWN = 0.5  # the share of blurs with an unknown border: trained on circular ones alone, critical points went astray there
LOST = 1e-3  # of the gradient, root mean square: a problem that is still as far from its critical point is dropped
# Curvature of R above which it is penalised, and how often a random direction is turned towards the steepest. Without that, and
# at a rate of 1e-3, critical points were no longer reached after 400 steps.
STEEPEST, POWER_STEPS = 1.1, 3


class GradientStepRun(TrainingRun[GradientStepPotential]):
    """The state of a run that trains a gradient-step potential.

    Steps denoise by x − ∇R_σ(x), or, the share ``equilibrium`` of them, learn from critical points of random blurs and scans,
    with the σ and λ that ``Variational`` suggests.
    """

    def loss(self) -> Tensor:
        """The mean over images of the log of their patches' mean squared error."""
        problems, x = self.settings.problems, self.sampler()
        if draw(0, 1, self.generator) >= problems.equilibrium:
            sigma, y = self.corrupt(x)
            return log_error(self.denoiser.denoise(y, sigma), x.to(self.device))
        while True:
            problem = taken(self.pool, lambda: self.problem(x), self.generator)
            if approach(self.denoiser, problem) < LOST:
                return implicit_loss(self.denoiser, problem, self.generator)
            self.pool = [p for p in self.pool if p is not problem]

    def problem(self, x: Tensor) -> TrainingProblem:
        """A new problem with these images."""
        factor, weight = SUGGESTED[GradientStepPotential]
        problem = random_reconstruction(x.to(self.device), self.generator, self.settings.problems.scans, unknown=UNKNOWN)
        return dataclasses.replace(problem, sigma=factor * problem.sigma, weight=weight)


@dataclasses.dataclass(frozen=True)
class Objective:
    """½‖Ax − y‖² + λR_σ(x) by its gradient, as far as ``descent.move`` needs it."""

    potential: GradientStepPotential
    problem: TrainingProblem
    box: ClassVar[None] = None
    preconditioner = staticmethod(torch.positive)

    def gradient(self, x: Tensor) -> Tensor:
        """∇f(x) + λ∇R_σ(x)."""
        p = self.problem
        return p.physics.A_adjoint(p.physics.A(x) - p.y) + p.weight * self.potential.grad(x, p.sigma)


@torch.no_grad()
def approach(potential: GradientStepPotential, problem: TrainingProblem) -> float:
    """Move the problem's solution towards a critical point; the size of the gradient there, root mean square."""
    objective = cast(Energy, Objective(potential, problem))
    state = descent.begin(objective, problem.x_hat, None, 0.0, values=False)
    for _ in range(AGAIN if problem.visited else FIRST):
        descent.move(objective, state)
    problem.x_hat, problem.visited = state.z, True
    return state.size


def implicit_loss(potential: GradientStepPotential, problem: TrainingProblem, generator: torch.Generator) -> Tensor:
    """The loss of the problem's critical point, whose gradient is the implicit one, with a price for steep curvature."""
    physics, weight = problem.physics, problem.weight
    x_hat = problem.x_hat.clone().requires_grad_()
    inner = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    loss = log_error(x_hat[inner], problem.x[inner])
    (g,) = torch.autograd.grad(loss, x_hat)
    at = problem.x_hat.clone().requires_grad_()
    slope = potential.differentiable_grad(at, problem.sigma)

    def bent(v: Tensor, differentiable: bool = False) -> Tensor:
        return torch.autograd.grad(slope, at, v, retain_graph=True, create_graph=differentiable)[0]

    v, _ = conjugate_gradient(lambda v: physics.A_adjoint(physics.A(v)) + weight * bent(v), g, g.new_zeros(len(g)), ADJOINT)
    product = weight * (v * slope).sum()
    u = torch.randn(at.shape, generator=generator).to(at)
    for _ in range(POWER_STEPS):
        u = bent(u / sizes(u))
    steep = F.relu(sizes(bent(u / sizes(u), differentiable=True)) - STEEPEST).square().mean()
    return loss.detach() - (product - product.detach()) + steep


def sizes(u: Tensor) -> Tensor:
    """The norm of each image, (B, 1, 1, 1)."""
    norms: Tensor = torch.linalg.vector_norm(u, dim=(1, 2, 3), keepdim=True)
    return norms
