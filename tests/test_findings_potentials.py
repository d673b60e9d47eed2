"""What a hostile review found in minimising with potentials: each claim that was false is refused or withdrawn now."""

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import deepinv as dinv
import pytest
import skimage.data
import torch
from deepinv.physics import Denoising, Inpainting
from torch import Tensor
from torch.nn import functional as F

from pnp_lip.certificates import certify
from pnp_lip.errors import CertificateError, GuaranteeError, InputError
from pnp_lip.operators import Blur, shake_psf
from pnp_lip.potentials import RidgePotential
from pnp_lip.pretrained import load_pretrained
from pnp_lip.solvers import LeastSquares, PotentialPrior, ProximalDenoiser, Variational
from pnp_lip.solvers.energy import Energy
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


# --- norms that nobody knows, wrappers, rounding ------------------------------------------------------------------------------


class Plain:
    """A blur by its maps alone, times ``error`` in the adjoint."""

    def __init__(self, blur: Blur, error: float = 1.0) -> None:
        self.blur, self.error = blur, error

    def A(self, x: Tensor) -> Tensor:
        return self.blur.A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.error * self.blur.A_adjoint(y)


SHARP = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]])


def test_an_operator_of_unknown_norm_is_minimised_by_backtracking(small: RidgePotential, y: Tensor) -> None:
    blur, y = Blur(SHARP.double(), (1, 16, 16), dtype=torch.float64), y.double()
    solver = Variational(small, sigma=0.1, weight=0.02, tol=1e-7)
    known, found = solver.solve(y, blur), solver.solve(y, Plain(blur))
    assert known.guarantee.kind == "global minimiser" and known.distance_upper is not None and known.stationarity is not None
    assert found.status == "converged" and found.guarantee.title == "proved given your statement"
    assert found.guarantee.kind == "critical point" and found.distance_upper is None and "unique" not in str(found.guarantee)
    assert "found along the run" in str(found.guarantee) and found.settings["lipschitz_upper"] is None
    assert found.parameters["lipschitz"] <= 2 * known.parameters["lipschitz"]
    off = float((found.x - known.x).square().mean().sqrt())
    m = known.parameters["convexity"]
    assert found.stationarity is not None and off <= known.distance_upper[0] + found.stationarity[0] / m
    with pytest.raises(GuaranteeError, match="adjoint"):
        solver.solve(y, Plain(blur, 0.99))


def test_float32_without_a_copy_in_float64_ends_where_it_was_asked_to(small: RidgePotential, y: Tensor) -> None:
    result = Variational(small, sigma=0.1, weight=0.02, tol=1e-6).solve(y, Plain(Blur(SHARP, (1, 16, 16))))
    assert result.status == "rounding" and result.history.relative[-1] <= 1e-6 and "float64" in result.advice


def test_what_an_unknown_norm_leaves_of_the_convexity(small: RidgePotential, y: Tensor) -> None:
    blur, convex = Plain(Blur(SHARP, (1, 16, 16))), copy.deepcopy(small)
    convex.activation.fall.zero_()
    judged = Variational(convex, sigma=0.1, weight=0.1).check(y, blur)
    assert judged.kind == "global minimiser" and "unique" not in judged.statement
    stated = Variational(small, sigma=0.1, weight=0.02, data_term=LeastSquares(convexity=0.03)).solve(y, blur)
    assert stated.distance_upper is not None and stated.guarantee.title == "proved given your statement"
    with pytest.raises(GuaranteeError, match="accuracy"):
        Variational(small, sigma=0.1, weight=0.02, accuracy=1e-3).solve(y, blur)


@pytest.mark.parametrize("wrapper", [PotentialPrior, ProximalDenoiser])
def test_a_wrapped_potential_keeps_its_certificate(
    small: RidgePotential, y: Tensor, wrapper: type[PotentialPrior] | type[ProximalDenoiser]
) -> None:
    plain, wrapped = (Variational(p, sigma=0.1, weight=0.5) for p in (small, wrapper(small)))
    assert plain.check(y, Denoising()) == wrapped.check(y, Denoising())
    assert torch.equal(plain.solve(y, Denoising()).x, wrapped.solve(y, Denoising()).x)

    class Other(wrapper):  # type: ignore[misc,valid-type]
        pass

    patched = wrapper(small)
    patched.fn = lambda x, sigma, *args: 0.5 * small(x, sigma)
    patched.forward = lambda x, sigma=None, **kwargs: x
    for changed in (Other(small), patched):
        judged = Variational(changed, sigma=0.1, weight=0.5).check(y, Denoising())
        assert judged.kind == "critical point" and judged.title != "proved"


def test_a_prox_with_a_weight_of_its_own_is_no_potential(small: RidgePotential) -> None:
    with pytest.raises(InputError, match="weight"):
        Variational(ProximalDenoiser(small, weight=0.5))


@pytest.mark.parametrize(("weight", "tol"), [(1e3, 1e-5), (0.5, 1e-9)])
def test_a_run_that_rounding_stops_says_so_early(small: RidgePotential, y: Tensor, weight: float, tol: float) -> None:
    solver = Variational(small, sigma=0.1, weight=weight, tol=tol)
    result = solver.solve(y, Denoising())
    assert result.status == "rounding" and result.iterations < 500 and result.guarantee.proved
    assert result.stationarity is not None and tol < result.stationarity[0] < 1e-6 * (1 + weight)
    assert f"{result.stationarity[0]:.2g}" in result.advice and "float64" in result.advice and result.advice in str(result)
    fine = solver.solve(y.double(), Denoising())
    assert fine.status == "converged" and fine.stationarity is not None and fine.stationarity[0] <= tol


def test_float64_has_a_floor_too(small: RidgePotential, y: Tensor, tmp_path: Path) -> None:
    solver = Variational(small, sigma=0.1, weight=0.5, tol=1e-15)
    file = tmp_path / "run.pt"
    result = solver.solve(y.double(), Denoising(), checkpoint=file)
    assert result.status == "rounding" and "loosen tol" in result.advice and "pass data" not in result.advice
    again = solver.solve(y.double(), Denoising(), checkpoint=file)
    assert torch.equal(again.x, result.x) and again.histories == result.histories
    stored = torch.load(file, weights_only=True)
    stored["states"][0]["z"] = torch.zeros(1, 1, 16, 16, dtype=torch.float64)  # not believed
    torch.save(stored, file)
    mended = solver.solve(y.double(), Denoising(), checkpoint=file)
    assert mended.iterations > result.iterations and mended.status == "rounding"


def test_tolerances_that_float32_reaches_are_reached(small: RidgePotential, y: Tensor) -> None:
    result = Variational(small, sigma=0.1, weight=0.5, tol=3e-7).solve(y, Denoising())
    assert result.status == "converged"


def test_a_prox_needs_no_value_of_the_objective(small: RidgePotential, y: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ProximalDenoiser(small, accuracy=1e-9)(y.double(), 0.1)

    def value(self: Energy, x: Tensor) -> float:
        raise AssertionError("J was computed")

    monkeypatch.setattr(Energy, "value", value)
    z = ProximalDenoiser(small, accuracy=1e-5)(y, 0.1)
    assert float((z - exact).square().mean().sqrt()) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), [("grass", 519), ("chelsea", 515), ("coins", 505)])
def test_a_tenth_of_the_default_tolerance_changes_the_psnr_by_less_than_0_02_db(name: str, seed: int) -> None:
    """Photographs of scikit-image under shakes with noise 0.03, among them those where 1e-5 changes it most."""
    image = torch.as_tensor(getattr(skimage.data, name)()).double() / 255
    grey = (image if image.ndim == 2 else image @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).float()
    g = torch.Generator().manual_seed(seed)
    top, left = (int(torch.randint(n - 127, (), generator=g)) for n in grey.shape)
    x = grey[top : top + 128, left : left + 128][None, None].clone()
    physics = Blur(shake_psf(g, reach=8).float(), (1, 128, 128), padding="valid" if seed % 4 == 3 else "circular")
    y = physics.A(x)
    y = y + 0.03 * torch.randn(y.shape, generator=g)
    solver = Variational(load_pretrained("ridge"), sigma=0.06, weight=0.15)
    runs = [dataclasses.replace(solver, tol=tol).solve(y, physics, reference=x) for tol in (solver.tol, solver.tol / 10)]
    assert runs[0].status == "converged" and runs[1].status in ("converged", "rounding")  # of float32
    assert abs(runs[1].history.psnr[-1] - runs[0].history.psnr[-1]) < 0.02
