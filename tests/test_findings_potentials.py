"""What a hostile review found in minimising with potentials: each claim that was false is refused or withdrawn now."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import deepinv as dinv
import pytest
import torch
from deepinv.physics import Denoising, Inpainting
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.certificates import certify
from pnp_lip.errors import CertificateError, GuaranteeError, InputError
from pnp_lip.operators import Blur
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers import LeastSquares, ProximalDenoiser, Variational
from pnp_lip.solvers.maps import rounded_inwards
from pnp_lip.spectral import norm_bound


@pytest.fixture(scope="module")
def small() -> RidgePotential:
    """A potential with ρ = 0.8 nearly and L < 12."""
    torch.manual_seed(0)
    p = RidgePotential(filters=8, kernel_size=5)
    p.activation.set_profile([8.0, 3.0, 1.0], [0.3, 0.5], [0.03, 0.1, 0.3], [0.5, 2.0])
    with torch.no_grad():
        p.weight /= norm_bound(p.weight, padding_mode="circular").upper
    return p.eval().requires_grad_(False)


@pytest.fixture
def y() -> Tensor:
    """Data of one image."""
    return torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))


class Prior:
    """R with any value and gradient."""

    def __init__(self, value: Callable[[Tensor], Tensor], grad: Callable[[Tensor], Tensor]) -> None:
        self.value, self.gradient = value, grad

    def fn(self, x: Tensor, sigma: object) -> Tensor:
        return self.value(x)

    def grad(self, x: Tensor, sigma: object) -> Tensor:
        return self.gradient(x)


def half_square(x: Tensor) -> Tensor:
    return 0.5 * x.square().flatten(1).sum(1)


def test_a_gradient_that_is_the_image_itself_is_not_written_to(y: Tensor) -> None:
    result = Variational(dinv.optim.Tikhonov(), weight=1.0, tol=1e-9).solve(y.double(), Denoising())
    assert result.status == "converged" and result.guarantee.proved
    torch.testing.assert_close(result.x, y.double() / 2)
    slope = torch.full_like(y, 0.1).double()
    constant = Prior(lambda x: 0.1 * x.flatten(1).sum(1), lambda x: slope.expand_as(x) if len(x) > 1 else slope)
    result = Variational(constant, weight=2.0, tol=1e-9).solve(y.double(), Denoising())
    torch.testing.assert_close(result.x, (y.double() - 0.2).clamp(0, 1))
    assert bool((slope == torch.full_like(y, 0.1).double()).all())


def test_tampered_diagonal_operators_prove_no_convexity(small: RidgePotential, y: Tensor) -> None:
    shrink = {"U": lambda x, **_: 0.3 * x, "U_adjoint": lambda x, **_: 0.3 * x}
    for physics in (Denoising(**shrink), Inpainting((1, 16, 16), mask=torch.ones(1, 16, 16), **shrink)):
        judged = Variational(small, sigma=0.1, data_term=LeastSquares(norm_upper=1.0)).check(y, physics)
        assert judged.kind == "critical point" and "unique" not in judged.statement
    assert "unique" in Variational(small, sigma=0.1).check(y, Denoising()).statement


@pytest.mark.parametrize("box", [(0.1, 0.7), (0.3, 0.9), (-0.7, 1 / 3)])
def test_a_box_of_decimals_is_rounded_inwards(small: RidgePotential, y: Tensor, box: tuple[float, float]) -> None:
    low, high = rounded_inwards(box, torch.float32) or (0.0, 0.0)
    assert box[0] <= low < box[0] + 1e-7 and box[1] - 1e-7 < high <= box[1]
    assert all(float(torch.tensor(v, dtype=torch.float32)) == v for v in (low, high))
    result = Variational(small, sigma=0.1, weight=0.2, box=box, tol=1e-5).solve(2 * y - 0.5, Denoising())
    assert result.status == "converged" and result.guarantee.proved
    assert float(result.x.double().min()) >= box[0] and float(result.x.double().max()) <= box[1]


def test_a_noise_level_keeps_its_digits(small: RidgePotential, y: Tensor) -> None:
    x, level = y.double(), copy.deepcopy(small).double().at(0.1)
    assert torch.equal(copy.deepcopy(small).double().grad(x, 0.1), level.grad(x))
    given, exact = (
        Variational(small, sigma=s, weight=0.5, tol=1e-12, box=None).solve(x, Denoising())
        for s in (0.1, torch.tensor(0.1, dtype=torch.float64))
    )
    assert given.distance_upper is not None
    assert float((given.x - exact.x).square().mean().sqrt()) <= 2 * given.distance_upper[0]


def test_a_gradient_that_is_wrong_elsewhere_is_found_at_the_end(y: Tensor) -> None:
    two = torch.cat([y, y.flip(2)]).double()
    two[1] += 3.0
    wrong = Prior(half_square, lambda x: torch.where(x.mean((1, 2, 3), keepdim=True) > 1, 0.9 * x, x))
    result = Variational(wrong, box=None, weight=0.1).solve(two, Denoising())
    assert not result.guarantee.proved and "image 1" in (result.guarantee.failure or "")
    assert Variational(Prior(half_square, lambda x: x), box=None, weight=0.1).solve(two, Denoising()).guarantee.proved


def test_a_gradient_that_drifts_is_found(y: Tensor) -> None:
    calls: list[int] = []

    def drifting(x: Tensor) -> Tensor:
        calls.append(1)
        return x * (1.0 if len(calls) < 60 else 0.8)

    result = Variational(Prior(half_square, drifting), tol=0.0).solve(y.double(), Denoising(), max_iter=50)
    assert len(calls) > 60 and not result.guarantee.proved


def test_the_last_examination_is_silent_at_flat_places() -> None:
    zero = torch.zeros(2, 1, 16, 16, dtype=torch.float64)
    for prior in (
        dinv.optim.Tikhonov(),
        Prior(lambda x: (1 + x.square()).sqrt().flatten(1).sum(1), lambda x: x / (1 + x * x).sqrt()),
    ):
        for dtype in (torch.float64, torch.float32):
            x0 = torch.rand(zero.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
            result = Variational(prior, box=None).solve(zero.to(dtype), Denoising(), x0=x0)
            assert result.status == "converged" and result.guarantee.proved, result.guarantee.failure


def test_a_kink_away_from_the_start_is_found(y: Tensor) -> None:
    kinked = Prior(lambda x: 3 * F.relu(x - 0.55).flatten(1).sum(1), lambda x: 3.0 * (x > 0.55))
    low = 0.5 * y + 0.5
    result = Variational(kinked).solve(low, Denoising(), x0=0.3 * y, max_iter=200)
    assert not result.guarantee.proved and "kinked" in (result.guarantee.failure or "")


def test_a_stated_convexity_is_held_against_the_symbol(small: RidgePotential, y: Tensor) -> None:
    psf = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]])
    physics = Blur(psf, (1, 16, 16))
    least = 0.2**2  # at the highest frequency: 0.6 − 0.4
    for convexity, met in ((0.9 * least, True), (1.1 * least, False)):
        judged = Variational(small, sigma=0.1, data_term=LeastSquares(convexity=convexity)).check(y, physics)
        assert judged.proved is met, judged
    with pytest.raises(GuaranteeError, match="convexity"):
        Variational(small, sigma=0.1, data_term=LeastSquares(convexity=1.1 * least)).solve(y, physics)


def test_nothing_is_proved_of_a_run_that_diverged(small: RidgePotential, y: Tensor, tmp_path: Path) -> None:
    solver = Variational(small, sigma=0.1, box=None)
    result = solver.solve(y, Denoising(), x0=1e19 * y)
    assert result.status == "diverged" and not result.guarantee.proved and result.distance_upper is None
    file = tmp_path / "run.pt"
    solver.solve(y, Denoising(), checkpoint=file, max_iter=1)
    state = torch.load(file, weights_only=True)
    state["states"][0]["status"] = "diverged"
    torch.save(state, file)
    result = solver.solve(y, Denoising(), checkpoint=file)
    assert result.status == "diverged" and not result.guarantee.proved
    assert math.isfinite(result.objective[0] if result.objective else math.nan)


def test_checkpoints_of_double_data_with_single_weights(small: RidgePotential, y: Tensor, tmp_path: Path) -> None:
    solver, file = Variational(small, sigma=0.1, weight=0.5), tmp_path / "run.pt"
    whole = solver.solve(y.double(), Denoising())
    solver.solve(y.double(), Denoising(), checkpoint=file, max_iter=3)
    assert torch.equal(solver.solve(y.double(), Denoising(), checkpoint=file).x, whole.x)
    state = torch.load(file, weights_only=True)
    state["states"][0]["every"] = "a"
    torch.save(state, file)
    with pytest.raises(InputError, match="cannot be the state"):
        solver.solve(y.double(), Denoising(), checkpoint=file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_that_differ_from_image_to_image(small: RidgePotential, y: Tensor, dtype: torch.dtype) -> None:
    two = torch.cat([y, y.flip(2)]).to(dtype)
    mask = 0.9 + 0.1 * torch.rand(two.shape, generator=torch.Generator().manual_seed(5))
    mask = mask.to(dtype)
    solver = Variational(small, sigma=0.1, weight=0.5)
    both = solver.solve(mask * two, Inpainting((1, 16, 16), mask=mask))
    assert both.guarantee.proved and both.status == "converged" and both.distance_upper is not None
    for i in range(2):
        alone = solver.solve((mask * two)[i : i + 1], Inpainting((1, 16, 16), mask=mask[i : i + 1]))
        assert alone.distance_upper is not None
        gap = float((both.x[i] - alone.x[0]).double().square().mean().sqrt())
        assert gap <= both.distance_upper[i] + alone.distance_upper[0]


BAD: dict[str, Callable[[RidgePotential, Tensor], object]] = {
    "half": lambda p, y: Variational(p).solve(y.half(), Denoising()),
    "bfloat16": lambda p, y: Variational(p).solve(y.bfloat16(), Denoising()),
    "curvature": lambda p, y: Variational(p, curvature=5.0),  # type: ignore[arg-type]
    "sigma": lambda p, y: Variational(p, sigma="a"),  # type: ignore[arg-type]
    "data term": lambda p, y: Variational(p, data_term=None),  # type: ignore[arg-type]
    "layer": lambda p, y: Variational(torch.nn.Conv2d(1, 1, 3)).solve(y, Denoising()),
    "one argument": lambda p, y: Variational(lambda x: x.sum()).solve(y, Denoising()),
    "no batch": lambda p, y: Variational(lambda x, s: x.sum()).solve(y, Denoising()),
    "no derivative": lambda p, y: Variational(lambda x, s: torch.ones(len(x))).solve(y, Denoising()),
    "no image": lambda p, y: ProximalDenoiser(p)(y[:0]),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_arguments_are_named(small: RidgePotential, y: Tensor, case: str) -> None:
    with pytest.raises(InputError):
        BAD[case](small, y)


def test_gradients_take_images_that_require_gradients(small: RidgePotential, y: Tensor) -> None:
    leaf = y.clone().requires_grad_()
    torch.testing.assert_close(small.grad(leaf), small.grad(y))
    torch.testing.assert_close(small.hessian_product(leaf, y), small.hessian_product(y, y))


def test_advice_and_broken_guarantees_claim_nothing(small: RidgePotential, y: Tensor) -> None:
    result = Variational(small, sigma=0.1, tol=0.0).solve(y, Denoising(), max_iter=2)
    assert result.status == "max_iter" and "Anderson" not in result.advice and "float64" in result.advice
    text = str(result.guarantee.broken("it was seen"))
    assert result.guarantee.kind == "global minimiser" and not any(w in text for w in ("minimiser", "existence: proved"))


def test_a_replaced_range_of_noise_levels_is_refused(small: RidgePotential) -> None:
    p = copy.deepcopy(small)
    p.activation.log_range = (-3.0, 0.0)
    with pytest.raises(CertificateError, match="log_range"):
        certify(p)
