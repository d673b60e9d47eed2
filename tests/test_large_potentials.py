"""Objectives of images larger than memory: the in-memory minimiser, or a tested critical point, in every chunking."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import deepinv
import pytest
import torch
from torch import Tensor

from pnp_lip import large
from pnp_lip.errors import GuaranteeError, InputError, ShapeError
from pnp_lip.large import jobs
from pnp_lip.operators import Blur
from pnp_lip.operators.blur_windows import WINDOWED_PADDINGS
from pnp_lip.potentials import GradientStepPotential, RidgePotential
from pnp_lip.solvers import Variational
from pnp_lip.solvers.descent import stationarity

pytest.importorskip("zarr", reason="needs the extra [large]")

SIZE = (40, 52)


def potential(**changes: Any) -> RidgePotential:
    torch.manual_seed(0)
    return RidgePotential(**{"filters": 4, "kernel_size": 5, **changes}).eval().requires_grad_(False)


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def problem(padding: str | None) -> tuple[Tensor, Blur | None]:
    """Data (1, 1, H, W), of a blur that is neither symmetric nor odd along both axes, or of the identity."""
    psf = rand(1, 4, 7, seed=2)
    blur = None if padding is None else Blur(psf / psf.sum(), (1, *SIZE), padding=padding)
    x = rand(1, 1, 5, 7).repeat_interleave(8, 2).repeat_interleave(8, 3)[..., : SIZE[1]]
    y = x if blur is None else blur(x)
    return y + 0.03 * torch.randn(y.shape, generator=torch.Generator().manual_seed(3)), blur


def objective(prior: Any = None, **changes: Any) -> Variational:
    settings = {"sigma": 0.05, "weight": 0.4, "tol": 1e-4, **changes}
    return Variational(potential() if prior is None else prior, **settings)


def in_folder(
    folder: Path, padding: str | None = "zeros", solver: Variational | None = None, **changes: Any
) -> large.LargeResult:
    y, blur = problem(padding)
    given = {"chunk": 2048, "max_iter": 400, **changes}
    return large.solve(objective() if solver is None else solver, y[0, 0].numpy(), blur, out=folder, **given)


@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_the_minimiser_of_the_solver_in_memory(mode: str, tmp_path: Path) -> None:
    """Both are within what they prove of the one minimiser."""
    solver = objective(potential(padding_mode=mode), accuracy=1e-3)
    y, _ = problem(None)
    known = solver.solve(y, deepinv.physics.Denoising(), guarantee="require")
    for i, chunk in enumerate((2048, (24, 28))):
        found = in_folder(tmp_path / str(i), None, solver, chunk=chunk)
        assert found.status == "converged" and found.guarantee.proved and found.guarantee.theorem == known.guarantee.theorem
        assert found.distance_upper is not None and known.distance_upper is not None and found.distance_upper <= 1.001e-3
        gap = float((torch.from_numpy(found.x[:]) - known.x[0, 0]).square().mean().sqrt())
        assert gap <= found.distance_upper + known.distance_upper[0]
        assert found.history.objective[-1] == pytest.approx(known.objective[0], rel=1e-3)  # type: ignore[index]


@pytest.mark.parametrize("padding", WINDOWED_PADDINGS)
@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_a_blur_has_the_objective_in_memory(padding: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """J and its stationarity at the result, in float64, are those of the in-memory solver, whatever the chunks."""
    monkeypatch.setattr(jobs, "EPOCH", 4)
    solver, (y, blur) = objective(potential(padding_mode=mode), tol=1e-9), problem(padding)
    energy = solver.prepare(y, blur).energies[0]  # type: ignore[arg-type]
    ends = []
    for i, chunk in enumerate((2048, (24, 28))):
        found = in_folder(tmp_path / str(i), padding, solver, chunk=chunk, max_iter=9)
        x = torch.from_numpy(found.x[:])[None, None]
        assert found.path.name == "x-8" and found.guarantee.proved and found.distance_upper is None
        assert found.stationarity == pytest.approx(stationarity(energy, x), rel=1e-5)
        assert found.history.objective[-1] == pytest.approx(energy.value(x), rel=1e-9)
        ends.append(x)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-6)


def test_a_blur_converges_to_a_critical_point(tmp_path: Path) -> None:
    """Of the same value as the one that the in-memory solver finds from the same start."""
    y, blur = problem("zeros")
    found = in_folder(tmp_path / "run")
    known = objective().solve(y, blur, x0=y.clamp(0, 1))  # type: ignore[arg-type]
    assert found.status == known.status == "converged" and found.stationarity <= 1e-4  # type: ignore[operator]
    assert found.history.objective[-1] == pytest.approx(known.objective[0], rel=1e-4)  # type: ignore[index]
    assert found.guarantee.statement == known.guarantee.statement and found.guarantee.existence == known.guarantee.existence


def test_the_start_is_the_data_and_j_never_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "EPOCH", 7)
    y, blur = problem("zeros")
    energy = objective().prepare(y, blur).energies[0]  # type: ignore[arg-type]
    found = in_folder(tmp_path / "run", max_iter=60)
    J = found.history.objective
    assert J[0] == pytest.approx(energy.value(y.clamp(0, 1)), rel=1e-9) and J[-1] < J[0]
    assert all(after <= before for before, after in pairwise(J)) and len(set(J)) >= 60 // 7


def test_a_run_may_end_anywhere_and_go_on(tmp_path: Path) -> None:
    """The last update tests what came before it."""
    short = in_folder(tmp_path / "run", max_iter=9)
    assert short.status == "max_iter" and short.path.name == "x-8" and 1e-4 < short.stationarity < short.history.relative[0]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    found = in_folder(tmp_path / "run")
    assert found.status == "converged" and found.history.residual[:9] == short.history.residual
    assert "x-8" in names and len(list((tmp_path / "run").glob("x-*"))) <= 3


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "EPOCH", 4)
    given: dict[str, Any] = {"chunk": (24, 28), "max_iter": 7}
    whole, update, calls = in_folder(tmp_path / "whole", **given), jobs.Descent.update, []

    def until(job: jobs.Descent, k: int, i: int, p: jobs.Pass) -> Any:
        if (k, i) in ((0, 2), (5, 1)) and (k, i) not in calls:
            calls.append((k, i))
            raise KeyboardInterrupt
        return update(job, k, i, p)

    monkeypatch.setattr(jobs.Descent, "update", until)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            in_folder(tmp_path / "run", **given)
    found = in_folder(tmp_path / "run", **given)
    assert found.x[:].tobytes() == whole.x[:].tobytes() and found.history == whole.history and len(calls) == 2


def changed_values(monkeypatch: pytest.MonkeyPatch, changed: Any) -> None:
    """Add ``changed(pass)`` to f, as the exact passes compute it."""
    update = jobs.Descent.update

    def tampered(job: jobs.Descent, k: int, i: int, p: jobs.Pass) -> Any:
        chunk, (sharp, f, *others) = update(job, k, i, p)
        return chunk, (sharp, f + (changed(p) if p.exact else 0.0), *others)

    monkeypatch.setattr(jobs.Descent, "update", tampered)


def test_a_refused_x_costs_a_plain_step_and_shorter_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first test after the start fails; the run goes on from the start with a plain step, and ends as it must."""
    monkeypatch.setattr(jobs, "EPOCH", 8)
    passes: list[jobs.Pass] = []
    changed_values(monkeypatch, lambda p: passes.append(p) or (1e3 if p.source == 8 else 0.0))
    found = in_folder(tmp_path / "run", solver=objective(tol=1e-3))
    sources = list(dict.fromkeys(p.source for p in passes))
    assert sources[:3] == [0, 8, 10] and sources[3] == 14, "an epoch of half the length"
    assert [p.source for p in passes][:4] == [0, 8, 0, 10] and found.status == "converged" and found.guarantee.proved


@pytest.mark.parametrize("grown", [1e3, float("inf")])
def test_a_plain_step_that_raises_j_ends_the_claim(grown: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "EPOCH", 4)
    changed_values(monkeypatch, lambda p: grown * p.source if p.source else 0.0)
    found = in_folder(tmp_path / "run")
    assert found.status == "diverged" and not found.guarantee.proved and found.path.name == "x-0"
    assert "raised the objective" in str(found.guarantee.failure)


@pytest.mark.parametrize("double", [False, True])
def test_rounding_ends_a_run(double: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient of 1e-12 can be reached with images of float32: plain steps no longer lower J. The potential may be double."""
    monkeypatch.setattr(jobs, "EPOCH", 8)
    prior, blur = potential().double() if double else potential(), Blur(torch.ones(1, 1, 1), (1, *SIZE), padding="zeros")
    solver, y = objective(prior, tol=1e-12, weight=0.01), problem(None)[0][0, 0].numpy()
    found = large.solve(solver, y, blur, out=tmp_path / "run", max_iter=600)
    assert found.status == "rounding" and found.guarantee.proved and found.x.dtype == "float32"
    assert 1e-12 < found.stationarity < 1e-6  # type: ignore[operator]


def test_a_worker_gets_all_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bytes."""
    update = jobs.Descent.update
    monkeypatch.setattr(jobs.Descent, "update", lambda job, k, i, p: update(pickle.loads(pickle.dumps(job)), k, i, p))
    assert in_folder(tmp_path / "run", max_iter=3).history.iterations == 3


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"solver": Variational(GradientStepPotential(size=(4, 3, 2)))},
            InputError,
            "a RidgePotential, or a denoiser; got Gradient",
        ),
        ({"solver": objective(potential(in_channels=3))}, ShapeError, r"\(B, 3, H, W\)"),
        ({"solver": objective(accuracy=1e-3)}, GuaranteeError, "an `accuracy` was asked for"),
        ({"padding": "reflect"}, InputError, "circular, zeros, valid; got padding 'reflect'"),
    ],
)
def test_what_does_not_run_is_refused(change: dict[str, Any], error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words) as caught:
        in_folder(tmp_path / "run", **change)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_replaced_part_is_refused(tmp_path: Path) -> None:
    prior = potential()
    prior.activation.forward = lambda u, s: u  # type: ignore[method-assign]
    with pytest.raises(InputError, match="certificate"):
        in_folder(tmp_path / "run", None, objective(prior))


def test_another_weight_is_another_run(tmp_path: Path) -> None:
    in_folder(tmp_path / "run", max_iter=1)
    with pytest.raises(InputError, match="other settings"):
        in_folder(tmp_path / "run", solver=objective(weight=0.3), max_iter=1)
    with pytest.raises(InputError, match="other potential"):
        in_folder(tmp_path / "run", solver=objective(potential(filters=3)), max_iter=1)
