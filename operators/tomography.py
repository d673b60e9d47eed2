"""What parallel and fan beam have in common: symmetric sparse products, mask, weights, norm, prox, memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from deepinv.physics import NoiseModel
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.operators.certified_physics import CertifiedPhysics, LinearMap, as_img_size
from pnp_lip.operators.collatz_wielandt import collatz_wielandt, gamma_factor
from pnp_lip.operators.conjugate_gradient import Map
from pnp_lip.operators.dihedral import SymmetryPlan, inverse_pixels, pick, pixel_order, plan_views, symmetric_pixels
from pnp_lip.operators.footprints import Detector, Entries
from pnp_lip.operators.sparse_pair import SparsePair
from pnp_lip.operators.tomography_inputs import as_angles, as_mask, as_root_weights, physical_memory
from pnp_lip.operators.tomography_spectrum import measured_spectrum, ramp_spectrum
from pnp_lip.snapshot import Snapshot, lasting
from pnp_lip.spectral import Method, NormBound

__all__ = ["SymmetricTomography"]

MOST_COLUMNS = 32  # wider products fall out of the cache
WORTH_SYMMETRY = 3.0  # with less than this saved, symmetric columns cost more than they spare
MOST_CIRCULANT = 200.0  # γ‖A‖² up to which a measured circulant saves time (256², 48 views, 100: 88 ms for 135)
BYTES_PER_ENTRY = 16  # value and index, for A and for its transpose


class SymmetricTomography(CertifiedPhysics):
    """y = √w ⊙ P (m ⊙ x), P the projection of an n × n image, reduced by the symmetry of the square.

    Not to be used directly: see ``ParallelBeamTomography`` and ``FanBeamTomography``, which supply the entries of a
    view.
    """

    def __init__(
        self,
        angles: Sequence[float] | NDArray[Any] | Tensor,
        img_size: tuple[int, int, int],
        detector: Detector,
        pixel: float,
        *,
        view: Callable[[float, int], Entries],
        parallel: bool,
        turn: float = 0.0,
        mask: str | Tensor | None,
        weights: Tensor | None,
        normalize: bool,
        storage: str,
        kernel: str,
        max_memory: float | None,
        noise_model: NoiseModel | None,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        size = as_img_size(img_size)
        if size[1] != size[2]:
            raise ShapeError(f"tomography needs a square image; got {size[1]}x{size[2]}. Pad it.")
        if dtype not in (torch.float32, torch.float64):
            raise ShapeError(f"`dtype` must be torch.float32 or torch.float64; got {dtype}.")
        for name, value, choices in (
            ("storage", storage, ("sparse", "free")),
            ("kernel", kernel, ("auto", "csr", "bag")),
        ):
            if value not in choices:
                raise InputError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")
        super().__init__(size, noise_model=noise_model, device=device)
        self.detector, self.pixel, self.view = detector, pixel, view
        degrees = as_angles(angles)
        self.data_size = (size[0], detector.count, len(degrees))
        self.register_buffer("angles", torch.from_numpy(degrees), persistent=False)
        self.turn = turn  # from the user's angles to those of the footprints
        self.plan = self.choose_plan(degrees + turn, parallel)
        self.register_buffer("index", torch.from_numpy(self.plan.index.reshape(-1)), persistent=False)
        order = pixel_order(size[1]) if storage == "sparse" else np.arange(size[1] ** 2)
        pixels = symmetric_pixels(order, size[1], self.plan.group)
        self.register_buffer("pixels", torch.from_numpy(pixels.reshape(-1)), persistent=False)
        places, position = inverse_pixels(pixels)[:, order], np.argsort(order).astype(np.int32)
        self.register_buffer("places", torch.from_numpy(places.reshape(-1)), persistent=False)
        self.register_buffer("position", torch.from_numpy(position), persistent=False)
        self.register_buffer("image_mask", as_mask(mask, size[1], dtype), persistent=False)
        self.register_buffer("root_weights", as_root_weights(weights, self.data_size, dtype), persistent=False)
        self.register_buffer("unit", torch.ones((), dtype=dtype), persistent=False)  # dtype, device and scale of A
        self.matrix: SparsePair | None = None
        self._spectrum_cache: tuple[Snapshot, Tensor] | None = None
        if storage == "sparse":
            self.check_memory(max_memory)
            self.matrix = SparsePair(self.build(dtype, position), dtype=dtype, kernel=kernel)
        self.to(device)
        if normalize:
            self.normalise()

    def choose_plan(self, degrees: NDArray[np.float64], parallel: bool) -> SymmetryPlan:
        """The symmetric reduction, or every view as it is where that spares too little."""
        n_det = self.detector.count
        centred = self.detector.offset == 0
        plan = plan_views(degrees, n_det, flips=centred, halves=centred and parallel)
        rows = len(plan.base_angles) * (n_det - plan.first_bin)
        if len(plan.group) > 1 and len(degrees) * n_det / rows < WORTH_SYMMETRY:
            views, index = np.unique(np.mod(np.round(degrees, 9), 360.0), return_inverse=True)
            index = index[None, :] * n_det + np.arange(n_det)[:, None]
            plan = SymmetryPlan(views, 0, ((0, False),), index)
        return plan

    # Building

    @property
    def bytes_needed(self) -> int:
        """Estimate of the memory that the stored matrix takes with its transpose."""
        n, bins = self.img_size[1], self.detector.count - self.plan.first_bin
        shadow = self.magnification * 1.28 * self.pixel / self.detector.spacing + 1  # mean shadow of a pixel, in bins
        seen = min(1.0, self.detector.count * self.detector.spacing / (self.magnification * n * self.pixel))
        part = bins / self.detector.count
        return int(BYTES_PER_ENTRY * len(self.plan.base_angles) * n * n * shadow * seen * part)

    @property
    def magnification(self) -> float:
        """How much larger than the object its shadow on the detector is."""
        return 1.0

    def check_memory(self, max_memory: float | None) -> None:
        """Raise InputError before allocating more than ``max_memory`` bytes (default: half of the machine's memory)."""
        limit = physical_memory() / 2 if max_memory is None else max_memory
        if self.bytes_needed > limit:
            raise InputError(
                f"the projection matrix would take about {self.bytes_needed / 1e9:.2f} GB, more than the limit of "
                f"{limit / 1e9:.2f} GB. Use fewer views or pixels, angles that share symmetries, max_memory=, or "
                'storage="free", which computes the entries anew in every product.'
            )

    def build(self, dtype: torch.dtype, position: NDArray[np.int32]) -> scipy.sparse.csr_array:
        """The rows of the base views, one block for each view, each pixel at its position in memory."""
        pixels = self.img_size[1] ** 2
        bins = self.detector.count - self.plan.first_bin
        blocks = []
        number = np.float32 if dtype == torch.float32 else np.float64
        for angle in self.plan.base_angles:
            rows, columns, values = (part.numpy() for part in self.view(float(angle), self.plan.first_bin))
            entries = values.astype(number), (rows.astype(np.int32) - self.plan.first_bin, position[columns])
            block = scipy.sparse.coo_array(entries, shape=(bins, pixels)).tocsr()
            block.sort_indices()
            blocks.append(block)
        return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr"))

    def normalise(self) -> None:
        """Scale A by the certified bound so that the stored operator has norm at most 1."""
        if self.norm_upper == 0:
            raise InputError(
                "no ray meets the image, so that A = 0 cannot be normalised; check the detector and the mask."
            )
        for _ in range(8):
            if self.norm_upper <= 1 and float(self.unit) != 1:
                break
            factor = (1 - 4 * torch.finfo(self.unit.dtype).eps) / self.norm_upper
            self.unit.mul_(factor)
            if self.matrix is not None:
                self.matrix.scale_(factor)

    # Products

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Scale, stored entries, mask and weights."""
        stored = () if self.matrix is None else (self.matrix.forward_values, self.matrix.adjoint_values)
        optional = tuple(t for t in (self.image_mask, self.root_weights) if t is not None)
        return (self.unit, *stored, *optional)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """The sinogram (B, C, detectors, views) of images (B, C, n, n)."""
        self.check(x, self.img_size, "image")
        y: Tensor = LinearMap.apply(x, self, False)
        return y

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:  # noqa: N802
        """Back-projection, the exact transpose of ``A``."""
        self.check(y, self.data_size, "data")
        x: Tensor = LinearMap.apply(y, self, True)
        return x

    def forward_map(self, x: Tensor) -> Tensor:
        """√w ⊙ P (m ⊙ x)."""
        n = self.img_size[1]
        images = x.reshape(-1, n, n)
        images = images if self.image_mask is None else images * self.image_mask.to(x.dtype)
        flat = torch.cat([self.project(part) for part in torch.split(images, self.images_at_once)])
        y = flat.reshape(*x.shape[:-2], *self.data_size[1:])
        return y if self.root_weights is None else y * self.root_weights.to(x.dtype)

    def adjoint_map(self, y: Tensor) -> Tensor:
        """m ⊙ Pᵀ (√w ⊙ y)."""
        n = self.img_size[1]
        data = y if self.root_weights is None else y * self.root_weights.to(y.dtype)
        data = data.reshape(-1, self.data_size[1] * self.data_size[2])
        images = torch.cat([self.back_project(part) for part in torch.split(data, self.images_at_once)])
        x = images.reshape(*y.shape[:-2], n, n)
        return x if self.image_mask is None else x * self.image_mask.to(y.dtype)

    @property
    def images_at_once(self) -> int:
        """How many images fill one product."""
        return max(1, MOST_COLUMNS // len(self.plan.group))

    def project(self, images: Tensor) -> Tensor:
        """P for a few images (k, n, n): their symmetric copies times the base views, then every datum picked out."""
        elements = len(self.plan.group)
        rows = self.multiply(as_columns(pick(images.flatten(1), self.pixels), elements), False)
        return pick(from_columns(rows, elements), self.index)

    def back_project(self, data: Tensor) -> Tensor:
        """Pᵀ for a few flat sinograms (k, detectors·views): the transposes of the steps of ``project`` in reverse."""
        elements, n = len(self.plan.group), self.img_size[1]
        rows = len(self.plan.base_angles) * (self.detector.count - self.plan.first_bin)
        scattered = data.new_zeros(len(data), rows * elements).index_add_(1, self.index, data)
        copies = from_columns(self.multiply(as_columns(scattered, elements), True), elements)
        sums = pick(copies, self.places).reshape(len(data), elements, n * n).sum(1)
        return pick(sums, self.position).reshape(-1, n, n)

    def multiply(self, x: Tensor, transpose: bool) -> Tensor:
        """The base matrix times columns, from storage or, entries computed anew, view by view."""
        if self.matrix is not None:
            return self.matrix.product(x, transpose=transpose)
        bins, pixels = self.detector.count - self.plan.first_bin, self.img_size[1] ** 2
        result = x.new_zeros(pixels if transpose else bins * len(self.plan.base_angles), x.shape[1])
        for number, angle in enumerate(self.plan.base_angles):
            rows, columns, values = self.view(float(angle), self.plan.first_bin)
            # Rounded to the operator's own dtype, as stored entries are, before the dtype of x.
            values = (values.to(self.unit) * self.unit).to(x.dtype)
            rows, columns = rows.to(x.device) + (number * bins - self.plan.first_bin), columns.to(x.device)
            target, origin = (columns, rows) if transpose else (rows, columns)
            result.index_add_(0, target, x.index_select(0, origin) * values[:, None])
        return result

    # Norm and prox

    def bound_norm(self) -> NormBound:
        """Collatz-Wielandt in the working precision; every product is a sum of nonnegative terms."""
        size = (1, 1, *self.img_size[1:])
        rounding = gamma_factor(self.terms, self.unit.dtype)

        def gram(v: Tensor) -> Tensor:
            return self.adjoint_map(self.forward_map(v))

        found = collatz_wielandt(
            gram, torch.ones(size, dtype=self.unit.dtype, device=self.unit.device), rounding=rounding
        )
        return NormBound(
            math.sqrt(found.upper_sq) * (1 + 1e-15),
            math.sqrt(found.lower_sq) * (1 - 1e-15),
            Method.COLLATZ_WIELANDT,
        )

    @property
    def terms(self) -> int:
        """The longest chain of roundings in an entry of AᵀA v: terms of a row and of a column, mask, weights, slack."""
        if self.matrix is not None:
            row, column = self.matrix.most_terms
        else:
            n = self.img_size[1]
            spread = self.magnification * 1.5 * self.pixel / self.detector.spacing + 3
            row, column = (
                4 * n * (2 + math.ceil(self.detector.spacing / self.pixel)),
                len(self.angles) * math.ceil(spread),
            )
        return row + column * len(self.plan.group) + 16

    @property
    def product_rounding(self) -> float:
        """γ of a product in float64: |fl(Ax) − Ax| ≤ γ A|x| entrywise as A ≥ 0, hence ≤ γ ‖A‖‖x‖."""
        return gamma_factor(self.terms, torch.float64)

    def preconditioner(self, gamma: Tensor) -> Map | None:
        """(1 + γ ŝ)⁻¹ on a doubled grid, ŝ the spectrum of AᵀA: a ramp from n/4 views on, the measured one from n/8 on.

        With few views AᵀA is far from a convolution: a circulant spares few steps, and none at large γ, where
        ``dense_prox`` is the way out.
        """
        n, views = self.img_size[1], len(self.angles)
        dense = 4 * views >= n
        moderate = 8 * views >= n and float(gamma.max()) * self.norm_upper**2 <= MOST_CIRCULANT
        if self.image_mask is not None or not (dense or moderate):
            return None
        if self._spectrum_cache is None or not self._spectrum_cache[0].holds(self.tensors):
            with lasting():
                spectrum = ramp_spectrum(self) if dense else measured_spectrum(self)
            self._spectrum_cache = (Snapshot(self.tensors), spectrum)
        symbol = self._spectrum_cache[1].to(gamma)
        inverse = 1 / (1 + gamma * symbol)
        grid = (2 * n, 2 * n)

        def apply(r: Tensor) -> Tensor:
            result: Tensor = torch.fft.irfft2(torch.fft.rfft2(r, s=grid) * inverse.to(r.dtype), s=grid)
            return result[..., :n, :n]

        return apply

    def apply_weights(self, y: Tensor) -> Tensor:
        """√w ⊙ y: measured data in the units of A when ``weights`` were given."""
        self.check(y, self.data_size, "data")
        return y if self.root_weights is None else y * self.root_weights


def as_columns(x: Tensor, elements: int) -> Tensor:
    """(k, N·elements) as a matrix (N, k·elements); a view for k = 1."""
    return x.reshape(len(x), -1, elements).permute(1, 0, 2).reshape(-1, len(x) * elements)


def from_columns(x: Tensor, elements: int) -> Tensor:
    """The inverse of ``as_columns``."""
    count = x.shape[1] // elements
    return x.reshape(-1, count, elements).permute(1, 0, 2).reshape(count, -1)
