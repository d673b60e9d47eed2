"""The prox of a quadratic misfit: conjugate gradients in mixed precision with a certified error."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Map", "NormalEquations", "ProxResult", "conjugate_gradient", "image_norm", "solve_normal_equations"]

Map = Callable[[Tensor], Tensor]

NORM_SLACK = 1e-12  # relative; covers the rounding of a norm over up to 10⁸ pixels, summed pairwise in float64
FLOAT32_REACH = 1e-5  # part of a residual below which a recurrence in float32 no longer follows it


@dataclasses.dataclass(frozen=True)
class ProxResult:
    """x with ‖x − x*‖ ≤ error_bound for each image: shapes (B, C, H, W) and (B,), the bound in float64.

    ``iterations`` counts conjugate-gradient steps (0 for a closed form); ``converged``: every bound met the tolerance.
    """

    x: Tensor
    error_bound: Tensor
    iterations: int
    converged: bool


@dataclasses.dataclass(frozen=True)
class NormalEquations:
    """H x = z + γAᵀy with H = I + γAᵀA ⪰ I, so that the error of any x is at most the norm of its residual.

    ``norm`` ≥ ‖A‖ and ``rounding``, the relative error (in norm) of a product with A or Aᵀ in float64, bound what the
    evaluation of the residual itself may get wrong.
    """

    forward: Map
    adjoint: Map
    z: Tensor
    y: Tensor
    gamma: Tensor
    norm: float
    rounding: float

    def hessian(self, d: Tensor) -> Tensor:
        """H d in the dtype of d."""
        return d + self.gamma.to(d.dtype) * self.adjoint(self.forward(d))

    def residual(self, x: Tensor) -> Tensor:
        """z − x + γAᵀ(y − Ax) in the dtype of x."""
        missing = self.y - self.forward(x)
        return (self.gamma * self.adjoint(missing)).add_(self.z).sub_(x)

    def error_bound(self, x: Tensor, r: Tensor) -> Tensor:
        """A bound of ‖x − x*‖ for each image, from the residual ``r`` of ``x`` in float64; NaN becomes infinity."""
        size = image_norm(x)
        gamma = self.gamma.to(torch.float64).flatten()
        data_term = gamma * self.norm * (image_norm(self.y) + self.norm * size)
        arithmetic = 2 * self.rounding * (image_norm(self.z) + size + data_term)
        return (image_norm(r) * (1 + NORM_SLACK) + arithmetic).nan_to_num(nan=float("inf"))

    def result(self, x: Tensor, dtype: torch.dtype, tol: float, iterations: int = 0, bound: Tensor | None = None) -> ProxResult:
        """x rounded from float64 to ``dtype``. ``bound``, that of its error (computed if not given), grows by what that costs."""
        bound = self.error_bound(x, self.residual(x)) if bound is None else bound
        rounded = x.to(dtype)
        error = bound + image_norm(x - rounded.to(torch.float64)).nan_to_num(nan=float("inf"))
        return ProxResult(rounded, error, iterations, bool((error <= tol).all()))


def solve_normal_equations(
    system: NormalEquations, x0: Tensor, tol: float, max_iter: int, preconditioner: Map | None = None
) -> ProxResult:
    """Solve H x = z + γAᵀy until the certified error is at most ``tol`` for every image.

    Conjugate gradients run in the working precision on the *correction* d of the current x, while x itself is kept in
    float64 and its residual is recomputed there (iterative refinement, Wilkinson 1963): the bound then holds for the
    returned x. Stops early when a refinement no longer halves the bound, or after ``max_iter`` steps.
    """
    dtype, x = x0.dtype, x0.to(torch.float64)
    # The first residual needs no certificate unless it already promises to meet the tolerance.
    r = system.residual(x0).to(torch.float64)
    bound, proved = system.error_bound(x, r), False
    if float(bound.max()) <= tol:
        r = system.residual(x)
        bound, proved = system.error_bound(x, r), True
    iterations, previous = 0, float("inf")
    while not (proved and (float(bound.max()) <= tol or iterations >= max_iter or not float(bound.max()) < previous)):
        previous = 0.5 * float(bound.max()) if proved else previous
        goal = torch.where(bound > tol, 0.5 * tol, float("inf"))
        if dtype != torch.float64:
            goal = torch.maximum(goal, FLOAT32_REACH * image_norm(r))
        d, steps = conjugate_gradient(system.hessian, r.to(dtype), goal, max(1, max_iter - iterations), preconditioner)
        iterations += steps
        candidate = x + d.to(torch.float64)
        r_new = system.residual(candidate)
        bound_new, proved = system.error_bound(candidate, r_new), True
        if float(bound_new.max()) >= float(bound.max()) and iterations > steps:
            break  # the correction made things worse: keep what was proved before
        x, r, bound = candidate, r_new, bound_new
    return system.result(x, dtype, tol, iterations, bound)


def conjugate_gradient(
    hessian: Map,
    r: Tensor,
    goal: Tensor,
    max_iter: int,
    preconditioner: Map | None = None,
    *,
    patience: int | None = None,
) -> tuple[Tensor, int]:
    """d with ‖r − H d‖ ≤ goal for each image (as far as the recurrence can tell), from d = 0, and the number of steps.

    H is symmetric positive definite. An image that has met its goal is frozen by a zero step length, so that it does not
    depend on its neighbours; with ``patience`` so is one whose residual has not halved in that many steps. Of another H an
    image is frozen where it meets a direction without positive curvature. Source: Hestenes & Stiefel (1952), Steihaug
    (1983) without his last step; no constant is added to the denominators, which would set an error floor.

    >>> conjugate_gradient(lambda d: 4 * d, torch.ones(1, 2), torch.tensor([1e-6]), 10)
    (tensor([[0.2500, 0.2500]]), 1)
    """
    d = 0 * r  # not finite where r is not, so that this reaches the result instead of hiding behind the guess
    s = r if preconditioner is None else preconditioner(r)
    p, rs = s, inner(r, s)
    size, idle = image_norm(r), torch.zeros(len(r), dtype=torch.int64, device=r.device)
    best = size
    for step in range(max_iter):
        active = size > goal
        if patience is not None:
            active = active & (idle < patience)
        if not bool(active.any()):
            return d, step
        hp = hessian(p)
        curvature = inner(p, hp)
        alpha = torch.where(active.reshape(rs.shape) & (curvature > 0), rs / curvature, 0.0)
        d, r = d + alpha * p, torch.where(curvature > 0, r - alpha * hp, 0.0)
        s = r if preconditioner is None else preconditioner(r)
        rs, rs_old = inner(r, s), rs
        p = s + torch.where(rs_old > 0, rs / rs_old, 0.0) * p
        size = image_norm(r)
        halved = size < 0.5 * best
        best, idle = torch.where(halved, size, best), torch.where(halved, 0, idle + 1)
    return d, max_iter


def image_norm(x: Tensor) -> Tensor:
    """‖x‖ of each image, accumulated in float64; shape (B,)."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=torch.float64)
    return norms


def inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each image, shape (B, 1, …)."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
