"""Minimising with potentials: theorems V and U against the truth, and everything that must be refused or reported."""

import dataclasses
import itertools
import math
import warnings
from pathlib import Path

import deepinv as dinv
import pytest
import torch
from deepinv.physics import Denoising
from torch import Tensor, nn

from pnp_lip.certificates import certify
from pnp_lip.certificates.calculus import CurvatureBound
from pnp_lip.errors import CertificateError, GuaranteeError, InputError, ShapeError
from pnp_lip.operators import Blur
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers import (
    ADMM,
    Checkpoint,
    DouglasRachford,
    LeastSquares,
    PotentialPrior,
    ProximalDenoiser,
    Variational,
    descent,
)
from pnp_lip.spectral import norm_bound


def ridge(seed: int = 0, fall: float = 0.8, channels: int = 1, padding: str = "circular") -> RidgePotential:
    """A small potential with ρ = ``fall`` nearly and L = 12."""
    generator = torch.Generator().manual_seed(seed)
    p = RidgePotential(in_channels=channels, filters=6, kernel_size=5, padding_mode=padding)
    p.activation.set_profile([8.0, 3.0, 1.0], [0.375 * fall, 0.625 * fall], [0.03, 0.1, 0.3], [0.5, 2.0])
    with torch.no_grad():
        w = torch.randn(p.weight.shape, generator=generator)
        w -= w.mean((2, 3), keepdim=True)
        p.weight.copy_(w / norm_bound(w, padding_mode="circular").upper)
    return p.eval().requires_grad_(False)


def picture(seed: int = 0, size: int = 16, channels: int = 1, batch: int = 1) -> Tensor:
    """Smooth areas with edges, in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, channels, size // 4, size // 4, generator=g).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (x + 0.02 * torch.randn(x.shape, generator=g)).clamp(0, 1)


PSF = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
SHARP = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]])


def check_distance(seed: int) -> None:
    """A random strongly convex problem: the proved distance is never below the true one, to a reference in float64.

    The reference takes accelerated projected gradients, 20 times the steps, or until it is stationary to 1e-12.
    """
    g = torch.Generator().manual_seed(seed)
    draw = lambda low, high: low + (high - low) * float(torch.rand((), generator=g))  # noqa: E731
    x, sharp = picture(seed, 12), seed % 3 == 0
    physics = Blur(SHARP, (1, 12, 12)) if sharp else Denoising()
    weight = draw(0.02, 0.05) if sharp else draw(0.3, 1.5)
    y = physics.A(x) + draw(0.02, 0.2) * torch.randn(x.shape, generator=g)
    problem = Variational(
        ridge(seed % 7, fall=draw(0.0, 0.6)), sigma=draw(0.01, 0.2), weight=weight, box=(0, 1) if seed % 2 else None,
        tol=10 ** draw(-6, -2),
    )  # fmt: skip
    result = problem.solve(y, physics)
    assert result.guarantee.proved and result.guarantee.kind == "global minimiser" and result.status == "converged"
    assert result.distance_upper is not None and result.stationarity is not None and result.stationarity[0] <= problem.tol
    p = problem.prepare(y, physics)
    e, truth = p.energies[0].precision, p.x.double()
    assert p.L is not None
    z, root = truth, math.sqrt(p.L / p.m)
    for k in range(20 * result.iterations + 400):
        if k % 50 == 0 and descent.stationarity(e, truth) < 1e-11:
            break
        new = descent.project(z - e.gradient(z) / p.L, problem.box)
        z, truth = new + (root - 1) / (root + 1) * (new - truth), new
    left = descent.stationarity(e, truth) / p.m  # how far the reference may be off
    true = float((result.x.double() - truth).square().mean().sqrt())
    assert true <= result.distance_upper[0] + left and left < 1e-2 * result.distance_upper[0]


def test_the_proved_distance_is_never_below_the_true_one() -> None:
    for seed in range(9):
        check_distance(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(5))
def test_the_proved_distance_in_two_hundred_problems(block: int) -> None:
    for seed in range(1000 + 40 * block, 1040 + 40 * block):
        check_distance(seed)


def test_the_minimiser_is_unique_whatever_the_start() -> None:
    y = picture(1) + 0.1 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    problem = Variational(ridge(), sigma=0.1, accuracy=1e-5)
    ends = [problem.solve(y, Denoising(), x0=x0).x for x0 in (None, torch.zeros_like(y), torch.ones_like(y), picture(9))]
    for x in ends[1:]:
        assert float((x - ends[0]).square().mean().sqrt()) <= 2e-5


def test_the_solution_depends_on_the_data_as_stated() -> None:
    """‖x(y) − x(y')‖ ≤ ‖A‖/(μ_f − λρ) ‖y − y'‖, also where a search makes the quotient large."""
    potential = ridge(3)
    constant = 1 / (1 - certify(potential).curvature.rho)  # type: ignore[union-attr]
    D = ProximalDenoiser(potential, accuracy=1e-8)
    y = picture(2).double()
    d = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    most = 0.0
    for _ in range(12):
        d = 1e-2 * d / d.square().mean().sqrt()
        change = D(y + d, 0.1) - D(y, 0.1)
        most = max(most, float(change.norm() / d.norm()))
        d = change
    assert 1 < most <= constant and certify(D).lipschitz_upper == pytest.approx(constant)


def test_closed_form_of_a_quadratic_potential() -> None:
    """One clip that never saturates: R = μ/2 ‖Wx‖², and the minimiser solves (Id + λμ WᵀW) x = y."""
    p = RidgePotential(filters=2, kernel_size=3, rising=1, falling=0)
    p.activation.set_profile([2.0], [], [1e6], [])
    p.requires_grad_(False).double()
    y = picture(4, 8).double()
    result = Variational(p, sigma=0.5, weight=0.7, box=None, accuracy=1e-11).solve(y, Denoising())
    units = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    H = torch.stack([u[None][0].flatten() + 0.7 * p.grad(u[None], 0.5).flatten() for u in units])
    x = torch.linalg.solve(H, y.flatten())
    assert result.distance_upper is not None
    assert float((result.x.flatten() - x).square().mean().sqrt()) <= result.distance_upper[0] <= 1e-11
    J = 0.5 * float((x - y.flatten()).square().sum()) + 0.7 * float(p(x.reshape(1, 1, 8, 8), 0.5))
    assert result.objective is not None and result.objective[0] == pytest.approx(J, rel=1e-12)


def energy_of(y: Tensor, physics: object, potential: object, weight: float) -> tuple[object, Tensor, float]:
    problem = Variational(potential, sigma=0.1, weight=weight).prepare(y, physics)  # type: ignore[arg-type]
    assert problem.L is not None
    return problem.energies[0], problem.x, problem.L


def test_theorem_v_along_a_run() -> None:
    """J, evaluated anew, never grows; each accepted x satisfies (H1) and (H2) with its candidate."""
    physics = Blur(PSF, (1, 16, 16))
    y = physics.A(picture(3)) + 0.02 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    e, x, L = energy_of(y, physics, ridge(1), 0.3)
    s = descent.begin(e, x, L, 1e-5)  # type: ignore[arg-type]
    first = s.J
    steps, moves = [], []
    for _ in range(600):
        if s.status != "running":
            break
        before, J = s.x, s.J
        descent.advance(e, s)  # type: ignore[arg-type]
        if s.x is not before:
            assert e.value(s.x) == s.J <= J  # type: ignore[attr-defined]
            moved = descent.distance(s.x, before)
            steps.append(moved**2)
            if s.z is not s.x and not torch.equal(s.z, s.x):
                moves.append((descent.distance(s.x, s.z), moved))
                assert J - descent.DECREASE * L * moved**2 >= s.J
    assert s.status == "converged" and s.broken is None and len(moves) > 3
    assert all(polished <= descent.RELATIVE * moved for polished, moved in moves)
    assert min(steps) <= (first - s.J) / (descent.DECREASE * L * len(steps))  # the rate


def test_adversarial_candidates_cost_plain_steps_and_no_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)

    def wild(o: object, s: descent.State) -> None:
        s.z = torch.rand(s.x.shape, generator=generator)
        s.g = o.gradient(s.z)  # type: ignore[attr-defined]
        s.sharp = descent.stationary_part(s.g, s.z, (0, 1))

    monkeypatch.setattr(descent, "move", wild)
    values = []
    problem = Variational(ridge(), sigma=0.1, weight=0.5, tol=1e-12)
    result = problem.solve(picture(5), Denoising(), max_iter=100, callback=lambda k, x, r: values.append(x))
    e = problem.prepare(picture(5), Denoising()).energies[0]
    J = [e.value(x) for x in values]
    assert all(b <= a for a, b in itertools.pairwise(J)) and result.guarantee.proved
    monkeypatch.undo()
    best = problem.solve(picture(5), Denoising(), max_iter=100)
    assert result.distance_upper is not None and result.objective is not None and best.objective is not None
    assert best.objective[0] <= result.objective[0] < result.settings["objective_start"][0]  # type: ignore[index]


def test_a_candidate_raises_an_unknown_constant_that_is_too_small() -> None:
    """It is not refused: then x would make plain steps, along which the same constant may be right for ever."""
    problem = Variational(Deep(), sigma=0.1, weight=0.5).prepare(picture(3), Denoising())
    e = problem.energies[0]
    s = descent.begin(e, problem.x, None, 1e-9)
    for _ in range(3):
        descent.move(e, s)
    s.L, z, g = s.L / 100, s.z, s.g
    descent.test(e, s)
    assert s.refused == 0 and s.broken is None and e.value(s.x) == s.J
    assert float((e.gradient(s.x) - g).norm()) <= 1.001 * s.L * descent.distance(s.x, z)


def test_kinds_of_guarantee() -> None:
    y = picture(6)
    weak = Variational(ridge(), sigma=0.1, weight=1.5)
    found = weak.check(y, Denoising())
    assert found.kind == "critical point" and found.proved and "dist" not in found.statement
    assert weak.solve(y, Denoising()).distance_upper is None
    strong = Variational(ridge(), sigma=0.1).check(y, Denoising())
    assert strong.kind == "global minimiser" and "Weierstrass" in strong.existence
    free = Variational(ridge(), sigma=0.1, weight=1.5, box=None).check(y, Denoising())
    assert free.existence.startswith("assumed") and "if it stays bounded" in free.statement
    assert Variational(ridge(), sigma=0.1, box=None).check(y, Denoising()).existence == "proved: J is strongly convex"
    with pytest.raises(GuaranteeError, match="`accuracy` was asked for"):
        dataclasses.replace(weak, accuracy=1e-3).solve(y, Denoising())
    stated = Variational(ridge(), sigma=0.1, weight=0.1, data_term=LeastSquares(convexity=0.03)).check(
        y, Blur(SHARP, (1, 16, 16))
    )
    assert stated.title == "proved given your statement"


def test_the_torus_criterion_is_the_least_eigenvalue() -> None:
    """min |k̂|² − λs Σ|ŵ|² against the dense matrix AᵀA − λs WᵀW."""
    potential, physics = ridge(2), Blur(SHARP.double(), (1, 12, 12), dtype=torch.float64)
    y = physics.A(picture(1, 12).double())
    problem = Variational(potential.double(), sigma=0.1, weight=0.05)
    p = problem.prepare(y, physics)
    units = torch.eye(144, dtype=torch.float64).reshape(144, 1, 12, 12)
    A = physics.A(units).flatten(1).T
    k = potential.weight
    x = nn.functional.pad(units, (2, 2, 2, 2), mode="circular")
    W = nn.functional.conv2d(x, k).flatten(1).T
    fall = -float(potential.activation.slope_bounds()[0])
    least = float(torch.linalg.eigvalsh(A.T @ A - 0.05 * fall * W.T @ W)[0])
    assert least - 1e-9 <= p.m <= least and p.guarantee.kind == "global minimiser"
    rho = certify(potential).curvature.rho  # type: ignore[union-attr]
    assert p.m > float(torch.linalg.eigvalsh(A.T @ A)[0]) - 0.05 * rho - 1e-9


def test_batches_are_images_of_their_own() -> None:
    y = torch.cat([picture(7), picture(8) * 0.5, picture(7)]) + 0.1 * torch.randn(
        3, 1, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    sigma = torch.tensor([0.05, 0.1, 0.2])
    together = Variational(ridge(), sigma=sigma).solve(y, Denoising())
    for i in range(3):
        alone = Variational(ridge(), sigma=float(sigma[i])).solve(y[i : i + 1], Denoising())
        assert torch.equal(alone.x[0], together.x[i]) and alone.histories[0] == together.histories[i]
    assert len({h.iterations for h in together.histories}) > 1


def test_colour_and_zero_padding() -> None:
    y = picture(1, channels=3) + 0.1
    assert Variational(ridge(channels=3, padding="zeros"), sigma=0.1).solve(y, Denoising()).guarantee.kind == "global minimiser"


def test_exact_resume(tmp_path: Path) -> None:
    physics, x = Blur(SHARP, (1, 24, 24)), picture(3, 24, batch=2)
    y = physics.A(x) + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    problem = Variational(ridge(1), sigma=0.1, weight=0.3)
    whole = problem.solve(y, physics, reference=x)
    file = tmp_path / "run.pt"
    for most in (7, 20, 31, 1000):
        part = problem.solve(y, physics, reference=x, max_iter=most, checkpoint=Checkpoint(file, every=5))
    assert torch.equal(part.x, whole.x) and part.histories == whole.histories and part.objective == whole.objective
    with pytest.raises(InputError, match="another run"):
        dataclasses.replace(problem, weight=0.4).solve(y, physics, checkpoint=file)
    stored = torch.load(file, weights_only=True)
    stored["states"][0]["x"] = torch.zeros(1, 1, 24, 24)  # not believed, though it says "converged"
    torch.save(stored, file)
    mended = problem.solve(y, physics, reference=x, checkpoint=file)
    assert mended.status == "converged" and mended.stationarity is not None and max(mended.stationarity) <= problem.tol
    for name, value in (("x", torch.full((1, 1, 24, 24), math.nan)), ("z", torch.zeros(2)), ("since", -1), ("status", "perfect")):
        broken = torch.load(file, weights_only=True)
        broken["states"][0][name] = value
        torch.save(broken, tmp_path / "bad.pt")
        with pytest.raises(InputError, match="cannot be the state of this run"):
            problem.solve(y, physics, reference=x, checkpoint=tmp_path / "bad.pt")


def test_a_start_may_come_from_anything() -> None:
    y = picture(2)
    result = Variational(ridge(), sigma=0.1, weight=1.5).solve(
        y, Denoising(), x0=torch.rand(y.shape, generator=torch.Generator().manual_seed(0))
    )
    start = result.settings["objective_start"]
    assert result.settings["start"] == "given" and result.objective is not None
    assert isinstance(start, list) and result.objective[0] < start[0]
    assert result.history.objective[-1] == result.objective[0]


def test_the_result_is_written_and_drawn(tmp_path: Path) -> None:
    result = Variational(ridge(), sigma=0.1).solve(picture(2), Denoising(), progress=True)
    result.save(tmp_path / "out")
    text = (tmp_path / "out" / "result.json").read_text()
    assert '"kind": "global minimiser"' in text and '"distance_upper"' in text and "objective_start" in text
    assert len(result.plot().axes) == 3 and "within" in str(result)


# --- what the user brings ---------------------------------------------------------------------------------------------------


class Smooth(nn.Module):
    """½‖x − N(x)‖² of a small network, with its gradient by autograd."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), activation, nn.Conv2d(8, 1, 3, padding=1))

    def potential(self, x: Tensor, sigma: object = None) -> Tensor:
        return 0.5 * (x - self.net(x)).square().flatten(1).sum(1)


class Deep(dinv.optim.Prior):  # type: ignore[misc]
    """A prior of deepinv, smoothed total variation: ``error`` spoils its gradient."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.explicit_prior, self.error = True, error

    def fn(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        a, b = x - x.roll(1, 2), x - x.roll(1, 3)
        return (a.square() + b.square() + 1e-3).sqrt().flatten(1).sum(1)

    def grad(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        a, b = x - x.roll(1, 2), x - x.roll(1, 3)
        r = (a.square() + b.square() + 1e-3).sqrt()
        return (1 + self.error) * (a / r - (a / r).roll(-1, 2) + b / r - (b / r).roll(-1, 3))


@pytest.mark.parametrize("potential", [Smooth(nn.SiLU()), Smooth(nn.Softplus()), Deep()])
def test_any_smooth_potential_runs_under_theorem_v(potential: object) -> None:
    physics = Blur(PSF, (1, 16, 16))
    y = physics.A(picture(3))
    values: list[Tensor] = []
    problem = Variational(potential, weight=0.05, tol=1e-5)
    result = problem.solve(y, physics, callback=lambda k, x, r: values.append(x))
    assert result.status == "converged" and result.guarantee.kind == "critical point" and result.distance_upper is None
    assert result.guarantee.title == "proved given your statement"
    e = problem.prepare(y, physics).energies[0]
    J = [e.value(x) for x in values]
    assert all(b <= a for a, b in itertools.pairwise(J))


def test_a_gradient_step_network_of_deepinv_runs() -> None:
    torch.manual_seed(0)
    net = dinv.models.GSDRUNet(in_channels=1, out_channels=1, nc=[4, 4, 4, 4], nb=1, act_mode="E", pretrained=None)
    y = picture(3, 16)
    result = Variational(net, sigma=0.1, weight=1e-3).solve(y, Denoising(), max_iter=30)
    assert result.guarantee.title == "proved given your statement", str(result)


def refused(potential: object, match: str, **settings: object) -> None:
    y = picture(3)
    problem = Variational(potential, weight=0.05, **settings)  # type: ignore[arg-type]
    with pytest.raises((GuaranteeError, InputError, ShapeError), match=match):
        problem.solve(y, Denoising())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if match != "NaN":
            assert not problem.check(y, Denoising()).proved
            ran = problem.solve(y, Denoising(), guarantee="assume", max_iter=3)
            assert not ran.guarantee.proved


def test_a_gradient_one_percent_off_is_refused() -> None:
    refused(Deep(0.01), "change of R along d")
    refused(Deep(-0.01), "change of R along d")


def test_a_gradient_off_at_certified_potentials_is_seen_in_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no certificate sees, an operator's or machine's fault, the descent lemma does."""
    from pnp_lip.solvers.energy import Energy

    right = Energy.gradient
    monkeypatch.setattr(Energy, "gradient", lambda self, x: right(self, x).mul(-1.0))
    result = Variational(ridge(), sigma=0.1, box=None).solve(picture(3), Denoising(), max_iter=20)
    assert not result.guarantee.proved and "descent lemma" in str(result.guarantee.failure)


def test_wrong_curvatures_are_refused() -> None:
    refused(Deep(), "curvature of the potential", curvature=CurvatureBound(0.0, 1.0))
    refused(Deep(), "curvature of the potential", curvature=CurvatureBound(3.0, 300.0))
    right = Variational(Deep(), weight=0.05, curvature=CurvatureBound(0.0, 8 / math.sqrt(1e-3)))
    result = right.solve(picture(3), Denoising())
    assert result.guarantee.title == "proved given your statement" and result.distance_upper is not None


def test_a_wrong_constant_is_seen_in_the_run() -> None:
    y = picture(3)
    e, x, L = energy_of(y, Denoising(), ridge(), 1.0)
    s = descent.begin(e, torch.rand(x.shape, generator=torch.Generator().manual_seed(0)), L / 200, 1e-9)  # type: ignore[arg-type]
    descent.back(e, s)  # type: ignore[arg-type]
    assert s.broken is not None and "descent lemma" in s.broken


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU()])
def test_kinks_are_refused(activation: nn.Module) -> None:
    refused(Smooth(activation), "a layer with a kink")


def test_hidden_kinks_are_refused() -> None:
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp_min(0)

    refused(Smooth(Hidden()), "difference quotient")


def test_potentials_that_are_no_function_are_refused() -> None:
    class Random(Deep):
        def fn(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
            return super().fn(x) * (1 + 0.01 * torch.rand(()))

    class Counting(Deep):
        calls = 0

        def grad(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
            self.calls += 1
            return super().grad(x) * (1 + 0.01 * self.calls)

    class Coupled(Deep):
        def fn(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
            return super().fn(x - x.mean(0, keepdim=True) * (len(x) > 1))

    class Infinite(Deep):
        def fn(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
            return super().fn(x) / 0

    refused(Random(), "between two calls")
    refused(Counting(), "between two calls")
    refused(Coupled(), "other images of a batch")
    refused(Infinite(), "NaN")
    with pytest.raises((TypeError, InputError)):
        Variational(object()).solve(picture(), Denoising())


def test_a_potential_that_changes_in_the_run_is_reported() -> None:
    potential = ridge()

    def tamper(k: int, x: Tensor, r: tuple[float, ...]) -> None:
        potential.weight.mul_(1.01)

    result = Variational(potential, sigma=0.1).solve(picture(), Denoising(), callback=tamper)
    assert not result.guarantee.proved and result.guarantee.failure == "the potential changed during the run"
    assert result.distance_upper is None


def test_settings_out_of_range_are_refused() -> None:
    p, y = ridge(), picture()
    for settings in ({"tol": -1.0}, {"weight": 0.0}, {"accuracy": -1.0}, {"sigma": -0.1}, {"box": (1.0, 0.0)}):
        with pytest.raises(InputError):
            Variational(p, **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_iter"):
        Variational(p).solve(y, Denoising(), max_iter=0)
    with pytest.raises(InputError, match="guarantee"):
        Variational(p).solve(y, Denoising(), guarantee="hope")
    with pytest.raises(ShapeError, match="x0"):
        Variational(p).solve(y, Denoising(), x0=y[..., :8])


# --- the prox as a denoiser, and deepinv ----------------------------------------------------------------------------------------


def test_the_prox_reaches_its_accuracy_and_says_so_where_it_does_not() -> None:
    D, y = ProximalDenoiser(ridge(), accuracy=1e-5), torch.cat([picture(1), picture(2)])
    exact = ProximalDenoiser(ridge(), accuracy=1e-9)(y.double(), 0.1)
    off = (D(y, 0.1).double() - exact).flatten(1).square().mean(1).sqrt()
    assert float(off.max()) <= 1e-5
    with pytest.raises(GuaranteeError, match="distance of"):
        ProximalDenoiser(ridge(), accuracy=1e-5, max_iter=2)(y, 0.1)
    assert torch.equal(D(y, torch.tensor([0.05, 0.1]))[1:], D(y[1:], 0.1))


def test_the_prox_is_refused_without_a_certified_convexity() -> None:
    with pytest.raises(CertificateError, match="λρ < 1"):
        ProximalDenoiser(ridge(fall=1.2))
    with pytest.raises(CertificateError, match="λρ < 1"):
        ProximalDenoiser(ridge(), weight=1.5)
    with pytest.raises(CertificateError):
        ProximalDenoiser(Smooth(nn.SiLU()))  # type: ignore[arg-type]
    D = ProximalDenoiser(ridge())
    D.potential.activation.fall.mul_(2)
    with pytest.raises(CertificateError, match="λρ < 1"):
        D(picture(), 0.1)
    with pytest.raises(InputError):
        ProximalDenoiser(ridge(), accuracy=0.0)
    with pytest.raises(InputError):
        ProximalDenoiser(ridge(), max_iter=0)


@pytest.mark.parametrize("solver", [ADMM, DouglasRachford])
def test_a_convex_prox_is_firm_and_serves_admm(solver: type[ADMM] | type[DouglasRachford]) -> None:
    """Its solution is the minimiser of the objective, which Variational finds too."""
    D = ProximalDenoiser(ridge(fall=0.0), accuracy=1e-6)
    certificate = certify(D)
    assert certificate.firmly_nonexpansive and certificate.proximal and certificate.lipschitz_upper == 1
    physics = Blur(SHARP.double(), (1, 16, 16), dtype=torch.float64)
    y = physics.A(picture(3).double())
    result = solver(D, sigma=0.1, step=1.0, tol=1e-5).solve(y, physics, max_iter=500)
    assert result.guarantee.title == "proved given your statement" and result.status == "converged", str(result)
    assert "executed to a distance of 1e-06" in str(result.guarantee)
    best = Variational(ridge(fall=0.0), sigma=0.1, box=None, accuracy=1e-6).solve(y, physics)
    assert float((result.x - best.x).square().mean().sqrt()) <= 1e-4


def test_a_weakly_convex_prox_is_refused_by_admm_with_a_way_out() -> None:
    D = ProximalDenoiser(ridge())
    assert certify(D).lipschitz_upper == pytest.approx(1 / (1 - certify(D.potential).curvature.rho))  # type: ignore[union-attr]
    with pytest.raises(CertificateError, match="Variational"):
        ADMM(D, sigma=0.1).solve(picture(), Denoising())


def test_the_prior_runs_in_deepinv() -> None:
    prior, physics = PotentialPrior(ridge()), dinv.physics.BlurFFT((1, 16, 16), filter=SHARP[None, None])
    x = picture(3)
    y = physics.A(x)
    assert torch.allclose(
        prior.grad(x, 0.1), torch.autograd.functional.jacobian(lambda v: ridge()(v, 0.1).sum(), x).float(), atol=1e-5
    )
    z = prior.prox(x, 0.1, gamma=0.5)
    assert float((z - x + 0.5 * prior.grad(z, 0.1)).square().mean().sqrt()) <= 1e-4
    model = dinv.optim.optim_builder(
        "PGD", data_fidelity=dinv.optim.L2(), prior=prior, max_iter=40,
        params_algo={"stepsize": 1.0, "g_param": 0.1, "lambda": 0.3},
    )  # fmt: skip
    ours = Variational(ridge(), sigma=0.1, weight=0.3, box=None).solve(y, physics)
    theirs = model(y, physics)
    assert float((theirs - ours.x).square().mean().sqrt()) <= 1e-3


def test_a_tenth_of_the_tolerance_changes_nothing_that_shows() -> None:
    from skimage import data

    x = torch.tensor(data.camera()[100:196:2, 150:246:2]).float()[None, None] / 255
    g = torch.Generator().manual_seed(0)
    physics = Blur(torch.outer(*[torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / 4)] * 2).div(12.56), (1, 48, 48))
    y = physics.A(x) + 0.01 * torch.randn(x.shape, generator=g)
    problem = Variational(ridge(), sigma=0.1)  # a strength at which the prior decides: without one, noise of any size fits
    found = [dataclasses.replace(problem, tol=tol).solve(y, physics, reference=x).history.psnr[-1] for tol in (1e-5, 1e-6)]
    assert abs(found[1] - found[0]) < 0.02
