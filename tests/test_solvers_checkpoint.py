"""Checkpoints: a run killed at any iteration goes on and ends at the same result, bit for bit."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys

import pytest
import solver_cases as cases
import torch

from pnp_lip import ClippedDenoiser, relax
from pnp_lip.errors import InputError
from pnp_lip.operators import Blur
from pnp_lip.solvers import (
    Anderson,
    Checkpoint,
    ForwardBackward,
    Halpern,
    KrasnoselskiiMann,
    LeastSquares,
    PrimalDual,
    WeightedLeastSquares,
)
from pnp_lip.solvers import solver as solver_module


@pytest.fixture(autouse=True)
def one_thread():
    """A forked child has one thread; the parent has to round the same way for the results to agree bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def setting():
    physics = cases.blur(torch.float32)
    y = physics.A(cases.random(3, *cases.SHAPE, seed=5, dtype=torch.float32) * torch.tensor([0.01, 1, 9]).reshape(3, 1, 1, 1))
    return cases.denoiser(limit=0.3), physics, y


def solver_for(scheme):
    return ForwardBackward(setting()[0], sigma=0.1, tol=1e-6, scheme=scheme)


def run_and_die(scheme, path, at):
    """Runs in a child process, which kills itself without any chance to clean up."""
    torch.set_num_threads(1)
    _, physics, y = setting()

    def kill(k, x, relative):
        if k == at:
            os.kill(os.getpid(), signal.SIGKILL)

    solver_for(scheme).solve(y, physics, reference=y, checkpoint=Checkpoint(path, every=4), callback=kill)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork, no SIGKILL")
@pytest.mark.parametrize(
    ("scheme", "at"),
    [
        (KrasnoselskiiMann(), 1),
        (Anderson(), 4),
        (KrasnoselskiiMann(), 11),
        (Halpern(), 11),
        (Anderson(), 11),
    ],
)
def test_a_killed_run_resumes_to_the_same_result(scheme, at, tmp_path):
    _, physics, y = setting()
    path = tmp_path / "run.pt"
    child = multiprocessing.get_context("fork").Process(target=run_and_die, args=(scheme, path, at))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert path.exists() == (at > 4)  # the kill at iteration 4 strikes just before its checkpoint is written
    resumed_at = []
    resumed = solver_for(scheme).solve(y, physics, reference=y, checkpoint=path, callback=lambda k, x, r: resumed_at.append(k))
    whole = solver_for(scheme).solve(y, physics, reference=y)
    assert resumed_at[0] == (9 if at == 11 else 1)
    assert torch.equal(resumed.x, whole.x) and resumed.histories == whole.histories
    assert (resumed.status, resumed.iterations) == (whole.status, whole.iterations) == ("converged", whole.iterations)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_finished_run_can_be_continued(tmp_path):
    net, physics, y = setting()
    path = tmp_path / "run.pt"
    solver = PrimalDual(net, sigma=0.1, tol=1e-6)
    whole = solver.solve(y, physics)
    solver.solve(y, physics, checkpoint=path, max_iter=10)
    ahead = solver.solve(y, physics, checkpoint=path)
    assert torch.equal(ahead.x, whole.x)
    assert [h.residual for h in ahead.histories] == [h.residual for h in whole.histories]
    again = solver.solve(y, physics, checkpoint=path, callback=lambda *_: pytest.fail("nothing was left to do"))
    assert torch.equal(again.x, whole.x)
    # A lower tolerance takes back images that had left the batch; its size then differs, and with it the rounding.
    path.unlink()
    dataclasses.replace(solver, tol=1e-2).solve(y, physics, checkpoint=path)
    further = solver.solve(y, physics, checkpoint=path)
    assert further.status == "converged" and cases.relative(further.x, whole.x) < 1e-5


def test_a_start_that_rounds_differently_is_the_same_run(tmp_path, monkeypatch):
    """Another number of threads changes the last digits of the derived start and of the bound of the norm."""
    net, physics, y = setting()
    path = tmp_path / "run.pt"
    solver = ForwardBackward(net, sigma=0.1, tol=1e-6)
    solver.solve(y, physics, checkpoint=path, max_iter=9)
    whole = solver.solve(y, physics)
    honest = solver_module.starting_point
    for change, accepted in ((1 + 3e-6, True), (1.01, False)):
        monkeypatch.setattr(solver_module, "starting_point", lambda y, physics, c=change: c * honest(y, physics))
        if accepted:
            resumed = solver.solve(y, physics, checkpoint=path)
            assert resumed.iterations > 9 and cases.relative(resumed.x, whole.x) < 1e-5
        else:
            with pytest.raises(InputError, match="another run"):
                solver.solve(y, physics, checkpoint=path)


def test_foreign_and_broken_files_are_refused(tmp_path):
    net, physics, y = setting()
    path = tmp_path / "run.pt"
    ForwardBackward(net, sigma=0.1).solve(y, physics, checkpoint=path, max_iter=3)
    for other, data in ((ForwardBackward(net, sigma=0.2), y), (ForwardBackward(net, sigma=0.1), y + 1e-3)):
        with pytest.raises(InputError, match="another run"):
            other.solve(data, physics, checkpoint=path)
    others = [
        ForwardBackward(net, sigma=0.1, scheme=KrasnoselskiiMann(0.9)),
        ForwardBackward(net, sigma=0.1, box=(0, 1)),
        ForwardBackward(net, sigma=0.1, data_term=LeastSquares(convexity=1e-9)),
        ForwardBackward(net, sigma=0.1, data_term=WeightedLeastSquares(torch.ones_like(y))),
        PrimalDual(cases.denoiser(limit=0.3), sigma=0.1),
    ]
    for other in others:
        with pytest.raises(InputError, match="another run"):
            other.solve(y, physics, checkpoint=path)
    with pytest.raises(InputError, match="another run"):  # the same data of another operator
        ForwardBackward(net, sigma=0.1).solve(y, cases.blur(torch.float32, padding="zeros"), checkpoint=path)
    with pytest.raises(InputError, match="another run"):
        ForwardBackward(net, sigma=0.1).solve(y, physics, x0=torch.zeros_like(y), checkpoint=path)
    with torch.no_grad():
        net.layers[0].weight.mul_(0.99)
    with pytest.raises(InputError, match="another run"):
        ForwardBackward(net, sigma=0.1).solve(y, physics, checkpoint=path)
    for junk in (b"", b"not a checkpoint", path.read_bytes()[:200]):
        path.write_bytes(junk)
        with pytest.raises(InputError, match="checkpoint"):
            ForwardBackward(net, sigma=0.1).solve(y, physics, checkpoint=path)
    with pytest.raises(InputError, match="directory"):
        Checkpoint(tmp_path)
    with pytest.raises(InputError, match="every"):
        Checkpoint(path, every=0)


def test_another_operator_is_noticed_although_the_start_is_given(tmp_path):
    net, physics, y = setting()
    other, x0 = Blur(physics.psf.flip(-1).roll(1, -1), cases.SHAPE), torch.zeros(3, *cases.SHAPE)
    solver = ForwardBackward(net, sigma=0.1, tol=1e-6, data_term=LeastSquares(norm_upper=1.1))
    first = solver.solve(y, physics, x0=x0, checkpoint=tmp_path / "run.pt")
    with pytest.raises(InputError, match="other data, forward model"):
        solver.solve(y, other, x0=x0, checkpoint=tmp_path / "run.pt")
    assert torch.equal(solver.solve(y, physics, x0=x0, checkpoint=tmp_path / "run.pt").x, first.x)


def test_another_setting_of_the_denoiser_is_noticed(tmp_path):
    net, physics, y = setting()
    for name, mine, other in (
        ("box", ClippedDenoiser(net), ClippedDenoiser(net, 0, 0.5)),
        ("theta", relax(net, 0.5), relax(net, 0.6)),
    ):
        path = tmp_path / name
        ForwardBackward(mine, sigma=0.1, tol=1e-3).solve(y, physics, checkpoint=path)
        with pytest.raises(InputError, match="another run"):
            ForwardBackward(other, sigma=0.1, tol=1e-3).solve(y, physics, checkpoint=path)
    ForwardBackward(net, tol=1e-3).solve(y, physics, checkpoint=tmp_path / "sigma")
    net.default_sigma *= 10
    with pytest.raises(InputError, match="another run"):
        ForwardBackward(net, tol=1e-3).solve(y, physics, checkpoint=tmp_path / "sigma")
