"""The maps of which every update is composed: D, ∇f, prox_γf and the projection onto the box, bound to the data."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators.conjugate_gradient import image_norm
from pnp_lip.protocols import DenoiserLike, PhysicsLike, Starting
from pnp_lip.solvers.data_terms import DataTerm, HasProx, is_ours
from pnp_lip.solvers.hypothesis import is_number

__all__ = [
    "Box",
    "Maps",
    "Settings",
    "check_box",
    "check_data",
    "check_like",
    "check_settings",
    "rounded_inwards",
    "starting_point",
]

Box = tuple[float, float] | None
PASSED_ON = 3.0  # how often T can pass on an error of prox_γf: v + D(2x − v) − x of Douglas-Rachford does so three times
Settings = Mapping[str, bool | float | str | Sequence[float] | None]  # what a run depended on, by name


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """The data y, the forward model A, the denoiser D with its noise level σ, the data term f and the box C.

    ``errors`` collects bounds of the prox's errors, (2, B) for each call, until ``take_errors``.
    """

    y: Tensor
    physics: PhysicsLike
    denoiser: DenoiserLike
    sigma: float | Tensor | None
    data_term: DataTerm
    box: Box
    image_shape: tuple[int, ...]
    errors: list[Tensor] = dataclasses.field(default_factory=list)

    def D(self, x: Tensor) -> Tensor:
        """D(x, σ)."""
        try:
            return self.denoiser(x, self.sigma)
        except TypeError as error:
            raise InputError(f"the denoiser refused to be called as denoiser(x, sigma): {error}") from error

    def grad(self, x: Tensor) -> Tensor:
        """∇f(x)."""
        return self.data_term.gradient(x, self.y, self.physics)

    def prox(self, z: Tensor, gamma: float) -> Tensor:
        """prox_γf(z), whose error is noted: of a user's term what the residual of its equation says, as f is convex."""
        solved = cast(HasProx, self.data_term).prox(z, self.y, self.physics, gamma)
        x, error = solved.x, solved.error_bound
        if not is_ours(self.data_term):
            error = torch.maximum(error, image_norm(z - x - gamma * self.grad(x)).to(error)).nan_to_num(math.inf)
        size = torch.maximum(image_norm(x), image_norm(z)).clamp_min(1e-300)
        self.errors.append(torch.stack([error, error / size]))
        return x

    def take_errors(self) -> Tensor | None:
        """How far T v may be off by the errors of prox_γf since the last call, (2, B): in itself, and relative to what the prox
        takes and gives; None without a prox."""
        total = PASSED_ON * torch.stack(self.errors).sum(0) if self.errors else None
        self.errors.clear()
        return total

    def project(self, x: Tensor) -> Tensor:
        """P_C(x), the identity without a box."""
        return x if self.box is None else x.clamp(*self.box)

    def misfit(self, x: Tensor) -> Tensor:
        """f(x), one number per image."""
        return self.data_term.value(x, self.y, self.physics)

    def part(self, images: list[int]) -> "Maps":
        """The maps of these images of the batch alone; the physics and the denoiser are taken to treat all alike."""
        if len(images) == len(self.y):
            return self
        sigma = self.sigma
        if isinstance(sigma, Tensor) and sigma.ndim and len(sigma) == len(self.y):
            sigma = sigma[images]
        term = self.data_term.part(images, self.y)
        return dataclasses.replace(self, y=self.y[images], sigma=sigma, data_term=term)


def check_box(box: Box, dtype: torch.dtype = torch.float64) -> None:
    """A box is None or (low, high) with finite low < high in this dtype."""
    fits = isinstance(box, (tuple, list)) and len(box) == 2 and -float("inf") < box[0] < box[1] < float("inf")
    if box is not None and not (fits and max(map(abs, box)) <= torch.finfo(dtype).max):
        raise InputError(f"`box` must be None or (low, high) with finite low < high (in {dtype}); got {box}.")


def rounded_inwards(box: Box, dtype: torch.dtype) -> Box:
    """The largest box inside of ``box`` whose ends are numbers of this dtype; InputError where there is none."""
    check_box(box, dtype)
    if box is None:
        return None
    low, high = (torch.tensor(float(v), dtype=dtype) for v in box)
    low = low if float(low) >= box[0] else torch.nextafter(low, torch.tensor(math.inf, dtype=dtype))
    high = high if float(high) <= box[1] else torch.nextafter(high, torch.tensor(-math.inf, dtype=dtype))
    check_box((float(low), float(high)), dtype)
    return float(low), float(high)


def check_settings(tol: float, sigma: float | Tensor | None, box: Box) -> None:
    """What every solver asks of its tolerance, noise level and box."""
    if not (is_number(tol) and 0 <= tol < 1):
        raise InputError(f"`tol` ends a run and must lie in [0, 1); got {tol}.")
    if sigma is not None:
        try:
            s = torch.as_tensor(sigma)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"`sigma` must be a number, a tensor or None; got {sigma!r:.80}.") from error
        if s.is_complex() or not bool(torch.isfinite(s).all() and (s >= 0).all()):
            raise InputError(f"`sigma` must be finite and not negative; got {sigma}.")
    check_box(box)


def check_data(y: Tensor) -> None:
    """Data are floating-point tensors of shape (B, ...) without NaN or infinite entries."""
    if not isinstance(y, Tensor):
        raise ShapeError(f"`y` must be a torch tensor of shape (B, ...); got {type(y).__name__}.")
    if y.ndim < 2 or not y.is_floating_point() or y.numel() == 0:
        raise ShapeError(f"`y` must be a floating-point tensor of shape (B, ...); got {tuple(y.shape)} of {y.dtype}.")
    bad = int((~torch.isfinite(y)).sum())
    if bad:
        raise InputError(f"`y` holds {bad} NaN or infinite values of {y.numel()}; repair or mask them first.")


def check_like(name: str, value: Tensor, like: Tensor) -> Tensor:
    """``value`` must have the shape and the dtype of ``like`` and be finite."""
    if not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
        came = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"`{name}` must have the image's shape {tuple(like.shape)} and dtype {like.dtype}; got {came}.")
    if not bool(torch.isfinite(value).all()):
        raise InputError(f"`{name}` holds NaN or infinite values.")
    return value.detach()


def starting_point(y: Tensor, physics: PhysicsLike) -> Tensor:
    """Where a run starts: ``physics.starting_image(y)`` where there is that, such as the data themselves for a blur.

    Otherwise t Aᵀy with t = ‖Aᵀy‖²/‖AAᵀy‖², the first step of steepest descent from zero: free of the scale of A. Raises
    ShapeError when the physics refuses y or maps Aᵀy to another shape.
    """
    try:
        back = physics.A_adjoint(y)
        forth = physics.A(back)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ShapeError(f"the physics refused `y` of shape {tuple(y.shape)} and dtype {y.dtype} ({error}).") from error
    if back.is_complex() or forth.is_complex():
        raise InputError("the physics has complex images or data; give real and imaginary parts as channels (view_as_real).")
    expected = getattr(physics, "img_size", None)
    if forth.shape != y.shape or (expected is not None and tuple(back.shape[1:]) != tuple(expected)):
        raise ShapeError(
            f"`y` has shape {tuple(y.shape)}, but the physics maps images of shape {tuple(expected or back.shape[1:])} to "
            f"data of shape {tuple(forth.shape)} (the first axis is the batch)."
        )
    check_like("A_adjoint(y)", back, back.to(y.dtype))
    if isinstance(physics, Starting):
        x = check_like("starting_image(y)", physics.starting_image(y), back)
    else:
        square = forth.flatten(1).square().sum(1)
        t = back.flatten(1).square().sum(1) / square.clamp_min(torch.finfo(y.dtype).tiny)
        x = t.reshape(-1, *([1] * (back.ndim - 1))) * back
    size = float(x.abs().max())
    if not size < math.sqrt(torch.finfo(y.dtype).max):
        raise InputError(f"the data reach {float(y.abs().max()):.3g}; squares of such images overflow in {y.dtype}: rescale y.")
    return x
