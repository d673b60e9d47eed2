"""The experiments: data, cells that resume, side-by-side training, tables, and the command."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from pnp_lip.command_line import main
from pnp_lip.errors import InputError
from pnp_lip.theory import FixedWidthNetwork, UnboundedWidthNetwork, seal
from pnp_lip.theory.experiments import (
    Experiment,
    approximation_rate_experiment,
    constraint_cost_experiment,
    run_experiment,
    two_moons_experiment,
)
from pnp_lip.theory.experiments.approximation_rate import circle_distance, extend, interpolate
from pnp_lip.theory.experiments.classification import (
    Objective,
    Schedule,
    digits_table,
    draw_digits,
    evaluate,
    gradient_norms,
    largest_gradient_norm,
    load_digits,
    train_side_by_side,
    two_moons,
)


def test_two_moons_are_stratified_standardised_and_disjoint() -> None:
    split = two_moons()
    assert split.train_x.shape == (800, 2) and split.test_x.shape == (3200, 2)
    assert int(split.train_y.sum()) == 400 and int(split.test_y.sum()) == 1600
    together = torch.cat([split.train_x, split.test_x])
    assert torch.allclose(together.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(together.std(0), torch.ones(2), atol=1e-3)
    assert len(torch.unique(together, dim=0)) == 4000
    assert torch.equal(two_moons(400).train_x, two_moons(400).train_x)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


def test_digits_from_both_kinds_of_files(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (10, 4, 4), dtype=np.uint8)
    labels = generator.integers(0, 10, 10, dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    split = load_digits(tmp_path / "digits.npz")
    assert len(split.train_x) == 8 and len(split.test_x) == 2
    assert np.array_equal((split.test_x.numpy() * 255).round().reshape(2, 4, 4), images[8:])
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    write_idx(raw / "train-images-idx3-ubyte", images)
    write_idx(raw / "train-labels-idx1-ubyte", labels)
    write_idx(raw / "t10k-images-idx3-ubyte", images[:3])
    write_idx(raw / "t10k-labels-idx1-ubyte", labels[:3])
    folder = load_digits(tmp_path)
    assert np.array_equal((folder.train_x.numpy() * 255).round().reshape(10, 4, 4), images)
    assert folder.test_y.tolist() == labels[:3].tolist()
    whole = (raw / "t10k-labels-idx1-ubyte").read_bytes()
    for damaged in (whole[:-1], b"none", b"", b"\x00\x00\x08\x01"):
        (raw / "t10k-labels-idx1-ubyte").write_bytes(damaged)
        with pytest.raises(InputError, match="no digits in"):
            load_digits(tmp_path)


def test_digits_refuse(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_digits(tmp_path / "none.npz")
    with pytest.raises(InputError, match="--data"):
        load_digits(tmp_path)
    (tmp_path / "c.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="no digits"):
        load_digits(tmp_path / "c.npz")
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="images"):
        load_digits(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=np.zeros((3, 2, 2)), labels=np.zeros(3))
    with pytest.raises(InputError, match="uint8"):
        load_digits(tmp_path / "b.npz")


def test_cells_are_computed_once_and_survive_an_interruption(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute(i: int, fail: bool) -> dict[str, int]:
        calls.append(i)
        if fail:
            raise KeyboardInterrupt
        return {"value": i}

    def draw(axis: Axes, cells: object) -> None:
        axis.plot([1], [1], label="one")

    def experiment(fail: bool, settings: int = 0) -> Experiment:
        cells = {str(i): functools.partial(compute, i, fail and i == 2) for i in range(3)}
        return Experiment("trial", {"s": settings}, cells, lambda r: str(len(r)), draw)

    seen: list[tuple[int, int, str]] = []
    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment(True), tmp_path, lambda *now: seen.append(now))
    assert seen == [(1, 3, "0"), (2, 3, "1"), (3, 3, "2")] and not (tmp_path / "trial.md").exists()
    records = run_experiment(experiment(False), tmp_path, lambda *now: seen.append(now))
    assert calls == [0, 1, 2, 2] and [r["value"] for r in records.values()] == [0, 1, 2]
    assert seen[3:] == [(1, 1, "2")] and (tmp_path / "trial.md").read_text() == "3" and (tmp_path / "trial.png").exists()
    with pytest.raises(InputError, match="other settings"):
        run_experiment(experiment(False, settings=1), tmp_path, lambda *now: None)
    (tmp_path / "trial.json").write_text("[]")
    with pytest.raises(InputError, match="no record"):
        run_experiment(experiment(False), tmp_path, lambda *now: None)


@pytest.mark.parametrize("name", ["two-moons", "mnist", "constraint-cost", "approximation-rate"])
def test_the_tables_of_the_documentation_are_made_of_the_committed_records(name: str, tmp_path: Path) -> None:
    """To the byte; and a run with the same settings takes up the committed cells instead of computing them again."""
    folder = Path(__file__).parents[1] / "docs"
    content = json.loads((folder / "theory" / f"{name}.json").read_text())
    if name == "mnist":
        cells = sorted(content["cells"].items(), key=lambda item: (item[1]["width"], item[1]["depth"]))
        table = digits_table(dict(cells))
        draw_digits(Figure().subplots(), dict(cells))
    else:
        makers = {
            "two-moons": two_moons_experiment,
            "constraint-cost": constraint_cost_experiment,
            "approximation-rate": approximation_rate_experiment,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        records = run_experiment(makers[name](), tmp_path, lambda *now: pytest.fail("computed anew"))
        assert records == content["cells"]
        assert (tmp_path / f"{name}.png").is_file() == (folder / "theory" / f"{name}.png").is_file()
        table = (tmp_path / f"{name}.md").read_text()
    page = (folder / "theory.md").read_text()
    assert page.split(f"<!-- {name}: begin -->\n")[1].split(f"<!-- {name}: end -->")[0] == table


def test_networks_trained_side_by_side_do_not_see_each_other() -> None:
    split = two_moons(400)
    results = []
    for companions in (0, 2):
        networks = []
        for seed in range(1 + companions):
            torch.manual_seed(seed)
            networks.append(FixedWidthNetwork(2, depth=2))
        # the batches of the first network depend on how many there are, so all points form one batch
        schedule = Schedule(epochs=3, batch=10 * len(split.train_x))
        train_side_by_side(networks, [Objective()] * len(networks), split, schedule)
        results.append(networks[0].state_dict())
    for name, value in results[0].items():
        assert torch.allclose(value, results[1][name], atol=1e-4), name


def test_the_constraint_costs_no_accuracy_and_the_lift_left_free_breaks_it() -> None:
    torch.manual_seed(0)
    split = two_moons()
    networks = [UnboundedWidthNetwork(2, width=5, depth=2) for _ in range(2)]
    protocols = [Objective(1.0, free_lift=True), Objective(20.0)]
    settings = Schedule(epochs=150, learning_rate=1e-2)
    train_side_by_side(networks, protocols, split, settings)
    free, held = networks[0], seal(networks[1])
    found = evaluate(held, split, [0.0, 0.1, 10.0], 200)
    assert found["accuracy"] > 0.985 and found["gradient_found"] <= 1
    assert found["gradient_found"] == largest_gradient_norm(held, split.test_x[:200])
    assert largest_gradient_norm(free, split.test_x[:200]) > 1.5
    shares = found["robust_accuracy"]
    assert 0.985 < shares[0] >= shares[1] > 0.5 and shares[2] == 0


def test_gradient_search_finds_a_hidden_slope() -> None:
    class Hidden(nn.Module):
        """Slope 3 inside a small disc, 0 outside, in the first output; slope 1 in the second."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            radius = (x - 0.3).norm(dim=1)
            return torch.stack([3 * torch.minimum(radius, torch.full_like(radius, 0.2)), x[:, 0]], 1)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=generator)
    assert torch.allclose(gradient_norms(Hidden(), torch.ones(2, 2)), torch.ones(2))
    assert largest_gradient_norm(Hidden(), x) == pytest.approx(3.0)


def test_interpolation_has_its_theoretical_error_and_extension_its_bound() -> None:
    record = interpolate(16)
    h = 2 * math.pi / 16
    assert record["error"] == pytest.approx(h**2 / 8, rel=0.05) and record["network_differs_by"] < 1e-12
    extended = extend(3)
    assert extended["network_differs_by"] < 1e-12 and extended["error"] < 2 * math.sqrt(2) / 2
    assert float(circle_distance(torch.tensor([[0.0, 0.7]]))) == pytest.approx(0.0, abs=1e-7)


def test_bad_use_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "two-moons", "--data", "x", "--out", str(tmp_path)]) == 2
    assert "--data is for mnist" in capsys.readouterr().err
    assert main(["experiment", "mnist", "--data", str(tmp_path / "none.npz"), "--out", str(tmp_path)]) == 2
    assert "No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["experiment", "three-moons"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two-moons", "mnist", "constraint-cost", "approximation-rate"])
def test_every_experiment_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["experiment", name, "--quick", "--quiet", "--out", str(tmp_path / "out")]
    if name == "mnist":
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (100, 28, 28), dtype=np.uint8)
        np.savez(tmp_path / "digits.npz", images=images, labels=np.arange(100, dtype=np.uint8) % 10)
        arguments += ["--data", str(tmp_path / "digits.npz")]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    written = (".json", ".md", *([".png"] if name in ("mnist", "approximation-rate") else []))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}{suffix}" for suffix in written}
    content = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert content["cells"] and all(record["cpu_seconds"] >= 0 for record in content["cells"].values())
    assert main(arguments) == 0  # all cells are there already
    assert capsys.readouterr().out == first
    assert json.loads((tmp_path / "out" / f"{name}.json").read_text()) == content
