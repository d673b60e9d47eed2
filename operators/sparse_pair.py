"""A sparse matrix and its transpose, both stored by rows, with products by several columns at once."""

import warnings

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SparsePair"]

# Columns; MKL's product is the faster one below, embedding_bag from here on, and wherever torch has no MKL (256², 180 views).
COLUMNS_FOR_BAG = 12


class SparsePair(nn.Module):
    """A (rows × columns) and Aᵀ as compressed rows with 32-bit indices; the same numbers, so an exact pair.

    Both are kept because transposing on the fly costs fifty products; 32-bit indices because 64-bit ones are converted
    at every product. Buffers move with ``.to()`` but stay out of the state dict: they follow from the geometry.
    """

    forward_rows: Tensor
    forward_columns: Tensor
    forward_values: Tensor
    adjoint_rows: Tensor
    adjoint_columns: Tensor
    adjoint_values: Tensor

    def __init__(self, matrix: scipy.sparse.csr_array) -> None:
        super().__init__()
        with warnings.catch_warnings():  # torch announces once per process that sparse rows are in beta
            warnings.simplefilter("ignore", UserWarning)
            torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([0])[:0], torch.tensor([0.0])[:0], (1, 1))
        if matrix.nnz >= 2**31:
            raise OverflowError("more than 2^31 stored entries")
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        for name, part in (("forward", matrix), ("adjoint", matrix.tocsc())):
            rows, columns = (index.astype(np.int32, copy=False) for index in (part.indptr, part.indices))
            for suffix, array in (("rows", rows), ("columns", columns), ("values", part.data)):
                self.register_buffer(f"{name}_{suffix}", torch.from_numpy(array), persistent=False)

    @property
    def most_terms(self) -> tuple[int, int]:
        """The largest number of stored entries in a row and in a column."""
        return int(self.forward_rows.diff().max()), int(self.adjoint_rows.diff().max())

    def scale_(self, factor: float) -> None:
        """Multiply both copies by the same number, rounding both alike."""
        self.forward_values.mul_(factor)
        self.adjoint_values.mul_(factor)

    def product(self, x: Tensor, *, transpose: bool = False, absolute: bool = False) -> Tensor:
        """A x or Aᵀ x for x of shape (columns or rows, k), in the dtype of x; ``absolute`` takes |A| instead of A."""
        name = "adjoint" if transpose else "forward"
        rows, columns, values = (getattr(self, f"{name}_{part}") for part in ("rows", "columns", "values"))
        values = (values.abs() if absolute else values).to(x.dtype)
        if x.device.type == "cpu" and (x.shape[1] >= COLUMNS_FOR_BAG or not torch._C.has_mkl):
            return F.embedding_bag(
                columns, x.contiguous(), rows, mode="sum", per_sample_weights=values, include_last_offset=True
            )
        size = self.shape[::-1] if transpose else self.shape
        return torch.sparse_csr_tensor(rows, columns, values, size, check_invariants=False) @ x
