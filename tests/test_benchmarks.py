"""The benchmarks' framework: tuning, records that resume, priors that fail or are missing, data that is never tuned on."""

from __future__ import annotations

import dataclasses
import itertools
import json
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pnp_lip import GradientFlowDenoiser, load_pretrained, save_denoiser
from pnp_lip.benchmarks import photographs, tasks
from pnp_lip.benchmarks.command import BENCHMARKS, find_priors
from pnp_lip.benchmarks.comparison import (
    SETTLED,
    SLACK,
    Case,
    Comparison,
    denoise,
    largest_of_the_best,
    restore,
)
from pnp_lip.benchmarks.config import (
    CtConfig,
    DeblurringConfig,
    DenoisingConfig,
    Limits,
    Photographs,
    Scans,
    configured,
)
from pnp_lip.benchmarks.photographs import load_images
from pnp_lip.benchmarks.priors import STRENGTHS, Prior, Strength, collect, fbp, prior_of
from pnp_lip.benchmarks.problem import Observation
from pnp_lip.benchmarks.record import Destination, Record, Row, fingerprint, read_record
from pnp_lip.command_line.main import main
from pnp_lip.errors import InputError
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.pictures import write_image
from pnp_lip.solvers.parameter_choice import climb

TINY = DeblurringConfig(
    Photographs(crop=16, limit=1, side=16), kernel_limit=1, noises=(0.05,), limits=Limits(tol=1e-2, seconds=5.0)
)


def shrink(x: Tensor, sigma: float) -> Tensor:
    """A denoiser with a best strength: towards the mean, the further the noisier."""
    m = x.mean((-2, -1), keepdim=True)
    return m + (x - m) / (1 + 4 * sigma)


# Tuning


@pytest.mark.parametrize("peak", range(8))
@pytest.mark.parametrize("start", range(8))
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_climb_finds_the_peak_from_everywhere(peak: int, start: int, stride: int) -> None:
    seen: list[float] = []

    def score(s: float) -> float:
        seen.append(s)
        return -((s - peak) ** 2)

    best, curve = climb(score, range(8), start, stride=stride)
    assert best == peak
    assert sorted(seen) == list(curve) and len(seen) == len(set(seen))


def test_the_climb_walks_past_what_diverged() -> None:
    assert climb(lambda s: -np.inf if s > 2 else s, [1, 2, 4, 8, 16], 8)[0] == 2
    assert climb(lambda s: np.nan, [1.0, 2.0], 1.0)[1].keys() == {1.0, 2.0}


def test_the_largest_strength_within_the_slack_is_taken() -> None:
    """On a flat curve the choice does not hang on the third digit of a mean."""
    curve = dict(zip(STRENGTHS, [20.0 + min(k, 8) - (k > 12) * 3 - 0.02 * (k - 8) for k in range(len(STRENGTHS))], strict=True))
    chosen, seen = largest_of_the_best(curve.__getitem__, STRENGTHS, STRENGTHS[4])
    assert chosen == STRENGTHS[10] and max(seen, key=seen.__getitem__) == STRENGTHS[8]
    assert largest_of_the_best(lambda s: s, [1.0, 2.0], 1.0)[0] == 2.0


def test_the_oracle_is_at_least_as_good(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, limits=dataclasses.replace(TINY.limits, oracle=True))
    row = tasks.deblurring(config, Destination(tmp_path / "r.json"), [Prior("s", shrink)])["rows"][0]
    assert row["oracle"] >= row["psnr"] and row["best_strength"] in STRENGTHS


# Priors


def test_strength_is_the_square_of_a_noise_level_or_a_relaxation() -> None:
    prior = prior_of("grey", load_pretrained("grey"), ours=True)
    assert prior.certified and prior.strength == Strength()
    for strength, factor in ((0.25, 0.5), (1.0, 1.0), (4.0, 2.0)):
        assert prior.at(strength, 0.1) == (prior.denoiser, pytest.approx(factor * 0.1))
    blind = Prior("mean", lambda x, sigma: (x + x.mean()) / 2, Strength("relaxation"))
    assert blind.at(4.0, 0.1) == (blind.denoiser, 0.1)
    weak, sigma = blind.at(0.25, 0.1)
    assert (weak.theta, sigma) == (0.25, 0.1)


def test_users_denoisers_come_from_files(tmp_path: Path) -> None:
    small = GradientFlowDenoiser(channels=2, hidden_channels=2, dilations=(1,))
    with torch.no_grad():
        small.layers[0].weight.mul_(0.1)
    save_denoiser(small, tmp_path / "own.safetensors")
    torch.save({"config": small.config, "state_dict": small.state_dict()}, tmp_path / "own.pt")
    entries = [f"own={tmp_path / 'own.safetensors'}", f"same={tmp_path / 'own.pt'}"]
    priors, skipped = collect(entries, ["own", "same", "own (DPIR)", "TV"], task="deblurring")
    assert [p.name for p in priors] == ["TV", "own", "own (DPIR)", "same"] and not skipped
    assert priors[1].ours and priors[1].certified and not priors[2].certified


def test_unusable_denoisers_of_the_user_are_refused_at_once(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "other.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no")
    for name, message in (
        ("other.pt", "two dictionaries"),
        ("list.pt", "two dictionaries"),
        ("damaged.pt", "damaged"),
    ):
        with pytest.raises(InputError, match=message):
            collect([f"a={tmp_path / name}"])
    for entry, message in (("nameless", "NAME=FILE"), (f"a={tmp_path / 'missing.pt'}", "no such file")):
        with pytest.raises(InputError, match=message):
            collect([entry])
    with pytest.raises(InputError, match="no prior is called unheard"):
        collect([], ["unheard"])
    priors, skipped = collect([], ["TV", "Gradient-Step", "FBP"], task="denoising")
    assert [prior.name for prior in priors] == ["TV"] and skipped == dict.fromkeys(
        ("gradient-step", "FBP"), "it takes no part in denoising"
    )


def test_a_denoiser_of_other_channels_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = GradientFlowDenoiser(in_channels=3, channels=4, hidden_channels=4, dilations=(1,))
    monkeypatch.setattr("pnp_lip.benchmarks.priors.load_pretrained", lambda name: colour)
    priors, skipped = collect([], ["grey"])
    assert not priors and "3 channels" in skipped["grey"]
    priors, skipped = collect([], ["grey", "TV"], channels=3)
    assert [p.name for p in priors] == ["TV", "grey"] and not skipped


def test_colour_images_are_denoised_and_deblurred_in_colour(tmp_path: Path) -> None:
    colour, prior = Photographs(crop=32, limit=1, side=32, colour=True), Prior("s", shrink)
    larger = dataclasses.replace(colour, crop=40, side=40)
    for content in (
        tasks.denoising(DenoisingConfig(colour, levels=(25,)), Destination(tmp_path / "a.json"), [prior]),
        tasks.deblurring(DeblurringConfig(larger, None, 1, (0.03,)), Destination(tmp_path / "b.json"), [prior]),
    ):
        assert "error" not in content["rows"][0] and content["rows"][0]["image"] == "chelsea"
    x = load_images(colour)[0].x
    assert x.shape == (1, 3, 32, 32) and not torch.equal(x[:, 0], x[:, 1])
    write_image(tmp_path / "grey.png", x[:, :1])
    with pytest.raises(InputError, match="grey, where colour is asked for"):
        load_images(Photographs(tmp_path, colour=True))
    write_image(tmp_path / "grey.png", x)
    write_image(tmp_path / "validation.npy", photographs.validation_images(64, colour=True)[0].x)
    with pytest.raises(InputError, match="validation photograph"):
        load_images(Photographs(tmp_path, colour=True))


# Data


def test_the_validation_image_is_never_on_trial(tmp_path: Path) -> None:
    assert not set(photographs.VALIDATION) & set(photographs.PHOTOGRAPHS)
    held_out = set(photographs.hashes(photographs.validation_images(128)).values())
    assert len(held_out) == 6 and not held_out & set(photographs.hashes(load_images(Photographs(crop=128))).values())
    write_image(tmp_path / "a.npy", photographs.photograph(photographs.VALIDATION[0], 128))
    with pytest.raises(InputError, match="validation photograph"):
        load_images(Photographs(tmp_path, crop=128))
    with pytest.raises(InputError, match="validation photograph"):
        load_images(Photographs(tmp_path))
    write_image(tmp_path / "a.npy", photographs.validation_images(128)[-1].x)
    with pytest.raises(InputError, match="validation photograph"):
        load_images(Photographs(tmp_path))
    held_out = set(photographs.hashes(tasks.validation_slices(32)).values())
    assert len(held_out) == 2 and not held_out & set(photographs.hashes(tasks.load_slices(None, None, 32)).values())


def test_strengths_are_chosen_without_looking_at_the_images_on_trial(tmp_path: Path) -> None:
    """Other images on trial, same strengths and curves; and the truth on trial never enters a choice."""
    prior = Prior("shrink", shrink)
    contents = []
    for name in ("camera", "moon"):
        folder = tmp_path / name
        write_image(folder / "one.npy", photographs.photograph(name, 16))
        config = DenoisingConfig(Photographs(folder, side=32), levels=(25,))
        contents.append(tasks.denoising(config, Destination(tmp_path / f"{name}.json"), [prior]))
    assert contents[0]["tuning"] == contents[1]["tuning"] and contents[0]["rows"] != contents[1]["rows"]
    assert [on["image"] for on in contents[0]["tuning"][0]["on"]] == list(photographs.VALIDATION)


def test_unusable_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        load_images(Photographs(tmp_path))
    with pytest.raises(InputError, match="cannot crop"):
        load_images(Photographs(crop=1000))
    with pytest.raises(InputError, match="no kernels"):
        tasks.load_psfs(tmp_path)
    np.savez(tmp_path / "x.npz", other=np.zeros(2))
    with pytest.raises(InputError, match="`hu`"):
        tasks.load_slices(tmp_path / "x.npz", None, 32)


def test_a_record_goes_on_where_exponentials_round_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, to = tasks.load_psfs(None), Destination(tmp_path / "r.json")
    other = {name: torch.nextafter(k, torch.tensor(2.0, dtype=torch.float64)) for name, k in kernels.items()}
    config = dataclasses.replace(TINY, kernel_limit=None)
    before = tasks.deblurring(config, to, [])
    monkeypatch.setattr(tasks, "load_psfs", lambda *place: other)
    assert tasks.deblurring(config, to, [])["fingerprint"] == before["fingerprint"]
    monkeypatch.setattr(tasks, "load_psfs", lambda *place: {name: k * 1.001 for name, k in kernels.items()})
    with pytest.raises(InputError, match="other settings or data"):
        tasks.deblurring(config, to, [])


def test_kernels_of_a_folder_are_read_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "shakes.npz", b=np.ones((3, 3)), a=np.ones((1, 2)))
    np.save(tmp_path / "single.npy", np.ones((2, 2)))
    kernels = tasks.load_psfs(tmp_path)
    assert list(kernels) == ["a", "b", "single", "gaussian 1.6", "box 9"]
    assert all(float(k.sum()) == pytest.approx(1) for k in kernels.values())


# Records


def test_a_record_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    config = DenoisingConfig(Photographs(crop=16, limit=2, side=16), levels=(5, 25))

    def interrupt(text: str) -> None:
        if text.startswith("[2/4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tasks.denoising(config, Destination(path, tell=interrupt), [Prior("shrink", shrink)])
    before = read_record(path)
    assert len(before["rows"]) == 2 and path.read_text().endswith("}\n") and not list(tmp_path.glob(".*"))
    told: list[str] = []
    content = tasks.denoising(config, Destination(path, tell=told.append), [Prior("shrink", shrink)])
    assert content["rows"][:2] == before["rows"] and content["tuning"][:1] == before["tuning"] and len(content["rows"]) == 4
    assert "2 of 4 results" in told[0]
    whole = tasks.denoising(config, Destination(tmp_path / "other.json"), [Prior("shrink", shrink)])
    drop = ("seconds", "cpu_seconds", "memory")
    strip = [[{k: v for k, v in row.items() if k not in drop} for row in c["rows"]] for c in (content, whole)]
    assert strip[0] == strip[1]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A configuration; the folder ``images`` is no setting."""

    n: int = 1
    images: Path | None = None
    limits: Limits = dataclasses.field(default_factory=Limits)


def test_a_record_of_another_run_is_refused(tmp_path: Path) -> None:
    to, data = Destination(tmp_path / "r.json"), {"x": "y"}
    Record.open(to, "b", Asked(), data).add("rows", {"prior": "p"}, {"psnr": float("inf")})
    content = read_record(to.path)
    assert content["rows"] == [{"prior": "p", "psnr": None}]
    assert content["settings"] == {"n": 1, "limits": dataclasses.asdict(Limits())}
    assert len(Record.open(to, "b", Asked(images=tmp_path), data).content["rows"]) == 1
    for config, other in ((Asked(2), data), (Asked(limits=Limits(tol=1.0)), data), (Asked(), {"x": "z"})):
        with pytest.raises(InputError, match="other settings or data"):
            Record.open(to, "b", config, other)
    assert read_record(to.path) == Record.open(to, "b", Asked(), data).content
    to.path.unlink()
    content = Record.open(dataclasses.replace(to, skipped={"p": "why"}), "b", Asked(2), data).content
    assert content["rows"] == [] and content["skipped"] == {"p": "why"}
    for text, message in (("{}", "not a record"), ("no", "not a readable"), ("[]", "not a record")):
        to.path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_record(to.path)


def test_a_namesake_with_other_weights_starts_anew(tmp_path: Path) -> None:
    record = Record.open(Destination(tmp_path / "r.json"), "b", Asked(), {})
    for name in ("a", "b"):
        record.register(name, {"weights_sha256": "1"})
        record.add("rows", {"prior": name, "image": "x"}, {"psnr": 1.0})
    record.register("a", {"weights_sha256": "2"})
    assert [row["prior"] for row in record.content["rows"]] == ["b"]


def test_a_measurement_is_made_once_and_again_after_an_error(tmp_path: Path) -> None:
    told: list[str] = []
    record = Record.open(Destination(tmp_path / "r.json", tell=told.append), "b", Asked(), {})
    calls = itertools.count()

    def work() -> Row:
        if next(calls) == 0:
            raise RuntimeError("busy")
        return {"value": 2.0}

    for _ in range(3):
        record.measure({"name": "a"}, work)
    assert record.content["rows"] == [{"name": "a", "value": 2.0}] and next(calls) == 2
    assert told == ["name a, error RuntimeError: busy", "name a, value 2"]


def test_committed_records_can_be_continued() -> None:
    for path in (Path(__file__).parents[1] / "benchmarks" / "records").glob("*.json"):
        content = read_record(path)
        assert content["fingerprint"] == fingerprint(content), path


def test_a_record_says_what_made_it(tmp_path: Path) -> None:
    config = DenoisingConfig(Photographs(crop=16, limit=1, side=16), levels=(25,))
    content = tasks.denoising(config, Destination(tmp_path / "r.json"), [Prior("s", shrink, Strength("weight"))])
    assert content["settings"]["seed"] == 0 and content["environments"][0]["threads"] == torch.get_num_threads()
    assert {"pnp-lip", "torch", "deepinv"} <= set(content["environments"][0]["versions"])
    assert len(content["data"]["images"]["camera"]) == 64
    assert content["priors"]["s"]["grid"] == list(STRENGTHS)
    chosen = content["tuning"][0]
    assert chosen["psnr"][f"{chosen['strength']:g}"] >= max(chosen["psnr"].values()) - SLACK - 1e-3


# Runs


def test_one_failing_prior_never_loses_the_others_and_is_tried_again(tmp_path: Path) -> None:
    def broken(x: Tensor, sigma: float) -> Tensor:
        raise RuntimeError("out of order")

    path, told = tmp_path / "r.json", []
    priors = [Prior("broken", broken), Prior("shrink", shrink)]
    content = tasks.deblurring(TINY, Destination(path, skipped={"absent": "no weights"}, tell=told.append), priors)
    rows = {row["prior"]: row for row in content["rows"]}
    assert rows["broken"]["error"] == "RuntimeError: out of order" and rows["shrink"]["psnr"] > 10
    assert any("failed: RuntimeError" in line for line in told) and content["skipped"] == {"absent": "no weights"}
    again = tasks.deblurring(TINY, Destination(path), [Prior("broken", shrink), priors[1]])
    assert [row.get("error") for row in again["rows"]] == [None, None]


def scene() -> Observation:
    x = photographs.photograph("camera", 16)
    physics = Blur(gaussian_psf(1.0), (1, 16, 16))
    y = physics.A(x) + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return Observation(x, y, 0.01, physics)


def test_our_prior_runs_with_its_proof_and_an_expansive_one_is_stopped() -> None:
    limits = Limits(tol=1e-3, max_iter=500)
    figures = restore(prior_of("grey", load_pretrained("grey")), 0.5, scene(), False, limits)
    assert figures["status"] == "converged" and figures["guarantee"] == "fixed point, proved" and figures["tol"] <= 1e-3
    assert abs(figures["psnr_tol10"] - figures["psnr"]) < SETTLED
    figures = restore(Prior("wild", lambda x, s: 1 + 30 * x.square()), 1.0, scene(), False, limits)
    assert figures["status"] == "diverged" and figures["guarantee"] == "none" and figures["failure"]
    assert np.isfinite(figures["psnr"])


def test_a_prior_is_stopped_when_its_time_is_used_up() -> None:
    limits = Limits(tol=0.0, seconds=0.0)
    figures = restore(Prior("slow", shrink), 1.0, scene(), False, limits)
    assert figures["status"] == "out of time" and figures["iterations"] == 1 and figures["guarantee"] == "none"


def test_a_case_keeps_its_noise_whatever_runs_beside_it(tmp_path: Path) -> None:
    one, two = (
        tasks.deblurring(
            dataclasses.replace(TINY, photographs=dataclasses.replace(TINY.photographs, limit=n)),
            Destination(tmp_path / f"{n}.json"),
            [Prior("s", shrink)],
        )
        for n in (1, 2)
    )
    assert one["rows"][0]["psnr"] == two["rows"][0]["psnr"]


def test_the_tomography_runs_on_simulated_scans(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "hu.npz", hu=generator.integers(-1000, 1500, (8, 24, 24)).astype(np.int16))
    names = [[s.name for s in tasks.load_slices(tmp_path / "hu.npz", limit, 24)] for limit in (1, 3, 9)]
    assert names == [["slice 0"], ["slice 0", "slice 4", "slice 7"], [f"slice {i}" for i in range(8)]]
    config = CtConfig(
        tmp_path / "hu.npz",
        Scans(("parallel 12", "fan 16")),
        limit=1,
        side=24,
        limits=Limits(tol=1e-2, max_iter=40, seconds=1.0),
    )
    content = tasks.ct(config, Destination(tmp_path / "ct.json"), [Prior("shrink", shrink), fbp()])
    assert not [row for row in content["rows"] if "error" in row]
    assert len(content["rows"]) == 2 * 2 * 2
    assert all(row["misfit"] < 1 for row in content["rows"])
    assert {row["prior"] for row in content["rows"]} == {"FBP", "shrink"}


def test_noise_of_photons_is_simulated_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((1, 1, 200, 200), 0.5)
    data, deviation = tasks.photon_noise(clean, 1e4, generator)
    assert float((data - clean).std()) == pytest.approx(deviation, rel=0.05)


def test_compare_reports_the_remaining_cases(tmp_path: Path) -> None:
    told: list[str] = []
    record = Record.open(Destination(tmp_path / "r.json", tell=told.append), "denoising", Asked(), {})
    x = photographs.photograph("camera", 16)
    case = Case({"image": "a", "sigma": 1.0}, "g", lambda: Observation(x, x + 0.1, 0.1))
    Comparison(record, [case], partial(denoise, limits=Limits())).run([case], [Prior("s", shrink)])
    assert told[0].startswith("[1/1] a, 1.0, s:")


# The command


def run(*arguments: Any) -> int:
    return main(["bench", *(str(a) for a in arguments)])


def test_the_command_runs_reports_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [
        "denoising",
        "--quick",
        "--out",
        tmp_path,
        "--priors",
        "tiny",
        "TV",
        "colour",
        "--crop",
        "24",
        "--side",
        "24",
    ]
    assert run(*common) == 0
    out = capsys.readouterr().out
    assert "SKIPPED colour: it takes 3 channels" in out and "wrote" in out
    content = json.loads((tmp_path / "denoising.json").read_text())
    assert {row["prior"] for row in content["rows"]} == {"tiny", "TV"} and "colour" in content["skipped"]
    assert run(*common) == 0
    assert "2 of 2 results are in" in capsys.readouterr().out
    assert run(*common, "--limit", "2") == 2
    assert "another --out" in capsys.readouterr().err
    assert run(*common, "--limit", "2", "--out", tmp_path / "two") == 0
    assert (tmp_path / "two" / "denoising.md").is_file()


def test_every_setting_can_be_replaced_where_it_stands() -> None:
    deblurring = BENCHMARKS["deblurring"].config
    quick = configured(deblurring, {"noises": (0.03,)}, quick=True)
    assert quick == DeblurringConfig(
        Photographs(crop=48, limit=1, side=32), kernel_limit=1, noises=(0.03,), limits=Limits(seconds=1.5)
    )
    changed = configured(deblurring, {"crop": 40, "tol": 1e-3, "kernel_limit": 2, "unknown": 1})
    expected = DeblurringConfig(Photographs(crop=40), kernel_limit=2, limits=Limits(tol=1e-3))
    assert changed == expected and deblurring == DeblurringConfig()
    with pytest.raises(InputError, match="--max-iter must be a positive integer"):
        configured(deblurring, {"max_iter": 0})


def test_quick_restoration_leaves_out_what_one_pass_of_takes_longer_than_a_run_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def collect(*named: object, **options: object) -> tuple[list[Prior], dict[str, str]]:
        return [Prior(name, shrink) for name in ("TV", "BM3D", "FFDNet")], {"DRUNet": "no weights"}

    monkeypatch.setattr("pnp_lip.benchmarks.priors.collect", collect)
    options = Namespace(denoiser=[], priors=None, quick=True, weights=None)
    kept, missing = find_priors("deblurring", options)
    assert [prior.name for prior in kept] == ["TV", "FFDNet"]
    assert set(missing) == {"DRUNet", "BM3D"} and "--quick" in missing["BM3D"]
    options.priors = ["BM3D"]
    assert len(find_priors("deblurring", options)[0]) == len(find_priors("denoising", Namespace(**vars(options)))[0]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["denoising", "--limit", "0"], "--limit must be a positive integer"),
        (["denoising", "--priors", "colour", "--quick"], "no prior can take part"),
        (["denoising", "--denoiser", "x"], "NAME=FILE"),
        (["report", "nowhere.json"], "not a readable record"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_denoising_tells_networks_the_true_noise_level_and_tunes_thresholds() -> None:
    grey = tasks.at_true_level(prior_of("grey", load_pretrained("tiny")))
    assert grey.strength.grid == (1.0,) and grey.at(1.0, 0.1)[1] == 0.1
    for prior in (Prior("TV", shrink, Strength("weight")), Prior("mean", shrink, Strength("relaxation"))):
        assert tasks.at_true_level(prior) is prior
