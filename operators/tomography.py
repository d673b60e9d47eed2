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
from pnp_lip.operators.joseph import Size, crossings, joseph_product
from pnp_lip.operators.norm_rules import kept
from pnp_lip.operators.scan_geometry import Angles, Grid, ScanGeometry
from pnp_lip.operators.sparse_operator import SparsePair
from pnp_lip.spectral import NormBound

__all__ = ["SymmetricTomography", "circle_mask"]

MOST_COLUMNS = 32  # of one product; wider ones fall out of the cache
BYTES_PER_ENTRY = 16  # value and index, for A and for its transpose
COLUMNS_LIKE_ENTRY = 16  # columns whose products take as long as reading an entry: 8 cost 1.4 times 1 (256², 180 views)
MOST_CROSSINGS = 2**20  # of rays and lines at once where entries are computed in every product
MOST_PAIRS = 2**18  # of pixels and base views whose entries are computed at once: arrays that stay in the cache
WORTH_SYMMETRY = 3.0  # with less than this saved, symmetric columns cost more than they spare
EXTRA_ROUNDINGS = 16  # of an entry of AᵀAv, beside those of its sums: mask, weights and scale, twice each, and room


class SymmetricTomography(CertifiedPhysics):
    """y = √w ⊙ P (m ⊙ x), P the projection of an image along rays that a subclass's ``beam`` describes."""

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
        if storage not in ("sparse", "free"):
            raise InputError(f'`storage` must be "sparse" or "free"; got {storage!r}.')
        scanner = geometry if isinstance(geometry, ScanGeometry) else self.beam(geometry)
        if not isinstance(scanner, self.beam):
            raise InputError(f"`geometry` must be a {self.beam.__name__}; got {type(geometry).__name__}.")
        size = self.img_size[1:]
        scan = self.geometry = scanner.fitted(size)
        self.data_size = (self.img_size[0], scan.count, len(scan.degrees))
        self.plan, self.samples = plan_scan(scan, size)
        grid = Grid(size, scan.sides, pixel_order(size) if storage == "sparse" else None)
        pixels, places = symmetric_pixels(grid.order, size, self.plan.group)
        places = places[: self.plan.listed, grid.order]
        for name, index in (
            ("index", self.plan.index),
            ("pixels", pixels),
            ("places", places),
            ("position", grid.position),
        ):
            self.register_buffer(name, torch.from_numpy(index.reshape(-1)), persistent=False)
        if isinstance(mask, str):
            if mask != "circle":
                raise InputError(f'`mask` must be "circle", a tensor {size} or None; got {mask!r}.')
            mask = circle_mask(*size, scan.sides)
        mask = as_nonnegative("mask", mask, size, dtype)
        weights = as_nonnegative("weights", weights, self.data_size[1:], dtype)  # (detectors, views)
        self.register_buffer("image_mask", mask, persistent=False)
        self.register_buffer("root_weights", None if weights is None else weights.sqrt(), persistent=False)
        self.register_buffer("unit", torch.ones((), dtype=dtype), persistent=False)  # dtype, device and scale of A
        self.matrix: SparsePair | None = None
        if storage == "sparse":
            self.matrix = SparsePair(*self.build(dtype, grid))
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
        return int(BYTES_PER_ENTRY * len(self.plan.base_angles) * self.geometry.entries(self.img_size[1:], self.samples))

    def base_views(self, grid: Grid | None = None) -> Iterator[scipy.sparse.csr_array]:
        """The matrix of each base view: rows from the first that is needed, pixels as in ``grid`` or row by row."""
        grid = Grid(self.img_size[1:], self.geometry.sides) if grid is None else grid
        return (self.geometry.view(float(angle), grid, self.samples) for angle in self.plan.base_angles)

    def build(self, dtype: torch.dtype, grid: Grid) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        """The matrices of the base views below one another, each pixel at its position in memory; and the transpose.

        Raises InputError before it allocates more than half of the machine's memory.
        """
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 if hasattr(os, "sysconf") else math.inf
        if self.bytes_needed > limit:
            raise InputError(
                f"the matrix would take about {self.bytes_needed / 1e9:.2f} GB, the limit is {limit / 1e9:.2f} GB. Use fewer "
                'views or pixels, angles that share symmetries, or storage="free": entries computed in every product.'
            )
        shape, scan = (self.plan.rows * len(self.plan.base_angles), len(grid.order)), self.geometry
        if not scan.by_shadow:
            by_rows = CompressedRows(dtype, self.bytes_needed)
            for view in self.base_views(grid):
                by_rows.append(view.data, view.indices, np.diff(view.indptr))
            matrix = by_rows.matrix(shape)
            return matrix, transposed(matrix)
        by_pixels = CompressedRows(dtype, self.bytes_needed)
        at_once = max(1, MOST_PAIRS // len(self.plan.base_angles))
        for x, y in zip(torch.split(grid.x, at_once), torch.split(grid.y, at_once), strict=True):
            by_pixels.append(*scan.columns(self.plan.base_angles, x, y, self.samples, dtype))
        matrix = by_pixels.matrix(shape[::-1])
        return transposed(matrix), matrix

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
        copies, listed = self.multiply(scattered, True), self.plan.listed
        images = self.gathered(copies)
        return images if listed == elements else images + self.gathered(copies[:, listed:]).flip(1)

    def gathered(self, copies: Tensor) -> Tensor:
        """The sum of the images under the listed symmetries, each brought back; ``copies`` flat, (k, N·elements)."""
        return pick(pick(copies, self.places).reshape(len(copies), self.plan.listed, -1).sum(1), self.position)

    def multiply(self, x: Tensor, transpose: bool) -> Tensor:
        """The base matrix, or its transpose, times the symmetric copies of k images, (k, N·elements), as its columns."""
        count, elements = len(x), len(self.plan.group)
        columns = x.reshape(count, -1, elements).permute(1, 0, 2).reshape(-1, count * elements)  # a view for k = 1
        product = self.product_anew if self.matrix is None else self.matrix.product
        result = product(columns, transpose=transpose)
        return result.reshape(-1, count, elements).permute(1, 0, 2).reshape(count, -1)

    def product_anew(self, x: Tensor, transpose: bool) -> Tensor:
        """The base matrix times columns, its entries computed again: a few views at once for Joseph's, else view by view."""
        scan, size, rows = self.geometry, self.img_size[1:], self.plan.rows
        result = x.new_zeros(size[0] * size[1] if transpose else rows * len(self.plan.base_angles), x.shape[1])
        if not scan.by_shadow:
            at_once = max(1, MOST_CROSSINGS // (rows * max(size)))
            for first in range(0, len(self.plan.base_angles), at_once):
                beams = [scan.rays(float(angle), self.samples) for angle in self.plan.base_angles[first : first + at_once]]
                point, direction = (torch.cat(part) for part in zip(*beams, strict=True))
                for cut in crossings(point, direction, size, scan.sides):
                    seen = (cut.rays + first * rows).to(x.device)
                    if transpose:
                        result += joseph_product(x.index_select(0, seen), cut, self.unit, size, True)
                    else:
                        result[seen] = joseph_product(x, cut, self.unit, size, False)
            return result
        for number, view in enumerate(map(scipy.sparse.coo_array, self.base_views())):
            # Rounded to the operator's own dtype, as stored entries are, before the dtype of x.
            values = (torch.from_numpy(view.data).to(self.unit) * self.unit).to(x.dtype)
            bins, pixels = (torch.from_numpy(index).to(x.device).long() for index in view.coords)
            bins += number * rows
            target, origin = (pixels, bins) if transpose else (bins, pixels)
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
        places, listed = self.places.reshape(self.plan.listed, -1).index_select(1, self.position), self.plan.listed
        places = places if listed == elements else torch.cat([places, places.flip(1) + listed])
        shown = self.pixels[places.long()] == copies[:pixels]
        seen, count = self.index, self.plan.rows * len(self.plan.base_angles) * elements
        sound = len(seen) == data * self.plan.index.shape[0] and bool(((seen >= 0) & (seen < count)).all()) and bool(shown.all())
        if not (sound and torch.equal(places.flatten().sort().values.long(), copies)):
            raise CertificateError("the operator's indices do not belong together; build it anew.")
        if self.matrix is not None:
            SparsePair.require_pair(self.matrix, pixels, self.plan.rows * len(self.plan.base_angles))
        values = (view.data for view in self.base_views()) if self.matrix is None else [self.matrix.forward_values]
        if any(bool((value < 0).any()) for value in values):
            raise CertificateError("the projector has negative entries; its norm is not known.")

    @kept
    def terms(self) -> int:
        """The longest chain of roundings in an entry of AᵀA v: terms of a row and of a column, mask, weights, slack."""
        if self.matrix is not None:
            row, column = self.matrix.most_terms
        else:
            row, columns = 0, np.zeros(math.prod(self.img_size[1:]), dtype=np.int64)
            for view in self.base_views():
                row = max(row, int(np.diff(view.indptr).max()))
                columns += np.bincount(view.indices, minlength=len(columns))
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
        (height, width), views = self.img_size[1:], self.data_size[2]
        if self.image_mask is not None or 4 * views < max(height, width):
            return None
        inverse, grid = 1 / (1 + gamma * self.spectrum().to(gamma)), (2 * height, 2 * width)
        return lambda r: torch.fft.irfft2(torch.fft.rfft2(r, s=grid) * inverse.to(r.dtype), s=grid)[..., :height, :width]

    @kept
    def spectrum(self) -> Tensor:
        """The symbol κ sinc²(f₁) sinc²(f₂) / |f| of AᵀA on a doubled grid, shape (2H, W + 1), float64.

        f in cycles per pixel, in |f| per length. The pole at 0 is replaced by the mean of 1/|f| over its cell a × b of the
        grid, 2 (asinh(b/a)/b + asinh(a/b)/a). κ makes the symbol's mean equal (AᵀA)ᵢᵢ at the central pixel: geometry, units
        and weights are in it.
        """
        (height, width), sides = self.img_size[1:], self.geometry.sides
        delta = torch.zeros(1, 1, height, width, dtype=self.unit.dtype, device=self.unit.device)
        delta[..., height // 2, width // 2] = 1
        centre = float(self.forward_map(delta).double().square().sum())
        f1 = torch.fft.fftfreq(2 * height, dtype=torch.float64)[:, None]
        f2 = torch.fft.rfftfreq(2 * width, dtype=torch.float64)[None, :]
        radius = torch.hypot(f1 / sides[0], f2 / sides[1])
        a, b = 0.5 / (height * sides[0]), 0.5 / (width * sides[1])
        radius[0, 0] = 0.5 / (math.asinh(b / a) / b + math.asinh(a / b) / a)
        symbol = torch.sinc(f1).square() * torch.sinc(f2).square() / radius
        return symbol * (centre / float(torch.fft.irfft2(symbol, s=(2 * height, 2 * width))[0, 0]))

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


def plan_scan(scan: ScanGeometry, size: Size) -> tuple[SymmetryPlan, Tensor]:
    """The plan with the fewest entries, and the samples of its rows: all symmetries, turns alone, or none."""
    own, bins = scan.samples, np.arange(scan.count)[None]
    full, members = scan.mirrored()
    quarters = 1 if size[0] == size[1] and scan.sides[0] == scan.sides[1] else 2  # that turn the image into itself
    candidates = []
    for samples, parts, flips, turns in ((full, members, True, True), (own, bins, False, True), (own, bins, False, False)):
        rows, halves, angles = len(samples) - scan.by_shadow, flips and scan.parallel, scan.degrees + scan.turn
        plan = plan_views(angles, parts, rows, quarters=quarters, turns=turns, flips=flips, halves=halves)
        seen = samples[plan.first_row : plan.first_row + plan.rows + scan.by_shadow]
        candidates.append((len(plan.base_angles) * scan.entries(size, seen), plan, seen))
    best, plain = min(candidates, key=lambda found: found[0] * (COLUMNS_LIKE_ENTRY + len(found[1].group))), candidates[-1]
    worth = WORTH_SYMMETRY / quarters  # a rectangle has half of the square's symmetries
    return (best if best[0] * worth <= plain[0] or len(best[1].group) == 1 else plain)[1:]


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


def as_nonnegative(name: str, values: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A checked copy, where there is something to copy."""
    if values is None:
        return None
    if tuple(values.shape) != shape:
        raise ShapeError(f"`{name}` must have the shape {shape}; got {tuple(values.shape)}.")
    if not bool((torch.isfinite(values) & (values >= 0)).all()) or not bool((values > 0).any()):
        raise InputError(f"`{name}` must be nonnegative, finite and not zero everywhere.")
    return values.to(dtype, copy=True)


def circle_mask(height: int, width: int | None = None, sides: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """1 for pixels, of the ``sides`` (height, width), whose middle lies in the largest circle that the image holds.

    >>> int(circle_mask(4).sum())
    12
    """
    size = height, height if width is None else width
    radius = min(count * side for count, side in zip(size, sides, strict=True)) / 2
    y, x = ((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * side for n, side in zip(size, sides, strict=True))
    return (y.square()[:, None] + x.square()[None, :] <= radius**2).to(torch.float32)
