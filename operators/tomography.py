"""What parallel and fan beam have in common: symmetric sparse products, mask, weights, norm, prox, memory."""

import abc
import copy
import math
import os
from collections.abc import Iterator
from typing import ClassVar, cast

import numpy as np
import scipy.sparse
import torch
from deepinv.physics import NoiseModel
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.operators.certified_physics import CertifiedPhysics
from pnp_lip.operators.collatz_wielandt import collatz_wielandt, gamma_factor
from pnp_lip.operators.conjugate_gradient import Map
from pnp_lip.operators.dihedral import SymmetryPlan, pick, pixel_order, plan_views, symmetric_pixels
from pnp_lip.operators.filtered_back_projection import bridged
from pnp_lip.operators.norm_rules import kept
from pnp_lip.operators.scan_geometry import Angles, Entries, ScanGeometry, pixel_centres
from pnp_lip.operators.sparse_operator import SparsePair
from pnp_lip.spectral import NormBound

__all__ = ["SymmetricTomography", "circle_mask"]

MOST_COLUMNS = 32  # of one product; wider ones fall out of the cache
BYTES_PER_ENTRY = 16  # value and index, for A and for its transpose
COLUMNS_LIKE_ENTRY = 16  # columns whose products take as long as reading an entry: 8 cost 1.4 times 1 (256², 180 views)
WORTH_SYMMETRY = 3.0  # with less than this saved, symmetric columns cost more than they spare
EXTRA_ROUNDINGS = 16  # of an entry of AᵀAv, beside those of its sums: mask, weights and scale, twice each, and room


class SymmetricTomography(CertifiedPhysics):
    """y = √w ⊙ P (m ⊙ x), P the projection of an n × n image along rays that a subclass's ``beam`` describes."""

    beam: ClassVar[type[ScanGeometry]]
    geometry: ScanGeometry
    image_mask: Tensor | None
    root_weights: Tensor | None

    def __init__(
        self,
        geometry: ScanGeometry | Angles,
        img_size: tuple[int, int, int],
        *,
        mask: str | Tensor | None = None,
        weights: Tensor | None = None,
        normalize: bool = False,
        storage: str = "sparse",
        noise_model: NoiseModel | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(img_size, noise_model=noise_model, dtype=dtype)
        n = self.img_size[1]
        if n != self.img_size[2]:
            raise ShapeError(f"tomography needs a square image; got {n}x{self.img_size[2]}. Pad it.")
        if storage not in ("sparse", "free"):
            raise InputError(f'`storage` must be "sparse" or "free"; got {storage!r}.')
        scanner = geometry if isinstance(geometry, ScanGeometry) else self.beam(geometry)
        if not isinstance(scanner, self.beam):
            raise InputError(f"`geometry` must be a {self.beam.__name__}; got {type(geometry).__name__}.")
        scan = self.geometry = scanner.fitted(n)
        self.data_size = (self.img_size[0], scan.count, len(scan.degrees))
        self.plan, self.samples = plan_scan(scan, n)
        order = pixel_order(n) if storage == "sparse" else np.arange(n**2)
        pixels, places = symmetric_pixels(order, n, self.plan.group)
        position = np.argsort(order).astype(np.int32)
        named = ("index", self.plan.index), ("pixels", pixels), ("places", places[:, order]), ("position", position)
        for name, index in named:
            self.register_buffer(name, torch.from_numpy(index.reshape(-1)), persistent=False)
        if isinstance(mask, str):
            if mask != "circle":
                raise InputError(f'`mask` must be "circle", a tensor ({n}, {n}) or None; got {mask!r}.')
            mask = circle_mask(n)
        mask = as_nonnegative("mask", mask, (n, n), dtype)
        weights = as_nonnegative("weights", weights, self.data_size[1:], dtype)  # (detectors, views)
        self.register_buffer("image_mask", mask, persistent=False)
        self.register_buffer("root_weights", None if weights is None else weights.sqrt(), persistent=False)
        self.register_buffer("unit", torch.ones((), dtype=dtype), persistent=False)  # dtype, device and scale of A
        self.matrix: SparsePair | None = None
        if storage == "sparse":
            self.matrix = SparsePair(*self.build(dtype, order, position))
        if normalize:
            norm = self.bound_norm().upper
            if norm == 0:
                raise InputError("no ray meets the image, so A = 0 cannot be normalised; check detector and mask.")
            for _ in range(8):
                if norm <= 1 and float(self.unit) != 1:
                    break
                factor = (1 - 4 * torch.finfo(dtype).eps) / norm
                stored = () if self.matrix is None else (self.matrix.forward_values, self.matrix.adjoint_values)
                for values in (self.unit, *stored):
                    values.mul_(factor)
                norm = self.bound_norm().upper

    @property
    def bytes_needed(self) -> int:
        """Estimate of the memory that the stored matrix takes with its transpose."""
        return int(BYTES_PER_ENTRY * len(self.plan.base_angles) * self.geometry.entries(self.img_size[1], self.samples))

    def base_views(self, order: NDArray[np.int64] | None = None) -> Iterator[Entries]:
        """The entries of each base view, rows counted from the first that is needed, pixels in ``order``."""
        n = self.img_size[1]
        pixels = torch.arange(n * n) if order is None else torch.from_numpy(order)
        x, y = pixel_centres(n, self.geometry.pixel_size)
        grid = pixels, x[pixels], y[pixels]
        for angle in self.plan.base_angles:
            yield self.geometry.view(float(angle), n, self.samples, grid)

    def build(
        self, dtype: torch.dtype, order: NDArray[np.int64], position: NDArray[np.int32]
    ) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        """The rows of the base views, one block for each view, each pixel at its position in memory; and the transpose.

        Raises InputError before it allocates more than half of the machine's memory.
        """
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 if hasattr(os, "sysconf") else math.inf
        if self.bytes_needed > limit:
            raise InputError(
                f"the matrix would take about {self.bytes_needed / 1e9:.2f} GB, the limit is {limit / 1e9:.2f} GB. Use fewer "
                'views or pixels, angles that share symmetries, or storage="free": entries computed in every product.'
            )
        shape, blocks = (self.img_size[1] ** 2, self.plan.rows), []
        for rows, columns, values in self.base_views(order):
            entries = values.to(dtype).numpy(), (position[columns.numpy()], rows.to(torch.int32).numpy())
            blocks.append(scipy.sparse.coo_array(entries, shape=shape).tocsr())
        return side_by_side(blocks)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Scale, mask, weights, indices and the stored matrix."""
        return (self.unit, *self.buffers(recurse=False), *(() if self.matrix is None else self.matrix.tensors))

    def forward_map(self, x: Tensor) -> Tensor:
        """√w ⊙ P (m ⊙ x)."""
        images = x if self.image_mask is None else x * self.image_mask.to(x.dtype)
        y = self.in_parts(self.project, images, self.data_size)
        return y if self.root_weights is None else y * self.root_weights.to(x.dtype)

    def adjoint_map(self, y: Tensor) -> Tensor:
        """m ⊙ Pᵀ (√w ⊙ y)."""
        data = y if self.root_weights is None else y * self.root_weights.to(y.dtype)
        x = self.in_parts(self.back_project, data, self.img_size)
        return x if self.image_mask is None else x * self.image_mask.to(y.dtype)

    def in_parts(self, product: Map, x: Tensor, size: tuple[int, int, int]) -> Tensor:
        """A product of a batch (…, rows, columns), as many images at once as fill its columns."""
        at_once = max(1, MOST_COLUMNS // len(self.plan.group))
        flat = x.reshape(-1, x.shape[-2] * x.shape[-1])
        return torch.cat([product(part) for part in torch.split(flat, at_once)]).reshape(*x.shape[:-2], *size[1:])

    def project(self, images: Tensor) -> Tensor:
        """P for a few images (k, n²): their symmetric copies times the base views, then every datum picked out or added up."""
        picked = pick(self.multiply(pick(images, self.pixels), False), self.index)
        parts = self.plan.index.shape[0]
        return picked if parts == 1 else picked.reshape(len(images), parts, -1).sum(1)

    def back_project(self, data: Tensor) -> Tensor:
        """Pᵀ for a few flat sinograms (k, detectors·views): the transposes of the steps of ``project`` in reverse."""
        elements = len(self.plan.group)
        scattered = data.new_zeros(len(data), len(self.plan.base_angles) * self.plan.rows * elements)
        for index in self.index.long().chunk(self.plan.index.shape[0]):  # with 32 bits torch adds a hundred times slower
            scattered.index_add_(1, index, data)
        copies = self.multiply(scattered, True)
        return pick(pick(copies, self.places).reshape(len(data), elements, -1).sum(1), self.position)

    def multiply(self, x: Tensor, transpose: bool) -> Tensor:
        """The base matrix, or its transpose, times the symmetric copies of k images, (k, N·elements), as its columns."""
        count, elements = len(x), len(self.plan.group)
        columns = x.reshape(count, -1, elements).permute(1, 0, 2).reshape(-1, count * elements)  # a view for k = 1
        product = self.product_anew if self.matrix is None else self.matrix.product
        result = product(columns, transpose=transpose)
        return result.reshape(-1, count, elements).permute(1, 0, 2).reshape(count, -1)

    def product_anew(self, x: Tensor, transpose: bool) -> Tensor:
        """The base matrix times columns, its entries computed again, view by view."""
        size = self.img_size[1] ** 2 if transpose else self.plan.rows * len(self.plan.base_angles)
        result = x.new_zeros(size, x.shape[1])
        for number, (rows, columns, values) in enumerate(self.base_views()):
            # Rounded to the operator's own dtype, as stored entries are, before the dtype of x.
            values = (values.to(self.unit) * self.unit).to(x.dtype)
            rows, columns = rows.to(x.device) + number * self.plan.rows, columns.to(x.device)
            target, origin = (columns, rows) if transpose else (rows, columns)
            result.index_add_(0, target, x.index_select(0, origin) * values[:, None])
        return result

    @kept
    def bound_norm(self) -> NormBound:
        """Collatz-Wielandt in the working precision; every product is a sum of nonnegative terms."""
        self.require_consistent()
        start = torch.ones((1, 1, *self.img_size[1:]), dtype=self.unit.dtype, device=self.unit.device)
        rounding = gamma_factor(self.terms(), self.unit.dtype)
        return collatz_wielandt(lambda v: self.adjoint_map(self.forward_map(v)), start, rounding=rounding).bound()

    def require_consistent(self) -> None:
        """Raise CertificateError unless A and Aᵀ are transposes of each other, and mask, weights and entries ≥ 0."""
        sizes, factors = (self.img_size[1:], self.data_size[1:]), (self.image_mask, self.root_weights)
        for factor, size in zip(factors, sizes, strict=True):
            if factor is not None and (factor.shape != size or not bool((torch.isfinite(factor) & (factor >= 0)).all())):
                raise CertificateError(f"mask and weights must be nonnegative, finite and of the shape {size}.")
        (pixels, data), elements = map(math.prod, sizes), len(self.plan.group)
        copies = torch.arange(pixels * elements, device=self.unit.device)
        # Symmetry g shows a pixel at ``places``; there, and nowhere else, must ``pixels`` find it.
        places = self.places.reshape(elements, -1).index_select(1, self.position)
        shown = self.pixels[places.long()] == copies[:pixels]
        seen, count = self.index, self.plan.rows * len(self.plan.base_angles) * elements
        sound = len(seen) == data * self.plan.index.shape[0] and bool(((seen >= 0) & (seen < count)).all()) and bool(shown.all())
        if not (sound and torch.equal(places.flatten().sort().values.long(), copies)):
            raise CertificateError("the operator's indices do not belong together; build it anew.")
        if self.matrix is not None:
            SparsePair.require_pair(self.matrix, pixels, self.plan.rows * len(self.plan.base_angles))
        views = self.base_views() if self.matrix is None else [(None, None, self.matrix.forward_values)]
        if any(bool((values < 0).any()) for _, _, values in views):
            raise CertificateError("the projector has negative entries; its norm is not known.")

    @kept
    def terms(self) -> int:
        """The longest chain of roundings in an entry of AᵀA v: terms of a row and of a column, mask, weights, slack."""
        if self.matrix is not None:
            row, column = self.matrix.most_terms
        else:
            row, columns = 0, torch.zeros(self.img_size[1] ** 2, dtype=torch.int64)
            for bins, pixels, _ in self.base_views():
                row = max(row, int(torch.bincount(bins, minlength=1).max()))
                columns += torch.bincount(pixels, minlength=len(columns))
            column = int(columns.max())
        gathered = int(torch.bincount(self.index).max())  # data that see one line and are added up
        row += int(self.plan.index.shape[0]) - 1
        return row + column * len(self.plan.group) + max(EXTRA_ROUNDINGS, gathered + EXTRA_ROUNDINGS // 2)

    @property
    def product_rounding(self) -> float:
        """γ of a product in float64: |fl(Ax) − Ax| ≤ γ A|x| entrywise as A ≥ 0, hence ≤ γ ‖A‖‖x‖."""
        return gamma_factor(self.terms(), torch.float64)

    def preconditioner(self, gamma: Tensor) -> Map | None:
        """(1 + γ ŝ)⁻¹ on a doubled grid, ŝ the spectrum of AᵀA: from n/4 views on; with fewer, AᵀA is no convolution."""
        n, views = self.img_size[1], self.data_size[2]
        if self.image_mask is not None or 4 * views < n:
            return None
        inverse, grid = 1 / (1 + gamma * self.spectrum().to(gamma)), (2 * n, 2 * n)
        return lambda r: torch.fft.irfft2(torch.fft.rfft2(r, s=grid) * inverse.to(r.dtype), s=grid)[..., :n, :n]

    @kept
    def spectrum(self) -> Tensor:
        """The symbol κ sinc²(f₁) sinc²(f₂) / |f| of AᵀA on a doubled grid, shape (2n, n + 1), float64.

        f in cycles per pixel. The pole at 0 is replaced by the mean of 1/|f| over its grid cell, 4 ln(1 + √2) · 2n. κ makes
        the symbol's mean equal (AᵀA)ᵢᵢ at the central pixel: geometry, units and weights are in it.
        """
        n = self.img_size[1]
        delta = torch.zeros(1, 1, n, n, dtype=self.unit.dtype, device=self.unit.device)
        delta[..., n // 2, n // 2] = 1
        centre = float(self.forward_map(delta).double().square().sum())
        f1 = torch.fft.fftfreq(2 * n, dtype=torch.float64)[:, None]
        f2 = torch.fft.rfftfreq(2 * n, dtype=torch.float64)[None, :]
        radius = torch.hypot(f1, f2)
        radius[0, 0] = 1 / (4 * math.log(1 + math.sqrt(2)) * 2 * n)
        symbol = torch.sinc(f1).square() * torch.sinc(f2).square() / radius
        return symbol * (centre / float(torch.fft.irfft2(symbol, s=(2 * n, 2 * n))[0, 0]))

    def with_weights(self, weights: Tensor) -> "SymmetricTomography":
        """The same scan with these statistical weights (detectors, views) instead; both share the stored matrix."""
        twin = copy.copy(self)
        twin._buffers = dict(self._buffers)
        weights = cast(Tensor, as_nonnegative("weights", weights, self.data_size[1:], self.unit.dtype))
        twin.root_weights = weights.sqrt().to(self.unit.device)
        return twin

    def apply_weights(self, y: Tensor) -> Tensor:
        """√w ⊙ y: measured data in the units of A when ``weights`` were given."""
        self.check(y, self.data_size, "data")
        return y if self.root_weights is None else y * self.root_weights

    def fbp(self, y: Tensor, *, filter: str = "ramp") -> Tensor:
        """Filtered back-projection of (weighted) data: ``filter`` is "ramp", "shepp-logan" or "hann".

        Bins of weight zero are interpolated from their neighbours in the view. Raises InputError for data that are not
        finite, and where the views miss lines through the image.
        """
        self.check(y, self.data_size, "data")
        integrals, root = y / float(self.unit), self.root_weights
        if root is not None:
            integrals = bridged(integrals / torch.where(root > 0, root, 1.0), root > 0)
        wrong = int((~torch.isfinite(integrals)).sum())
        if wrong:
            raise InputError(
                f"{wrong} data are NaN or infinite. Counts of zero have no logarithm: set these data to 0 and give them the "
                "weight 0 (`weights`)."
            )
        x = self.invert(integrals, filter)
        return x if self.image_mask is None else x * (self.image_mask > 0)

    @abc.abstractmethod
    def invert(self, integrals: Tensor, name: str) -> Tensor:
        """Filtered back-projection of line integrals (B, C, detectors, views) with the filter ``name``."""


def plan_scan(scan: ScanGeometry, n: int) -> tuple[SymmetryPlan, Tensor]:
    """The plan with the fewest entries, and the samples of its rows: all symmetries, quarter turns alone, or none."""
    own, bins = scan.samples, np.arange(scan.count)[None]
    full, members = scan.mirrored()
    candidates = []
    for samples, parts, flips, turns in ((full, members, True, True), (own, bins, False, True), (own, bins, False, False)):
        rows, halves = len(samples) - scan.by_shadow, flips and scan.parallel
        plan = plan_views(scan.degrees + scan.turn, parts, rows, turns=turns, flips=flips, halves=halves)
        seen = samples[plan.first_row : plan.first_row + plan.rows + scan.by_shadow]
        candidates.append((len(plan.base_angles) * scan.entries(n, seen), plan, seen))
    best, plain = min(candidates, key=lambda found: found[0] * (COLUMNS_LIKE_ENTRY + len(found[1].group))), candidates[-1]
    return (best if best[0] * WORTH_SYMMETRY <= plain[0] or len(best[1].group) == 1 else plain)[1:]


def side_by_side(blocks: list[scipy.sparse.csr_array]) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """The transpose of [B₁ B₂ …], and the matrix itself; takes the blocks out of the list.

    Twice as fast as scipy's stacking and transposing, with less memory: every entry is written where it belongs.
    """
    pixels, rows = blocks[0].shape
    starts = np.concatenate([[0], np.cumsum(sum(np.diff(block.indptr).astype(np.int64) for block in blocks))])
    size, dtype = int(starts[-1]), blocks[0].dtype
    if size >= 2**31:
        raise OverflowError("more than 2^31 stored entries")
    starts = starts.astype(np.int32)  # with 64 bits scipy would copy all indices
    (across, across_rows), (along, along_columns) = ((np.empty(size, dtype), np.empty(size, np.int32)) for _ in range(2))
    at, done, offset, pointers = starts[:-1].copy(), 0, 0, [np.zeros(1, np.int32)]
    blocks.reverse()
    while blocks:
        block = blocks.pop()
        counts = np.diff(block.indptr)
        target = np.repeat(at - block.indptr[:-1], counts)
        target += np.arange(block.nnz)
        across[target], across_rows[target] = block.data, block.indices + np.int32(offset)
        turned, part = block.tocsc(), slice(done, done + block.nnz)
        along[part], along_columns[part] = turned.data, turned.indices
        pointers.append(turned.indptr[1:] + np.int32(done))
        at, done, offset = at + counts, part.stop, offset + rows
    forward = scipy.sparse.csr_array((along, along_columns, np.concatenate(pointers)), shape=(offset, pixels))
    return forward, scipy.sparse.csr_array((across, across_rows, starts), shape=(pixels, offset))


def as_nonnegative(name: str, values: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A checked copy, where there is something to copy."""
    if values is None:
        return None
    if tuple(values.shape) != shape:
        raise ShapeError(f"`{name}` must have the shape {shape}; got {tuple(values.shape)}.")
    if not bool((torch.isfinite(values) & (values >= 0)).all()) or not bool((values > 0).any()):
        raise InputError(f"`{name}` must be nonnegative, finite and not zero everywhere.")
    return values.to(dtype, copy=True)


def circle_mask(n: int) -> Tensor:
    """1 for pixels whose middle lies in the inscribed circle.

    >>> int(circle_mask(4).sum())
    12
    """
    line = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).square()
    return (line[:, None] + line[None, :] <= (n / 2) ** 2).to(torch.float32)
