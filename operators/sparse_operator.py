"""Any sparse matrix as a forward model: other toolboxes' projectors, sampling patterns, measured systems."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse
import torch
from deepinv.physics import NoiseModel
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators.certified_physics import CertifiedPhysics, LinearMap, as_img_size
from pnp_lip.operators.collatz_wielandt import collatz_wielandt, gamma_factor
from pnp_lip.operators.sparse_pair import SparsePair
from pnp_lip.spectral import Method, NormBound, norm_bound

__all__ = ["SparseOperator", "from_scipy"]

MOST_DENSE_COLUMNS = 1024


class SparseOperator(CertifiedPhysics):
    """y = M x for a sparse matrix M that acts on each channel, pixels in row-major order.

    ``norm_bound``: Collatz-Wielandt, tight if M ≥ 0; for signed M on |M|, which is tight for differences and loose for
    random signs, or a verified dense factorisation where M has at most 1024 columns.
    """

    def __init__(
        self,
        matrix: scipy.sparse.csr_array,
        img_size: tuple[int, int, int],
        data_shape: tuple[int, int],
        *,
        kernel: str,
        noise_model: NoiseModel | None,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__(as_img_size(img_size), noise_model=noise_model, device=device)
        self.data_size = (img_size[0], *data_shape)
        self.matrix = SparsePair(matrix, dtype=dtype, kernel=kernel)
        self.to(device)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The stored entries of M and of Mᵀ."""
        return self.matrix.forward_values, self.matrix.adjoint_values

    def A(self, x: Tensor, **kwargs: object) -> Tensor:  # noqa: N802
        """M x."""
        self.check(x, self.img_size, "image")
        y: Tensor = LinearMap.apply(x, self, False)
        return y

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:  # noqa: N802
        """Mᵀ y."""
        self.check(y, self.data_size, "data")
        x: Tensor = LinearMap.apply(y, self, True)
        return x

    def forward_map(self, x: Tensor) -> Tensor:
        """M x, images as columns."""
        return self.on_columns(x, self.data_size[1:], False)

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Mᵀ y, data as columns."""
        return self.on_columns(y, self.img_size[1:], True)

    def on_columns(self, x: Tensor, shape: tuple[int, ...], transpose: bool) -> Tensor:
        """One product for the whole batch."""
        columns = x.flatten(2).flatten(0, 1).T.contiguous()
        product = self.matrix.product(columns, transpose=transpose)
        return product.T.reshape(*x.shape[:2], *shape)

    @property
    def product_rounding(self) -> float:
        """γ_k ‖|M|‖/‖M‖ bounds the relative error of a product in the 2-norm."""
        bound = self.norm_bound()
        return gamma_factor(sum(self.matrix.most_terms) + 4, torch.float64) * max(
            1.0, self.absolute_upper / bound.upper if bound.upper else 1.0
        )

    @property
    def absolute_upper(self) -> float:
        """A bound of ‖|M|‖."""
        return self.absolute_bound()[0]

    def absolute_bound(self) -> tuple[float, float]:
        """Collatz-Wielandt for |M| in float64."""
        rounding = gamma_factor(sum(self.matrix.most_terms) + 4, torch.float64)

        def gram(v: Tensor) -> Tensor:
            return self.matrix.product(self.matrix.product(v, absolute=True), transpose=True, absolute=True)

        start = torch.ones(self.matrix.shape[1], 1, dtype=torch.float64, device=self.tensors[0].device)
        found = collatz_wielandt(gram, start, rounding=rounding)
        return math.sqrt(found.upper_sq) * (1 + 1e-15), math.sqrt(found.lower_sq) * (1 - 1e-15)

    def bound_norm(self) -> NormBound:
        """See the class."""
        upper, lower = self.absolute_bound()
        signed = bool((self.matrix.forward_values < 0).any())
        method = Method.COLLATZ_WIELANDT_ABSOLUTE if signed else Method.COLLATZ_WIELANDT
        if signed:
            lower = self.rayleigh_lower()
            if upper > 1.001 * lower and self.matrix.shape[1] <= MOST_DENSE_COLUMNS:
                unit = torch.eye(self.matrix.shape[1], dtype=torch.float64, device=self.tensors[0].device)
                dense = norm_bound(self.matrix.product(unit).cpu())
                return NormBound(dense.upper, dense.lower, dense.method)
        return NormBound(upper, lower, method)

    def rayleigh_lower(self, iterations: int = 100) -> float:
        """‖Mv‖/‖v‖ along a power iteration in float64, less 1e-9 for rounding."""
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(self.matrix.shape[1], 1, dtype=torch.float64, generator=generator).to(self.tensors[0].device)
        lower = 0.0
        for _ in range(iterations):
            v = v / v.norm()
            y = self.matrix.product(v)
            if not float(y.norm()) > 0:
                break
            lower = max(lower, float(y.norm()))
            v = self.matrix.product(y, transpose=True)
        return lower * (1 - 1e-9)


def from_scipy(
    matrix: scipy.sparse.sparray | scipy.sparse.spmatrix,
    img_size: tuple[int, int, int],
    *,
    data_shape: tuple[int, int] | None = None,
    kernel: str = "auto",
    noise_model: NoiseModel | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SparseOperator:
    """A forward model from any scipy sparse matrix with H·W columns: ASTRA's exported projectors among them.

    ``data_shape``: two numbers whose product is the number of rows (default: (rows, 1)). Exports that number their
    rows view by view, as ASTRA's do, give data of shape (views, bins). The entries may have any sign. Raises
    ShapeError for sizes that do not match, InputError for entries that are not finite.

    >>> physics = from_scipy(scipy.sparse.eye_array(4).tocsr(), (1, 2, 2))
    >>> round(physics.norm_upper, 6), tuple(physics(torch.ones(1, 1, 2, 2)).shape)
    (1.0, (1, 1, 4, 1))
    """
    size = as_img_size(img_size)
    if not scipy.sparse.issparse(matrix):
        raise InputError(f"`matrix` must be a scipy sparse matrix; got {type(matrix).__name__}.")
    compressed = scipy.sparse.csr_array(matrix)
    compressed.sum_duplicates()
    if compressed.shape[1] != size[1] * size[2]:
        raise ShapeError(f"the matrix has {compressed.shape[1]} columns, the image {size[1] * size[2]} pixels.")
    shape = (int(compressed.shape[0]), 1) if data_shape is None else data_shape
    if math.prod(shape) != compressed.shape[0] or len(shape) != 2:
        raise ShapeError(f"`data_shape` {shape} does not multiply to the matrix's {compressed.shape[0]} rows.")
    if compressed.data.dtype.kind not in "fiu":
        raise ShapeError(f"the matrix must hold real numbers; got {compressed.data.dtype}.")
    number = np.float32 if dtype == torch.float32 else np.float64
    if not np.isfinite(compressed.data.astype(number)).all():
        raise InputError("the matrix holds NaN or infinite entries.")
    entries = scipy.sparse.csr_array(
        (compressed.data.astype(number), compressed.indices, compressed.indptr), compressed.shape
    )
    return SparseOperator(entries, size, shape, kernel=kernel, noise_model=noise_model, dtype=dtype, device=device)
