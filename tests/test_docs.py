"""Every code block of the docs runs, page by page from top to bottom, on toy files; and no page needs an unexplained word."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import readme
import torch
from PIL import Image
from skimage import data

from pnp_lip.command_line import main
from pnp_lip.command_line.main import parser
from pnp_lip.operators import gaussian_psf
from pnp_lip.pictures import write_image

QUICK_TRAINING = "--steps 2 --batch 4 --patch 24"
# What a page's commands get in addition, so that they run at toy size. The last of two equal options counts.
TOY_OPTIONS = {
    "ct scan.h5": "--size 24 --sigma 0.05 --tol 1e-2 --quiet --slices 0:1 --center 11.5",
    "deblur": "--tol 1e-2 --quiet --denoiser tiny",
    "ct": "--size 24 --sigma 0.05 --tol 1e-2 --quiet",
    "train --gradient-step --start": QUICK_TRAINING.replace("24", "32"),
    "train --gradient-step": QUICK_TRAINING,
    "train --potential --start": QUICK_TRAINING,
    "train --potential": f"{QUICK_TRAINING} --size 4,5",
    "train --start": QUICK_TRAINING,
    "train": f"{QUICK_TRAINING} --size 2,4,3",
    "bench denoising": "--limit 1 --crop 32",
    "bench deblurring": "--limit 1 --crop 32 --kernel-limit 1 --quick --priors tiny",
    "bench twelve": "--limit 1 --crop 32 --kernel-limit 1 --quick --priors tiny",
    "bench headline": "--quick --priors tiny",
    "bench pictures": "--priors tiny",
}
# What a page's Python says for its readers and a test cannot afford: weights of others, thousands of steps, processes.
TOY_CODE = {
    'pretrained="download"': "pretrained=None",
    "steps=4_000, patches=PatchSettings(size=68": "steps=2, patches=PatchSettings(size=24",
    "threads_per_worker=1)": "threads_per_worker=1, processes=False)",
    'out="better", progress=True)': 'out="better", max_iter=5)',
    "128, 128, 128": "16, 16, 16",
    "256, 256": "64, 64",
    ".solve(y, cone, x0=start)": ".solve(y, cone, x0=start, max_iter=2)",
    "box=(0, 1), tol=1e-4)": "box=(0, 1), tol=1e-2)",
    "scan.load(100, 110)": "scan.load(0, 2)",
    'theta=scan.theta, center="auto"': "theta=scan.theta",
}
NEEDS = {"scans.md": ("h5py", "algotom"), "large.md": ("zarr", "distributed")}
SLOW = {"training.md", "benchmarks.md"}
INSTALLS = re.compile(
    r"python3 -m venv \.venv|source \.venv/bin/activate|\.venv/bin/pnp-lip demo|\.venv/bin/pytest"
    r"|(?:\.venv/bin/)?pip install (?:-e )?[\"']?(?:\.|pnp-lip)(?:\[(?P<extra>\w+)\])?[\"']?"
)
EXTRAS = re.findall(r"^(\w+) = \[", (readme.ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(readme.ROOT / "docs").as_posix()


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_workers: None) -> Path:
    """A folder with every file that a page names, at toy size."""
    monkeypatch.chdir(tmp_path)
    x = torch.tensor(data.astronaut()[60:108, 190:238] / 255).float().permute(2, 0, 1)[None]
    write_image(tmp_path / "photo.png", x)
    Path("photos").mkdir()
    Image.fromarray(data.astronaut()[60:108, 190:238]).save("photos/1.jpg")
    for folder in ("PHOTOGRAPHS", "PSFS"):
        Path(folder).mkdir()
    for k in range(3):
        write_image(Path("PHOTOGRAPHS", f"{k}.png"), torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(k)))
    for name in ("gaussian", "levin1", "levin3", "levin5", "levin7"):
        np.save(f"PSFS/{name}.npy", gaussian_psf(1.0).numpy())
    np.save("sinogram.npy", np.hypot(*np.indices((24, 60)) / 60).astype(np.float32))
    torch.manual_seed(0)
    np.random.seed(0)
    return tmp_path


@pytest.fixture
def names(toys: Path) -> dict[str, object]:
    return {"print": lambda *text, **how: None, "__name__": "__main__"}


def run_python(code: str, names: dict[str, object], place: str) -> None:
    for shown, used in TOY_CODE.items():
        code = code.replace(shown, used)
    exec(compile(code, place, "exec"), names)


def run_shell(line: str) -> None:
    """One command: of ours it runs; an installation's words are compared with what there is."""
    words = shlex.split(line)
    if words[0] == "pnp-lip":
        options = next((o for key, o in TOY_OPTIONS.items() if {*key.split()} <= {*words}), "")
        arguments = [*words[1:], *options.split()]
        assert main(arguments) == 0, shlex.join(arguments)
    elif words[:2] == ["python", "-m"]:  # an hour or more: what it reads and writes is tested elsewhere
        source = inspect.getsource(importlib.import_module(words[2]))
        assert all(f'"{word}"' in source for word in words[3:] if word.startswith("--")), line
    else:
        for part in line.split(" && "):
            found = INSTALLS.fullmatch(part.strip())
            assert found, f"no test knows what this command does: {part}"
            assert found["extra"] is None or found["extra"] in EXTRAS


PARAMETERS = [
    pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if name_of(page) in SLOW else [])
    for page in readme.PAGES
    if readme.blocks(page.read_text(encoding="utf-8")) and page.name != "geometry.md"  # test_geometry_recipes.py runs that one
]


@pytest.mark.parametrize("page", PARAMETERS)
def test_code_runs(page: Path, names: dict[str, object]) -> None:
    for package in NEEDS.get(name_of(page), ()):
        pytest.importorskip(package)
    if page.name == "scans.md":
        from test_scans import Made

        Made(bins=24, views=30, axis=11.5, dead=(5,)).dxchange(Path("scan.h5"), rows=2)
    if page.name == "large.md":
        import zarr

        zarr.open_array("mosaic.zarr", mode="w", shape=(40, 40), dtype="f4")[:] = np.random.rand(40, 40)
    for block in readme.blocks(page.read_text(encoding="utf-8")):
        place = f"{name_of(page)}:{block.line}"
        if block.language == "python":
            run_python(block.code, names, place)
        elif block.language in ("", "bash"):
            for line in readme.commands(block.code):
                run_shell(line)
        else:
            assert block.language == "text" or block.language.startswith("{"), f"{place}: name the language {block.language!r}"


# --- Gallery and notebooks ---------------------------------------------------------------------------------------------------

GALLERY = sorted((readme.ROOT / "docs" / "gallery").glob("*.py"))


@pytest.mark.parametrize("script", GALLERY, ids=lambda path: path.stem)
def test_gallery_draws_a_picture(script: Path, toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    runpy.run_path(str(script))
    shown = [*(image.get_array() for axis in plt.gcf().axes for image in axis.images)]
    lines = [np.asarray(line.get_ydata(), dtype=float) for axis in plt.gcf().axes for line in axis.lines]
    plt.close("all")
    assert shown + lines
    assert all(np.isfinite(values).all() for values in shown + lines)
    assert all(np.ptp(image) > 0 for image in shown), "an image without contrast"


def test_the_gallery_is_large_and_its_scripts_are_short() -> None:
    assert len(GALLERY) >= 12
    for script in GALLERY:
        lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line.strip()]
        assert len(lines) <= 26, f"{script.name}: {len(lines)} lines"


def test_notebooks_are_those_of_the_tutorials() -> None:
    make = runpy.run_path(str(readme.ROOT / "docs" / "notebooks.py"))["notebook"]
    for page in (readme.ROOT / "docs" / "tutorials").glob("*.md"):
        made = page.with_suffix(".ipynb").read_text(encoding="utf-8")
        text = page.read_text(encoding="utf-8")
        assert made == make(text), "python docs/notebooks.py writes them"
        assert ".ipynb" not in made, "a notebook that points to itself"
        assert sum(cell["cell_type"] == "code" for cell in json.loads(made)["cells"]) == len(readme.blocks(text)) > 3


# --- Links and words ---------------------------------------------------------------------------------------------------------

LINK = re.compile(r"(?<!`)\]\((?!https?:)([^()\s#]*)(#[^()\s]+)?\)")


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    prose = readme.FENCE.sub("", text)
    titles = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [readme.ROOT / "README.md", *readme.PAGES], ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path, anchor in LINK.findall(text):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path}: no such file"
        if anchor and target.suffix == ".md":
            assert anchor[1:] in slugs(target.read_text(encoding="utf-8")), f"{path}{anchor}: no such heading"


def test_every_page_is_on_the_site() -> None:
    listed = set()
    for page in readme.PAGES:
        for block in readme.blocks(page.read_text(encoding="utf-8")):
            if block.language == "{toctree}":
                lines = [line for line in block.code.splitlines() if line and not line.startswith(":")]
                listed |= {(page.parent / f"{line}.md").resolve() for line in lines}
    assert {*readme.PAGES} - listed == {readme.ROOT / "docs" / "index.md"}


# Words of the field. One that README, the start or a command's help uses has to be in the glossary.
TERMS = """adjoint, ADMM, averaged, averagedness, back-projection, ball arithmetic, BM3D, certificate, clip,
contraction, converged, convex,
critical point, CT, curvature, dark, Dask, data term, decibel, denoiser, detector, diverge, DnCNN, DRUNet,
equilibrium, fan beam, FBP, firmly nonexpansive, fixed point, flat, forward model, forward-backward, gamma, Gaussian noise,
gradient, guarantee, Halpern, held out, Hessian, Hounsfield, hypothesis, ICC, inverse problem, iteration, Jacobian, kernel,
Lipschitz constant, median, minimiser, misfit, noise level, nonexpansive, norm, objective, operator, padding, parallel beam,
phantom, plug-and-play, potential, power iteration, prior, proved, proximal map, PSF, PSNR, record, RED, regulariser, relaxed,
residual, rounding, scheme, sigma, sinogram, solver, splitting, stationarity, strength, TGV, TV, Tikhonov, tolerance, total
variation, U-net, unproved, upper bound, view, wavelet, weight, white noise, Zarr"""
PLAIN_CAPITALS = {  # file formats, machines and names that a reader knows or need not know
    "BMP", "BSD", "CPU", "CFF", "DICOM", "DIR", "EXIF", "FILE", "GB", "GPU", "HDF5", "JPEG", "JSON", "NAME", "NPY", "PNG", "STOP",
    "TIFF",
}  # fmt: skip


def help_texts() -> str:
    """What every command's help says, without the names of options and of their values."""
    found, queue = [], [parser()]
    while queue:
        command = queue.pop()
        found += [command.description, command.epilog]
        for action in command._actions:
            found.append(action.help)
            if isinstance(action, argparse._SubParsersAction):
                queue += action.choices.values()
                found += [choice.help for choice in action._choices_actions]
    return "\n".join(filter(None, found))


@pytest.fixture(scope="module")
def used() -> str:
    pages = [readme.ROOT / "README.md", readme.ROOT / "docs" / "start.md", readme.ROOT / "docs" / "index.md"]
    prose = [re.sub(r"<!--.*?-->|\]\(.*?\)", " ", readme.FENCE.sub("", page.read_text(encoding="utf-8"))) for page in pages]
    return " ".join(("\n".join(prose) + help_texts()).split())


@pytest.fixture(scope="module")
def glossary() -> str:
    """The explained words and what is said of them: a word explained within another entry counts."""
    text = (readme.ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^- \*\*.+?\*\*: ", text, flags=re.MULTILINE)) >= 60
    return " ".join(text.split()).lower()


@pytest.mark.parametrize("term", [" ".join(term.split()) for term in TERMS.split(",")])
def test_terms_are_in_the_glossary(term: str, used: str, glossary: str) -> None:
    if re.search(rf"\b{re.escape(term)}", used, flags=0 if term.isupper() else re.IGNORECASE):
        assert re.search(rf"\b{re.escape(term.lower())}", glossary), f"explain {term!r} in docs/glossary.md"


def test_abbreviations_are_in_the_glossary(used: str, glossary: str) -> None:
    capitals = {*re.findall(r"(?<!:)\b[A-Z][A-Z0-9]{1,5}\b(?!:)", used)} - PLAIN_CAPITALS
    missing = sorted(word for word in capitals if not re.search(rf"\b{word.lower()}", glossary))
    assert not missing, f"explain them in docs/glossary.md: {missing}"


def test_the_glossary_is_sorted() -> None:
    entries = re.findall(
        r"^- \*\*(.+?)\*\*: ", (readme.ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert len({*entries}) == len(entries) and entries == sorted(entries, key=str.lower)


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_gallery")
    command = [sys.executable, "-m", "sphinx", "-qW", "--keep-going", str(readme.ROOT / "docs"), str(tmp_path / "site")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "reference" / "solvers.html").stat().st_size > 10_000
