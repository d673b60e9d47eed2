"""Data terms for counts: constants against dense Hessians, proxes against closed forms and minimisers, runs, refusals."""

from __future__ import annotations

import math

import pytest
import scipy.optimize
import torch
from deepinv.physics import Denoising
from solver_cases import SHAPE, denoiser, matrix_physics, random, relative
from torch import Tensor

from pnp_lip.denoisers import relax
from pnp_lip.errors import GuaranteeError, InputError, ShapeError
from pnp_lip.operators import Blur, ParallelBeamTomography, gaussian_psf
from pnp_lip.pretrained import load_pretrained
from pnp_lip.solvers import (
    ADMM,
    DataTerm,
    ForwardBackward,
    HalfQuadratic,
    LeastSquares,
    PoissonLikelihood,
    PrimalDual,
    TransmissionLikelihood,
    Variational,
)
from pnp_lip.solvers.examiner import Identity

TERMS = [
    PoissonLikelihood(0.7),
    PoissonLikelihood(3.0, scale=5.0),
    TransmissionLikelihood(20.0),
    TransmissionLikelihood(6.0, scale=2.5),
]
names = [f"{type(t).__name__}-{t.scale:g}" for t in TERMS]


def counts(*shape: int, seed: int = 0, mean: float = 4.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.poisson(torch.full(shape, mean, dtype=dtype), generator=torch.Generator().manual_seed(seed))


def likelihood(term: DataTerm, u: Tensor, y: Tensor) -> Tensor:
    """−log P(y), less its value at the best mean, from torch's own distribution."""
    poisson = isinstance(term, PoissonLikelihood)
    mean = term.scale * u + term.background if poisson else term.flat * torch.exp(-term.scale * u)
    return mean - y * mean.log() - torch.where(y > 0, y - y * y.clamp_min(1e-30).log(), 0.0)


@pytest.mark.parametrize("term", TERMS, ids=names)
def test_value_and_derivatives(term: DataTerm) -> None:
    """f is the likelihood for Ax ≥ 0; its gradient is autograd's everywhere; h is twice continuous at 0."""
    y, physics = counts(2, 40), matrix_physics()
    x = random(2, *SHAPE, seed=1).abs() * 0.3
    u = torch.rand(1, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(term.value(u, y[:1], Identity()), likelihood(term, u, y[:1]).sum(1), rtol=1e-12)
    for image in (x, -x, random(2, *SHAPE, seed=2)):
        leaf = image.clone().requires_grad_()
        value = term.value(leaf, y, physics)
        assert bool((value >= 0).all())
        assert relative(term.gradient(image, y, physics), torch.autograd.grad(value.sum(), leaf)[0]) < 1e-12
    for part in (0, 1, 2):
        edge = [term.continued(torch.full((1, 40), s * 1e-9, dtype=torch.float64), y[:1])[part] for s in (-1, 1)]
        assert torch.allclose(*edge, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("term", TERMS, ids=names)
def test_lipschitz_bound_holds_for_dense_hessians(term: DataTerm) -> None:
    """0 ⪯ ∇²f ⪯ L at images of every sign, and L is reached in one dimension."""
    y, physics = counts(1, 40), matrix_physics()
    bound = term.fitted(y).lipschitz_upper(physics.norm)
    for seed in range(6):
        x = random(1, *SHAPE, seed=seed) * 10.0 ** (seed - 3)
        hessian = torch.autograd.functional.hessian(lambda v: term.value(v.reshape(1, *SHAPE), y, physics).sum(), x.flatten())
        spectrum = torch.linalg.eigvalsh(hessian)
        assert -1e-9 * bound <= float(spectrum[0]) and float(spectrum[-1]) <= bound * (1 + 1e-12)
    one = counts(1, 30, mean=9.0)
    steepest = term.continued(torch.zeros_like(one), one)[2].max()
    assert float(steepest) == pytest.approx(term.fitted(one).lipschitz_upper(1.0), rel=1e-12)
    terms = term.gradient(torch.zeros(1, *SHAPE, dtype=torch.float64), y, physics).norm()
    fitted = term.fitted(y)
    assert float(terms) <= fitted.lipschitz_upper(physics.norm) / physics.norm * fitted.magnitude(y)


@pytest.mark.parametrize("term", TERMS, ids=names)
def test_dual_prox_against_a_minimiser(term: DataTerm) -> None:
    """By Moreau, v − dual_prox = s prox_{h/s}(v/s), which scipy finds entry by entry."""
    y = torch.tensor([[0.0, 1.0, 3.0, 40.0]], dtype=torch.float64)
    for s in (0.03, 1.0, 50.0):
        for w in (-30.0, -0.2, 0.0, 0.4, 25.0):
            v = torch.full_like(y, w * s)
            found = (v - term.dual_prox(v, y, s)) / s
            for i in range(4):
                datum = y[:, i : i + 1]

                def objective(u: float, datum: Tensor = datum, w: float = w, s: float = s) -> float:
                    return float(term.continued(torch.tensor([[u]], dtype=torch.float64), datum)[0]) / s + 0.5 * (u - w) ** 2

                best = scipy.optimize.minimize_scalar(objective, bracket=(w - 1, w + 1), tol=1e-12).x
                assert float(found[0, i]) == pytest.approx(best, abs=2e-6 * (1 + abs(best)))


@pytest.mark.parametrize("term", TERMS, ids=names)
@pytest.mark.parametrize("gamma", [0.05, 3.0, 300.0])
def test_prox_against_its_equation_and_a_minimiser(term: DataTerm, gamma: float) -> None:
    physics, y, z = matrix_physics(), counts(2, 40), random(2, *SHAPE, seed=4)
    found = term.prox(z, y, physics, gamma)
    left = found.x - z + gamma * term.gradient(found.x, y, physics)
    assert bool((left.flatten(1).norm(dim=1) <= found.error_bound * (1 + 1e-6) + 1e-14).all())
    assert float(found.error_bound.max()) < 1e-9 * float(z.norm() + gamma)

    def objective(flat: object) -> tuple[float, object]:
        x = torch.as_tensor(flat, dtype=torch.float64).reshape(1, *SHAPE)
        value = gamma * term.value(x, y[:1], physics) + 0.5 * (x - z[:1]).square().sum()
        gradient = gamma * term.gradient(x, y[:1], physics) + x - z[:1]
        return float(value), gradient.flatten().numpy()

    best = scipy.optimize.minimize(objective, z[0].flatten().numpy(), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    assert relative(found.x[0].flatten(), torch.from_numpy(best)) < 1e-5
    alone = term.prox(z[1:], y[1:], physics, gamma)
    assert relative(alone.x, found.x[1:]) < 1e-9


@pytest.mark.parametrize("term", TERMS, ids=names)
def test_prox_of_the_identity_has_the_closed_form(term: DataTerm) -> None:
    y, z = counts(1, *SHAPE), random(1, *SHAPE, seed=6)
    closed = z - 2.0 * term.dual_prox(z / 2.0, y, 0.5)
    assert relative(term.prox(z, y, Denoising(), 2.0).x, closed) < 1e-10


def scene(dtype: torch.dtype = torch.float32) -> Tensor:
    line = torch.linspace(-1, 1, 48, dtype=dtype)
    r = line[:, None].square() + (line[None] + 0.2).square()
    x = 0.15 + 0.55 * (r < 0.4) + 0.3 * ((line[:, None] - 0.1).abs() < 0.12) * ((line[None] + 0.3).abs() < 0.3)
    return x.clamp(0, 1)[None, None]


def hot_spots() -> Tensor:
    """Four bright disks in a dim one."""
    line = torch.linspace(-1, 1, 48)
    x = 0.04 * (line[:, None].square() + line.square() < 0.8)
    for column, row, radius, height in (
        (-0.4, 0.2, 0.12, 0.8),
        (0.35, -0.3, 0.18, 0.5),
        (0.1, 0.5, 0.1, 0.8),
        (0.5, 0.35, 0.08, 0.7),
    ):
        x = x + height * ((line[:, None] - row).square() + (line - column).square() < radius**2)
    return x.clamp(0, 1)[None, None]


def best(x: Tensor, data: Tensor, physics: ParallelBeamTomography, term: DataTerm, weights: tuple[float, ...]) -> float:
    """The PSNR with the best weight of ``ridge``; every run is proved and converges."""
    found = []
    for weight in weights:
        solver = Variational(load_pretrained("ridge"), sigma=0.1, weight=weight, data_term=term, tol=1e-4 * weight)
        result = solver.solve(data, physics)
        assert result.guarantee.proved and result.history.status == "converged"
        found.append(-10 * math.log10(float((result.x - x).square().mean())))
    return max(found)


def test_emission_at_low_counts_beats_least_squares() -> None:
    """30 views of 8 counts a ray, on a background of 1: 0.4 dB, each with its best weight out of five (records/counts.csv)."""
    x, scale, background = hot_spots(), 4.0, 1.0
    physics = ParallelBeamTomography([6.0 * k for k in range(30)], (1, 48, 48))
    y = torch.poisson(scale * physics.A(x) + background, generator=torch.Generator().manual_seed(0))
    term = PoissonLikelihood(background, scale=scale)
    ours = best(x, y, physics, term, (32.0, 64.0))
    assert ours > best(x, term.linearised(y), physics, LeastSquares(), (32.0, 64.0, 128.0)) + 0.3


def test_transmission_at_low_counts_beats_the_logarithm() -> None:
    """A quarter of the rays count no photon: 3.7 dB, each with its best weight out of five (records/counts.csv)."""
    x, flat, scale = scene(), 30.0, 0.2
    physics = ParallelBeamTomography([7.5 * k for k in range(24)], (1, 48, 48))
    y = torch.poisson(flat * torch.exp(-scale * physics.A(x)), generator=torch.Generator().manual_seed(0))
    term = TransmissionLikelihood(flat, scale=scale)
    ours = best(x, y, physics, term, (32.0, 64.0))
    assert ours > best(x, term.linearised(y), physics, LeastSquares(), (256.0, 512.0)) + 3


@pytest.mark.parametrize("term", TERMS[1::2], ids=names[1::2])
def test_solvers_agree_on_their_fixed_point(term: DataTerm) -> None:
    """ForwardBackward, ADMM and PrimalDual with the same step and a firm denoiser have the same fixed points."""
    dtype = torch.float64
    physics, y = Blur(gaussian_psf(0.6), SHAPE, dtype=dtype), counts(1, *SHAPE)
    step = 1.5 / term.fitted(y).lipschitz_upper(physics.norm_upper)
    prior = relax(denoiser(dtype=dtype), 0.5)
    runs = [kind(prior, data_term=term, step=step, tol=1e-7).solve(y, physics, max_iter=5000) for kind in
            (ForwardBackward, ADMM, PrimalDual)]  # fmt: skip
    for run in runs:
        assert run.guarantee.proved and run.history.status == "converged"
        assert any("likelihood" in h.name and h.met for h in run.guarantee.hypotheses)
        assert relative(run.x, runs[0].x) < 1e-3
    half = HalfQuadratic(prior, data_term=term, step=step, box=(0, 1)).solve(y, physics)
    assert half.guarantee.proved and half.history.status == "converged"


def test_batch_and_tensors() -> None:
    """A background for each image goes with its image; a tensor gives what a number gives."""
    physics, y = Blur(gaussian_psf(0.6), SHAPE, dtype=torch.float64), counts(2, *SHAPE)
    b = torch.tensor([1.0, 2.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    prior = relax(denoiser(dtype=torch.float64), 0.5)
    both = ForwardBackward(prior, data_term=PoissonLikelihood(b), tol=1e-6, step=0.05).solve(y, physics)
    alone = ForwardBackward(prior, data_term=PoissonLikelihood(2.0), tol=1e-6, step=0.05).solve(y[1:], physics)
    assert relative(both.x[1:], alone.x) < 1e-9
    assert PoissonLikelihood(b).part([1], y).background.flatten().tolist() == [2.0]
    assert TransmissionLikelihood(b).part([1], y).flat.flatten().tolist() == [2.0]


def test_wrong_use_is_refused() -> None:
    physics, prior = Blur(gaussian_psf(0.6), SHAPE, dtype=torch.float64), relax(denoiser(dtype=torch.float64), 0.5)
    for build, message in (
        (lambda: PoissonLikelihood(0.0), "`background` must be positive"),
        (lambda: PoissonLikelihood(torch.tensor([1.0, math.nan])), "`background` must be positive"),
        (lambda: TransmissionLikelihood(-1.0), "`flat` must hold positive"),
        (lambda: PoissonLikelihood(1.0, scale=0.0), "`scale` multiplies Ax"),
        (lambda: PoissonLikelihood(1.0).lipschitz_upper(1.0), r"call fitted\(y\) first"),
    ):
        with pytest.raises(InputError, match=message):
            build()
    y = counts(1, *SHAPE)
    for term, data, message in (
        (PoissonLikelihood(1.0), y - 10, "`y` must hold counts"),
        (PoissonLikelihood(1.0), 0 * y, "no count at all"),
        (TransmissionLikelihood(9.0), -y - 1, "`y` must hold counts"),
    ):
        with pytest.raises(InputError, match=message):
            ForwardBackward(prior, data_term=term).solve(data, physics)
    with pytest.raises(ShapeError, match="`background` must broadcast"):
        ForwardBackward(prior, data_term=PoissonLikelihood(torch.ones(3, dtype=torch.float64))).solve(y, physics)
    with pytest.raises(GuaranteeError, match="must lie in"):
        step = 2.1 / PoissonLikelihood(1.0).fitted(y).lipschitz_upper(physics.norm_lower)
        ForwardBackward(prior, data_term=PoissonLikelihood(1.0), step=step).solve(y, physics)
