"""Every hypothesis violated on purpose is refused with the number that failed, on a blur and on a projector."""

from __future__ import annotations

import copy
import json
import warnings

import numpy
import pytest
import solver_cases as cases
import torch
from safetensors.torch import load_file
from torch import nn

from pnp_lip import certify, firm, save_denoiser
from pnp_lip.certificates import describe, rule
from pnp_lip.errors import CertificateError, GuaranteeError, InputError
from pnp_lip.operators import Blur, CertifiedPhysics, ParallelBeamTomography
from pnp_lip.pretrained import load_denoiser
from pnp_lip.solvers import (
    ADMM,
    RED,
    Anderson,
    DavisYin,
    ForwardBackward,
    HalfQuadratic,
    Halpern,
    KrasnoselskiiMann,
    LeastSquares,
    PrimalDual,
    UserFidelity,
    WeightedLeastSquares,
)
from pnp_lip.solvers.witness import sketch


@pytest.fixture(params=["blur", "ct"])
def physics(request) -> CertifiedPhysics:
    if request.param == "blur":
        return cases.blur(torch.float32)
    return ParallelBeamTomography([0.0, 30.0, 60.0, 90.0, 120.0, 150.0], cases.SHAPE)


def data(physics):
    return physics.A(cases.random(1, *cases.SHAPE, seed=5, dtype=torch.float32).abs())


def refused(solver, physics, match, error=GuaranteeError):
    """Refused by default; run on request, with the same failure in the result and nothing claimed."""
    y = data(physics)
    with pytest.raises(error, match=match):
        solver().solve(y, physics)
    result = solver().solve(y, physics, max_iter=2, guarantee="report")
    assert not result.guarantee.proved and result.guarantee.failure
    assert result.guarantee.statement == "nothing is proved of this run"


@pytest.mark.parametrize("kind", [ForwardBackward, DavisYin])
def test_a_step_of_2_01_over_l(kind, physics):
    net, limit = firm(cases.denoiser()), 2 / physics.norm_upper**2
    got = f"{1.005 * limit:.6g}".replace(".", r"\.").replace("+", r"\+")
    refused(lambda **o: kind(net, sigma=0.1, step=1.005 * limit, **o), physics, rf"\(0, 2/\|\|A\|\|\^2\).*got {got}")


def test_red_and_primal_dual_steps(physics):
    net, length = firm(cases.denoiser()), physics.norm_upper**2
    refused(lambda **o: RED(net, sigma=0.1, weight=1.0, step=2.01 / length, **o), physics, r"2/\(L \+ 2αλ\)\) = \(0, ")
    steps = {"step": 1.0 / length, "dual_step": 1.01}
    refused(lambda **o: PrimalDual(net, sigma=0.1, **steps, **o), physics, r"must be below 1; got 1\.01")


def test_a_denoiser_that_is_averaged_but_not_firm(physics):
    refused(lambda **o: ADMM(cases.denoiser(), sigma=0.1, **o), physics, r"at most 1/2.*got 0\.9\d+")


def test_schemes_beyond_their_range(physics):
    net = cases.denoiser()
    make = lambda scheme: lambda **o: ForwardBackward(net, sigma=0.1, scheme=scheme, **o)  # noqa: E731
    refused(make(KrasnoselskiiMann(1.9)), physics, r"relaxation λ must lie in \(0, 1/a = 1\.\d+\); got 1\.9")
    flip = lambda **o: ForwardBackward(cases.Reflection(), scheme=Anderson(), **o)  # noqa: E731
    refused(flip, physics, r"got 1\b")
    assert ForwardBackward(cases.Reflection(), scheme=Halpern()).check(data(physics), physics).proved


def test_a_tampered_certificate(tmp_path):
    """Numbers in the file are never read; hashes that do not fit are refused, and so are the weights they would cover."""
    path, beside = tmp_path / "d.safetensors", tmp_path / "d.certificate.json"
    save_denoiser(cases.denoiser(), path)
    honest = json.loads(beside.read_text())
    name = next(iter(honest["weights"]))
    beside.write_text(json.dumps({**honest, "weights": {**honest["weights"], name: "0" * 64}}))
    with pytest.raises(CertificateError, match=rf"SHA-256 of {name} differ"):
        load_denoiser(path)
    beside.write_text(json.dumps(honest))
    expansive = cases.denoiser(limit=1.0)
    with torch.no_grad():
        expansive.layers[1].weight.mul_(1.01)
    with pytest.raises(CertificateError, match=r"layers\.1.*2\.0[34]\d*, which must not exceed 2"):
        save_denoiser(expansive, tmp_path / "e.safetensors")
    assert not (tmp_path / "e.safetensors").exists() and load_file(path)


def test_weights_changed_after_loading(physics):
    net = cases.denoiser(limit=1.0)
    with torch.no_grad():
        net.layers[1].weight.mul_(1.01)
    match = r"layers\.1.*2\.0[34]\d*, which must not exceed 2"
    refused(lambda **o: ForwardBackward(net, sigma=0.1, **o), physics, match, CertificateError)


def test_an_operator_without_a_bound_of_its_norm():
    physics = cases.unknown_physics(torch.float32)
    for kind in (ForwardBackward, DavisYin, RED, PrimalDual):
        net = firm(cases.denoiser())
        with pytest.raises(GuaranteeError, match="upper bound of ‖A‖ must be known; got none"):
            kind(net, sigma=0.1).solve(physics.A(torch.ones(1, 1, 33, 33)), physics)


@pytest.mark.parametrize("kind", [ForwardBackward, ADMM, PrimalDual])
def test_a_wrong_adjoint(kind, physics, monkeypatch):
    honest = physics.A_adjoint
    monkeypatch.setattr(physics, "A_adjoint", lambda v, **k: 1.001 * honest(v))
    refused(lambda **o: kind(firm(cases.denoiser()), sigma=0.1, **o), physics, r"A_adjoint v.* must be at most.*got 0\.00")


class Reflecting(nn.Module):
    """A quarter of a blur that reflects the image at its border, for which a proof asks for a smallest image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=3, padding_mode="reflect", bias=False)
        self.conv.weight.data.fill_(1 / 36)

    def forward(self, x, sigma=None):
        return self.conv(x)[..., 2:-2, 2:-2]


@rule(Reflecting)
def certify_reflecting(module, path, rtol):
    return describe(module.conv, f"{path}.conv", rtol)


def test_an_image_below_the_certificates_scope_is_refused():
    d = Reflecting().eval().requires_grad_(False)
    assert certify(d).smallest_image == (8, 8)
    solver = ForwardBackward(d, sigma=0.05, box=(0, 1), scheme=Halpern())
    large = Blur(torch.ones(1, 1), (1, 8, 9))
    assert solver.check(torch.rand(1, 1, 8, 9), large).proved
    small, y = Blur(torch.ones(1, 1), (1, 7, 9)), torch.rand(1, 1, 7, 9)
    guarantee = solver.check(y, small)
    assert not guarantee.proved and "at least 8 x 8" in str(guarantee.failure) and "7 x 9" in str(guarantee.failure)
    with pytest.raises(GuaranteeError, match="at least 8 x 8"):
        solver.solve(y, small)


def test_numbers_of_the_user_that_proved_ones_contradict_are_refused():
    physics, net = cases.blur(torch.float32), cases.denoiser(limit=0.3)
    y = data(physics)
    wrong = HalfQuadratic(net, sigma=0.02, data_term=LeastSquares(convexity=10.0))
    assert "convexity" in str(wrong.check(y, physics).failure)
    with pytest.raises(GuaranteeError, match=r"convexity μ of f must be at most L = 1"):
        wrong.solve(y, physics)
    with pytest.raises(GuaranteeError, match=r"at least 1, a lower bound of ‖A‖; got 0\.5"):
        ForwardBackward(net, sigma=0.02, data_term=LeastSquares(norm_upper=0.5)).solve(y, physics)
    assert ForwardBackward(net, sigma=0.02, data_term=LeastSquares(norm_upper=1.5)).check(y, physics).proved


def test_existence_is_not_claimed_by_theorems_that_do_not_apply():
    physics = cases.blur(torch.float32)
    y = data(physics)
    guarantee = ForwardBackward(lambda x, sigma: (x > 0.5).float(), sigma=0.1, box=(0, 1)).check(y, physics)
    assert not guarantee.proved and guarantee.existence.startswith("assumed; where a hypothesis fails")
    too_long = ForwardBackward(cases.denoiser(limit=0.3), sigma=0.1, box=(0, 1), step=2.5).check(y, physics)
    assert not too_long.proved and too_long.existence.startswith("assumed; where a hypothesis fails")


def test_data_in_eight_bit_levels_are_noticed():
    physics, net = cases.blur(torch.float32), cases.denoiser(limit=0.3)
    y = physics.A(torch.rand(1, *cases.SHAPE, generator=torch.Generator().manual_seed(0)))
    solver = ForwardBackward(net, sigma=0.1, box=(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solver.solve(y, physics, max_iter=2)
    with pytest.warns(UserWarning, match=r"far outside of box=\(0, 1\): divide them"):
        solver.solve(255 * y, physics, max_iter=2)
    with pytest.warns(UserWarning, match="For 8-bit levels divide by 255"):
        net(y, 25.0)


class Foreign:
    """A physics of which nothing is known but A and A_adjoint: a blur behind a door, with a fault on request."""

    def __init__(self, forward=lambda x, ax: ax, backward=lambda v, bv: bv, dtype=torch.float32):
        self.blur, self.forward, self.backward = cases.blur(dtype), forward, backward

    def A(self, x):
        return self.forward(x, self.blur.A(x))

    def A_adjoint(self, v):
        return self.backward(v, self.blur.A_adjoint(v))


def swap(image, change):
    image = image.clone()
    change(image)
    return image


STATED = LeastSquares(norm_upper=1.001)
FAULTS = {
    "noise inside": (lambda x, ax: ax + 1e-3 * torch.randn_like(ax), None, "A is not a fixed linear map"),
    "a limit": (lambda x, ax: ax.clamp(-4.5, 4.5), None, "A is not a fixed linear map"),
    "an offset": (lambda x, ax: ax + 1e-4, None, "A is not a fixed linear map"),
    "rounded to 8 bits": (lambda x, ax: (255 * ax).round() / 255, None, "A is not a fixed linear map"),
    "mixing the batch": (lambda x, ax: ax + 0.01 * ax.mean(0), None, "A is not a fixed linear map"),
    "the largest of the batch": (lambda x, ax: ax / ax.abs().max(), None, "A is not a fixed linear map"),
    "larger than stated": (lambda x, ax: 1.2 * ax, lambda v, bv: 1.2 * bv, "‖A‖ must be at least"),
    "adjoint of another scale": (None, lambda v, bv: 1.001 * bv, "derivative of"),
    "one pixel's sign": (None, lambda v, bv: swap(bv, lambda b: b[..., 3, 4].neg_()), "derivative of"),
    "a wrong patch": (None, lambda v, bv: swap(bv, lambda b: b[..., 2:4, 2:4].mul_(0.98)), "derivative of"),
    "one pixel, without derivative": (
        lambda x, ax: ax.detach(), lambda v, bv: swap(bv, lambda b: b[..., 3, 4].mul_(0.9)), "A_adjoint v>"
    ),
    "adjoint of another scale, without derivative": (lambda x, ax: ax.detach(), lambda v, bv: 1.001 * bv, "A_adjoint v>"),
    "adjoint with a limit": (None, lambda v, bv: bv.clamp(-50, 50), "A_adjoint v>"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_forward_model_that_is_not_what_it_seems(name):
    forward, backward, why = FAULTS[name]
    options = {} if forward is None else {"forward": forward}
    options |= {} if backward is None else {"backward": backward}
    y = torch.rand(2, *cases.SHAPE, generator=cases.generator(0))
    solver = ForwardBackward(cases.denoiser(limit=0.3), sigma=0.1, data_term=STATED)
    with pytest.raises(GuaranteeError, match=why):
        solver.solve(y, Foreign(**options))
    honest = solver.solve(y, Foreign())
    assert honest.guarantee.proved and honest.guarantee.title == "proved given your statement"
    assert "proved given your statement" in str(honest.guarantee)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convexity_is_held_against_the_flattest_direction(dtype):
    """The dense truth: a statement above the smallest eigenvalue of AᵀA by far is refused, one below it never."""
    physics = cases.blur(dtype)
    spectrum = torch.linalg.svdvals(cases.dense(cases.blur().A)).square()
    y, net = torch.rand(1, *cases.SHAPE, dtype=dtype, generator=cases.generator(0)), cases.denoiser(limit=0.3, dtype=dtype)
    least = float(spectrum.min())
    for convexity, fits in ((0.9, False), (4 * least + 0.1, False), (0.999 * least, True)):
        guarantee = ForwardBackward(net, sigma=0.1, data_term=LeastSquares(convexity=convexity)).check(y, physics)
        assert guarantee.proved == fits, convexity
    assert guarantee.title == "proved given your statement"


class Fidelity:
    """½ c‖u − y‖² as deepinv's data fidelities are called, with a gradient, a value and a conjugate that may lie."""

    def __init__(self, c=1.0, gradient=1.0, conjugate=1.0, convex=True):
        self.c, self.gradient, self.conjugate, self.sign = c, gradient, conjugate, 1.0 if convex else -1.0

    @property
    def d(self):
        return self

    def grad(self, u, y):
        return self.gradient * self.sign * self.c * (u - y)

    def fn(self, x, y, physics):
        return self.sign * 0.5 * self.c * (physics.A(x) - y).square().flatten(1).sum(1)

    def prox_d_conjugate(self, u, y, *, gamma):
        return self.conjugate * (u - gamma * y) / (1 + gamma / self.c)


@pytest.mark.parametrize(
    ("fidelity", "stated", "why"),
    [
        (Fidelity(), 1.0, None),
        (Fidelity(c=5.0), 5.0, None),
        (Fidelity(c=5.0), 1.0, "be at least 4"),
        (Fidelity(gradient=1.3), 1.3, "violation of convexity"),
        (Fidelity(convex=False), 1.0, "violation of convexity"),
        (Fidelity(conjugate=0.9), 1.0, "prox of h"),
    ],
)
def test_a_fidelity_of_the_user(fidelity, stated, why):
    physics, net = cases.blur(torch.float32), firm(cases.denoiser())
    y = torch.rand(1, *cases.SHAPE, generator=cases.generator(0))
    guarantee = PrimalDual(net, sigma=0.1, data_term=UserFidelity(fidelity, stated)).check(y, physics)
    assert guarantee.title == ("not proved" if why else "proved given your statement")
    assert why is None or why in guarantee.failure


def test_a_prox_that_is_not_solved_is_refused():
    """15 views, float32, γ‖A‖² = 1e8: the answer is off by a tenth, and the residual says so."""
    physics = ParallelBeamTomography([12.0 * k for k in range(15)], (1, 16, 16))
    y = physics.A(torch.rand(1, 1, 16, 16, generator=cases.generator(0)))
    net = cases.denoiser(limit=0.3)
    steep = 1e8 / physics.norm_upper**2
    for term in (LeastSquares(), WeightedLeastSquares(torch.full_like(y, 1.0))):
        with pytest.raises(GuaranteeError, match=r"error of prox_γf relative to its image must be at most 1e-03"):
            HalfQuadratic(net, sigma=0.1, step=steep, data_term=term).solve(y, physics)
        assert HalfQuadratic(net, sigma=0.1, data_term=term).check(y, physics).proved


@pytest.mark.parametrize("size", [7, 1000, 12345])
def test_a_sketch_is_as_long_as_the_image(size, monkeypatch):
    """Of one number to rounding; on average, of many."""
    monkeypatch.setattr("pnp_lip.solvers.witness.SKETCH", 1000)
    signs = 2.0 * torch.randint(2, (1, size), generator=cases.generator(0)) - 1
    one = torch.zeros(1, size).index_fill_(1, torch.tensor(size - 1), 3.0)
    assert float(sketch(one, signs).norm()) == 3 and sketch(one, signs).shape == (min(size, 1000),)
    for t in (torch.ones(1, size), torch.rand(1, size, generator=cases.generator(1))):
        assert float(sketch(t, signs).norm() / t.norm()) == pytest.approx(1, abs=0.1)


def test_what_changes_during_the_run_is_no_longer_proved(monkeypatch):
    net, y = cases.denoiser(limit=0.3), torch.rand(1, *cases.SHAPE, generator=cases.generator(0))
    weights = torch.ones_like(y)
    kept = y.clone()

    def run(change, what):
        physics, used = cases.blur(torch.float32), copy.deepcopy(net)
        term = WeightedLeastSquares(weights.clone())
        state = [physics, used, term]
        solver = ForwardBackward(used, sigma=torch.tensor(0.1), data_term=term)
        result = solver.solve(y, physics, max_iter=4, callback=lambda k, x, r: [change(*state)] if k == 4 else None)
        y.copy_(kept)
        assert what in result.guarantee.failure if what else result.guarantee.proved, result.guarantee.failure

    run(lambda physics, net, term: None, None)
    run(lambda physics, net, term: net.layers[0].weight.data.mul_(0.9), "the denoiser changed")
    run(lambda physics, net, term: physics.psf.mul_(0.9), "the forward model changed")
    monkeypatch.setattr("pnp_lip.solvers.witness.SKETCH", 50)  # as of large images
    run(lambda physics, net, term: None, None)
    run(lambda physics, net, term: physics.psf.mul_(0.9), "the forward model changed")
    run(lambda physics, net, term: y.mul_(0.9), "the data")
    run(lambda physics, net, term: term.weights.mul_(0.9), "the data")


def test_data_that_overflow_are_refused():
    physics, net = cases.blur(torch.float32), cases.denoiser(limit=0.3)
    for size, why in ((3e38, "infinite values"), (1e25, r"the data reach 1e\+25; squares of such images overflow")):
        with pytest.raises(InputError, match=why):
            ForwardBackward(net, sigma=0.1).solve(torch.full((1, *cases.SHAPE), size), physics)


@pytest.mark.parametrize("value", [torch.tensor(1.0), numpy.float32(1.0), "1", True])
def test_parameters_are_plain_numbers(value):
    net = cases.denoiser()
    for make in (
        lambda: ForwardBackward(net, step=value),
        lambda: ForwardBackward(net, tol=value),
        lambda: LeastSquares(norm_upper=value),
        lambda: LeastSquares(convexity=value),
        lambda: UserFidelity(Fidelity(), value),
    ):
        with pytest.raises(InputError, match=r"plain number|must lie|positive"):
            make()
    assert ForwardBackward(net, step=numpy.float64(1.0)).check(data(cases.blur(torch.float32)), cases.blur(torch.float32)).proved
