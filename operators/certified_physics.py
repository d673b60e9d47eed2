"""The base class of our forward models: exact adjoint, certified norm, prox with a certified error."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from deepinv.physics import LinearPhysics, NoiseModel
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators.conjugate_gradient import (
    Map,
    NormalEquations,
    ProxResult,
    certified_result,
    solve_normal_equations,
)
from pnp_lip.operators.woodbury import DenseGram
from pnp_lip.snapshot import Snapshot
from pnp_lip.spectral import NormBound

__all__ = ["CertifiedPhysics", "LinearMap", "as_gamma", "as_img_size", "round_up"]

Shape = tuple[int, int, int]


class CertifiedPhysics(LinearPhysics):  # type: ignore[misc]
    """A linear operator A from images (B, C, H, W) to data (B, *data_size) that knows ‖A‖ from both sides.

    A subclass sets ``img_size`` and ``data_size`` and defines ``forward_map``, ``adjoint_map`` (linear, exact
    transposes of each other, in the dtype of their argument), ``tensors`` (those that define A) and
    ``bound_norm``.

    The certificate speaks of the real operator with the stored weights; it is computed at first use and again whenever
    the weights have been replaced or written to. Wrong shape, dtype or device raise ShapeError.

    ``dense_prox = True`` (an attribute to be set) solves the prox by a dense factorisation in the space of the data, exact to
    rounding for every γ: for at most some thousand data, such as few views, and large γ.
    """

    dense_prox: bool = False

    img_size: Shape
    data_size: Shape

    def __init__(self, img_size: Shape, *, noise_model: NoiseModel | None, device: torch.device | str) -> None:
        options = {} if noise_model is None else {"noise_model": noise_model}
        super().__init__(img_size=img_size, device=device, **options)
        self._norm_cache: tuple[Snapshot, NormBound] | None = None
        self._gram_cache: tuple[Snapshot, DenseGram] | None = None

    # What a subclass defines.

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that define A; the first one's dtype and device are the operator's."""
        raise NotImplementedError

    def forward_map(self, x: Tensor) -> Tensor:
        """A x, unchecked, in the dtype of x."""
        raise NotImplementedError

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Aᵀ y, unchecked, in the dtype of y."""
        raise NotImplementedError

    def bound_norm(self) -> NormBound:
        """A new certificate of ‖A‖."""
        raise NotImplementedError

    @property
    def product_rounding(self) -> float:
        """A bound of the relative error, in the 2-norm, of a product with A or Aᵀ carried out in float64."""
        raise NotImplementedError

    def preconditioner(self, gamma: Tensor) -> Map | None:
        """A symmetric positive definite approximation of (I + γ AᵀA)⁻¹, or None."""
        return None

    # What deepinv and our solvers call.

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """A x for x of shape (B, C, H, W)."""
        self.check(x, self.img_size, "image")
        return self.forward_map(x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Aᵀ y for y of shape (B, *data_size), the exact transpose of ``A``."""
        self.check(y, self.data_size, "data")
        return self.adjoint_map(y)

    def check(self, tensor: Tensor, size: Shape, name: str) -> None:
        """Raise ShapeError unless ``tensor`` is (B, *size) with the operator's dtype and device."""
        weight = self.tensors[0]
        if not isinstance(tensor, Tensor):
            raise ShapeError(f"expected {name} as a torch tensor; got {type(tensor).__name__}. Use torch.from_numpy.")
        if tensor.ndim != 4 or tuple(tensor.shape[1:]) != size:
            raise ShapeError(f"expected {name} of shape (B, {', '.join(map(str, size))}); got {tuple(tensor.shape)}.")
        if tensor.dtype != weight.dtype:
            raise ShapeError(
                f"the operator is stored in {weight.dtype}, the {name} in {tensor.dtype}; convert one of them."
            )
        if tensor.device != weight.device:
            raise ShapeError(f"the operator is on {weight.device}, the {name} on {tensor.device}; move one of them.")

    def norm_bound(self) -> NormBound:
        """norm_lower ≤ ‖A‖ ≤ norm_upper with the method of proof; cached."""
        if self._norm_cache is None or not self._norm_cache[0].holds(self.tensors):
            bound = self.bound_norm()
            self._norm_cache = Snapshot(self.tensors), bound
        return self._norm_cache[1]

    @property
    def norm_upper(self) -> float:
        """A proved upper bound of ‖A‖ (not squared)."""
        return self.norm_bound().upper

    @property
    def norm_lower(self) -> float:
        """A lower bound of ‖A‖ (not squared)."""
        return self.norm_bound().lower

    def compute_sqnorm(self, x0: Tensor | None = None, **kwargs: Any) -> Tensor:
        """deepinv's name for ‖A‖²; here the certified upper bound, rounded upwards (deepinv's own is a lower bound)."""
        return round_up(self.norm_upper**2 * (1 + 1e-15), torch.float64 if x0 is None else x0.dtype)

    def compute_norm(self, x0: Tensor | None = None, *, squared: bool = False, **kwargs: Any) -> Tensor:
        """The certified upper bound of ‖A‖, or of ‖A‖² with ``squared``; deepinv's default there is still squared."""
        if squared:
            return self.compute_sqnorm(x0)
        return round_up(self.norm_upper, torch.float64 if x0 is None else x0.dtype)

    def solve_prox(
        self,
        z: Tensor,
        y: Tensor,
        gamma: float | Tensor,
        *,
        x0: Tensor | None = None,
        tol: float | None = None,
        max_iter: int = 1000,
    ) -> ProxResult:
        """argmin_x γ/2 ‖Ax − y‖² + ½ ‖x − z‖² with a certified bound of the error of each image of the batch.

        As I + γAᵀA ⪰ I, ‖x − x*‖ ≤ ‖z + γAᵀy − (I + γAᵀA) x‖; that residual is evaluated in float64, rounding
        included. ``tol`` is *absolute*, on ‖x − x*‖ (a relative one freezes warm-started ADMM); the default is 1e-5
        per pixel in the root mean square. ``x0`` is a warm start (default z). ``gamma`` > 0: a number, or a tensor of
        1 or B numbers.
        """
        self.check(z, self.img_size, "image")
        self.check(y, self.data_size, "data")
        step = as_gamma(gamma, z)
        if x0 is not None:
            self.check(x0, self.img_size, "image")
        if len(y) != len(z) or (x0 is not None and len(x0) != len(z)):
            raise ShapeError(f"z, y and x0 must hold the same number of images; got {len(z)} and {len(y)}.")
        tol = 1e-5 * math.sqrt(math.prod(self.img_size)) if tol is None else tol
        if not tol > 0:
            raise InputError(f"`tol` is an absolute error and must be positive; got {tol}.")
        with torch.no_grad():
            system = NormalEquations(
                self.forward_map, self.adjoint_map, z, y, step, self.norm_upper, self.product_rounding
            )
            if self.dense_prox:
                x = self.dense_gram().solve(system)
                return certified_result(x, system.error_bound(x, system.residual(x)), z.dtype, tol, 0)
            return self.solve_system(system, z if x0 is None else x0, tol, max_iter)

    def dense_gram(self) -> DenseGram:
        """A Aᵀ as a dense matrix; cached."""
        if self._gram_cache is None or not self._gram_cache[0].holds(self.tensors):
            gram = DenseGram(self.forward_map, self.adjoint_map, self.data_size, self.tensors[0].device)
            self._gram_cache = Snapshot(self.tensors), gram
        return self._gram_cache[1]

    def solve_system(self, system: NormalEquations, x0: Tensor, tol: float, max_iter: int) -> ProxResult:
        """Preconditioned conjugate gradients; operators with a closed form override it."""
        return solve_normal_equations(system, x0, tol, max_iter, self.preconditioner(system.gamma))

    def prox_l2(
        self,
        z: Tensor | float | None,
        y: Tensor,
        gamma: float | Tensor,
        solver: str | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """deepinv's entry to ``solve_prox``; ``tol`` is the absolute error; ``solver`` and ``verbose`` are ignored.

        Differentiable once in z, y and γ by the implicit function theorem. Warns if the tolerance was not reached.
        """
        if not isinstance(z, Tensor):
            z = y.new_full((len(y), *self.img_size), 0.0 if z is None else float(z))
        step = as_gamma(gamma, z)
        settings = (self, tol, 1000 if max_iter is None else max_iter)
        x: Tensor = ImplicitProx.apply(z, y, step, settings)
        return x


class LinearMap(torch.autograd.Function):
    """A or Aᵀ as one node whose backward is the other one, itself such a node: differentiable any number of times.

    Works under torch.func as well (vmap joins the mapped axis to the batch).
    """

    @staticmethod
    def forward(x: Tensor, physics: CertifiedPhysics, transpose: bool) -> Tensor:
        return physics.adjoint_map(x) if transpose else physics.forward_map(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, CertifiedPhysics, bool], output: Tensor) -> None:
        _, ctx.physics, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return LinearMap.apply(gradient, ctx.physics, not ctx.transpose), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: None) -> Tensor:
        image: Tensor = LinearMap.apply(tangent, ctx.physics, ctx.transpose)
        return image

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, physics: CertifiedPhysics, transpose: bool) -> tuple[Tensor, int]:
        joined = x.movedim(in_dims[0], 0)
        image: Tensor = LinearMap.apply(joined.flatten(0, 1), physics, transpose)
        return image.reshape(*joined.shape[:2], *image.shape[1:]), 0


class ImplicitProx(torch.autograd.Function):
    """x = H⁻¹(z + γAᵀy), H = I + γAᵀA; with w = H⁻¹ g the gradients are w, γAw and ⟨w, Aᵀ(y − Ax)⟩."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, gamma: Tensor, settings: tuple[CertifiedPhysics, Any, int]) -> Tensor:
        physics, tol, max_iter = settings
        result = physics.solve_prox(z, y, gamma, tol=tol, max_iter=max_iter)
        if not result.converged:
            warnings.warn(
                f"prox_l2 stopped after {result.iterations} steps with an error of at most "
                f"{float(result.error_bound.max()):.3g}; raise `max_iter` or `tol`, or use `solve_prox`.",
                RuntimeWarning,
                stacklevel=3,
            )
        ctx.save_for_backward(result.x, y, gamma)
        ctx.settings = settings
        return result.x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        physics, tol, max_iter = ctx.settings
        x, y, gamma = ctx.saved_tensors
        w = physics.solve_prox(gradient, torch.zeros_like(y), gamma, tol=tol, max_iter=max_iter).x
        a_w = physics.forward_map(w)
        in_gamma = (a_w * (y - physics.forward_map(x))).sum((1, 2, 3), keepdim=True)
        in_gamma = in_gamma if gamma.numel() > 1 else in_gamma.sum().reshape(gamma.shape)
        return w, gamma * a_w, in_gamma, None


def as_gamma(gamma: float | Tensor, z: Tensor) -> Tensor:
    """γ as a tensor (1, 1, 1, 1) or (B, 1, 1, 1), positive and finite."""
    step = torch.as_tensor(gamma, dtype=z.dtype, device=z.device)
    if step.numel() not in (1, len(z)):
        raise ShapeError(f"`gamma` must be one number or one for each of the {len(z)} images; got {tuple(step.shape)}.")
    if not bool((torch.isfinite(step) & (step > 0)).all()):
        raise InputError(f"`gamma` must be positive and finite; got {step.detach().flatten().tolist()}.")
    return step.reshape(-1, 1, 1, 1)


def as_img_size(img_size: tuple[int, ...]) -> Shape:
    """(C, H, W) of positive integers."""
    if (
        not isinstance(img_size, (tuple, list))
        or len(img_size) != 3
        or any(not isinstance(side, int) or side < 1 for side in img_size)
    ):
        raise ShapeError(f"`img_size` must be (channels, height, width), positive integers; got {img_size!r}.")
    return img_size[0], img_size[1], img_size[2]


def round_up(value: float, dtype: torch.dtype) -> Tensor:
    """The smallest number of ``dtype`` that is at least ``value``."""
    rounded = torch.tensor(value, dtype=dtype)
    return rounded if float(rounded) >= value else torch.nextafter(rounded, torch.full_like(rounded, float("inf")))
