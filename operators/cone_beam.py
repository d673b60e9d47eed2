"""Cone-beam tomography: a point source and a flat detector on a circular orbit, matrix-free."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from deepinv.physics import NoiseModel
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.errors import CertificateError, InputError, ShapeError
from pnp_lip.operators.certified_physics import CertifiedPhysics, own_bound
from pnp_lip.operators.collatz_wielandt import SMALLEST, CollatzWielandt, collatz_wielandt, gamma_factor
from pnp_lip.operators.cone_geometry import ConeBeam, View, base_view, plan_orbit, transposed
from pnp_lip.operators.dihedral import symmetric_pixels
from pnp_lip.operators.feldkamp import feldkamp
from pnp_lip.operators.norm_rules import kept, own_norm_rule
from pnp_lip.spectral import NormBound

__all__ = ["ConeBeamTomography"]

COPIES = 2**28  # bytes of all symmetric copies of the volumes that are projected together
HELD = 2**24  # bytes of the planes that are interpolated at once: they stay near the cache
MOST_COLUMNS = 512
EXTRA_ROUNDINGS = 16  # of an entry of AᵀAv, beside those of its sums: weights, lengths and scale, twice each, and room
TIGHT_SQUARE = 0.02  # of ‖A‖²
# Voxels a side of a volume whose norm is found first. Slices hardly see each other, and their almost equal norms make the power
# iteration slow: at 128³ it took 21 products from a vector of ones; from that of 16³, and accelerated, it takes 6.
COARSE = 16
MARGIN = 0.01  # rows; more than single precision errs in a place on detectors of 10⁴ rows


class ConeBeamTomography(CertifiedPhysics):
    """Line integrals through a volume (B, C, D, H, W), H = W, to data (B, C, views, rows, columns).

    Joseph's rule: each ray is cut by the planes of voxels that it crosses steepest among the vertical ones, and interpolates
    linearly within each: along the slice, then along the axis. Nothing is stored. Aᵀ computes the same weights, bit for bit,
    and adds them up the other way. Views that symmetries of the square map to each other are computed together, as
    are the upper and the lower half of a centred detector.

    ``normalize=True`` divides A by its norm. Raises ShapeError for slices that are not square, InputError for a source inside
    the volume's circumscribed cylinder and for rays steeper than 45°.

    Source: Joseph (1982), An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1.

    >>> from pnp_lip.operators import ConeBeam
    >>> geometry = ConeBeam([0.0, 90.0], source_distance=1e6, detector_distance=0.0, n_det=(2, 4))
    >>> physics = ConeBeamTomography(geometry, (1, 2, 4, 4))
    >>> torch.allclose(physics(torch.ones(1, 1, 2, 4, 4)), torch.full((1, 1, 2, 2, 4), 4.0), atol=1e-4)
    True
    """

    dimensions = 3
    img_size: tuple[int, int, int, int]  # type: ignore[assignment]
    data_size: tuple[int, int, int, int]  # type: ignore[assignment]

    def __init__(
        self,
        geometry: ConeBeam,
        img_size: tuple[int, int, int, int],
        *,
        normalize: bool = False,
        noise_model: NoiseModel | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(img_size, noise_model=noise_model, dtype=dtype)  # type: ignore[arg-type]
        channels, depth, n, width = self.img_size
        if n != width:
            raise ShapeError(f"tomography needs square slices; got {n}x{width}. Pad them.")
        if not isinstance(geometry, ConeBeam):
            raise InputError(f"`geometry` must be a ConeBeam; got {type(geometry).__name__}.")
        scan = self.geometry = geometry.fitted(depth, n)
        heights, fan = scan.row_centres, scan.fan
        self.data_size = (channels, len(fan.degrees), len(heights), fan.count)
        self.plan = plan_orbit(fan)
        self.weights_dtype = dtype  # of the weights, which stay as they are when the operator is converted
        self.mirror = scan.det_offset[0] == 0
        self.first_row = len(heights) // 2 if self.mirror else 0
        self.first_slice = (depth - 1) // 2 if self.mirror else 0
        # Beyond the volume two slices of zeros, where rays that have left it read.
        self.below = 0 if self.mirror else 2
        if float(heights.abs().max()) > min(float(view.advance.abs().min()) for view in self.base_views()):
            raise InputError("some rays are steeper than 45°; take fewer rows, or a detector further away.")
        pixels, _ = symmetric_pixels(np.arange(n * n), (n, n), self.plan.group)
        self.register_buffer("pixels", torch.from_numpy(pixels.T.copy()).long(), persistent=False)
        self.register_buffer("unit", torch.ones((), dtype=dtype), persistent=False)  # dtype, device and scale of A
        if normalize:
            norm = self.bound_norm().upper
            if norm == 0:
                raise InputError("no ray meets the volume, so A = 0 cannot be normalised; check the detector.")
            self.unit.mul_((1 - 2 * gamma_factor(self.terms(), dtype)) / norm)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Scale and symmetries."""
        return (self.unit, self.pixels)

    def base_views(self) -> Iterator[View]:
        """The views that are computed, from which symmetries make all."""
        n = self.img_size[2]
        return (base_view(self.geometry.fan, float(angle), n) for angle in self.plan.base_angles)

    @property
    def heights(self) -> Tensor:
        """Of the rows that are computed, in voxels, with one row more at either end."""
        v = self.geometry.row_centres[self.first_row :] / self.geometry.voxel_size
        step = self.geometry.det_spacing / self.geometry.voxel_size
        return torch.cat([v[:1] - step, v, v[-1:] + step]).to(self.unit.device, self.weights_dtype)

    @property
    def centre(self) -> float:
        """The number of the slice in the central plane, among the slices that are held."""
        return (self.img_size[1] - 1) / 2 - self.first_slice + self.below

    @property
    def held(self) -> int:
        """Slices of the part of a volume that the computed rows see, with the zeros beyond."""
        return self.img_size[1] - self.first_slice + self.below + 2

    def lengths(self, view: View) -> Tensor:
        """Of the rays between two planes, (columns, computed rows, 1)."""
        v, voxel = self.geometry.row_centres[self.first_row :], self.geometry.voxel_size
        length = voxel * torch.sqrt(view.stretch[:, None].square() + (v / view.advance[:, None]).square())
        scaled: Tensor = length.to(self.unit.device, self.weights_dtype) * self.unit
        return scaled[..., None]

    def forward_map(self, x: Tensor) -> Tensor:
        """A x."""
        volumes = x.reshape(-1, *self.img_size[1:])
        y = volumes.new_zeros(len(volumes), *self.data_size[1:])
        for images, elements in self.parts(volumes):
            self.project(volumes[images], y[images], elements)
        return y.reshape(*x.shape[:-3], *self.data_size[1:])

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Aᵀ y."""
        data = y.reshape(-1, *self.data_size[1:])
        x = data.new_zeros(len(data), *self.img_size[1:])
        for images, elements in self.parts(x):
            self.back_project(data[images], x[images], elements)
        return x.reshape(*y.shape[:-3], *self.img_size[1:])

    def parts(self, volumes: Tensor) -> Iterator[tuple[slice, slice]]:
        """Images and symmetries whose copies fit into memory together."""
        columns = 1 + self.mirror
        copy = self.held * self.img_size[2] ** 2 * columns * volumes.element_size()
        most = max(1, min(COPIES // copy, MOST_COLUMNS // columns))
        elements = min(most, len(self.plan.group))
        images = max(1, most // elements)
        for i in range(0, len(volumes), images):
            for e in range(0, len(self.plan.group), elements):
                yield slice(i, i + images), slice(e, e + elements)

    def project(self, volumes: Tensor, y: Tensor, elements: slice) -> None:
        """Write into ``y`` the views that these symmetries of a few volumes (k, D, n, n) give."""
        heights, table = self.heights[1:-1], self.copies(volumes, elements)
        for number, view in enumerate(self.base_views()):
            columns, n = view.share.shape
            product = table.new_empty(columns, len(heights), table.shape[2])
            for part in chunks(columns, n * table[0].numel() * table.element_size()):
                weights = view.weights[part].to(self.weights_dtype).to(table)
                planes = bags(view.pixels[part].flatten(0, 1).to(table.device), table.flatten(1), weights.flatten(0, 1))
                product[part] = self.along_axis(planes.reshape(-1, table.shape[2]), self.share(view, part), heights)
            product *= self.lengths(view).to(table)
            parts = product.reshape(columns, len(heights), 1 + self.mirror, -1, len(volumes))
            for index, element, flipped in self.views_of(number, elements):
                seen = parts[..., element, :].flip(0) if flipped else parts[..., element, :]
                seen = seen.permute(3, 2, 1, 0)  # images, halves, rows, columns
                y[:, index, self.first_row :] = seen[:, 0]
                if self.mirror:
                    y[:, index, : self.first_row] = seen[:, 1, self.odd :].flip(1)

    def back_project(self, data: Tensor, x: Tensor, elements: slice) -> None:
        """Add to ``x`` the transposes of the steps of ``project`` in reverse."""
        n, heights, count = self.img_size[2], self.heights, len(range(len(self.plan.group))[elements])
        slices = self.held - self.below - 2
        table = data.new_zeros(n * n, slices, (1 + self.mirror) * count * len(data))
        for number, view in enumerate(self.base_views()):
            columns = len(view.share)
            product = data.new_zeros(columns, len(heights), 1 + self.mirror, count, len(data))
            for index, element, flipped in self.views_of(number, elements):
                seen = data[:, index].permute(2, 1, 0)  # columns, rows, images
                seen = seen.flip(0) if flipped else seen
                product[:, 1:-1, 0, element] = seen[:, self.first_row :]
                if self.mirror:
                    product[:, 1 + self.odd : -1, 1, element] = seen[:, : self.first_row].flip(1)
            product = product.flatten(2)
            product[:, 1:-1] *= self.lengths(view).to(data)
            for part in chunks(columns, n * table[0].numel() * table.element_size()):
                planes = self.across_axis(product[part], self.share(view, part), slices).reshape(-1, table[0].numel())
                touched, bins, weights, starts = transposed(view.pixels[part], view.weights[part])
                weights = weights.to(self.weights_dtype).to(table)
                sums = F.embedding_bag(
                    bins.to(table.device), planes, starts.to(table.device), mode="sum", per_sample_weights=weights,
                    include_last_offset=True,
                )  # fmt: skip
                table.flatten(1).index_add_(0, touched.to(table.device), sums)
        self.gather(table.reshape(n * n, slices, 1 + self.mirror, count, -1), x, elements)

    @property
    def odd(self) -> int:
        """1 where the rows of a centred detector have a middle one, which is its own mirror image."""
        return self.data_size[2] % 2

    def share(self, view: View, part: slice) -> Tensor:
        """The view's ``share`` as it is computed with."""
        return view.share[part].to(self.weights_dtype).to(self.unit.device)

    def views_of(self, base: int, elements: slice) -> Iterator[tuple[int, int, bool]]:
        """The views that follow from a base view by these symmetries: number, symmetry within the part, columns reversed."""
        which, rest = np.divmod(self.plan.index[0, 0], self.plan.rows * len(self.plan.group))
        used = rest % len(self.plan.group)
        for index in np.flatnonzero(which == base):
            element = int(used[index])
            if element in range(len(self.plan.group))[elements]:
                yield int(index), element - elements.start, self.plan.group[element][1]

    def copies(self, volumes: Tensor, elements: slice) -> Tensor:
        """Symmetric copies of k volumes, upside down too where the detector is centred: (n², slices held, columns)."""
        n, pixels, top = self.img_size[2], self.pixels[elements], self.held - 2
        table = volumes.new_zeros(n * n, self.held, 1 + self.mirror, len(pixels), len(volumes))
        for half, volume in enumerate((volumes, volumes.flip(1))[: 1 + self.mirror]):
            lines = volume[:, self.first_slice :].flatten(2).permute(2, 1, 0).contiguous()
            for element, index in enumerate(pixels):
                table[:, self.below : top, half, element] = lines[index]
        return table.flatten(2)

    def gather(self, table: Tensor, x: Tensor, elements: slice) -> None:
        """The transpose of ``copies``: add up what (n², slices, halves, symmetries, images) stands for."""
        for half in range(1 + self.mirror):
            lines = table.new_zeros(len(table), table.shape[1], table.shape[4])
            for element, index in enumerate(self.pixels[elements]):
                lines.index_add_(0, index, table[:, :, half, element])
            volume = lines.permute(2, 1, 0).reshape(len(x), -1, *x.shape[2:])
            (x.flip(1) if half else x)[:, self.first_slice :] += volume
            if half:
                depth = x.shape[1]
                x[:, : depth - self.first_slice] += volume.flip(1)

    def along_axis(self, planes: Tensor, share: Tensor, heights: Tensor) -> Tensor:
        """Sums over the planes of their lines (columns·n·held, k), interpolated where each row's ray meets them."""
        columns, n = share.shape
        place = (share[:, None, :] * heights[:, None]).add_(self.centre).clamp_(0, self.held - 2)
        lower = place.floor()
        below, above = 1 - (place - lower), 1 - (lower + 1 - place)
        first = torch.arange(columns * n, dtype=torch.int32, device=planes.device).reshape(columns, 1, n) * self.held
        index = first + lower.int()
        index, below, above = (t.reshape(-1, n) for t in (index, below, above))
        sums = bags(index, planes[:-1], below.to(planes)) + bags(index, planes[1:], above.to(planes))
        return sums.reshape(columns, len(heights), -1)

    def across_axis(self, product: Tensor, share: Tensor, slices: int) -> Tensor:
        """The transpose of ``along_axis``, (columns·n·slices, k): every place on a line looks which rows' rays pass it."""
        columns, rows, _ = product.shape  # with a row of zeros at either end
        heights, step = self.heights, self.geometry.det_spacing / self.geometry.voxel_size
        z = torch.arange(slices, dtype=share.dtype, device=share.device) + self.below
        start = ((z - 1 - self.centre) / share[..., None] - heights[1]) / step
        first = torch.ceil(start - MARGIN).int()[..., None] + 1
        most = int(2 / (float(share.min()) * step) + 2 * MARGIN) + 1
        row = (first + torch.arange(most, dtype=torch.int32, device=share.device)).clamp_(0, rows - 1)
        place = (share[..., None, None] * heights[row.long()]).add_(self.centre)
        weights = 1 - (place - z[:, None]).abs_()
        index = row + torch.arange(columns, dtype=torch.int32, device=share.device).reshape(-1, 1, 1, 1) * rows
        return bags(index.reshape(-1, most), product.flatten(0, 1), weights.clamp_min_(0).to(product).reshape(-1, most))

    @kept
    def bound_norm(self) -> NormBound:
        """Collatz-Wielandt in the working precision; every product is a sum of nonnegative terms."""
        if not 0 < float(self.unit) < math.inf:
            raise CertificateError(f"the operator's scale must be positive and finite; got {float(self.unit)}.")
        return self.perron(TIGHT_SQUARE).bound()

    def perron(self, tol: float) -> CollatzWielandt:
        """The bounds and their vector v > 0. It starts as that of a coarser volume: whatever the start, the bounds hold."""
        size, kind = self.img_size[1:], {"dtype": self.unit.dtype, "device": self.unit.device}
        start, coarse = torch.ones((1, 1, *size), **kind), self.coarser()
        if coarse is not None:
            v = F.interpolate(coarse.perron(TIGHT_SQUARE / 10).v.to(**kind), size, mode="trilinear")
            start = (v / v.max().clamp_min(torch.finfo(v.dtype).tiny)).clamp_min(SMALLEST)
        rounding = gamma_factor(self.terms(), self.unit.dtype)
        return collatz_wielandt(lambda v: self.adjoint_map(self.forward_map(v)), start, rounding=rounding, tol=tol)

    def coarser(self) -> "ConeBeamTomography | None":
        """The same scan of a volume of ``COARSE`` voxels a side, where this one has at least twice as many."""
        n, scan = self.img_size[2], self.geometry
        if n < 2 * COARSE:
            return None
        factor, (_, _, rows, columns) = n / COARSE, self.data_size
        geometry = dataclasses.replace(
            scan, voxel_size=scan.voxel_size * factor, det_spacing=scan.det_spacing * factor,
            n_det=(math.ceil(rows / factor), math.ceil(columns / factor)),
        )  # fmt: skip
        return ConeBeamTomography(geometry, (1, max(1, round(self.img_size[1] / factor)), COARSE, COARSE))

    @kept
    def terms(self) -> int:
        """The longest chain of roundings in an entry of AᵀA v."""
        n, voxel = self.img_size[2], self.geometry.voxel_size
        row, column, nearest = 2 * n + 2, 0, math.inf
        for view in self.base_views():
            used = view.pixels[view.weights > 0]
            column += 2 * int(torch.bincount(used, minlength=1).max()) if len(used) else 0  # and the sums over chunks
            nearest = min(nearest, float(view.share.min()))
        rows = int(2 * voxel / (nearest * self.geometry.det_spacing) + 2 * MARGIN) + 1
        return row + column + rows + 2 * len(self.plan.group) + EXTRA_ROUNDINGS

    @property
    def product_rounding(self) -> float:
        """γ of a product in float64: |fl(Ax) − Ax| ≤ γ A|x| entrywise as A ≥ 0, hence ≤ γ ‖A‖‖x‖."""
        return gamma_factor(self.terms(), torch.float64)

    def fdk(self, y: Tensor, *, filter: str = "ramp") -> Tensor:
        """The reconstruction of Feldkamp, Davis & Kress from data (B, C, views, rows, columns): see ``feldkamp``."""
        self.check(y, self.data_size, "data")  # type: ignore[arg-type]
        size = self.img_size[1], self.img_size[2]
        return feldkamp(y / self.unit, self.geometry.fan, self.geometry.row_centres, size, filter)


def bags(index: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """Σ_j weights[i, j] table[index[i, j]] for each i."""
    starts = torch.arange(0, index.numel() + 1, index.shape[1], dtype=index.dtype, device=index.device)
    return F.embedding_bag(
        index.reshape(-1), table, starts, mode="sum", per_sample_weights=weights.reshape(-1), include_last_offset=True
    )


def chunks(columns: int, size: int) -> Iterator[slice]:
    """Consecutive columns of ``size`` bytes each that are held together."""
    step = max(1, HELD // size)
    return (slice(i, min(i + step, columns)) for i in range(0, columns, step))


own_norm_rule(ConeBeamTomography)(own_bound)
