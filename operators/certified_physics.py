"""The base class of our forward models: exact adjoint, certified norm, prox with a certified error."""

import abc
import functools
import math
import warnings
from typing import Any, ClassVar

import torch
from deepinv.physics import LinearPhysics, NoiseModel
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators.collatz_wielandt import ROOT_SLACK
from pnp_lip.operators.conjugate_gradient import Map, NormalEquations, ProxResult, solve_normal_equations
from pnp_lip.operators.norm_rules import Size, examined_bound
from pnp_lip.spectral import NormBound, norm_bound, norm_lower

__all__ = ["MOST_DENSE_PIXELS", "TIGHT", "CertifiedPhysics", "Shape", "as_gamma", "own_bound", "require_positive"]

Shape = tuple[int, int, int]

MOST_DENSE_PIXELS = 1024  # of one channel; up to here a dense factorisation of A takes well below a second
TIGHT = 1.001  # upper/lower of a norm up to which no sharper proof is tried
POWER_SLACK = 1e-9  # relative; covers the rounding of A's products in float64 in a lower bound by power iteration
PROX_TOLERANCE = 1e-5  # default error of a prox, root mean square per pixel, for images on [0, 1]
MOST_STEPS = 1000  # default limit of conjugate gradient steps


class CertifiedPhysics(LinearPhysics, abc.ABC):  # type: ignore[misc]
    """A linear operator A from images (B, C, H, W) to data (B, *data_size) that knows ‖A‖ from both sides.

    A subclass sets ``data_size`` and defines the abstract methods; ``forward_map`` and ``adjoint_map`` are linear, exact
    transposes of each other, in the dtype of their argument.

    The certificate speaks of the real operator with the stored weights, for exact types of which a ``norm_rule`` is
    registered. Each reading of the norm examines the operator and compares its fingerprint; the bound is computed again
    where that has changed. Raises CertificateError for a subclass without a rule, a patched method, weights or settings
    that do not belong together; ShapeError for a wrong shape, dtype or device.
    """

    dimensions: ClassVar[int] = 2  # of an image; 3 for volumes, whose sizes have four numbers
    img_size: Shape
    data_size: Shape

    def __init__(
        self,
        img_size: Shape,
        *,
        noise_model: NoiseModel | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ShapeError(f"`dtype` must be torch.float32 or torch.float64; got {dtype}.")
        sides = tuple(img_size) if isinstance(img_size, (tuple, list)) else ()
        if len(sides) != 1 + self.dimensions or any(not isinstance(side, int) or side < 1 for side in sides):
            names = "channels, depth, height, width" if self.dimensions == 3 else "channels, height, width"
            raise ShapeError(f"`img_size` must be ({names}), positive integers; got {img_size!r}.")
        options = {} if noise_model is None else {"noise_model": noise_model}
        super().__init__(img_size=sides, device=device, **options)

    @property
    @abc.abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that A and Aᵀ read; the first one's dtype and device are the operator's."""

    @abc.abstractmethod
    def forward_map(self, x: Tensor) -> Tensor:
        """A x, unchecked, in the dtype of x."""

    @abc.abstractmethod
    def adjoint_map(self, y: Tensor) -> Tensor:
        """Aᵀ y, unchecked, in the dtype of y."""

    @abc.abstractmethod
    def bound_norm(self) -> NormBound:
        """Prove ‖A‖ from what ``forward_map`` reads, or raise CertificateError. Not examined: users read ``norm_bound``."""

    def norm_bound(self) -> NormBound:
        """norm_lower ≤ ‖A‖ ≤ norm_upper with the method of proof, after an examination of the operator as it is now."""
        return examined_bound(self, self.img_size)

    @property
    @abc.abstractmethod
    def product_rounding(self) -> float:
        """A bound of the relative error, in the 2-norm, of a product with A or Aᵀ carried out in float64."""

    def preconditioner(self, gamma: Tensor) -> Map | None:
        """A symmetric positive definite approximation of (I + γ AᵀA)⁻¹, or None."""
        return None

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        """A x for x of shape (B, C, H, W)."""
        self.check(x, self.img_size, "image")
        return self.differentiable(x, False)

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Aᵀ y for y of shape (B, *data_size), the exact transpose of ``A``."""
        self.check(y, self.data_size, "data")
        return self.differentiable(y, True)

    def differentiable(self, v: Tensor, transpose: bool) -> Tensor:
        """A v or Aᵀ v, differentiable; for maps that torch cannot differentiate by itself, or only slowly."""
        product: Tensor = LinearMap.apply(v, self, transpose)
        return product

    def check(self, tensor: Tensor, size: Shape, name: str) -> None:
        """Raise ShapeError unless ``tensor`` is (B, *size) with the operator's dtype and device."""
        if not isinstance(tensor, Tensor):
            raise ShapeError(f"expected {name} as a torch tensor; got {type(tensor).__name__}. Use torch.from_numpy.")
        if tuple(tensor.shape[1:]) != size:
            raise ShapeError(f"expected {name} of shape (B, {', '.join(map(str, size))}); got {tuple(tensor.shape)}.")
        own = self.tensors[0]
        for what in ("dtype", "device"):
            mine, theirs = (getattr(t, what) for t in (own, tensor))
            if mine != theirs:
                raise ShapeError(f"the operator's {what} is {mine}, the {name}'s {theirs}; convert one of them.")

    @property
    def norm_upper(self) -> float:
        """A proved upper bound of ‖A‖ (not squared)."""
        return CertifiedPhysics.norm_bound(self).upper

    @property
    def norm_lower(self) -> float:
        """A lower bound of ‖A‖ (not squared)."""
        return CertifiedPhysics.norm_bound(self).lower

    def power_lower(self) -> float:
        """A lower bound of ‖A‖: the largest ‖Av‖/‖v‖ along a power iteration on one channel in float64, less its rounding."""
        start = torch.randn(1, 1, *self.img_size[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        start = start.to(self.tensors[0].device)
        return norm_lower(self.forward_map, self.adjoint_map, start)[0] * (1 - POWER_SLACK)

    def dense_bound(self) -> NormBound:
        """The verified norm of the matrix whose columns are A eᵢ for one channel, computed in float64."""
        units = torch.eye(math.prod(self.img_size[1:]), dtype=torch.float64, device=self.tensors[0].device)
        return norm_bound(self.forward_map(units.reshape(-1, 1, *self.img_size[1:])).flatten(1).cpu())

    def compute_norm(self, x0: Tensor | None = None, *, squared: bool = False, **kwargs: object) -> Tensor:
        """The certified upper bound of ‖A‖, or of ‖A‖² with ``squared``, rounded upwards (deepinv's own is a lower bound)."""
        value = self.norm_upper**2 * (1 + ROOT_SLACK) if squared else self.norm_upper
        rounded = torch.tensor(value, dtype=torch.float64 if x0 is None else x0.dtype)
        return rounded if float(rounded) >= value else rounded.nextafter(torch.full_like(rounded, math.inf))

    def compute_sqnorm(self, x0: Tensor | None = None, **kwargs: object) -> Tensor:
        """deepinv's name for the bound of ‖A‖²."""
        return self.compute_norm(x0, squared=True)

    def solve_prox(
        self,
        z: Tensor,
        y: Tensor,
        gamma: float | Tensor,
        *,
        x0: Tensor | None = None,
        tol: float | None = None,
        max_iter: int = MOST_STEPS,
    ) -> ProxResult:
        """argmin_x γ/2 ‖Ax − y‖² + ½ ‖x − z‖² with a certified bound of the error of each image of the batch.

        As I + γAᵀA ⪰ I, ‖x − x*‖ ≤ ‖z + γAᵀy − (I + γAᵀA) x‖; that residual is evaluated in float64, rounding included.
        ``tol`` is *absolute*, on ‖x − x*‖; the default is 1e-5 per pixel in the root mean square. ``x0`` is a warm start
        (default z). ``gamma`` > 0: a number, or a tensor of 1 or B numbers.
        """
        start = z if x0 is None else x0
        self.check(z, self.img_size, "image")
        self.check(y, self.data_size, "data")
        self.check(start, self.img_size, "image")
        step = as_gamma(gamma, z)
        if not len(y) == len(z) == len(start):
            raise ShapeError(f"z, y and x0 must hold the same number of images; got {len(z)} and {len(y)}.")
        tol = PROX_TOLERANCE * math.sqrt(math.prod(self.img_size)) if tol is None else tol
        if not tol > 0:
            raise InputError(f"`tol` is an absolute error and must be positive; got {tol}.")
        with torch.no_grad():
            system = NormalEquations(
                self.forward_map, self.adjoint_map, z, y, step, self.bound_norm().upper, self.product_rounding
            )
            return self.solve_system(system, start, tol, max_iter)

    def solve_system(self, system: NormalEquations, x0: Tensor, tol: float, max_iter: int) -> ProxResult:
        """Preconditioned conjugate gradients; operators with a closed form override it."""
        return solve_normal_equations(system, x0, tol, max_iter, self.preconditioner(system.gamma))

    def prox_l2(
        self,
        z: Tensor | float | None,
        y: Tensor,
        gamma: float | Tensor,
        *,
        max_iter: int | None = None,
        tol: float | None = None,
        **kwargs: object,
    ) -> Tensor:
        """deepinv's entry to ``solve_prox``; ``tol`` is the absolute error; deepinv's other options have no meaning here.

        Differentiable once in z, y and γ. Warns if the tolerance was not reached.
        """
        z = self.as_image(z, y)
        step = as_gamma(gamma, z)
        solve = functools.partial(self.solve_prox, tol=tol, max_iter=MOST_STEPS if max_iter is None else max_iter)
        result = solve(z, y, step)
        if not result.converged:
            reached = f"{result.iterations} steps with an error of at most {float(result.error_bound.max()):.3g}"
            text = f"prox_l2 stopped after {reached}; raise `max_iter` or `tol`, or use `solve_prox`."
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in (z, y, step))):
            return result.x
        # Hx = z + γAᵀy is differentiated at the solution: dx = H⁻¹ d(z + γAᵀ(y − Ax̄)) with x̄ = x held fixed.
        right = z + step * self.A_adjoint(y - self.A(result.x))
        x: Tensor = ImplicitProx.apply(right, result.x, lambda g: solve(g, torch.zeros_like(y), step).x)
        return x

    def as_image(self, z: Tensor | float | None, y: Tensor) -> Tensor:
        """deepinv's z: an image, or a number (None for 0) in every pixel."""
        return z if isinstance(z, Tensor) else y.new_full((len(y), *self.img_size), 0.0 if z is None else float(z))


def own_bound(physics: CertifiedPhysics, size: Size) -> NormBound:
    """The norm rule of operators whose own ``bound_norm`` is the proof."""
    return physics.bound_norm()


class LinearMap(torch.autograd.Function):
    """A or Aᵀ as one node whose backward is the other one, itself such a node: differentiable any number of times."""

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


class ImplicitProx(torch.autograd.Function):
    """``x``, whose derivative by ``right`` is H⁻¹: ``solve`` applies it."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, x: Tensor, solve: Map) -> Tensor:
        ctx.solve = solve
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.solve(gradient), None, None


def as_gamma(gamma: float | Tensor, z: Tensor) -> Tensor:
    """γ as a tensor of one number, or B, that broadcasts against z; positive and finite."""
    step = torch.as_tensor(gamma, dtype=z.dtype, device=z.device)
    if step.numel() not in (1, len(z)):
        raise ShapeError(f"`gamma` must be one number or one for each of the {len(z)} images; got {tuple(step.shape)}.")
    if not bool((torch.isfinite(step) & (step > 0)).all()):
        raise InputError(f"`gamma` must be positive and finite; got {step.detach().flatten().tolist()}.")
    return step.reshape(-1, *[1] * (z.ndim - 1))


def require_positive(**values: float) -> None:
    """Raise InputError unless the named values are positive and finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"`{name}` must be positive and finite; got {value}.")
