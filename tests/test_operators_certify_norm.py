"""certify_norm on deepinv's physics: never below the dense norm, and refusals that give the reason."""

from __future__ import annotations

import functools
from typing import Any

import deepinv.physics as dp
import pytest
import torch

from pnp_lip.errors import CertificateError
from pnp_lip.operators import Blur, certify_norm, gaussian_psf, norm_rule, stated_norm
from pnp_lip.operators import collatz_wielandt as cw
from pnp_lip.operators.certified_physics import own_bound
from pnp_lip.operators.collatz_wielandt import collatz_wielandt, gamma_factor
from pnp_lip.spectral import Method, NormBound

FILTER = gaussian_psf(1.0).float()[None, None]
MAPS = torch.randn(1, 2, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def tomography(**options: Any) -> dp.Tomography:
    return dp.Tomography(angles=12, img_width=12, normalize=False, **options)


def dense_norm(physics: Any, size: tuple[int, ...], dtype: torch.dtype) -> float:
    n = torch.Size(size).numel()
    y = physics.A(torch.eye(n, dtype=dtype).reshape(n, *size))
    y = y.flatten(1) if isinstance(y, torch.Tensor) else torch.cat([part.flatten(1) for part in y], 1)
    return float(torch.linalg.matrix_norm(y.double(), 2))


CASES = [
    ("denoising", dp.Denoising, (1, 6, 6), 1e-12),
    ("inpainting", lambda: dp.Inpainting((1, 8, 8), mask=0.5), (1, 8, 8), 1e-12),
    ("demosaicing", lambda: dp.Demosaicing((3, 8, 8)), (3, 8, 8), 1e-12),
    ("MRI", lambda: dp.MRI(mask=torch.rand(1, 2, 8, 8)), (2, 8, 8), 1e-5),
    ("multi-coil MRI", lambda: dp.MultiCoilMRI(coil_maps=MAPS, img_size=(2, 8, 8)), (2, 8, 8), 1e-5),
    ("decolorize", dp.Decolorize, (3, 5, 5), 1e-6),
    ("blur fft", lambda: dp.BlurFFT((1, 12, 13), filter=FILTER), (1, 12, 13), 1e-5),
    ("blur fft, signed", lambda: dp.BlurFFT((1, 12, 13), filter=torch.randn(1, 1, 3, 4)), (1, 12, 13), 1e-5),
    ("blur replicate", lambda: dp.Blur(filter=FILTER, padding="replicate"), (1, 12, 13), 1e-2),
    ("blur constant", lambda: dp.Blur(filter=FILTER, padding="constant"), (1, 12, 13), 1e-2),
    ("downsampling", lambda: dp.Downsampling((1, 12, 12), filter="bicubic", factor=2), (1, 12, 12), 1e-5),
    ("decimation", lambda: dp.Downsampling((1, 12, 12), filter=None, factor=2), (1, 12, 12), 1e-12),
    (
        "downsampling, replicate",
        lambda: dp.Downsampling((1, 12, 12), filter="gaussian", factor=2, padding="replicate"),
        (1, 12, 12),
        5e-3,
    ),
    ("upsampling", lambda: dp.Upsampling((1, 12, 12), filter="bilinear", factor=2), (1, 6, 6), 1e-5),
    ("pansharpen", lambda: dp.Pansharpen((3, 8, 8), factor=2), (3, 8, 8), 0.5),
    ("tomography", tomography, (1, 12, 12), 5e-3),
    ("tomography in float64", lambda: tomography(dtype=torch.float64), (1, 12, 12), 2e-3),
    ("fan beam", lambda: tomography(fan_beam=True), (1, 12, 12), 5e-3),
    ("compressed sensing", lambda: dp.CompressedSensing(m=9, img_size=(1, 6, 6)), (1, 6, 6), 1e-5),
    ("composition", lambda: tomography() * dp.BlurFFT((1, 12, 12), filter=FILTER), (1, 12, 12), 0.1),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("make", "size", "gap"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bounds_enclose_the_dense_norm(make: Any, size: tuple[int, ...], gap: float) -> None:
    torch.manual_seed(0)
    physics = make()
    dtype = getattr(physics, "dtype", torch.float32)
    norm, bound = dense_norm(physics, size, dtype), certify_norm(physics, img_size=size)
    assert norm * (1 - 1e-6) <= bound.upper <= norm * (1 + gap)  # the dense truth itself is rounded in float32
    assert bound.lower <= norm * (1 + 1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inexact_adjoint_is_refused() -> None:
    physics = tomography(adjoint_via_backprop=False)
    with pytest.raises(CertificateError, match="inexact adjoint"):
        certify_norm(physics)
    with pytest.raises(CertificateError):
        certify_norm(physics, img_size=(1, 12, 12), nonnegative=True)


class Wrong(dp.LinearPhysics):  # type: ignore[misc]
    """Two operators that claim too much: a negative entry, and an adjoint that is 1 % off in one entry."""

    def __init__(self, matrix: torch.Tensor, adjoint: torch.Tensor) -> None:
        super().__init__(img_size=(1, 1, 3))
        self.matrix, self.adjoint = matrix, adjoint

    def A(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return x @ self.matrix.T

    def A_adjoint(self, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return y @ self.adjoint.T


def test_false_claims_are_refused() -> None:
    positive = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 1.0], [3.0, 1.0, 1.0]])
    off = positive.T.clone()
    off[1, 0] *= 1.01
    negative = positive * torch.tensor([1.0, -1.0, 1.0])
    good = certify_norm(Wrong(positive, positive.T), nonnegative=True)
    norm = float(torch.linalg.matrix_norm(positive.double(), 2))
    assert good.lower <= norm <= good.upper <= 1.005 * norm
    with pytest.raises(CertificateError, match="transpose"):
        certify_norm(Wrong(positive, off), nonnegative=True)
    with pytest.raises(CertificateError, match="negative"):
        certify_norm(Wrong(negative, negative.T), nonnegative=True)


def test_refusals_name_the_reason() -> None:
    with pytest.raises(CertificateError, match="no structure"):
        certify_norm(dp.CompressedSensing(m=4, img_size=(1, 40, 40)))
    with pytest.raises(CertificateError, match="image size"):
        certify_norm(dp.Blur(filter=FILTER, padding="replicate"))
    with pytest.raises(CertificateError, match="no filter"):
        certify_norm(dp.Blur(filter=None), img_size=(1, 8, 8))
    with pytest.raises(CertificateError, match="no mask"):
        certify_norm(dp.Inpainting((1, 8, 8)))
    with pytest.raises(CertificateError, match="three-dimensional"):
        certify_norm(dp.Blur(filter=FILTER[None]), img_size=(1, 8, 8))
    with pytest.raises(CertificateError, match="LinearPhysics"):
        certify_norm(torch.nn.Identity())

    class Doubled(dp.Denoising):  # type: ignore[misc]
        def A(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return 2 * x

    with pytest.raises(CertificateError, match="Doubled"):
        certify_norm(Doubled())
    assert certify_norm(Doubled(), img_size=(1, 5, 5)).upper == pytest.approx(2)


def test_ours_composed_with_theirs() -> None:
    blur = Blur(gaussian_psf(1.0), (1, 8, 8))
    physics = dp.Inpainting((1, 8, 8), mask=0.5) * blur
    assert certify_norm(physics).upper == pytest.approx(1, abs=1e-6)


def test_collatz_wielandt_holds_for_any_positive_vector() -> None:
    matrix = torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix[:, 3] = 0
    norm_sq = float(torch.linalg.matrix_norm(matrix, 2) ** 2)
    slack = gamma_factor(20, torch.float64)
    for seed in range(10):
        v = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1e-3
        for iterations in (1, 3, 30):
            found = collatz_wielandt(lambda u: matrix.T @ (matrix @ u), v, rounding=slack, tol=1e-12, max_iter=iterations)
            assert found.lower_sq <= norm_sq * (1 + 1e-14)
            assert found.upper_sq >= norm_sq * (1 - 1e-14)
    assert found.upper_sq <= norm_sq * (1 + 1e-9)
    with pytest.raises(CertificateError, match="negative"):
        collatz_wielandt(lambda u: -u, v, rounding=0.0)
    assert collatz_wielandt(lambda u: 0 * u, v, rounding=0.0).upper_sq == 0
    with pytest.raises(CertificateError, match="float64"):
        gamma_factor(10**8, torch.float32)


def test_weakly_coupled_parts_take_fewer_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain whose links hardly see each other has almost equal eigenvalues, which the power iteration parts slowly."""
    strengths = torch.linspace(1, 1.01, 15, dtype=torch.float64)
    chain = torch.diag(strengths) + 0.03 * torch.diag(torch.ones(14, dtype=torch.float64), 1)
    norm_sq, counts, start = float(torch.linalg.matrix_norm(chain, 2) ** 2), [], torch.ones(15, dtype=torch.float64)
    for powers in (cw.FASTER, (1,)):
        monkeypatch.setattr(cw, "FASTER", powers)
        seen: list[torch.Tensor] = []
        gram = lambda v, seen=seen: (seen.append(v), chain.T @ (chain @ v))[1]  # noqa: E731
        found = collatz_wielandt(gram, start, rounding=1e-15, tol=5e-3)
        assert found.lower_sq <= norm_sq * (1 + 1e-14) and norm_sq * (1 - 1e-14) <= found.upper_sq <= 1.005 * norm_sq
        counts.append(len(seen))
    assert counts[0] < counts[1] / 2


SIZE = (1, 8, 8)
WIDE = torch.randn(1, 1, 4, 3, generator=torch.Generator().manual_seed(1))
BUILT: dict[str, Any] = {
    "denoising": dp.Denoising,
    "inpainting": lambda: dp.Inpainting(SIZE, mask=torch.ones(SIZE)),
    "MRI": lambda: dp.MRI(mask=torch.ones(8, 8)),
    "coils": lambda: dp.MultiCoilMRI(coil_maps=MAPS.clone(), img_size=(2, 8, 8)),
    "grey": dp.Decolorize,
    "fft": lambda: dp.BlurFFT(SIZE, filter=FILTER.clone()),
    "blur": lambda: dp.Blur(filter=FILTER.clone(), padding="circular"),
    "down": lambda: dp.Downsampling(SIZE, filter="bicubic", factor=2),
    "up": lambda: dp.Upsampling((1, 16, 16), filter="bilinear", factor=2),
    "ct": lambda: dp.Tomography(angles=6, img_width=8, normalize=True),
    "composed": lambda: dp.Denoising() * dp.BlurFFT(SIZE, filter=FILTER.clone()),
    "stack": lambda: dp.stack(dp.Denoising(), dp.BlurFFT(SIZE, filter=FILTER.clone())),
}


def put(name: str, value: Any) -> Any:
    return lambda physics: setattr(physics, name, value)


def quadruple(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return 4 * x


ALTERED: list[tuple[str, Any]] = [
    ("denoising", put("_U", quadruple)),
    ("denoising", put("_V_adjoint", quadruple)),
    ("denoising", put("A", quadruple)),
    ("denoising", put("U", quadruple)),
    ("denoising", put("mask", torch.tensor(4.0))),
    ("denoising", put("mask", torch.ones(1, 3, 1, 1))),
    ("denoising", lambda physics: physics.register_forward_hook(lambda module, x, y: 4 * y)),
    ("inpainting", lambda physics: physics.mask.data.mul_(4)),
    ("inpainting", put("mask", (3 + 4j) * torch.ones(1, *SIZE))),
    ("inpainting", put("mask", torch.full((1, *SIZE), float("nan")))),
    ("inpainting", put("mask", torch.ones(1, 3, 8, 8))),
    ("inpainting", put("mask", torch.ones(4, 1, 1, 8, 8))),
    ("MRI", put("_U", quadruple)),
    ("MRI", put("three_d", True)),
    ("coils", lambda physics: physics.coil_maps.data.mul_(4)),
    ("coils", put("three_d", True)),
    ("coils", put("coil_maps", torch.ones(3, 2, 8, 8, dtype=torch.complex64))),
    ("coils", put("coil_maps", torch.full((1, 2, 8, 8), float("nan"), dtype=torch.complex64))),
    ("grey", put("mask", torch.ones(1, 3, 1, 1))),
    ("grey", put("mask", torch.tensor(float("nan")))),
    ("grey", lambda physics: physics.srf.data.mul_(4)),
    ("grey", put("srf", torch.full((1, 3, 1, 1), float("inf")))),
    ("fft", lambda physics: physics.filter.mul_(0.25)),
    ("fft", lambda physics: physics.mask.mul_(4)),
    ("fft", lambda physics: physics.angle.mul_(4)),
    ("fft", lambda physics: physics.mask[..., 1].mul_(4)),
    ("fft", put("img_size", (1, 4, 4))),
    ("fft", lambda physics: physics.update_parameters(filter=FILTER.repeat(1, 3, 1, 1))),
    ("blur", put("padding", "replicate")),
    ("blur", put("padding", "reflect")),
    ("blur", lambda physics: physics.filter.data.mul_(4)),
    ("blur", lambda physics: physics.filter.data[..., 0, 0].fill_(float("nan"))),
    ("blur", put("filter", WIDE * 1j)),
    ("blur", put("filter", torch.ones(1, 1, 9, 9))),
    ("blur", lambda physics: physics.conv.__setitem__(2, lambda x, filter, padding: 4 * x)),
    ("down", put("padding", "valid")),
    ("down", put("padding", "replicate")),
    ("down", put("filter", WIDE)),
    ("down", lambda physics: (put("filter", WIDE)(physics), put("padding", "reflect")(physics))),
    ("down", lambda physics: physics.filter.data.mul_(4)),
    ("down", put("filter", FILTER.repeat(2, 1, 1, 1))),
    ("down", put("factor", 1)),
    ("down", put("imsize", (1, 6, 6))),
    ("up", put("imsize", (3, 16, 16))),
    ("up", put("padding", "reflect")),
    ("ct", lambda physics: physics.operator_norm.data.mul_(0.25)),
    ("ct", lambda physics: physics.operator_norm.data.mul_(-1)),
    ("ct", put("radon", torch.nn.Sequential())),
    ("composed", lambda physics: put("A", quadruple)(physics.physics_list[0])),
    ("composed", lambda physics: physics.physics_list.append(dp.Inpainting(SIZE, mask=torch.full(SIZE, 4.0)))),
    ("composed", lambda physics: physics.physics_list[1].mask.data.mul_(4)),
    ("stack", put("A", lambda x: [4 * x])),
    ("stack", lambda physics: put("A", quadruple)(physics.physics_list[0])),
    ("stack", lambda physics: physics.physics_list.append(dp.Denoising(mask=4.0))),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "alter"), ALTERED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(ALTERED)])
def test_what_is_claimed_of_an_altered_physics_is_true_or_refused(name: str, alter: Any) -> None:
    physics = BUILT[name]()
    size = {"MRI": (2, 8, 8), "coils": (2, 8, 8), "grey": (3, 8, 8)}.get(name, SIZE)
    assert certify_norm(physics, img_size=size).upper > 0
    alter(physics)
    try:
        bound = certify_norm(physics, img_size=size)
    except CertificateError:
        return
    units = torch.eye(torch.Size(size).numel()).reshape(-1, 1, *size)
    data = [physics.A(unit) for unit in units]  # one by one: masks and filters may hold a batch
    parts = [[part] if isinstance(part, torch.Tensor) else list(part) for part in data]
    rows = [torch.cat([torch.view_as_real(p + 0j).flatten().double() for p in part]) for part in parts]
    norm = float(torch.linalg.matrix_norm(torch.stack(rows), 2))
    assert bound.upper >= norm * (1 - 1e-6) and bound.lower <= norm * (1 + 1e-6)


def test_of_parameters_for_each_image_the_largest_counts() -> None:
    """For batches of that size, in which each image meets its own."""
    x = torch.randn(2, *SIZE)
    mask, taps = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1), torch.stack([FILTER[0], 2 * FILTER[0]])
    for physics, alone in (
        (dp.Inpainting(SIZE, mask=mask.expand(2, *SIZE)), 3.0),
        (
            dp.Blur(filter=taps, padding="circular"),
            2 * certify_norm(dp.Blur(filter=taps[:1], padding="circular"), img_size=SIZE).upper,
        ),
    ):
        bound = certify_norm(physics, img_size=SIZE)
        assert bound.upper == pytest.approx(alone, rel=1e-6)
        assert bool((physics.A(x).flatten(1).norm(dim=1) <= bound.upper * x.flatten(1).norm(dim=1)).all())


class Odd(dp.LinearPhysics):  # type: ignore[misc]
    """A map that is none, or not linear, or not fixed."""

    def __init__(self, image: Any, side: int = 4) -> None:
        super().__init__(img_size=(1, side, side))
        self.image, self.calls = image, 0

    def A(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self.calls += 1
        y: torch.Tensor = self.image(x, self.calls)
        return y

    def A_adjoint(self, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return y


def one_more(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[..., 1, 2] += 10 * x[..., 1, 2].relu()
    return y


@pytest.mark.parametrize("options", [{}, {"nonnegative": True}])
@pytest.mark.parametrize(
    ("image", "text"),
    [
        (lambda x, calls: x + 0.1, "A.0. is not 0"),
        (lambda x, calls: x * float("nan"), "A.0. is not 0"),
        (lambda x, calls: x + 1e-3 * torch.randn_like(x), "not a fixed linear map"),
        (lambda x, calls: x * (1 + 0.1 * calls), "second call"),
        (lambda x, calls: x * (1 if len(x) in (1, 16) else 4), "in a batch"),
        (lambda x, calls: x * (1 if len(x) > 1 else 4), "in a batch"),
        (lambda x, calls: x - 0.1 * x.mean(0, keepdim=True), "in a batch|sum of"),
        (lambda x, calls: torch.cat([x, x]), "in a batch"),
        (lambda x, calls: x.clamp(-4.5, 4.5), "s = "),
        (lambda x, calls: x.sign() * (x.abs() - 1e-5).relu(), "s = "),
        (lambda x, calls: x * (4 if len(x) == 16 else 1), "sum of"),
        (lambda x, calls: one_more(x), "not a fixed linear map"),
        (lambda x, calls: x.abs(), "not a fixed linear map"),
    ],
)
def test_what_is_no_fixed_linear_map_is_refused(image: Any, text: str, options: dict[str, bool]) -> None:
    with pytest.raises(CertificateError, match=text):
        certify_norm(Odd(image), **options)


@pytest.mark.parametrize("side", [4, 40])  # below and above the size up to which all columns are computed
def test_one_wrong_pixel_of_an_adjoint_is_found(side: int) -> None:
    def flip(y: torch.Tensor) -> torch.Tensor:
        z = y.clone()
        z[..., 1, 2] *= -1
        return z

    physics = Odd(lambda x, calls: x, side)
    assert certify_norm(physics, nonnegative=True).upper == pytest.approx(1, rel=5e-3)
    physics.A_adjoint = flip
    with pytest.raises(CertificateError, match="transpose"):
        certify_norm(physics, nonnegative=True)


def test_one_negative_entry_is_found_in_a_small_image() -> None:
    signs = torch.ones(4, 4)
    signs[1, 2] = -1
    with pytest.raises(CertificateError, match="negative"):
        certify_norm(Odd(lambda x, calls: signs * x), nonnegative=True)


def test_a_norm_in_inference_mode() -> None:
    expected = certify_norm(tomography()).upper
    with torch.inference_mode():
        assert certify_norm(tomography()).upper == pytest.approx(expected)
        assert certify_norm(Odd(lambda x, calls: x.detach(), 40), nonnegative=True).upper == pytest.approx(1, rel=5e-3)


def test_a_rule_is_ours_by_its_registration_and_not_by_its_name() -> None:
    class Louder(dp.Denoising):  # type: ignore[misc]
        def A(self, x: torch.Tensor, **kwargs: object) -> torch.Tensor:
            return 4 * x

    Louder.__module__ = "deepinv.physics.forward"

    @norm_rule(Louder)
    @functools.wraps(own_bound)
    def lie(physics: dp.LinearPhysics, size: tuple[int, ...] | None) -> NormBound:
        return NormBound(1.0, 1.0, Method.CLOSED_FORM)

    assert lie.__module__.startswith("pnp_lip.") and certify_norm(Louder(), img_size=SIZE).upper == 1
    assert stated_norm(Louder()) and not stated_norm(dp.Denoising()) and not stated_norm(Blur(WIDE[0], SIZE))
