"""What a second pair of eyes broke: claims that rested on an object's own word, or on what was put back before the end."""

import types

import deepinv.physics as dp
import pytest
import torch
from torch import Tensor

from pnp_lip.denoisers import GradientFlowDenoiser, relax
from pnp_lip.errors import GuaranteeError, InputError
from pnp_lip.layers import project
from pnp_lip.operators import Blur, ProxResult, gaussian_psf
from pnp_lip.protocols import PhysicsLike
from pnp_lip.solvers import (
    ADMM,
    Anderson,
    DataTerm,
    ForwardBackward,
    HalfQuadratic,
    Halpern,
    KrasnoselskiiMann,
    LeastSquares,
    PrimalDual,
    Scheme,
)
from pnp_lip.solvers.scheme import norms

SIZE = (1, 8, 8)


def rand(seed: int = 0) -> Tensor:
    return torch.rand(1, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def denoiser() -> GradientFlowDenoiser:
    torch.manual_seed(0)
    module = GradientFlowDenoiser(hidden_channels=4, dilations=(1, 2))
    project(module).double()
    return module


def blur() -> Blur:
    return Blur(gaussian_psf(1.0), SIZE, dtype=torch.float64)


class Masked(Blur):
    """A blur of which half of the data are missing; what it inherits solves the prox of all data."""

    mask = (rand(1) > 0.5).double()

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        return self.mask * super().A(x)

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        return super().A_adjoint(self.mask * y)


class SaysSolved(dp.LinearPhysics):  # type: ignore[misc]
    """A mask that answers for its prox with something else."""

    def __init__(self) -> None:
        super().__init__(img_size=SIZE)

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        return Masked.mask * x

    A_adjoint = A

    def solve_prox(self, z: Tensor, y: Tensor, gamma: float, *, tol: float) -> ProxResult:
        return ProxResult(0.5 * z, torch.zeros(len(z)), 1, True)


@pytest.mark.parametrize("physics", [Masked(gaussian_psf(1.0), SIZE, dtype=torch.float64), SaysSolved()])
def test_a_prox_that_is_not_of_this_operator_is_not_believed(physics: dp.LinearPhysics, denoiser: GradientFlowDenoiser) -> None:
    y = physics.A(rand())
    result = HalfQuadratic(denoiser, sigma=0.05, step=5.0, box=(0, 1), scheme=Anderson()).solve(y, physics, max_iter=40)
    eye = torch.eye(64, dtype=torch.float64)
    A = physics.A(eye.reshape(64, *SIZE)).flatten(1).T
    z = torch.linalg.solve(eye + 5 * A.T @ A, result.x.flatten() + 5 * A.T @ y.flatten()).reshape(result.x.shape)
    truth = result.maps.prox(result.x, 5.0)
    assert float((truth - z).norm()) < 1e-10 * float(z.norm())


def test_a_patched_operator_is_not_asked_for_its_prox(denoiser: GradientFlowDenoiser) -> None:
    physics = blur()
    for name, patch in (("A", Masked.A), ("A_adjoint", Masked.A_adjoint)):
        setattr(physics, name, types.MethodType(patch, Masked(gaussian_psf(1.0), SIZE, dtype=torch.float64)))
    y = physics.A(rand())
    maps = HalfQuadratic(denoiser, sigma=0.05, step=5.0).prepare(y, physics).maps
    x = maps.prox(rand(2), 5.0)
    assert float((x + 5.0 * maps.grad(x) - rand(2)).norm()) < 1e-10


class Term(DataTerm):
    """½‖Ax − y‖² with mistakes that it does not admit."""

    def lipschitz_upper(self, norm_upper: float) -> float:
        return norm_upper**2

    def value(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        return LeastSquares().value(x, y, physics)

    def gradient(self, x: Tensor, y: Tensor, physics: PhysicsLike) -> Tensor:
        return LeastSquares().gradient(x, y, physics)

    def dual_prox(self, v: Tensor, y: Tensor, s: float) -> Tensor:
        return 0.5 * v

    def prox(self, z: Tensor, y: Tensor, physics: PhysicsLike, gamma: float) -> ProxResult:
        return ProxResult(z.clone(), torch.zeros(len(z)), 0, True)


def test_a_data_term_of_the_user_is_taken_by_no_word_of_its_own(denoiser: GradientFlowDenoiser) -> None:
    y = blur().A(rand())
    assert ForwardBackward(denoiser, sigma=0.05, data_term=Term()).check(y, blur()).title == "proved given your statement"
    with pytest.raises(GuaranteeError, match="error of prox"):
        ADMM(relax(denoiser, 0.5), sigma=0.05, data_term=Term()).solve(y, blur())
    with pytest.raises(GuaranteeError, match="prox of h"):
        PrimalDual(relax(denoiser, 0.5), sigma=0.05, data_term=Term()).solve(y, blur())


class InPlace(dp.LinearPhysics):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(img_size=SIZE)

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        return x.mul_(Masked.mask)

    A_adjoint = A


def test_an_operator_that_overwrites_its_argument_is_refused(denoiser: GradientFlowDenoiser) -> None:
    with pytest.raises(GuaranteeError, match="leave its argument"):
        ADMM(relax(denoiser, 0.5), sigma=0.05).solve(rand(), InPlace())


@pytest.mark.parametrize("what", ["data", "operator", "weights"])
def test_what_a_callback_changed_and_put_back_costs_the_proof(what: str, denoiser: GradientFlowDenoiser) -> None:
    physics = blur()
    y, weight = physics.A(rand()), next(denoiser.parameters())
    tensor, other = {
        "data": (y, physics.A(rand(1))),
        "operator": (physics.psf, 0.9 * physics.psf.roll(1, -1)),
        "weights": (weight.data, 0.7 * weight.data),
    }[what]
    kept = tensor.clone()

    def callback(k: int, x: Tensor, relative: tuple[float, ...]) -> None:
        tensor.copy_(kept if k == 30 else other)

    solver = ForwardBackward(denoiser, sigma=0.05, box=(0, 1), scheme=Anderson(), tol=0.0)
    x0 = 100 * rand(3)  # the first step is so long that a change hides in it
    result = solver.solve(y, physics, x0=x0, max_iter=30, callback=callback)
    assert result.guarantee.title == "not proved"
    assert solver.solve(y, physics, x0=x0, max_iter=30).guarantee.title == "proved"


@pytest.mark.parametrize("scheme", [KrasnoselskiiMann(1.5), Halpern(restart=None), Anderson()])
def test_a_state_whose_parts_contradict_each_other_is_refused(scheme: Scheme, denoiser: GradientFlowDenoiser, tmp_path) -> None:  # type: ignore[no-untyped-def]
    physics, path = blur(), tmp_path / "run.pt"
    y = physics.A(rand())
    solver = PrimalDual(relax(denoiser, 0.5), sigma=0.05, scheme=scheme, tol=1e-9)
    straight = solver.solve(y, physics, max_iter=20)
    solver.solve(y, physics, max_iter=12, checkpoint=path)
    assert torch.equal(solver.solve(y, physics, max_iter=20, checkpoint=path).x, straight.x)
    stored = torch.load(path, weights_only=True)
    stored["v"][:, -64:] += 1.0
    torch.save(stored, path)
    with pytest.raises(InputError, match="holds twice"):
        solver.solve(y, physics, max_iter=30, checkpoint=path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_offset_that_the_operator_does_not_see_raises_no_alarm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    denoiser = project(GradientFlowDenoiser(hidden_channels=4, dilations=(1, 2))).to(dtype)
    edges = Blur(torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 4, (1, 32, 32), dtype=dtype)
    y = edges.A(torch.rand(1, 1, 32, 32, dtype=dtype)) + 1e4
    result = ForwardBackward(denoiser, sigma=0.05, box=(0, 1), scheme=Anderson(), tol=0.0).solve(y, edges, max_iter=200)
    assert result.guarantee.title == "proved"


@pytest.mark.parametrize("physics", [dp.Denoising(), dp.Inpainting(SIZE, mask=Masked.mask[0].float()), dp.Decolorize()])
def test_a_closed_form_that_is_off_is_solved_further(physics: dp.LinearPhysics) -> None:
    """deepinv computes some in float32 whatever the data, and that of ``Decolorize`` wrongly (0.5.0)."""
    y = physics.A(rand().expand(1, 3 if isinstance(physics, dp.Decolorize) else 1, 8, 8))
    z = physics.A_adjoint(rand(1).expand_as(y))
    solved = LeastSquares().prox(z, y, physics, 3.0)
    residual = z - solved.x + 3.0 * physics.A_adjoint(y - physics.A(solved.x))
    assert float(residual.norm()) < 1e-12 * float(solved.x.norm()) and float(solved.error_bound) < 1e-12


def test_norms_of_many_numbers() -> None:
    """In float32 torch's own sum of a million numbers that are not side by side is up to a thousandth too small."""
    x = torch.rand(2, 1, 2048, 1024, generator=torch.Generator().manual_seed(0))[..., ::2, :]
    truth = x.double().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms(x), truth, rtol=1e-6, atol=0)
