"""Attacks by hand on norms of forward models: subclasses, patches, writes, settings, and physics of other packages."""

from __future__ import annotations

import copy
import math
from typing import Any

import deepinv.physics as dp
import numpy as np
import scipy.sparse
import torch
from attacks import Dense, Outcome, Verdict, at_most, matrix_of, refusal, spectral_norm
from attacks_by_hand import Hiding, attack, judge_norm, on_norm, patched, recoded, under
from torch import Tensor, nn

from pnp_lip.operators import Blur, ParallelBeam, ParallelBeamTomography, certify_norm, from_scipy, gaussian_psf
from pnp_lip.operators.certified_physics import CertifiedPhysics

SHAPE = (1, 8, 8)
OURS, WRITES, THEIRS = "our operators: code", "our operators: writes and settings", "other people's physics"


def blur(**options: Any) -> Blur:
    made = Blur(gaussian_psf(0.6), SHAPE, **options)
    made.norm_bound()
    return made


def scan(**options: Any) -> ParallelBeamTomography:
    made = ParallelBeamTomography([0.0, 30.0, 60.0, 90.0], SHAPE, **options)
    made.norm_bound()
    return made


def sparse() -> Any:
    matrix = scipy.sparse.random_array((30, 64), density=0.3, rng=np.random.default_rng(0)).tocsr()
    made = from_scipy(matrix, SHAPE)
    made.norm_bound()
    return made


# ---- code


class LouderBlur(Blur):
    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return 4 * super().A(x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return 4 * super().A_adjoint(y)


class LouderMap(Blur):
    """Its norm is that of another map."""

    def forward_map(self, x: Tensor) -> Tensor:
        return 4 * super().forward_map(x)

    def norm_bound(self) -> Any:
        return Blur(self.psf, self.img_size).norm_bound()

    bound_norm = norm_bound


class Quiet(CertifiedPhysics):
    """A forward model of one's own, with a bound of one's own."""

    def __init__(self) -> None:
        super().__init__(SHAPE)
        self.data_size = SHAPE
        self.register_buffer("one", torch.ones(1))

    tensors = property(lambda self: (self.one,))
    product_rounding = property(lambda self: 1e-15)

    def forward_map(self, x: Tensor) -> Tensor:
        return 4 * x

    adjoint_map = forward_map

    def norm_bound(self) -> Any:
        return blur().norm_bound()

    bound_norm = norm_bound


@on_norm(OURS)
def subclass_with_another_forward_model() -> Any:
    return LouderBlur(gaussian_psf(0.6), SHAPE)


@on_norm(OURS, new=True)
def subclass_with_another_map_and_the_old_norm() -> Any:
    return LouderMap(gaussian_psf(0.6), SHAPE)


@attack(OURS, new=True)
def operator_of_ones_own_with_a_bound_of_ones_own() -> Outcome:
    try:
        bound = certify_norm(Quiet())
    except Exception as error:
        return refusal(error, honest=False)
    try:
        from pnp_lip.operators.certify_norm import stated_norm
    except ImportError:
        return Outcome(Verdict.FALSE_PASS, bound.upper, 4.0)
    return Outcome(Verdict.STATED if stated_norm(Quiet()) else Verdict.FALSE_PASS, bound.upper, 4.0)


@on_norm(OURS)
def forward_model_of_an_instance() -> Any:
    made, old = blur(), Blur.A
    made.A = lambda x, **k: 4 * old(made, x)
    return made


@on_norm(OURS, new=True)
def forward_map_of_an_instance() -> Any:
    made, old = blur(), Blur.forward_map
    made.forward_map = lambda x: 4 * old(made, x)
    return made


@on_norm(OURS, new=True)
def on_grid_of_an_instance() -> Any:
    made, old = blur(), Blur.on_grid
    made.on_grid = lambda *a: 4 * old(made, *a)
    return made


@on_norm(OURS, new=True)
def norm_of_an_instance() -> Any:
    made, quiet = scan(), blur().norm_bound()
    made.norm_bound = made.bound_norm = lambda: quiet
    return made


@on_norm(OURS, new=True)
def class_of_an_operator_exchanged() -> Any:
    made = blur()
    made.__class__ = LouderBlur
    return made


@on_norm(OURS, new=True)
def projection_of_a_scan() -> Any:
    made, old = scan(), ParallelBeamTomography.project
    made.project = lambda x: 4 * old(made, x)
    return made


@on_norm(OURS, new=True)
def product_of_the_stored_matrix() -> Any:
    made = sparse()
    old = made.matrix.product
    made.matrix.product = lambda x, transpose=False, absolute=False: (
        (1 if absolute else 4) * old(x, transpose=transpose, absolute=absolute)
    )
    return made


@on_norm(OURS, new=True)
def stored_matrix_of_another_class() -> Any:
    made = sparse()

    class Louder(type(made.matrix)):  # type: ignore[misc]
        def product(self, x: Tensor, *, transpose: bool = False, absolute: bool = False) -> Tensor:
            return (1 if absolute else 4) * super().product(x, transpose=transpose, absolute=absolute)

    made.matrix.__class__ = Louder
    return made


def class_patch(kind: type, name: str, new: Any, make: Any = blur) -> Outcome:
    made = make()
    return under(lambda: patched(kind, name, new), judge_norm, lambda: made)


@attack(OURS)
def forward_map_of_the_class() -> Outcome:
    old = Blur.forward_map
    return class_patch(Blur, "forward_map", lambda self, x: 4 * old(self, x))


@attack(OURS, new=True)
def forward_model_of_the_base_class() -> Outcome:
    old = CertifiedPhysics.A
    return class_patch(CertifiedPhysics, "A", lambda self, x, **k: 4 * old(self, x))


@attack(OURS, new=True)
def transfer_of_the_class() -> Outcome:
    old = Blur.transfer
    return class_patch(Blur, "transfer", lambda self, dtype: 4 * old(self, dtype))


@attack(OURS, new=True)
def norm_of_the_class() -> Outcome:
    quiet = blur().norm_bound()
    return class_patch(ParallelBeamTomography, "bound_norm", lambda self: quiet, scan)


@attack(OURS, new=True)
def forward_model_of_deepinvs_blur() -> Outcome:
    old = dp.BlurFFT.A
    return class_patch(
        dp.BlurFFT,
        "A",
        lambda self, x, **k: 4 * old(self, x),
        lambda: dp.BlurFFT(img_size=SHAPE, filter=gaussian_psf(0.6)[None, None].float()),
    )


@attack(OURS, new=True)
def forward_model_of_deepinvs_mask() -> Outcome:
    return class_patch(
        dp.DecomposablePhysics, "A", lambda self, x, **k: 4 * x, lambda: dp.Inpainting(SHAPE, mask=torch.rand(SHAPE))
    )


@on_norm(OURS, new=True)
def hook_of_a_physics() -> Any:
    """A is called by its name, not through ``__call__``: not false."""
    made = blur()
    made.register_forward_hook(lambda mod, args, out: 4 * out)
    return made


@attack(OURS, new=True)
def code_of_a_method_exchanged() -> Outcome:
    """The function is the very same object, with other instructions."""
    made = blur()
    return under(lambda: recoded(Blur.on_grid, louder_on_grid), judge_norm, lambda: made)


def louder_on_grid(self: Any, x: Tensor, transfer: Tensor, size: tuple[int, ...]) -> Tensor:
    result = torch.fft.irfft2(torch.fft.rfft2(x, s=(8, 8)) * transfer, s=(8, 8))
    return 4 * result[..., : size[0], : size[1]]


@on_norm(OURS, new=True)
def dictionary_that_hides_a_method() -> Any:
    made, old = blur(), Blur.A
    made.A = lambda x, **k: 4 * old(made, x)
    made.__dict__ = Hiding(vars(made), "A")
    return made


@on_norm(OURS, new=True)
def psf_of_a_tensor_subclass() -> Any:
    class Loud(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = super().__torch_function__(func, types, args, kwargs or {})
            return 4 * out.as_subclass(Tensor) if getattr(func, "__name__", "") in ("to", "roll") else out

    made = blur()
    made._buffers["psf"] = made.psf.as_subclass(Loud)
    return made


# ---- writes and settings


@on_norm(WRITES)
def psf_in_place() -> Any:
    made = blur()
    made.psf.mul_(4)
    return made


@on_norm(WRITES, new=True)
def psf_through_data() -> Any:
    made = blur()
    made.psf.data.mul_(4)
    return made


@on_norm(WRITES, new=True)
def psf_through_numpy() -> Any:
    made = blur()
    made.psf.numpy()[...] *= 4
    return made


@on_norm(WRITES)
def psf_in_inference_mode() -> Any:
    with torch.inference_mode():
        made = blur()
        made.psf.mul_(4)
    return made


@on_norm(WRITES, new=True)
def psf_data_replaced() -> Any:
    made = blur()
    made.psf.data = 4 * made.psf.data
    return made


@on_norm(WRITES, new=True)
def transfer_kept_and_written() -> Any:
    """The Fourier transform that is kept for later calls."""
    made = blur()
    made.A(torch.zeros(1, *SHAPE))
    made.transfer(torch.float32, (8, 8), tuple(n // 2 for n in made.psf.shape[1:])).mul_(4)
    return made


@on_norm(WRITES)
def padding_of_a_blur() -> Any:
    made = Blur(torch.ones(5, 5) / 25, SHAPE, padding="replicate")
    made.norm_bound()
    made.padding = "circular"
    return made


@on_norm(WRITES, new=True)
def grid_of_a_blur() -> Any:
    made = Blur(torch.ones(5, 5) / 25, SHAPE, padding="zeros")
    made.norm_bound()
    made.grid = (3, 3)
    return made


@on_norm(WRITES, new=True)
def rows_of_a_blur() -> Any:
    """All rows of the extension are one row."""
    made = Blur(torch.ones(5, 5) / 25, SHAPE, padding="replicate")
    made.norm_bound()
    made.rows_index.zero_()
    return made


@on_norm(WRITES, new=True)
def rows_of_a_blur_before_its_first_norm() -> Any:
    made = Blur(torch.ones(5, 5) / 25, SHAPE, padding="replicate")
    made.rows_index = torch.zeros_like(made.rows_index)
    return made


@on_norm(WRITES, new=True)
def shift_of_a_blur() -> Any:
    """Not false: another shift is another isometry."""
    made = blur()
    made.shift = (0, 0)
    return made


@on_norm(WRITES)
def geometry_of_a_scan() -> Any:
    """Entries made anew at each call, from a geometry that has changed."""
    made = scan(storage="free")
    made.geometry = ParallelBeam(made.geometry.angles, n_det=made.geometry.n_det, pixel_size=4.0)
    return made


@on_norm(WRITES, new=True)
def geometry_changed_in_place() -> Any:
    made = scan(storage="free")
    object.__setattr__(made.geometry, "pixel_size", 4.0)
    return made


@on_norm(WRITES, new=True)
def index_of_a_scan() -> Any:
    """Every datum is the same datum."""
    made = scan()
    made.index.fill_(int(made.index[made.index.numel() // 2]))
    return made


@on_norm(WRITES, new=True)
def index_of_a_scan_replaced() -> Any:
    made = scan()
    made.index = torch.full_like(made.index, int(made.index[made.index.numel() // 2]))
    return made


@on_norm(WRITES, new=True)
def unit_of_a_scan() -> Any:
    made = scan(storage="free")
    made.unit.data.mul_(4)
    return made


@on_norm(WRITES, new=True)
def values_of_a_scan_through_numpy() -> Any:
    made = scan()
    made.matrix.forward_values.numpy()[...] *= 4
    return made


@on_norm(WRITES, new=True)
def columns_of_a_sparse_matrix() -> Any:
    """All entries in one column, in A and not in its transpose."""
    made = sparse()
    made.matrix.forward_columns.zero_()
    return made


@on_norm(WRITES, new=True)
def mask_of_a_scan_written() -> Any:
    made = scan(mask="circle")
    made.image_mask.data.mul_(4)
    return made


@on_norm(WRITES, new=True)
def weights_of_a_scan_replaced() -> Any:
    angles = [0.0, 45.0]
    made = ParallelBeamTomography(ParallelBeam(angles, n_det=12), SHAPE, weights=torch.rand(12, 2) + 0.1)
    made.norm_bound()
    made.root_weights = 4 * made.root_weights
    return made


@on_norm(WRITES, new=True)
def sizes_of_an_operator() -> Any:
    made = blur()
    made.img_size = (1, 4, 4)
    return made


@on_norm(WRITES, new=True)
def deep_copy_of_an_operator_written() -> Any:
    made = copy.deepcopy(blur())
    made.psf.data.mul_(4)
    return made


@on_norm(WRITES, new=True)
def operator_in_double_precision() -> Any:
    """Not false: the stored numbers are the same."""
    return blur().double(), SHAPE, torch.float64


@on_norm(WRITES, new=True)
def angles_from_a_generator() -> Any:
    angles: Any = (30.0 * k for k in range(4))
    return ParallelBeamTomography(angles, SHAPE)


@on_norm(WRITES, new=True)
def angles_that_change_later() -> Any:
    angles = np.array([0.0, 30.0, 60.0])
    made = ParallelBeamTomography(angles, SHAPE, storage="free")
    made.norm_bound()
    angles[...] = 0.0
    return made


@on_norm(WRITES, new=True)
def psf_of_huge_numbers() -> Any:
    return Blur(torch.full((3, 3), 1e30), SHAPE)


@on_norm(WRITES, new=True)
def psf_of_tiny_numbers() -> Any:
    return Blur(torch.full((3, 3), 1e-42), SHAPE, padding="zeros")


@on_norm(WRITES, new=True)
def psf_with_a_nan_written_later() -> Any:
    made = blur()
    made.psf[0, 0, 0] = math.nan
    return made


@on_norm(WRITES, new=True)
def image_of_one_pixel() -> Any:
    return Blur(torch.ones(1, 1), (1, 1, 1)), (1, 1, 1)


# ---- other people's physics


@on_norm(THEIRS)
def mask_of_an_inpainting_changed() -> Any:
    made = dp.Inpainting(SHAPE, mask=torch.full(SHAPE, 0.5))
    certify_norm(made, img_size=SHAPE)
    made.mask.mul_(8)
    return made


@on_norm(THEIRS, new=True)
def subclass_of_an_inpainting() -> Any:
    class Louder(dp.Inpainting):
        def A(self, x: Tensor, mask: Any = None, **kwargs: Any) -> Tensor:
            return 4 * super().A(x)

    return Louder(SHAPE, mask=torch.full(SHAPE, 0.5))


@on_norm(THEIRS, new=True)
def forward_model_of_an_inpainting_patched() -> Any:
    made = dp.Inpainting(SHAPE, mask=torch.full(SHAPE, 0.5))
    made.A = lambda x, **k: 4 * x
    return made


@on_norm(THEIRS, new=True)
def unitary_part_of_a_decomposable_patched() -> Any:
    made = dp.Inpainting(SHAPE, mask=torch.full(SHAPE, 0.5))
    made.U = lambda x, **k: 8 * x
    return made


@on_norm(THEIRS, new=True)
def filter_of_a_blur_changed() -> Any:
    made = dp.Blur(filter=torch.full((1, 1, 3, 3), 1 / 9), padding="circular")
    certify_norm(made, img_size=SHAPE)
    made.filter.data.mul_(8)
    return made


@on_norm(THEIRS, new=True)
def transform_of_a_blur_changed() -> Any:
    """deepinv's BlurFFT keeps the transform of its filter beside the filter."""
    made = dp.BlurFFT(img_size=SHAPE, filter=torch.full((1, 1, 3, 3), 1 / 9))
    made.mask = 8 * made.mask
    return made


@on_norm(THEIRS, new=True)
def filter_of_a_fourier_blur_changed_alone() -> Any:
    made = dp.BlurFFT(img_size=SHAPE, filter=torch.full((1, 1, 3, 3), 1.0))
    made.filter = torch.full((1, 1, 3, 3), 1 / 9)
    return made


@on_norm(THEIRS, new=True)
def padding_of_a_blur_of_deepinv() -> Any:
    made = dp.Blur(filter=torch.full((1, 1, 5, 5), 1 / 25), padding="circular")
    certify_norm(made, img_size=SHAPE)
    made.padding = "replicate"
    return made


@on_norm(THEIRS, new=True)
def factor_of_a_downsampling_changed() -> Any:
    made = dp.Downsampling(img_size=SHAPE, filter=torch.full((1, 1, 3, 3), 1 / 9), factor=4, padding="circular")
    certify_norm(made, img_size=SHAPE)
    made.factor = 1
    return made


@on_norm(THEIRS, new=True)
def part_of_a_stack_changed() -> Any:
    parts = [dp.Inpainting(SHAPE, mask=torch.full(SHAPE, 0.5)), dp.Denoising()]
    made = dp.StackedLinearPhysics(parts)
    certify_norm(made, img_size=SHAPE)
    parts[0].mask.mul_(8)
    return made


@on_norm(THEIRS, new=True)
def part_of_a_stack_patched() -> Any:
    first = dp.Inpainting(SHAPE, mask=torch.full(SHAPE, 0.5))
    first.A = lambda x, **k: 8 * x
    return dp.StackedLinearPhysics([first, dp.Denoising()])


@on_norm(THEIRS, new=True)
def part_of_a_product_of_a_subclass() -> Any:
    class Louder(dp.Inpainting):
        def A(self, x: Tensor, mask: Any = None, **kwargs: Any) -> Tensor:
            return 4 * x

    return Louder(SHAPE, mask=torch.full(SHAPE, 0.5)) * dp.Denoising()


@on_norm(THEIRS, new=True)
def colours_of_a_decolorize_changed() -> Any:
    made = dp.Decolorize()
    certify_norm(made, img_size=(3, 4, 4))
    made.srf.data.mul_(8)
    return made, (3, 4, 4)


def matrix(**attributes: Any) -> Dense:
    made = Dense(torch.eye(64) * 0.5, SHAPE)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@on_norm(THEIRS, new=True)
def matrix_changed_after_its_certificate() -> Any:
    made = matrix()
    certify_norm(made)
    made.matrix.data.mul_(8)
    return made


@attack(THEIRS, new=True)
def signed_matrix_declared_nonnegative() -> Outcome:
    m = torch.full((64, 64), 0.01)
    m[:, 7] = -0.9
    made = Dense(m, SHAPE)
    return at_most(lambda: certify_norm(made, nonnegative=True).upper, lambda: spectral_norm(m.double()), slack=1e-3)


@attack(THEIRS, new=True)
def adjoint_too_small_declared_nonnegative() -> Outcome:
    class Half(Dense):
        def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
            x = super().A_adjoint(y).clone()
            x[:, 0, 0, 0] *= 0.01
            return x

    m = torch.full((64, 64), 1e-3)
    m[:, 0] = 1.0
    made = Half(m, SHAPE)
    return at_most(lambda: certify_norm(made, nonnegative=True).upper, lambda: spectral_norm(m.double()), slack=1e-3)


@attack(THEIRS, new=True)
def tomography_whose_adjoint_was_exchanged() -> Outcome:
    made = dp.Tomography(angles=5, img_width=8, circle=False, normalize=False, adjoint_via_backprop=True)
    truth = spectral_norm(matrix_of(made.A, SHAPE, torch.float32))
    old = made.A_adjoint
    made.A_adjoint = lambda y, **k: 0.2 * old(y)
    return at_most(lambda: certify_norm(made, img_size=SHAPE).upper, lambda: truth, slack=1e-3)


@on_norm(THEIRS, new=True)
def no_physics_at_all() -> Any:
    return nn.Linear(3, 3)


@on_norm(THEIRS, new=True)
def multi_coil_maps_changed() -> Any:
    made = dp.MultiCoilMRI(mask=torch.ones(1, 1, 4, 4), coil_maps=torch.full((1, 2, 4, 4), 0.5 + 0j), img_size=(2, 4, 4))
    certify_norm(made, img_size=(2, 4, 4))
    made.coil_maps.mul_(8)
    return made, (2, 4, 4)


@on_norm(THEIRS, new=True)
def physics_that_says_it_is_another() -> Any:
    class Claims(Dense):
        @property
        def __class__(self) -> type:
            return dp.Denoising

    return Claims(4 * torch.eye(64), SHAPE)
