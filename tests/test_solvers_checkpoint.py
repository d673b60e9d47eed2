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
        (Halpern(), 11),
        pytest.param(KrasnoselskiiMann(), 11, marks=pytest.mark.slow),
        pytest.param(Anderson(), 11, marks=pytest.mark.slow),
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


def forge(path, change):
    """Change what a checkpoint holds; ``change`` gets its state."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def stopped_early(state):
    """Every image at the second iterate, said to have converged."""
    for track in state["tracks"]:
        track["status"], track["relative"][-1], track["residual"][-1] = "converged", 0.0, 0.0


def other_image(state):
    stopped_early(state)
    state["x"] = torch.rand_like(state["x"])


def other_state(state):
    other_image(state)
    state["before"] = (state["x"], state["x"])


@pytest.mark.parametrize("scheme", [KrasnoselskiiMann(), pytest.param(Halpern(), marks=pytest.mark.slow), Anderson()], ids=str)
@pytest.mark.parametrize("lie", [stopped_early, other_image, other_state])
def test_a_forged_convergence_is_not_believed(lie, scheme, tmp_path):
    _, physics, y = setting()
    path, solver = tmp_path / "run.pt", solver_for(scheme)
    whole = solver.solve(y, physics)
    solver.solve(y, physics, max_iter=2, checkpoint=path)
    forge(path, lie)
    resumed = solver.solve(y, physics, checkpoint=path)
    assert resumed.status == "converged" and resumed.iterations > 2
    assert cases.relative(resumed.x, whole.x) < 1e-3
    assert max(h.relative[1] for h in resumed.histories) > 1e-6  # the number that the file gave as 0


def test_an_image_that_did_converge_is_the_one_that_t_gives(tmp_path):
    _, physics, y = setting()
    path, solver = tmp_path / "run.pt", solver_for(KrasnoselskiiMann())
    whole = solver.solve(y, physics, checkpoint=path)
    forge(path, lambda s: s.update(x=torch.rand_like(s["x"])))
    again = solver.solve(y, physics, checkpoint=path)
    assert again.status == "converged" and again.iterations == whole.iterations
    assert cases.relative(again.x, whole.x) < 1e-6


def spoil(name, value):
    return lambda s: s.__setitem__(name, value(s))


def spoil_track(name, value):
    return lambda s: s["tracks"][1].__setitem__(name, value(s["tracks"][1]))


def spoil_memory(name, value):
    return lambda s: s["memory"].__setitem__(name, value(s["memory"].get(name)))


IMPOSSIBLE = {
    "negative count": spoil("k", lambda s: -3),
    "count that is a truth": spoil("k", lambda s: True),
    "count below the records": spoil("k", lambda s: 2),
    "nan image": spoil("x", lambda s: s["x"] * float("nan")),
    "nan state": spoil("v", lambda s: s["v"] * float("nan")),
    "other dtype": spoil("v", lambda s: s["v"].double()),
    "other shape": spoil("x", lambda s: s["x"][:2]),
    "state before": spoil("before", lambda s: s["before"][:1]),
    "infinite state before": spoil("before", lambda s: (s["v"] / 0, s["v"])),
    "no tensor": spoil("v", lambda s: "v"),
    "seconds": spoil("seconds", lambda s: -1.0),
    "divisible": spoil("divisible", lambda s: "yes"),
    "broken": spoil("broken", lambda s: 3),
    "batch out of range": spoil("batch", lambda s: [0, 1, 7]),
    "batch without a running image": spoil("batch", lambda s: [0]),
    "batch twice": spoil("batch", lambda s: [0, 1, 1, 2]),
    "too few records": spoil("tracks", lambda s: s["tracks"][:2]),
    "too many records": spoil("tracks", lambda s: s["tracks"] * 2),
    "unknown field": spoil("surprise", lambda s: 1),
    "status": spoil_track("status", lambda t: "proved"),
    "long residuals": spoil_track("residual", lambda t: t["residual"] * 2),
    "short residuals": spoil_track("residual", lambda t: t["residual"][:1]),
    "no residuals": spoil_track("residual", lambda t: []),
    "nan residual": spoil_track("residual", lambda t: [*t["residual"][:-1], float("nan")]),
    "text residual": spoil_track("relative", lambda t: [*t["residual"][:-1], "0"]),
    "misfit": spoil_track("misfit_at", lambda t: [99] * len(t["misfit"])),
    "infinite scale": spoil_track("scale", lambda t: float("inf")),
    "negative prox error": spoil_track("prox_error", lambda t: -1.0),
    "memory of another scheme": spoil("memory", lambda s: {"before": s["v"]}),
    "anchor": spoil_memory("anchor", lambda a: a * float("nan")),
    "negative counter": spoil_memory("count", lambda c: c - 5),
    "counter ahead": spoil_memory("count", lambda c: c + 1e9),
    "short counter": spoil_memory("count", lambda c: c[:1]),
    "negative first": spoil_memory("first", lambda c: c - 1e9),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    _, physics, y = setting()
    path = tmp_path_factory.mktemp("stored") / "run.pt"
    solver_for(Halpern()).solve(y, physics, checkpoint=path, max_iter=5)
    return path.read_bytes()


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_state_that_no_run_has_is_refused(name, stored, tmp_path):
    _, physics, y = setting()
    path = tmp_path / "run.pt"
    path.write_bytes(stored)
    forge(path, IMPOSSIBLE[name])
    with pytest.raises(InputError, match="cannot be the state of this run"):
        solver_for(Halpern()).solve(y, physics, checkpoint=path)


@pytest.mark.parametrize("name", ["size", "taken", "first"])
def test_numbers_that_anderson_cannot_have_are_refused(name, tmp_path):
    _, physics, y = setting()
    path = tmp_path / "run.pt"
    solver_for(Anderson()).solve(y, physics, checkpoint=path, max_iter=5)
    for change in (lambda c: c - 1e9, lambda c: c + float("inf")):
        forge(path, spoil_memory(name, change))
        with pytest.raises(InputError, match="numbers of its scheme"):
            solver_for(Anderson()).solve(y, physics, checkpoint=path)
        path.unlink()
        solver_for(Anderson()).solve(y, physics, checkpoint=path, max_iter=5)


def test_the_watch_goes_on_after_resuming(tmp_path):
    """The step on which a run was cut in two is watched like any other."""
    _, physics, y = setting()
    path, solver = tmp_path / "run.pt", solver_for(KrasnoselskiiMann())
    solver.solve(y, physics, max_iter=4, checkpoint=path)
    forge(path, lambda s: s.update(v=s["v"] + 1.0, before=(s["before"][0], s["before"][1])))
    assert solver.solve(y, physics, checkpoint=path).guarantee.proved  # any v may follow
    state = torch.load(path, weights_only=True)
    assert len(state["before"]) == 2 and state["before"][0].shape == y.shape
