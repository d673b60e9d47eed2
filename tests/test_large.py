"""Images larger than memory: the in-memory map to the bit in every chunking, and after every kill."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip import ClippedDenoiser, GradientFlowDenoiser, firm, large, relax
from pnp_lip.benchmarks.large import pass_table
from pnp_lip.errors import CertificateError, GuaranteeError, InputError, ShapeError
from pnp_lip.large import run
from pnp_lip.large.jobs import Averaged
from pnp_lip.layers import project
from pnp_lip.operators import Blur
from pnp_lip.operators.blur_windows import WINDOWED_PADDINGS, BlurWindows
from pnp_lip.solvers import RED, Anderson, Denoising, ForwardBackward, LeastSquares

pytest.importorskip("zarr", reason="needs the extra [large]")

SIZE = (96, 112)
AVX512 = torch.cpu._is_avx512_supported()


def network(**changes: Any) -> GradientFlowDenoiser:
    torch.manual_seed(0)
    config = {"hidden_channels": 8, "kernel_size": 5, "dilations": (1, 1), **changes}
    return project(GradientFlowDenoiser(**config)).eval().requires_grad_(False)


def expansive() -> GradientFlowDenoiser:
    denoiser = network()
    for weight in denoiser.parameters():
        weight.mul_(2)
    return denoiser


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def problem(padding: str = "zeros", channels: int = 1, *, per_channel: bool = False) -> tuple[Tensor, Blur]:
    """Data (1, C, H, W) of an image of noise, under a PSF that is neither symmetric nor odd along both axes."""
    psf = rand(channels if per_channel else 1, 4, 7, seed=2)
    blur = Blur(psf / psf.sum((1, 2), keepdim=True), (channels, *SIZE), padding=padding)
    y = blur(rand(1, channels, *SIZE))
    return y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(3)), blur


def solver(denoiser: Any = None, **changes: Any) -> ForwardBackward:
    settings = {"sigma": 0.05, "step": 1.5, "box": (0.0, 1.0), "tol": 0.0, **changes}
    return ForwardBackward(network() if denoiser is None else denoiser, **settings)


def start(y: Tensor, blur: Blur) -> Tensor:
    """The data, extended by their edge and clipped."""
    h, w = blur.psf.shape[-2:]
    before = ((h - 1 - h // 2, w - 1 - w // 2) if blur.padding == "valid" else (0, 0), y.shape[-2:], SIZE)
    rows, columns = (torch.arange(n).sub(b).clamp(0, m - 1) for b, m, n in zip(*before, strict=True))
    return y[..., rows, :][..., columns].clamp(0, 1).contiguous()


def test_windows_are_the_blur_and_its_adjoint() -> None:
    """Against ``Blur`` in float64, in windows at every border; a PSF per channel."""
    for padding in WINDOWED_PADDINGS:
        psf = rand(3, 4, 7, seed=2).double() - 0.3
        blur = Blur(psf, (3, *SIZE), padding=padding, dtype=torch.float64)
        x = rand(1, 3, *SIZE).double()
        y = rand(1, *blur.data_size, seed=4).double()
        expected = blur.A_adjoint(blur.A(x) - y)[0]
        window = BlurWindows.of(blur)
        for rows, columns in ((range(96), range(112)), (range(0, 2), range(30, 70)), (range(95, 96), range(109, 112))):
            place = (slice(None), slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            gradient = window.gradient(numbers(x[0]), numbers(y[0]), rows, columns)
            torch.testing.assert_close(gradient, expected[place], rtol=0, atol=1e-12)
            residual = window.residual(numbers(x[0]), numbers(y[0]), rows, columns)
            found = F.pad(blur.A(x)[0] - y[0], (0, 112 - y.shape[-1], 0, 96 - y.shape[-2]))[place]
            torch.testing.assert_close(residual, found, rtol=0, atol=1e-12)
        assert window.norm_upper >= blur.norm_upper * (1 - 1e-12)


def numbers(x: Tensor) -> Any:
    """A Zarr array in memory."""
    import zarr

    return zarr.array(x.numpy())


@pytest.mark.parametrize("padding", WINDOWED_PADDINGS)
def test_every_chunking_gives_the_bits_of_the_whole(padding: str, tmp_path: Path) -> None:
    y, blur = problem(padding)
    found = [
        large.solve(solver(), y[0, 0].numpy(), blur, out=tmp_path / str(i), chunk=chunk, max_iter=2)
        for i, chunk in enumerate((2048, (40, 37), (64, 50), (5, 200)))  # the last one is smaller than the halo of 8
    ]
    assert len({len(list((tmp_path / str(i)).glob("x-2/c/*/*"))) for i in range(4)}) == 4, "nothing was cut"
    whole = found[0].x[:]
    for result in found[1:]:
        np.testing.assert_allclose(result.x[:], whole, rtol=0, atol=1e-6)
        assert np.array_equal(result.x[:], whole) or not AVX512
        np.testing.assert_allclose(result.history.residual, found[0].history.residual, rtol=1e-6)
    known = solver().solve(y, blur, x0=start(y, blur), max_iter=2)
    np.testing.assert_allclose(whole, known.x[0, 0].numpy(), rtol=0, atol=1e-6)


def test_the_in_memory_solver_after_thirty_iterations(tmp_path: Path) -> None:
    y, blur = problem("valid", 3, per_channel=True)
    denoiser = network(in_channels=3)
    found = large.solve(solver(denoiser), y[0].numpy(), blur, out=tmp_path / "run", chunk=(2048, 56), max_iter=30)
    known = solver(denoiser).solve(y, blur, x0=start(y, blur), max_iter=30)
    assert found.x.shape == (3, *SIZE) and found.status == known.status == "max_iter"
    np.testing.assert_allclose(found.x[:], known.x[0].numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.history.relative, known.history.relative, rtol=1e-3)
    assert found.guarantee.proved and found.guarantee.theorem == known.guarantee.theorem
    assert found.guarantee.existence == known.guarantee.existence and found.guarantee.rate == known.guarantee.rate


@pytest.mark.parametrize("wrap", [lambda d: d, firm, lambda d: ClippedDenoiser(relax(d, 0.7))])
def test_denoising_is_one_application(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    denoiser, y = wrap(network()), rand(1, 1, *SIZE)
    found = large.solve(Denoising(denoiser, sigma=0.1), y[0, 0].numpy(), out=tmp_path / "run", chunk=48)
    np.testing.assert_allclose(found.x[:], denoiser(y, 0.1)[0, 0].numpy(), rtol=0, atol=1e-6)
    assert np.array_equal(found.x[:], denoiser(y, 0.1)[0, 0].numpy()) or not AVX512
    assert found.status == "converged" and found.history.iterations == 1 and found.guarantee.proved


def test_the_default_step_and_convergence(tmp_path: Path) -> None:
    y, blur = problem()
    found = large.solve(
        solver(relax(network(), 0.5), step=None, tol=0.02), y[0, 0].numpy(), blur, out=tmp_path / "run", max_iter=50
    )
    assert found.status == "converged" and found.history.relative[-1] <= 0.02 < found.history.relative[-2]
    assert (
        found.parameters["step"] == pytest.approx(1.9, rel=1e-6)
        and found.parameters["step"] * BlurWindows.of(blur).norm_upper ** 2 < 2
    )


# Killed runs


def run_in(folder: Path, max_iter: int = 5) -> large.LargeResult:
    y, blur = problem()
    return large.solve(solver(), y[0, 0].numpy(), blur, out=folder, chunk=(48, 56), max_iter=max_iter)


def in_child(work: Callable[[], object], kill_after: float | None = None) -> int | None:
    """Run in a forked process, which SIGKILL ends after so many seconds; its exit code."""

    def alone() -> None:
        torch.set_num_threads(1)  # the fork has no other threads, and torch would wait for them forever
        work()

    child = multiprocessing.get_context("fork").Process(target=alone)
    child.start()
    if kill_after is not None:
        time.sleep(kill_after)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
    child.join(120)
    return child.exitcode


needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that is killed")


@needs_fork
def test_killed_at_random_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    began = time.perf_counter()
    assert in_child(lambda: run_in(tmp_path / "whole")) == 0
    seconds, whole = time.perf_counter() - began, run_in(tmp_path / "whole")
    killed = 0
    for seed in range(3):
        draw, folder = random.Random(seed), tmp_path / str(seed)
        for _ in range(2):
            killed += in_child(lambda folder=folder: run_in(folder), draw.uniform(0, 0.8 * seconds)) == -signal.SIGKILL
        found = run_in(folder)
        assert found.x[:].tobytes() == whole.x[:].tobytes() and found.history == whole.history
    assert killed >= 3


@needs_fork
@pytest.mark.parametrize("moment", ["before", "half", "after"])
def test_killed_while_a_chunk_is_written(moment: str, tmp_path: Path) -> None:
    """Before it, with half of its bytes on the disk, and before it is noted."""
    whole, update = run_in(tmp_path / "whole"), Averaged.update
    assert len(list((tmp_path / "whole" / "x-5" / "c").glob("*/*"))) == 4

    def until_the_seventh(job: Averaged, k: int, i: int, p: Any) -> Any:
        if (k, i) == (1, 2) and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = update(job, k, i, p)
        if (k, i) == (1, 2):
            path = sorted(job.array(k + 1).glob("c/*/*"))[i]
            path.write_bytes(path.read_bytes()[:: 2 if moment == "half" else 1])
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    def work() -> None:
        Averaged.update = until_the_seventh  # type: ignore[method-assign]  # in the child alone
        run_in(tmp_path / "run")

    assert in_child(work) == -signal.SIGKILL
    assert run_in(tmp_path / "run", max_iter=1).history.iterations == 1  # which is done, and leaves the second as it is
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["iteration"] == 1 and set(state["done"]) == {"0", "1"}
    found = run_in(tmp_path / "run")
    assert found.x[:].tobytes() == whole.x[:].tobytes() and found.history == whole.history


def test_a_resumed_run_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(tmp_path / "run", max_iter=2)
    calls, update = [], Averaged.update
    monkeypatch.setattr(Averaged, "update", lambda job, k, i, p: calls.append((k, i)) or update(job, k, i, p))
    run_in(tmp_path / "run", max_iter=2)
    assert calls == []
    found = run_in(tmp_path / "run", max_iter=3)
    assert calls == [(2, i) for i in range(4)] and found.path.name == "x-3"
    assert found.x[:].tobytes() == run_in(tmp_path / "whole", max_iter=3).x[:].tobytes()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["data", "state.json", "x-3"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """Two workers, forks of a process that has imported everything and computed nothing: they start at once."""
    distributed = pytest.importorskip("distributed", reason="needs the extra [large]")
    import dask

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        distributed.utils.get_mp_context().set_forkserver_preload(["distributed", "zarr", "pnp_lip.large"])
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield cluster, client


def run_on(cluster: tuple[Any, Any], folder: Path, kill: Callable[[int], bool] = lambda done: False) -> tuple[Any, int, int]:
    """``run_in`` by the workers, of which one is killed whenever ``kill`` says so of the number of chunks that are noted.

    Returns the result, how many chunks the workers computed, and how many of these a killed worker may have taken with it:
    those that were not noted, and one whose end was not yet known.
    """
    import dask.array
    from distributed import SchedulerPlugin

    class Count(SchedulerPlugin):
        computed = noted = lost = 0

        def transition(self, key: object, start: str, finish: str, *args: object, **kwargs: object) -> None:
            self.computed += (start, finish) == ("processing", "memory") and str(key).startswith("update")  # not of the data

    count, update, (y, blur) = Count(), run.updates, problem()

    def killing(job: Averaged, k: int, chunks: list[int], p: Any, client: Any) -> Any:
        for found in update(job, k, chunks, p, client):
            count.noted += 1
            yield found  # and so noted in the state
            if kill(count.noted):
                count.lost += count.computed - count.noted + 1

    cluster[0].scheduler.add_plugin(count, name="count")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "updates", killing)
        data = dask.array.from_array(y[0, 0].numpy(), chunks=50)
        found = large.solve(solver(), data, blur, out=folder, chunk=(48, 56), max_iter=5, client=cluster[1])
    cluster[1].run_on_scheduler(lambda dask_scheduler: dask_scheduler.remove_plugin(name="count"))
    return found, count.computed, count.lost


def kill_one(cluster: tuple[Any, Any], draw: random.Random) -> bool:
    """SIGKILL to one of the workers."""
    os.kill(draw.choice(sorted(cluster[1].run(os.getpid).values())), signal.SIGKILL)
    return True


@needs_fork
def test_a_killed_worker_changes_no_byte(cluster: tuple[Any, Any], tmp_path: Path) -> None:
    """It is killed while the third iteration of five is half done; what was noted by then is not computed again."""
    whole = run_in(tmp_path / "whole")
    draw = random.Random(0)
    found, computed, lost = run_on(cluster, tmp_path / "run", lambda done: done == 10 and kill_one(cluster, draw))
    assert found.x[:].tobytes() == whole.x[:].tobytes()
    assert found.history == whole.history and 20 <= computed <= 20 + lost


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_twenty_killed_workers_change_no_byte(seed: int, cluster: tuple[Any, Any], tmp_path: Path) -> None:
    """Which of them, after which chunk, and how long after it, is drawn. Each has workers of its own: Dask does not start one
    again that dies before its nanny has seen it start.
    """
    whole, draw = run_in(tmp_path / "whole"), random.Random(seed)
    moment, wait = draw.randrange(1, 20), draw.uniform(0, 0.05)

    def kill(done: int) -> bool:
        if done != moment:
            return False
        time.sleep(wait)  # somewhere in the chunks that follow
        return kill_one(cluster, draw)

    found, computed, lost = run_on(cluster, tmp_path / "run", kill)
    assert found.x[:].tobytes() == whole.x[:].tobytes() and found.history == whole.history
    assert 20 <= computed <= 20 + lost and lost > 0


@needs_fork
def test_forked_workers_are_refused(tmp_path: Path) -> None:
    """They hang: libgomp waits for the threads of a pool that the fork has not."""
    distributed = pytest.importorskip("distributed", reason="needs the extra [large]")
    import dask

    y, blur = problem()
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "fork"}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(InputError, match="workers are forks"),
    ):
        large.solve(solver(), y[0, 0].numpy(), blur, out=tmp_path / "run", client=client)
    assert not (tmp_path / "run").exists()


def test_a_chunk_that_ends_every_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra [large]")

    def killed(*arguments: Any, **settings: Any) -> Any:
        raise distributed.KilledWorker("update", None, 3)

    class Client:
        def map(self, *arguments: Any, **settings: Any) -> list[Any]:
            return []

        def run(self, function: Callable[[], str], on_error: str) -> dict[str, str]:
            return {"worker": function()}

    monkeypatch.setattr(distributed, "as_completed", killed)
    y, blur = problem()
    with pytest.raises(InputError, match="a smaller `chunk` needs less"):
        large.solve(solver(), y[0, 0].numpy(), blur, out=tmp_path / "run", client=Client())


# What is refused, in one line


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"solver": solver(sigma=0.06)}, "other settings"),
        ({"solver": solver(step=1.4)}, "other settings"),
        ({"solver": solver(network(kernel_size=7))}, "other denoiser"),
        ({"solver": solver(relax(network(), 0.9))}, "other denoiser"),
        ({"chunk": 30}, "other chunk"),
        ({"y": 0.5 * problem()[0][0, 0].numpy()}, "other data"),
        ({"physics": problem("circular")[1]}, "other padding"),
        ({"physics": Blur(torch.ones(4, 7) / 28, (1, *SIZE), padding="zeros")}, "other psf"),
    ],
)
def test_another_run_is_refused(other: dict[str, Any], words: str, tmp_path: Path) -> None:
    y, blur = problem()
    given = {"solver": solver(), "y": y[0, 0].numpy(), "physics": blur, "chunk": 40, "max_iter": 1, "out": tmp_path / "run"}
    large.solve(**given)
    with pytest.raises(InputError, match=words) as caught:
        large.solve(**{**given, **other})
    assert "\n" not in str(caught.value)


def test_a_run_killed_before_its_first_state_starts_anew(tmp_path: Path) -> None:
    (tmp_path / ".state.17.part.json").write_text("{")
    assert run_in(tmp_path, max_iter=1).history.iterations == 1


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for name, text in (("photo.txt", "mine"), ("state.json", "{"), ("state.json", '{"iteration": 3}')):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
        with pytest.raises(InputError, match="holds no run of this package"):
            run_in(tmp_path / "out")
    assert (tmp_path / "out" / "photo.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"y": np.zeros(SIZE, np.uint8)}, ShapeError, "floating-point"),
        ({"y": np.zeros((2, 1, *SIZE), np.float32)}, ShapeError, r"\(H, W\) or \(C, H, W\)"),
        ({"y": np.zeros((50, 50), np.float32)}, ShapeError, r"\(1, 96, 112\); got \(50, 50\)"),
        ({"y": np.full(SIZE, np.nan, np.float32)}, InputError, "NaN or infinite values in rows 0 to 39"),
        ({"y": torch.zeros(SIZE)}, ShapeError, "numpy array; got Tensor"),
        ({"y": [[0.0]]}, ShapeError, "numpy array; got list"),
        ({"chunk": 0}, InputError, "at least 1; got 0"),
        ({"chunk": (8, 8, 8)}, InputError, "rows and columns"),
        (
            {"physics": Blur(torch.ones(3, 3) / 9, (1, *SIZE), padding="reflect")},
            InputError,
            "circular, zeros, valid; got padding 'reflect'",
        ),
        ({"physics": None}, InputError, "got NoneType"),
        ({"solver": Denoising(network())}, InputError, "no physics"),
        ({"solver": RED(network())}, InputError, "got RED"),
        ({"solver": solver(scheme=Anderson())}, InputError, "plain scheme"),
        ({"solver": solver(data_term=LeastSquares(norm_upper=1.0))}, InputError, "plain scheme"),
        ({"solver": solver(step=2.5)}, GuaranteeError, r"\(0, 2\)"),
        ({"solver": solver(network(in_channels=3))}, ShapeError, r"\(B, 3, H, W\)"),
        ({"solver": solver(network().double())}, ShapeError, "float64"),
        ({"solver": solver(network(padding_mode="circular"))}, InputError, "circular padding"),
        ({"solver": solver(lambda x, s: x)}, InputError, "got function"),
        (
            {"solver": solver(expansive())},
            CertificateError,
            "must not exceed 2",
        ),
        ({"max_iter": 0}, InputError, "max_iter"),
    ],
)
def test_what_does_not_run_is_refused(change: dict[str, Any], error: type[Exception], words: str, tmp_path: Path) -> None:
    y, blur = problem()
    given = {"solver": solver(), "y": y[0, 0].numpy(), "physics": blur, "chunk": 40, "max_iter": 1, "out": tmp_path / "run"}
    with pytest.raises(error, match=words) as caught:
        large.solve(**{**given, **change})
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(InputError, match=r"pip install 'pnp-lip\[large\]'"):
        run_in(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_contradicts_the_theorem_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The denoiser of the workers is not the one that was certified."""
    update = Averaged.update

    def tampered(job: Averaged, k: int, i: int, p: Any) -> Any:
        _, (change, size) = update(job, k, i, p)
        return i, (change * 4**k, size)

    monkeypatch.setattr(Averaged, "update", tampered)
    found = run_in(tmp_path / "run")
    assert not found.guarantee.proved and "grew" in str(found.guarantee.failure)


def test_the_documented_pass_is_the_recorded_one() -> None:
    root = Path(__file__).resolve().parents[1]
    with (root / "benchmarks" / "records" / "large-pass.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert pass_table(rows) in (root / "docs" / "large.md").read_text("utf-8")
    assert max(int(row["peak_mb"]) for row in rows) < 3000
    assert {float(row["difference"]) for row in rows if row["difference"]} == {0.0}
