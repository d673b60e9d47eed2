"""Batches: images that have stopped leave the work, and the others do not notice."""

from __future__ import annotations

import dataclasses

import deepinv
import pytest
import solver_cases as cases
import torch

from pnp_lip import firm
from pnp_lip.solvers import ADMM, Anderson, DavisYin, ForwardBackward, Halpern, KrasnoselskiiMann, PrimalDual
from pnp_lip.solvers.data_terms import LeastSquares, WeightedLeastSquares
from pnp_lip.solvers.loop import Monitor, iterate

SCALES = torch.tensor([0.01, 1.0, 30.0, 0.3]).reshape(4, 1, 1, 1)


def data(physics):
    return physics.A(cases.random(4, *cases.SHAPE, seed=8, dtype=torch.float32) * SCALES)


class Counting(torch.nn.Module):
    """A denoiser that notes how many images each call holds."""

    def __init__(self, net):
        super().__init__()
        self.net, self.sizes = net, []

    def forward(self, x, sigma=None):
        self.sizes.append(len(x))
        return self.net(x, sigma)


def test_stopped_images_cost_nothing():
    net, physics = Counting(cases.denoiser()), cases.blur(torch.float32)
    result = ForwardBackward(net, sigma=0.1, tol=1e-6).solve(data(physics), physics, guarantee="assume")
    counts = sorted(h.iterations for h in result.histories)
    assert result.status == "converged" and counts[0] < counts[-1]
    assert net.sizes[-1] == 1
    # Beside the updates: two calls to see whether the map is fixed, and at each division one of both batches.
    assert sum(net.sizes) <= sum(counts) + 2 * 4 + 3 * (4 + 3)
    assert 4 * result.iterations > 1.05 * sum(net.sizes)


@pytest.mark.parametrize("scheme", [KrasnoselskiiMann(), pytest.param(Halpern(), marks=pytest.mark.slow), Anderson()], ids=str)
@pytest.mark.parametrize("solver", [ForwardBackward, ADMM, DavisYin, PrimalDual])
def test_a_batch_ends_where_its_images_end_alone(solver, scheme):
    net, physics = firm(cases.denoiser()), cases.blur(torch.float32)
    y, sigma = data(physics), torch.tensor([0.05, 0.1, 0.2, 0.1])
    options = {"tol": 1e-4, "scheme": scheme}
    batch = solver(net, sigma=sigma, **options).solve(y, physics, reference=y)
    assert batch.status == "converged" and len({h.iterations for h in batch.histories}) > 2
    for i in range(4):
        alone = solver(net, sigma=float(sigma[i]), **options).solve(y[i : i + 1], physics, reference=y[i : i + 1])
        assert abs(alone.iterations - batch.histories[i].iterations) <= (3 if scheme == Anderson() else 1)
        assert len(batch.histories[i].psnr) == batch.histories[i].iterations
        assert batch.histories[i].misfit_at[-1] == batch.histories[i].iterations - 1
        assert cases.relative(batch.x[i], alone.x[0]) < 1e-3


def test_weights_for_each_image_go_with_their_images():
    net, physics = cases.denoiser(), cases.blur(torch.float32)
    y = data(physics)
    weights = torch.linspace(0.2, 1, y.numel()).reshape(y.shape)
    step = 1.9 / physics.norm_upper**2
    batch = ForwardBackward(net, sigma=0.1, step=step, data_term=WeightedLeastSquares(weights)).solve(y, physics)
    for i in range(4):
        term = WeightedLeastSquares(weights[i : i + 1])
        alone = ForwardBackward(net, sigma=0.1, step=step, data_term=term).solve(y[i : i + 1], physics)
        assert alone.iterations == batch.histories[i].iterations
        assert cases.relative(batch.x[i], alone.x[0]) < 1e-5


@pytest.mark.slow
def test_a_physics_with_parameters_for_each_image_keeps_its_batch():
    net = cases.denoiser()
    masks = (torch.rand(4, *cases.SHAPE, generator=cases.generator(0)) > 0.3).float()
    physics = deepinv.physics.Inpainting(img_size=cases.SHAPE, mask=masks)
    y = physics.A(cases.random(4, *cases.SHAPE, seed=8, dtype=torch.float32) * SCALES)
    options = {"sigma": 0.1, "data_term": LeastSquares(norm_upper=1.0), "tol": 1e-6}
    batch = ForwardBackward(net, **options).solve(y, physics)
    assert len({h.iterations for h in batch.histories}) > 1
    for i in range(4):
        own = deepinv.physics.Inpainting(img_size=cases.SHAPE, mask=masks[i : i + 1])
        alone = ForwardBackward(net, **options).solve(y[i : i + 1], own)
        assert cases.relative(batch.x[i], alone.x[0]) < 1e-5


def test_a_physics_that_takes_any_batch_but_treats_images_by_their_place_keeps_its_batch():
    class Placed(cases.MatrixPhysics):
        def A(self, x, **kwargs):
            return self.gains[: len(x)] * super().A(x)

        def A_adjoint(self, y, **kwargs):
            return super().A_adjoint(self.gains[: len(y)] * y)

    matrix = 0.5 * torch.eye(64) + 0.05 * cases.random(64, 64, dtype=torch.float32)
    physics = Placed(matrix / torch.linalg.matrix_norm(matrix, 2))
    physics.gains = torch.tensor([[1.0], [0.9], [0.8], [0.7]])
    y = physics.A(cases.random(4, *cases.SHAPE, seed=8, dtype=torch.float32) * SCALES)
    options = {"sigma": 0.1, "data_term": LeastSquares(norm_upper=1.001), "tol": 1e-5}
    batch = ForwardBackward(cases.denoiser(), **options).solve(y, physics, max_iter=5000)
    assert len({h.iterations for h in batch.histories}) > 1
    for i in range(4):
        own = cases.MatrixPhysics(physics.gains[i] * physics.matrix)
        alone = ForwardBackward(cases.denoiser(), **options).solve(y[i : i + 1], own, max_iter=5000)
        assert cases.relative(batch.x[i], alone.x[0]) < 1e-3


@pytest.mark.parametrize("scheme", [KrasnoselskiiMann(), Halpern(), Anderson()], ids=str)
def test_the_watch_goes_on_when_images_have_left(scheme):
    net, physics, sizes = cases.denoiser(), cases.blur(torch.float32), []
    solver = ForwardBackward(net, sigma=0.1, scheme=scheme)
    with torch.no_grad():
        p = solver.prepare(data(physics), physics)

    def drifting(x, sigma):
        sizes.append(len(x))
        return net(x, sigma) + 0.5 * (sum(size < 4 for size in sizes) > 5)

    results = []
    for denoiser in (net, drifting):
        maps = dataclasses.replace(p.maps, denoiser=denoiser)
        monitor = Monitor(1e-5, 400, p.guarantee.proved, None, None, None, None, None)
        with torch.no_grad():
            results.append(iterate(p.iteration, maps, scheme, p.x, monitor).result(p.guarantee, {}, p.iteration, maps))
    assert results[0].guarantee.proved and results[0].status == "converged"
    assert min(sizes) < 4 and not results[1].guarantee.proved and "T v moved by" in results[1].guarantee.failure
