"""Linear operators of PyLops, scico and scipy, or two functions, as forward models."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from deepinv.physics import LinearPhysics
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.operators.sparse_operator import SparseOperator

__all__ = ["ForeignOperator", "from_linear_operator"]

Array = NDArray[np.float32] | NDArray[np.float64]
Product = Callable[[Array], Any]  # of one image, or of its data; what comes back goes through numpy.asarray
Sizes = tuple[int, ...]

DOT_LIMIT = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-10}  # of ⟨Ax, y⟩ − ⟨x, Aᵀy⟩ over ‖Ax‖‖y‖


class ForeignOperator(LinearPhysics):  # type: ignore[misc]
    """A and Aᵀ of another package as they are: (B, *img_size) to (B, *data_size), image by image, by numpy on the processor.

    ``precision``: the dtype in which both are called. No rule bounds its norm: up to 1024 pixels solvers bound it from its
    columns, above that they ask for ``LeastSquares(norm_upper=...)``, and name that as your statement. They always hold
    Aᵀ against A by random pairs. If no entry of A is negative, ``certify_norm(physics, nonnegative=True)`` finds a bound.
    """

    def __init__(
        self, product: Product, adjoint: Product, img_size: Sizes, data_size: Sizes, *, precision: type = np.float64
    ) -> None:
        super().__init__(img_size=tuple(img_size))
        self.data_size, self.precision = tuple(data_size), np.dtype(precision)
        self.products = {"A": product, "A_adjoint": adjoint}

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        """A x."""
        return self.each("A", x, self.img_size, self.data_size)

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Aᵀ y."""
        return self.each("A_adjoint", y, self.data_size, self.img_size)

    def each(self, name: str, v: Tensor, size: Sizes, other: Sizes) -> Tensor:
        """A product, item by item of the batch."""
        if tuple(v.shape[1:]) != size:
            raise ShapeError(f"{name} expected the shape (B, {', '.join(map(str, size))}); got {tuple(v.shape)}.")
        found = np.empty((len(v), math.prod(other)), dtype=self.precision)
        for item, out in zip(v.detach().cpu().numpy(), found, strict=True):
            made = np.asarray(self.products[name](np.array(item, dtype=self.precision)))
            if made.size != out.size or np.iscomplexobj(made):
                raise ShapeError(f"{name} made {made.dtype} numbers of shape {made.shape}; expected {out.size} real ones.")
            out[:] = made.reshape(-1)
        return torch.from_numpy(found).reshape(len(v), *other).to(v)

    def check_adjoint(self) -> None:
        """Raise CertificateError unless ⟨Ax, y⟩ = ⟨x, Aᵀy⟩, summed in float64.

        First for random x and y, which no structure of A favours; then for x ≥ 0 and y = Ax, where no error averages out.
        """
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(1, *size, generator=generator, dtype=torch.float64) for size in (self.img_size, self.data_size))
        positive = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        for image, v, given in ((self.A(x), y, x), (made := self.A(positive), made, positive)):
            left, right = float((image * v).sum()), float((given * self.A_adjoint(v)).sum())
            if not abs(left - right) <= DOT_LIMIT[self.precision] * float(image.norm() * v.norm()):
                raise CertificateError(f"<Ax, y> = {left:.9g} but <x, A_adjoint y> = {right:.9g}: the adjoint is not that of A.")


def from_linear_operator(
    operator: Any, img_size: Sizes | None = None, data_size: Sizes | None = None, *, dtype: torch.dtype = torch.float32
) -> SparseOperator | ForeignOperator:
    """The forward model of another package's linear operator A, in its own words or as a pair of functions (A, Aᵀ).

    - A matrix (numpy, scipy.sparse, ``pylops.MatrixMult``) with as many columns as a channel has pixels: a
      ``SparseOperator`` of this ``dtype``, which acts on each channel, with an exact adjoint and a certified norm.
    - PyLops, ``scipy.sparse.linalg.LinearOperator``: anything with ``shape``, ``matvec`` and ``rmatvec`` for vectors.
    - scico's ``LinearOperator``: anything with ``input_shape``, ``output_shape``, a call and ``adj``.
    - (A, Aᵀ): functions of numpy arrays of shape ``img_size`` and ``data_size``.

    The last three become a ``ForeignOperator``, which says what is known of its norm. ``img_size`` = (C, H, W) and
    ``data_size``, of one image, are needed where the operator does not say them.

    Raises CertificateError for an adjoint that fails the dot test, ShapeError for sizes that do not match, InputError for
    complex operators and other objects.

    >>> physics = from_linear_operator((np.cumsum, lambda y: np.cumsum(y[::-1])[::-1]), (1, 2, 2), (4,))
    >>> physics.A(torch.ones(1, 1, 2, 2))
    tensor([[1., 2., 3., 4.]])
    """
    matrix = operator.A if getattr(operator, "explicit", False) is True else operator
    if scipy.sparse.issparse(matrix) or (isinstance(matrix, np.ndarray) and matrix.ndim == 2):
        size = sizes(operator, img_size, "dims", "img_size")
        shape = None if data_size is None else tuple(data_size[1:])
        return SparseOperator(scipy.sparse.csr_array(matrix), size, data_shape=shape, dtype=dtype)  # type: ignore[arg-type]
    named = getattr(operator, "dtype", None) or getattr(operator, "input_dtype", None) or np.float64
    try:
        declared = np.dtype(named)
    except TypeError as error:
        raise InputError(f"expected an operator of numpy arrays; got {type(operator).__name__} of {named}.") from error
    if declared.kind == "c":
        raise InputError(f"expected a real operator; got {type(operator).__name__} of {declared}.")
    if isinstance(operator, tuple) and len(operator) == 2 and all(map(callable, operator)):
        product, adjoint = operator
        image, data = sizes(operator, img_size, "", "img_size"), sizes(operator, data_size, "", "data_size")
    elif hasattr(operator, "matvec") and hasattr(operator, "rmatvec"):
        image = sizes(operator, img_size, "dims", "img_size")
        data = (operator.shape[0],) if data_size is None else tuple(data_size)
        if (math.prod(data), math.prod(image)) != tuple(operator.shape):
            raise ShapeError(f"the operator has the shape {tuple(operator.shape)}, `img_size` is {image} and `data_size` {data}.")
        product, adjoint = (lambda v, f=f: f(v.reshape(-1)) for f in (operator.matvec, operator.rmatvec))
    elif hasattr(operator, "input_shape") and hasattr(operator, "adj"):
        image, data = sizes(operator, img_size, "input_shape", "img_size"), tuple(data_size or operator.output_shape)
        product, adjoint = (
            lambda v, f=f, shape=shape: f(v.reshape(shape))
            for f, shape in ((operator, operator.input_shape), (operator.adj, operator.output_shape))
        )
    else:
        raise InputError(
            f"expected a PyLops, scico or scipy operator, a matrix or two functions (A, Aᵀ); got {type(operator).__name__}."
        )
    precision = np.float32 if declared == np.float32 else np.float64
    physics = ForeignOperator(product, adjoint, image, data, precision=precision)
    physics.check_adjoint()
    return physics


def sizes(operator: object, given: Sizes | None, attribute: str, name: str) -> Sizes:
    """The ``given`` size, or what the operator says: images of two axes have one channel."""
    found = getattr(operator, attribute, None) if given is None else given
    size = tuple(found) if isinstance(found, Iterable) else ()
    size = (1, *size) if given is None and len(size) == 2 else size
    if len(size) < 1 + 2 * (name == "img_size") or not all(isinstance(side, (int, np.integer)) and side > 0 for side in size):
        what = "(C, H, W)" if name == "img_size" else "the shape of the data of one image"
        raise InputError(f"pass `{name}`, {what}, positive integers; got {found}.")
    return tuple(map(int, size))
