"""deepinv's denoisers and physics in our solvers, ours in deepinv's, and the choice of parameters."""

from __future__ import annotations

import deepinv
import pytest
import solver_cases as cases
import torch
from deepinv.transform import Reflect, Rotate
from torch import nn

from pnp_lip import certify, firm
from pnp_lip.errors import CertificateError, GuaranteeError, InputError, ShapeError
from pnp_lip.solvers import (
    ADMM,
    RED,
    Anderson,
    DouglasRachford,
    ForwardBackward,
    HalfQuadratic,
    choose_by_discrepancy,
    choose_by_reference,
    fixed_map,
)


@pytest.fixture
def setting():
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])[None, None] / 16
    physics = deepinv.physics.BlurFFT(img_size=cases.SHAPE, filter=kernel)
    y = physics.A(cases.random(1, *cases.SHAPE, seed=5, dtype=torch.float32).abs())
    return physics, y


def test_total_variation_is_a_fixed_map_here(setting):
    physics, y = setting
    tv = deepinv.models.TVDenoiser(n_it_max=20)
    tv(10 * torch.rand(1, *cases.SHAPE), 0.05)
    assert not torch.equal(tv(y, 0.05), deepinv.models.TVDenoiser(n_it_max=20)(y, 0.05))  # the trap
    cold = fixed_map(tv)
    assert torch.equal(cold(y, 0.05), cold(y, 0.05))
    result = ForwardBackward(tv, sigma=0.05).solve(y, physics, max_iter=3000, guarantee="assume")
    assert result.status == "converged" and not result.guarantee.proved
    assert fixed_map(cold.denoiser) is not cold.denoiser and fixed_map(len) is len


def test_equivariant_denoisers_average_over_the_whole_group(setting):
    physics, y = setting
    inner = cases.denoiser()
    random = deepinv.models.EquivariantDenoiser(inner).eval()
    assert len({float(random(y, 0.1).square().sum()) for _ in range(12)}) > 1  # the trap
    fixed = fixed_map(random)
    state = torch.random.get_rng_state()
    assert torch.allclose(fixed(y, 0.1), fixed(y, 0.1), atol=1e-6)
    torch.random.set_rng_state(state)
    flipped = fixed(y.flip(-1), 0.1).flip(-1)
    assert cases.relative(flipped, fixed(y, 0.1)) < 1e-5
    group = Rotate(n_trans=4, multiples=90, positive=True) * Reflect(n_trans=2, dim=[-1])
    whole = deepinv.models.EquivariantDenoiser(inner, transform=group).eval()
    assert fixed_map(whole) is whole and fixed_map(inner) is inner
    assert ForwardBackward(random, sigma=0.1).solve(y, physics, guarantee="assume").status == "converged"


def test_a_random_denoiser_is_no_map(setting):
    physics, y = setting

    class Noisy(nn.Module):
        def forward(self, x, sigma=None):
            return 0.9 * x + 0.01 * torch.randn_like(x)

    with pytest.raises(GuaranteeError, match="between two calls"):
        ForwardBackward(Noisy()).solve(y, physics, guarantee="assume")
    with pytest.raises(ShapeError, match="denoiser turned"):
        ForwardBackward(lambda x, s: x[..., :-1]).solve(y, physics, guarantee="assume")


@pytest.mark.parametrize(
    ("solver", "twin"),
    [(ForwardBackward, "PGD"), (ADMM, "ADMM"), (DouglasRachford, "DRS"), (HalfQuadratic, "HQS"), (RED, "GD")],
)
def test_our_solvers_as_theirs(solver, twin, setting):
    physics, y = setting
    net = firm(cases.denoiser())
    ours = solver(net, sigma=0.1, tol=3e-7).solve(y, physics, max_iter=300)
    model = getattr(deepinv.optim, twin)(
        data_fidelity=deepinv.optim.L2(),
        prior=deepinv.optim.RED(net) if solver is RED else deepinv.optim.PnP(net),
        stepsize=ours.parameters["step"],
        lambda_reg=ours.parameters.get("weight", 1.0),
        sigma_denoiser=0.1,
        max_iter=300,
        early_stop=True,
        thres_conv=3e-7,
    )
    assert cases.relative(model(y, physics, init=(y, 0 * y)), ours.x) < 1e-5


def test_discrepancy_principle_finds_the_noise():
    g = cases.generator(1)
    physics = cases.blur(torch.float32)
    clean = torch.ones(1, *cases.SHAPE)
    clean[..., 4:] = 0.2
    y = physics.A(clean) + 0.05 * torch.randn(clean.shape, generator=g)
    solver = ForwardBackward(cases.denoiser(), sigma=0.1, scheme=Anderson())
    values = [0.2, 0.001, 0.01, 0.05, 1.0]
    choice = choose_by_discrepancy(solver, y, physics, noise=0.05, values=values)
    assert [c["sigma"] for c in choice.candidates] == sorted(values) and len(choice.scores) == 5
    assert list(choice.scores) == sorted(choice.scores)  # more smoothing, more misfit
    fitting = [v for v, s in zip(sorted(values), choice.scores, strict=True) if s <= 1]
    assert choice.best == {"sigma": fitting[-1]} and choice.solver.sigma == fitting[-1]
    assert choice.scores[0] < 1 < choice.scores[-1] and set(choice.statuses) == {"converged"}
    nothing_fits = choose_by_discrepancy(solver, y, physics, noise=1e-6, values=[0.1, 0.2])
    assert nothing_fits.best == {"sigma": 0.1}
    for bad in (
        {"noise": 0.0, "values": [1.0]},
        {"noise": 1.0, "values": []},
        {"noise": 1.0, "values": [1], "parameter": "tol"},
    ):
        with pytest.raises(InputError):
            choose_by_discrepancy(solver, y, physics, **bad)


def test_a_grid_finds_the_best_psnr():
    physics = cases.blur(torch.float32)
    clean = cases.random(1, *cases.SHAPE, dtype=torch.float32).abs()
    y = physics.A(clean)
    solver = RED(cases.denoiser(), sigma=0.1)
    choice = choose_by_reference(solver, y, physics, clean, {"sigma": [0.1, 0.01], "weight": [1.0, 0.1]})
    assert len(choice.candidates) == 4 and choice.scores[choice.candidates.index(choice.best)] == max(choice.scores)
    assert choice.solver.weight == choice.best["weight"] == 0.1
    with pytest.raises(InputError, match="at least one"):
        choose_by_reference(solver, y, physics, clean, {})
    with pytest.raises(InputError, match="weight"):
        choose_by_reference(ForwardBackward(cases.denoiser()), y, physics, clean, {"weight": [1.0]})


def test_a_grid_is_refused_as_a_whole_before_any_run(monkeypatch):
    physics = cases.blur(torch.float32)
    clean = cases.random(1, *cases.SHAPE, dtype=torch.float32).abs()
    solver = ForwardBackward(cases.denoiser(), sigma=0.1)
    ran = []
    monkeypatch.setattr("pnp_lip.solvers.solver.iterate", lambda *args: ran.append(args))
    with pytest.raises(GuaranteeError, match="`step`"):
        choose_by_reference(solver, physics.A(clean), physics, clean, {"step": [0.5, 1.0, 50.0]})
    assert not ran


@pytest.mark.parametrize("other", [{"dtype": torch.float64}, {"in_channels": 2}])
def test_check_refuses_what_the_denoiser_refuses(setting, other):
    physics, y = setting
    assert ForwardBackward(cases.denoiser(), sigma=0.1).check(y, physics).proved
    with pytest.raises(ShapeError):
        ForwardBackward(cases.denoiser(**other), sigma=0.1).check(y, physics)


def test_a_map_that_takes_no_noise_level_is_refused_by_name(setting):
    physics, y = setting
    with pytest.raises(InputError, match=r"refused to be called as denoiser\(x, sigma\)"):
        ForwardBackward(nn.Identity(), sigma=0.1, box=(0, 1)).solve(y, physics)


def test_a_reference_of_another_shape_is_refused_before_any_run(setting):
    physics, y = setting
    calls = []

    def denoiser(x, sigma):
        calls.append(0)
        return x

    solver = ForwardBackward(denoiser)
    with pytest.raises(ShapeError, match="`reference`"):
        choose_by_reference(solver, y, physics, y[..., 1:], {"sigma": [0.1, 0.2]}, max_iter=2, guarantee="assume")
    assert not calls


def test_what_is_no_scheme_box_or_physics_is_refused(setting):
    y = setting[1]
    net = cases.denoiser(limit=0.3)
    with pytest.raises(InputError, match=r"a scheme such as Anderson\(\)"):
        ForwardBackward(net, scheme=Anderson)
    with pytest.raises(InputError, match="`box` must be None or"):
        ForwardBackward(net, box=1)
    with pytest.raises(ShapeError, match="the physics refused"):
        ForwardBackward(net, sigma=0.1).solve(y, None)
    with pytest.raises(CertificateError, match="function is no torch module"):
        certify(lambda x: x)
