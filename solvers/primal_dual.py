"""The primal-dual splitting of Condat and Vũ, for data terms h(Ax) of which only the prox of h is cheap."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import MapBound
from pnp_lip.errors import InputError
from pnp_lip.solvers.bounds import FIRM
from pnp_lip.solvers.douglas_rachford import firm_denoiser
from pnp_lip.solvers.evidence import Evidence
from pnp_lip.solvers.guarantee import Hypothesis
from pnp_lip.solvers.problem import Problem
from pnp_lip.solvers.solver import Solver, positive_step

__all__ = ["PrimalDual"]


@dataclasses.dataclass(frozen=True, eq=False)
class PrimalDual(Solver):
    """x⁺ = D(x − γAᵀu), u⁺ = prox_{s h*}(u + s A(2x⁺ − x)), the state being the pair (x, u).

    Needs A, Aᵀ and the prox of h* in the space of the data: no linear system, no gradient of f. With D firmly nonexpansive,
    hence a resolvent, and γ s ‖A‖² < 1, the map is firmly nonexpansive in the norm ‖x‖²/γ − 2⟨Ax, u⟩ + ‖u‖²/s, and
    x_k converges to x = D(x − γ∇f(x)), a fixed point of ForwardBackward with the same γ, if there is one. The
    residual is reported in the equivalent norm √(‖x‖² + γ‖u‖²/s), in which it need not fall at every step.

    ``dual_step`` s, by default 0.99/(γ‖A‖²); γ by default 1.9/L. There is no box. Other arguments and errors are those of
    ``Solver``; images have shape (B, C, H, W), u that of the data.

    Source: Condat (2013), Section 3; Vũ (2013), Theorem 3.1.
    """

    dual_step: float | None = None
    theorem: ClassVar[str] = "primal-dual with a firmly nonexpansive denoiser (Vũ 2013, Theorem 3.1)"
    equation: ClassVar[str] = "x = D(x − γ∇f(x))"
    takes_box: ClassVar[bool] = False
    watched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual_step is not None and not 0 < self.dual_step < math.inf:
            raise InputError(f"`dual_step` must be positive and finite; got {self.dual_step}. Pass None to derive it.")

    def initial(self, p: Problem, x: Tensor) -> Tensor:
        return torch.cat([x.flatten(1), torch.zeros_like(p.y).flatten(1)], dim=1)

    def update(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        x, u = self.split(p, v)
        s = p.dual_step
        new = p.denoise(x - p.gamma * p.physics.A_adjoint(u))
        u = p.term.dual_prox(u + s * p.physics.A(2 * new - x), p.y, s)
        return torch.cat([new.flatten(1), u.flatten(1)], dim=1), new

    def split(self, p: Problem, v: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the dual variable of a state."""
        n = v.shape[1] - p.y[0].numel()
        return v[:, :n].reshape(-1, *p.image_shape), v[:, n:].reshape(-1, *p.y.shape[1:])

    def norm(self, p: Problem, v: Tensor) -> Tensor:
        n = v.shape[1] - p.y[0].numel()
        primal, dual = v[:, :n].square().sum(1), v[:, n:].square().sum(1)
        return (primal + p.gamma / p.dual_step * dual).sqrt()

    def derived_dual_step(self, e: Evidence) -> float:
        norm = e.norm_upper if e.norm_upper is not None else e.scale**0.5
        return 0.99 / (e.gamma * norm**2) if self.dual_step is None else self.dual_step

    def hypotheses(self, e: Evidence) -> tuple[Hypothesis, ...]:
        if e.norm_upper is None:
            return (positive_step(e), firm_denoiser(e))  # the missing bound of ‖A‖ is among the shared hypotheses
        product = Fraction(e.gamma) * Fraction(e.dual_step) * Fraction(e.norm_upper) ** 2
        advice = "Pass dual_step=None to derive it."
        return (
            positive_step(e),
            firm_denoiser(e),
            Hypothesis("`step` · `dual_step` · ‖A‖²", float(product), "be below 1", product < 1, advice),
        )

    def map_bound(self, e: Evidence) -> MapBound:
        return FIRM

    def existence(self, e: Evidence) -> str | None:
        if e.denoiser is None or e.denoiser.box is None:
            return None
        return "proved: D(Id − γ∇f) maps the denoiser's range, a box, into itself (Brouwer)"
