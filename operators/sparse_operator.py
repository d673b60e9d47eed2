"""Any sparse matrix as a forward model: other toolboxes' projectors, sampling patterns, measured systems."""

import dataclasses
import functools
import math
import warnings

import numpy as np
import scipy.sparse
import torch
from deepinv.physics import NoiseModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.fingerprint import recognise
from pnp_lip.operators.certified_physics import MOST_DENSE_PIXELS, TIGHT, CertifiedPhysics, own_bound
from pnp_lip.operators.collatz_wielandt import CollatzWielandt, collatz_wielandt, gamma_factor
from pnp_lip.operators.norm_rules import kept, own_norm_rule
from pnp_lip.spectral import Method, NormBound

__all__ = ["BYTES_PER_ENTRY", "CompressedRows", "SparseOperator", "SparsePair", "from_scipy", "transposed"]

BYTES_PER_ENTRY = 16  # value and index, for A and for its transpose
EXTRA_ROUNDINGS = 4  # of a product, beside those of its sums
# Columns; MKL's product is the faster one below, embedding_bag from here on, and wherever torch has no MKL (256², 180 views).
COLUMNS_FOR_BAG = 12


class SparsePair(nn.Module):
    """A (rows × columns) and Aᵀ as compressed rows: the same numbers, so an exact pair, out of the state dict.

    Both are kept because transposing on the fly costs fifty products; 32-bit indices because 64-bit ones are converted
    at every product.
    """

    forward_rows: Tensor
    forward_columns: Tensor
    forward_values: Tensor
    adjoint_rows: Tensor
    adjoint_columns: Tensor
    adjoint_values: Tensor

    def __init__(self, matrix: scipy.sparse.csr_array, transposed: scipy.sparse.csr_array | None = None) -> None:
        super().__init__()
        with warnings.catch_warnings():  # torch announces once per process that sparse rows are in beta
            warnings.simplefilter("ignore", UserWarning)
            torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([0])[:0], torch.tensor([0.0])[:0], (1, 1))
        if matrix.nnz >= 2**31:
            raise OverflowError("more than 2^31 stored entries")
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        for name, part in (("forward", matrix), ("adjoint", matrix.tocsc() if transposed is None else transposed)):
            rows, columns = (index.astype(np.int32, copy=False) for index in (part.indptr, part.indices))
            for suffix, array in (("rows", rows), ("columns", columns), ("values", part.data)):
                self.register_buffer(f"{name}_{suffix}", torch.from_numpy(array), persistent=False)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Entries and indices of both."""
        return (self.forward_values, self.adjoint_values, *self.buffers(recurse=False))

    def require_pair(self, columns: int, rows: int) -> None:
        """Raise CertificateError unless these are a matrix of that many columns and rows, and its exact transpose."""
        pair = []
        for name, shape in (("forward", self.shape), ("adjoint", self.shape[::-1])):
            parts = (getattr(self, f"{name}_{part}").numpy(force=True) for part in ("values", "columns", "rows"))
            try:
                pair.append(scipy.sparse.csr_array(tuple(parts), shape=shape))
                pair[-1].check_format(full_check=True)
            except ValueError as error:
                raise CertificateError(f"the stored matrix is none: {error}. Build the operator anew.") from error
        turned = pair[0].tocsc()
        same = all(np.array_equal(getattr(turned, name), getattr(pair[1], name)) for name in ("indptr", "indices", "data"))
        if not same or self.shape != (rows, columns) or type(self) is not SparsePair:
            raise CertificateError("the stored matrix and its transpose do not belong together; build the operator anew.")

    @property
    def most_terms(self) -> tuple[int, int]:
        """The largest number of stored entries in a row and in a column."""
        return int(self.forward_rows.diff().max()), int(self.adjoint_rows.diff().max())

    def product(self, x: Tensor, *, transpose: bool = False, absolute: bool = False) -> Tensor:
        """A x or Aᵀ x for x of shape (columns or rows, k), in the dtype of x; ``absolute`` takes |A| instead of A."""
        name = "adjoint" if transpose else "forward"
        rows, columns, values = (getattr(self, f"{name}_{part}") for part in ("rows", "columns", "values"))
        values = (values.abs() if absolute else values).to(x.dtype)
        if x.device.type == "cpu" and (x.shape[1] >= COLUMNS_FOR_BAG or not torch._C.has_mkl):
            return F.embedding_bag(columns, x.contiguous(), rows, mode="sum", per_sample_weights=values, include_last_offset=True)
        size = self.shape[::-1] if transpose else self.shape
        return torch.sparse_csr_tensor(rows, columns, values, size, check_invariants=False) @ x


class SparseOperator(CertifiedPhysics):
    """y = M x for any scipy sparse matrix M with H·W columns (rows of pixels) that acts on each channel.

    ``data_shape``: two numbers whose product is the number of rows (default: (rows, 1)); ASTRA's exported projectors
    number their rows view by view: (views, bins).

    ``norm_bound``: Collatz-Wielandt, tight if M ≥ 0; for signed M on |M|, which is tight for differences and loose for
    random signs, or a verified dense factorisation where M has at most 1024 columns.

    Raises ShapeError for sizes that do not match, InputError for entries that are not finite.

    >>> physics = from_scipy(scipy.sparse.eye_array(4).tocsr(), (1, 2, 2))
    >>> round(physics.norm_upper, 6), tuple(physics(torch.ones(1, 1, 2, 2)).shape)
    (1.0, (1, 1, 4, 1))
    """

    def __init__(
        self,
        matrix: scipy.sparse.sparray | scipy.sparse.spmatrix,
        img_size: tuple[int, int, int],
        *,
        data_shape: tuple[int, int] | None = None,
        noise_model: NoiseModel | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(img_size, noise_model=noise_model, dtype=dtype, device=device)
        if not scipy.sparse.issparse(matrix):
            raise InputError(f"`matrix` must be a scipy sparse matrix; got {type(matrix).__name__}.")
        by_rows = scipy.sparse.csr_array(matrix)
        by_rows.sum_duplicates()
        if by_rows.data.dtype.kind not in "fiu":
            raise ShapeError(f"the matrix must hold real numbers; got {by_rows.data.dtype}.")
        by_rows.data = by_rows.data.astype(np.float32 if dtype == torch.float32 else np.float64)
        if not np.isfinite(by_rows.data).all():
            raise InputError("the matrix holds NaN or infinite entries.")
        rows, columns = by_rows.shape
        if columns != math.prod(self.img_size[1:]):
            raise ShapeError(f"the matrix has {columns} columns, the image {math.prod(self.img_size[1:])} pixels.")
        shape = (int(rows), 1) if data_shape is None else data_shape
        if math.prod(shape) != rows or len(shape) != 2:
            raise ShapeError(f"`data_shape` {shape} does not multiply to the matrix's {rows} rows.")
        self.data_size = (self.img_size[0], *shape)
        self.matrix = SparsePair(by_rows)
        self.to(device)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The stored M and Mᵀ."""
        return self.matrix.tensors

    def forward_map(self, x: Tensor) -> Tensor:
        """M x, all images of the batch at once."""
        return self.on_columns(x, self.data_size[1:], False)

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Mᵀ y."""
        return self.on_columns(y, self.img_size[1:], True)

    def on_columns(self, x: Tensor, shape: tuple[int, ...], transpose: bool) -> Tensor:
        columns = x.flatten(2).flatten(0, 1).T.contiguous()
        return self.matrix.product(columns, transpose=transpose).T.reshape(*x.shape[:2], *shape)

    @property
    def product_rounding(self) -> float:
        """γ_k ‖|M|‖/‖M‖ bounds the relative error of a product in the 2-norm."""
        upper, absolute = self.bound_norm().upper, self.absolute_norm().bound().upper
        return self.entry_rounding * max(1.0, absolute / upper if upper else 1.0)

    @property
    def entry_rounding(self) -> float:
        """γ_k of an entry of |M|ᵀ|M| v in float64."""
        return gamma_factor(sum(self.matrix.most_terms) + EXTRA_ROUNDINGS, torch.float64)

    @kept
    def absolute_norm(self) -> CollatzWielandt:
        """Collatz-Wielandt for |M| in float64."""
        start = torch.ones(self.matrix.shape[1], 1, dtype=torch.float64, device=self.tensors[0].device)
        product = functools.partial(self.matrix.product, absolute=True)
        return collatz_wielandt(lambda v: product(product(v), transpose=True), start, rounding=self.entry_rounding)

    @kept
    def bound_norm(self) -> NormBound:
        """See the class."""
        SparsePair.require_pair(self.matrix, math.prod(self.img_size[1:]), math.prod(self.data_size[1:]))
        if not bool((self.matrix.forward_values < 0).any()):
            return self.absolute_norm().bound()
        bound, lower = self.absolute_norm().bound(Method.COLLATZ_WIELANDT_ABSOLUTE), self.power_lower()
        if bound.upper > TIGHT * lower and self.matrix.shape[1] <= MOST_DENSE_PIXELS:
            return self.dense_bound()
        return dataclasses.replace(bound, lower=lower)


recognise(SparsePair)
own_norm_rule(SparseOperator)(own_bound)
from_scipy = SparseOperator  # the name says what goes in


class CompressedRows:
    """A sparse matrix whose rows are written one after the other where they stay, so that none is kept twice.

    Memory that a process touches for the first time costs as much as computing what fills it; ``estimate`` in bytes.
    """

    def __init__(self, dtype: torch.dtype, estimate: int) -> None:
        size = max(16, 2 * estimate // BYTES_PER_ENTRY)  # the system takes memory when it is written
        self.values = np.empty(size, np.float32 if dtype == torch.float32 else np.float64)
        self.columns, self.counts, self.stored = np.empty(size, np.int32), [np.zeros(1, np.int64)], 0

    def append(
        self, values: NDArray[np.float32] | NDArray[np.float64], columns: NDArray[np.int32], counts: NDArray[np.int64]
    ) -> None:
        """Write rows with that many entries each."""
        end = self.stored + len(values)
        if end >= 2**31:
            raise OverflowError("more than 2^31 stored entries")
        if end > len(self.values):
            self.resize(2 * end)
        self.values[self.stored : end], self.columns[self.stored : end] = values, columns
        self.counts.append(counts)
        self.stored = end

    def resize(self, size: int) -> None:
        """Hold room for so many entries."""
        self.values.resize(size, refcheck=False)
        self.columns.resize(size, refcheck=False)

    def matrix(self, shape: tuple[int, int]) -> scipy.sparse.csr_array:
        """What was written."""
        self.resize(self.stored)
        starts = np.concatenate(self.counts).cumsum().astype(np.int32)
        return scipy.sparse.csr_array((self.values, self.columns, starts), shape=shape)


def transposed(matrix: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """As compressed rows again."""
    turned = matrix.tocsc()
    return scipy.sparse.csr_array((turned.data, turned.indices, turned.indptr), shape=turned.shape[::-1])
