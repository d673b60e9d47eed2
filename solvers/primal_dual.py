"""The primal-dual splitting of Condat and Vũ, for data terms h(Ax) of which only the prox of h is cheap."""

import dataclasses
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from pnp_lip.solvers.douglas_rachford import solves_forward_backward
from pnp_lip.solvers.hypothesis import Hypothesis, check_positive, positive
from pnp_lip.solvers.iteration import Iteration, Norm, euclidean
from pnp_lip.solvers.known import FIRM, Known
from pnp_lip.solvers.maps import Maps
from pnp_lip.solvers.solver import Solver

__all__ = ["PrimalDual"]


@dataclasses.dataclass(frozen=True, eq=False)
class PrimalDual(Solver):
    """x⁺ = D(x − γAᵀu), u⁺ = prox_{s h*}(u + s A(2x⁺ − x)), the state being (x, u, Ax).

    Needs A, Aᵀ and the prox of h* in the space of the data: no linear system, no gradient of f. With D firmly nonexpansive,
    hence a resolvent, and γ s ‖A‖² < 1, the map is firmly nonexpansive in the norm √(‖x‖²/γ − 2⟨Ax, u⟩ + ‖u‖²/s), and
    x_k converges to x = D(x − γ∇f(x)), a fixed point of ForwardBackward with the same γ, if there is one. Residual,
    ``tol`` and rate are in that norm, for which the state carries Ax: no product more, as T needs A x⁺ once.

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
            x, u, Ax = split(m, v)
            new = m.D(x - γ * m.physics.A_adjoint(u))
            A_new = m.physics.A(new)
            u = m.data_term.dual_prox(u + s * (2 * A_new - Ax), m.y, s)
            return join(new, u, A_new), new

        def size(m: Maps, v: Tensor) -> Tensor:
            x, u, _ = split(m, v)
            return (euclidean(m, x).square() / γ + euclidean(m, u).square() / s).sqrt()

        def norm_of(m: Maps, v: Tensor) -> Tensor:
            _, u, Ax = split(m, v)
            square = size(m, v).square()  # the norm's own is at least ``least`` times that, rounded or not
            return torch.maximum(square - 2 * (Ax * u).flatten(1).sum(1).double(), least * square).sqrt()

        least = max(0.0, 1 - (γ * s) ** 0.5 * norm)
        product = Fraction(γ) * Fraction(s) * Fraction(norm) ** 2
        advice = "Pass dual_step=None to derive it."
        below = Hypothesis("`step` · `dual_step` · ‖A‖²", float(product), "be below 1", product < 1, advice)
        return Iteration(
            T,
            bound=FIRM,
            asks=(*known.needs_norm, positive("`step`", γ), known.firm_denoiser(), below),
            parameters={"step": γ, "dual_step": s},
            exists=solves_forward_backward(known),
            start=lambda m, x: join(x, torch.zeros_like(m.y), m.physics.A(x)),
            norm=Norm(norm_of, terms=size, whole=with_data),
        )


def join(x: Tensor, u: Tensor, Ax: Tensor) -> Tensor:
    """An image, a dual variable and the image's data as one state."""
    return torch.cat([x.flatten(1), u.flatten(1), Ax.flatten(1)], dim=1)


def with_data(m: Maps, v: Tensor) -> Tensor:
    """The state of the same x and u, with the data of x."""
    x, u, _ = split(m, v)
    return join(x, u, m.physics.A(x))


def split(m: Maps, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, u and Ax of a state."""
    n = m.y[0].numel()
    x, u, Ax = v[:, : -2 * n], v[:, -2 * n : -n], v[:, -n:]
    return x.reshape(-1, *m.image_shape), u.reshape(-1, *m.y.shape[1:]), Ax.reshape(-1, *m.y.shape[1:])
