"""The benchmarks' report: tables, margins, bars, and the README's table, all from records alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pnp_lip.benchmarks import certificates, tasks
from pnp_lip.benchmarks.config import CertificatesConfig, DeblurringConfig, DenoisingConfig, Limits, Photographs
from pnp_lip.benchmarks.pictures import behind_the_best, draw_insets, plot_profile, restored
from pnp_lip.benchmarks.priors import Prior, collect, prior_of
from pnp_lip.benchmarks.record import FORMAT, Destination, Table, read_record
from pnp_lip.benchmarks.report import GROUPS, find_records, headline, renew, write_report
from pnp_lip.benchmarks.summaries import behaviour, gain, margins, quality, tables, upwards
from pnp_lip.command_line.main import main
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import InputError
from pnp_lip.images import psnr
from pnp_lip.layers import project

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
BEGIN, END = "<!-- headline: begin -->", "<!-- headline: end -->"


def read_all() -> dict[str, dict[str, Any]]:
    return {name: read_record(RECORDS / f"{name}.json") for name in GROUPS}


def about(certified: bool, ours: bool) -> dict[str, Any]:
    bound = 1.0 if certified else None
    return {"ours": ours, "certified": certified, "solver": "ForwardBackward", "parameters": 10, "grid": [0.5, 1.0, 2.0],
            "lipschitz_upper": bound, "averagedness": bound}  # fmt: skip


def row(prior: str, image: str, psnr: float, status: str = "converged", guarantee: str = "none") -> dict[str, Any]:
    done = {"psnr_tol10": psnr + 0.01} if status == "converged" else {}
    return {"prior": prior, "image": image, "kernel": "k", "noise": 0.01, "psnr": psnr, "ssim": 0.5, "misfit": 0.1,
            "status": status, "iterations": 10, "guarantee": guarantee, "cpu_seconds": 1.0, "seconds": 2.0, **done}  # fmt: skip


def content() -> dict[str, Any]:
    """A record of deblurring, made up: ours is 2 dB above TV and once 1 dB below the network, which once diverges."""
    proved = "fixed point, proved"
    rows = [row("ours", "a", 30, guarantee=proved), row("ours", "b", 28, guarantee=proved), row("TV", "a", 28),
            row("TV", "b", 26, "out of time"), row("net", "a", 31, "finished"), row("net", "b", 5, "diverged"),
            {"prior": "broken", "image": "a", "kernel": "k", "noise": 0.01, "error": "E: <script>"}]  # fmt: skip
    priors = {"TV": about(False, False), "ours": about(True, True), "net": about(False, False), "broken": about(False, False)}
    return {
        "format": FORMAT, "fingerprint": "", "benchmark": "deblurring",
        "settings": {"photographs": {"crop": None}, "limits": {"tol": 1e-4, "max_iter": 10_000, "seconds": 60.0}},
        "data": {"images": {"a": "", "b": ""}, "kernels": {"k": ""}, "validation": {"v": ""}, "source": "somewhere"},
        "environments": [{"threads": 2}], "priors": priors, "skipped": {"DRUNet": "no weights"}, "rows": rows,
        "tuning": [{"prior": "ours", "group": "noise 0.01", "strength": 2.0, "psnr": {}},
                   {"prior": "TV", "group": "noise 0.01", "strength": 1.0, "psnr": {}}],
    }  # fmt: skip


def cells(table: Table) -> dict[str, tuple[str, ...]]:
    return {line[0]: line[1:] for line in table.rows}


def test_quality_excludes_and_counts_what_diverged() -> None:
    c = content()
    found = cells(quality(c))
    assert found["**ours**"][:2] == ("29.00", "fixed point, proved") and found["TV"] == ("27.00", "none (1 of 2)", "1")
    assert found["net"] == ("31.00 (1 of 2 diverged)", "none", "1") and "broken" not in found
    for r in c["rows"][:2]:
        r["oracle"] = r["psnr"] + 0.5
    assert cells(quality(c))["**ours**"][0] == "29.00 / 29.50"


def test_margins_are_paired_problem_by_problem() -> None:
    c = content()
    assert gain(c, "ours", "TV") == 2.0 and gain(c, "ours", "net") == 11.0
    assert cells(margins(c)) == {"net": ("+11.00 (1 : 1)",), "TV": ("+2.00 (2 : 0)",)}
    c["priors"]["ours"]["certified"] = False  # its theorem needs no certificate of the network: its rows say what is proved
    assert margins(c).title == "ours above the others, in dB"
    c["rows"][0]["guarantee"] = "none"
    assert margins(c).rows == ()


def test_every_row_says_what_is_proved_and_how_it_ended() -> None:
    found = cells(behaviour(content()))
    assert found["**ours**"][:3] == ("ForwardBackward", "2 of 2", "0.010")
    assert found["TV"][1] == "1 of 2 (1 out of time)"
    assert found["net"][:2] == ("ForwardBackward", "0 of 2 (1 finished, 1 diverged)")
    c = content()
    c["rows"] = [row("net", "a", 31, "finished", guarantee="none: ends after 8 steps")]
    assert cells(behaviour(c))["net"][1:3] == ("–", "–")
    assert cells(quality(c))["net"][1] == "none: ends after 8 steps"


def test_a_prior_has_one_colour_in_all_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, str]] = []
    monkeypatch.setattr("matplotlib.axes.Axes.step", lambda self, *_, label, color, **style: drawn.append((label, color)))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda self, **_: None)
    c, worse = content(), {"ours": 9.0, "TV": 0.0, "net": 0.0}
    c["rows"] += [row(r["prior"], r["image"], r["psnr"] - worse[r["prior"]]) | {"noise": 0.03} for r in c["rows"] if "psnr" in r]
    (tmp_path / "deblurring.json").write_text(json.dumps(c))
    plot_profile([tmp_path / "deblurring.json"], tmp_path / "p.png")
    assert [name for name, _ in drawn[:3]] != [name for name, _ in drawn[3:]]  # the best comes first
    assert len(set(drawn)) == len({colour for _, colour in drawn}) == 3


def test_a_profile_counts_problems_near_the_best(tmp_path: Path) -> None:
    gaps = behind_the_best(content())
    assert gaps == {"TV": [2, 3], "ours": [0, 1], "net": [0, 23]}
    (tmp_path / "deblurring.json").write_text(json.dumps(content()))
    assert plot_profile([tmp_path / "deblurring.json"], tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="a profile needs"):
        plot_profile([RECORDS / "operators.json"], tmp_path / "q.png")
    assert not (tmp_path / "q.png").exists()


def test_pictures_are_made_at_the_strengths_of_the_record(tmp_path: Path) -> None:
    config = DeblurringConfig(Photographs(crop=24, limit=1, side=24), None, 1, (0.03,), limits=Limits(tol=1e-3))
    content = tasks.deblurring(config, Destination(tmp_path / "d.json"), collect((), ["TV"], task="deblurring")[0])
    command = ["bench", "pictures", str(tmp_path / "d.json"), "--out", str(tmp_path)]
    assert main([*command, "--priors", "TV"]) == 0 and (tmp_path / "pictures.png").is_file()
    images = restored(tmp_path / "d.json", collect((), ["TV"], task="deblurring")[0])
    assert psnr(images["TV"], images["truth"]) == pytest.approx(content["rows"][0]["psnr"], abs=0.05)
    assert main([*command, "--priors", "tiny"]) == 2  # it has no row
    with pytest.raises(InputError, match="scikit-image's photographs"):
        restored(RECORDS / "operators.json", [])


def test_insets_are_drawn(tmp_path: Path) -> None:
    images = {"a": torch.rand(1, 1, 16, 16), "b": torch.rand(1, 1, 16, 16)}
    assert draw_insets(images, (2, 3), 8, tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_says_who_is_missing_failed_or_at_the_end_of_the_grid() -> None:
    c = content()
    text = "\n".join(table.markdown() for table in tables(c))
    for part in ("| DRUNet | no weights |", "E: <script> (1 times)", "| ours | 2* |", "A star: the end of the grid."):
        assert part in text
    c["priors"]["ours"]["grid"] = [2.0]  # nothing was chosen
    text = "\n".join(table.markdown() for table in tables(c))
    assert "| ours | given |" in text and "star" not in text


def test_bounds_are_never_rounded_down() -> None:
    for bound in (1.0, 1.0000001, 0.99727928, 123456.7):
        assert float(upwards(bound)) >= bound


def test_a_bar_in_a_cell_does_not_split_it() -> None:
    assert "| 1 ¦ 2 | x |" in Table("t", ("a", "b"), (("1 | 2", "x"),), "note").markdown()


def test_a_note_is_wrapped_and_a_row_is_not() -> None:
    lines = Table("t", ("a",), (("long " * 40,),), "a note of words, " * 20).markdown().splitlines()
    prose = [line for line in lines if "|" not in line]
    assert max(map(len, prose)) <= 110 and len([line for line in prose if line]) == 5


def test_a_report_is_a_file_of_tables_for_each_record(tmp_path: Path) -> None:
    (tmp_path / "deblurring.json").write_text(json.dumps(content()))
    (tmp_path / "other.json").write_text("{}")
    paths = find_records([tmp_path])
    assert [p.name for p in paths] == ["deblurring.json"]
    written = write_report(paths, tmp_path / "out")
    assert [p.name for p in written] == ["deblurring.md"]
    text = written[0].read_text()
    assert text.startswith("# deblurring\n") and text.count("\n|---|") == 6


def test_unreadable_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records"):
        find_records([tmp_path])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="not a record"):
        write_report([tmp_path / "x.json"], tmp_path)
    c = content() | {"benchmark": "unknown"}
    (tmp_path / "x.json").write_text(json.dumps(c))
    with pytest.raises(InputError, match="no benchmark is called"):
        write_report([tmp_path / "x.json"], tmp_path)


def test_committed_records_of_every_benchmark_make_the_committed_tables(tmp_path: Path) -> None:
    paths = find_records([RECORDS])
    assert {"operators", "convergence", "denoising", "deblurring", "ct"} <= {p.stem for p in paths}
    written = write_report(paths, tmp_path)
    assert len(written) == len(paths)
    for made in written:
        assert made.read_text(encoding="utf-8") == (RECORDS / made.name).read_text(encoding="utf-8"), made.name


# The pages


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md", "docs/operators.md"])
def test_pages_show_what_the_records_say(name: str, tmp_path: Path) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    renew(tmp_path / "page.md", find_records([RECORDS]))
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == text


def test_the_headline_changes_with_the_records() -> None:
    records = read_all()
    before = headline(records)
    for changed in copy.deepcopy(records["deblurring"])["rows"]:
        if "psnr" in changed:
            break
    other = copy.deepcopy(records)
    for entry in other["deblurring"]["rows"]:
        if entry["prior"] == changed["prior"] and "psnr" in entry:
            entry["psnr"] += 1.0
    assert headline(other) != before
    assert "| **grey** |" in before and "✓" not in before


def test_the_table_goes_between_the_markers(tmp_path: Path) -> None:
    page, record = tmp_path / "page.md", tmp_path / "deblurring.json"
    record.write_text(json.dumps(content()))
    begin, end = "<!-- deblurring: begin -->", "<!-- deblurring: end -->"
    page.write_text(f"a\n{begin}\nold\n{end}\nb\n")
    renew(page, [record])
    table = "\n".join(table.markdown() for table in tables(content()))
    assert page.read_text() == f"a\n{begin}\n{table}{end}\nb\n"
    page.write_text("<!-- deblurring quality: begin --><!-- deblurring quality: end -->")
    renew(page, [record])
    assert page.read_text().count("\n|---|") == 1 and "| prior | noise 0.01 | guarantee |" in page.read_text()
    for text in ("no markers", f"{end}{begin}", f"{begin}{begin}{end}"):
        page.write_text(text)
        with pytest.raises(InputError, match="markers"):
            renew(page, [record])
        assert page.read_text() == text
    command = ["bench", "report", str(RECORDS), "--out", str(tmp_path / "out"), "--page", str(page)]
    page.write_text("no markers")
    assert main(command) == 2
    page.write_text(f"{BEGIN}{END}<!-- operators: begin --><!-- operators: end -->")
    assert main(command) == 0
    assert headline(read_all()).strip() in page.read_text() and "| forward ms of deepinv |" in page.read_text()


# Certificates


def test_bounds_stand_beside_attacks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = GradientFlowDenoiser(channels=2, hidden_channels=2, dilations=(1,)).eval().requires_grad_(False)
    with torch.no_grad():
        small.layers[0].weight.mul_(0.05)
    config, to = (
        CertificatesConfig(levels=(25,), steps=2, side=12, layers=1, channels=2),
        Destination(tmp_path / "c.json"),
    )
    content = certificates.run(config, to, [prior_of("small", small, ours=True), Prior("no net", max)])
    found = {r["prior"]: r for r in content["rows"] if "found_lower" in r}
    assert set(found) == {"small", "DnCNN, untrained"} and not found["small"]["refuted"]
    assert found["small"]["found_lower"] <= found["small"]["lipschitz_upper"] == 1.0
    assert 0 < found["DnCNN, untrained"]["found_lower"] <= found["DnCNN, untrained"]["lipschitz_upper"]
    times = [r for r in content["rows"] if r.get("timing")]
    assert len(times) == 3 and all(r["cpu_seconds"] > 0 for r in times)
    made = certificates.tables(read_record(to.path))
    assert len(made[0].rows) == 2 and len(made[1].rows) == 3
    again = certificates.run(config, to, [prior_of("small", small, ours=True)])
    assert again["rows"] == content["rows"]


def test_colour_networks_are_attacked_on_colour_crops(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = project(GradientFlowDenoiser(in_channels=3, channels=3, hidden_channels=2, dilations=(1,))).eval()
    config = CertificatesConfig(levels=(25,), steps=2, side=12, colour=True, layers=1, channels=2)
    content = certificates.run(config, Destination(tmp_path / "c.json"), [prior_of("small", small, ours=True, channels=3)])
    assert not any("error" in row for row in content["rows"])
    found = {r["prior"]: r["found_lower"] for r in content["rows"] if "found_lower" in r}
    assert set(found) == {"small", "DnCNN, untrained"} and 0 < found["small"] <= 1


def test_quick_denoising_makes_a_table(tmp_path: Path) -> None:
    config = DenoisingConfig(Photographs(crop=16, limit=1, side=16), levels=(25,))
    made = tasks.denoising(config, Destination(tmp_path / "denoising.json"), [Prior("identity", lambda x, s: x)])
    assert cells(behaviour(made))["identity"][0] == "one call"  # no solver takes part
    titles = [table.title for table in tables(made)]
    assert titles == [
        "Mean PSNR in dB",
        "Convergence and cost",
        "",
        "Strengths",
    ]
