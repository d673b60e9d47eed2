"""The primal-dual splitting of Condat and Vũ, for data terms h(Ax) of which only the prox of h is cheap."""

import dataclasses
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.solvers.douglas_rachford import solves_forward_backward
from pnp_lip.solvers.hypothesis import Hypothesis, check_positive, positive
from pnp_lip.solvers.iteration import Iteration
from pnp_lip.solvers.known import FIRM, Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import Solver

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("dual_step", self.dual_step)

    def bind(self, known: Known) -> Iteration:
        γ = known.default_step if self.step is None else self.step
        norm = known.scale**0.5 if known.norm_upper is None else known.norm_upper
        s = 0.99 / (γ * norm**2) if self.dual_step is None else self.dual_step

        def T(m: Maps, v: Tensor) -> tuple[Tensor, Tensor]:
            x, u = split(m, v)
            new = m.D(x - γ * m.physics.A_adjoint(u))
            u = m.data_term.dual_prox(u + s * m.physics.A(2 * new - x), m.y, s)
            return join(new, u), new

        def norm_of(m: Maps, v: Tensor) -> Tensor:
            x, u = (part.flatten(1).square().sum(1) for part in split(m, v))
            return (x + γ / s * u).sqrt()

        product = Fraction(γ) * Fraction(s) * Fraction(norm) ** 2
        advice = "Pass dual_step=None to derive it."
        below = Hypothesis("`step` · `dual_step` · ‖A‖²", float(product), "be below 1", product < 1, advice)
        return Iteration(
            T,
            bound=FIRM,
            asks=(*known.needs_norm, positive("`step`", γ), known.firm_denoiser(), below),
            parameters={"step": γ, "dual_step": s},
            exists=solves_forward_backward(known),
            start=lambda m, x: join(x, torch.zeros_like(m.y)),
            norm=norm_of,
        )


def join(x: Tensor, u: Tensor) -> Tensor:
    """The pair of an image and a dual variable as one state."""
    return torch.cat([x.flatten(1), u.flatten(1)], dim=1)


def split(m: Maps, v: Tensor) -> tuple[Tensor, Tensor]:
    """The image and the dual variable of a state."""
    n = v.shape[1] - m.y[0].numel()
    return v[:, :n].reshape(-1, *m.image_shape), v[:, n:].reshape(-1, *m.y.shape[1:])
