"""Import the package from a checkout, a plain, an editable and a wheel installation, each from two folders.

The wheel is built from the source distribution, as for a release; both hold what they should, and nothing else.

The folders are the repository's root, where the checkout's ``pnp_lip`` hides an installed one, and a user's folder with an
``operators.py`` of its own. Run by `.ci/run` (python tests/check_installations.py); not a pytest file: it builds wheels.
``python tests/check_installations.py dist`` compares what ``python -m build`` left in ``dist``, for a release.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import house

KINDS = ("none", "plain", "editable", "wheel")
TREES = ("__pycache__", "build", "dist", ".*", "*.egg-info", "pnp-lip-demo")  # of a checkout, what is not source
NOT_OTHERS = ("pnp_lip", "__editable__", "pip", "setuptools", "wheel")
DATA = ("pnp_lip/py.typed", "operators/*.npz", "pnp_lip/weights/*.safetensors", "pnp_lip/weights/*.json", "pnp_lip/weights/*.md")
BESIDE = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
PROBE = """
import importlib.util, pathlib, pkgutil, runpy, sys
import pnp_lip, pnp_lip.benchmarks, pnp_lip.solvers
from pnp_lip import load_pretrained, operators
from pnp_lip.operators import Blur
assert Blur is operators.Blur is pnp_lip.operators.Blur
load_pretrained("grey")
for name in ("docs", "pnp_lip", "tests"):
    assert importlib.util.find_spec("pnp_lip." + name) is None, name
packages = (pnp_lip, pnp_lip.benchmarks, pnp_lip.operators, pnp_lip.solvers)
found = {m.name for p in packages for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")}
print(pathlib.Path(pnp_lip.__file__).resolve().parent, *sorted(found | {p.__name__ for p in packages}))
sys.stdout, sys.argv = sys.stderr, ["report", "--help"]
runpy.run_module("pnp_lip.benchmarks.report", run_name="__main__", alter_sys=True)  # as python -m does
"""


def run(*command: object, cwd: Path, path: str = "") -> str:
    """What the command prints; ends this program with what it said if it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ({"PYTHONPATH": path} if path else {})
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))[:400]}\nin {cwd} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path) -> Path:
    """A virtual environment that sees every installed distribution but this package, without installing them again."""
    venv.create(folder, with_pip=True)
    others = folder / "others"
    others.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(NOT_OTHERS) and entry.suffix != ".pth":
            (others / entry.name).symlink_to(entry)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(f"{others}\n")
    return site


def install(kind: str, python: Path, root: Path) -> None:
    """Install the checkout ``root`` as ``kind`` says."""
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if kind == "wheel":
        run(python, "-m", "build", root, cwd=root.parent)
        check_contents(root)
        run(*pip, "install", "--no-deps", next((root / "dist").glob("*.whl")), cwd=root.parent)
    elif kind != "none":
        run(*pip, "install", "--no-deps", *(["-e"] if kind == "editable" else []), root, cwd=root.parent)


def check_contents(root: Path) -> None:
    """End this program unless the distributions in ``dist`` hold all modules, the data beside them, and no other file."""
    data = [file for pattern in DATA for file in root.glob(pattern)]
    if {file.suffix for file in data} != {".typed", ".npz", ".safetensors", ".json", ".md"}:
        sys.exit(f"some of {DATA} are missing")
    files = {str(file.relative_to(root)) for file in data} | {str(f.relative_to(house.ROOT)) for f in house.modules().values()}
    inside = {file if file.startswith("pnp_lip/") else f"pnp_lip/{file}" for file in files}
    (source,), (wheel,) = (root / "dist").glob("*.tar.gz"), (root / "dist").glob("*.whl")
    with tarfile.open(source) as archive:
        in_source = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    in_source -= {name for name in in_source if name.startswith("pnp_lip.egg-info/")}
    information = {name for name in in_wheel if name.partition("/")[0].endswith(".dist-info")}
    for name, found, expected in (("source", in_source, files | BESIDE), ("wheel", in_wheel - information, inside)):
        if found != expected:
            sys.exit(f"the {name} distribution differs from the checkout in {sorted(found ^ expected)}")
    if not any(name.endswith("/licenses/LICENSE") for name in information):
        sys.exit(f"the wheel has no licence: {sorted(information)}")


def check(kind: str, work: Path) -> str:
    """Install a copy of the checkout, import it from both folders and compare what came with what should."""
    root, user = work / kind / "checkout", work / kind / "user"
    shutil.copytree(house.ROOT, root, ignore=shutil.ignore_patterns(*TREES))
    user.mkdir()
    for name in ("benchmarks", "operators", "solvers"):
        (user / f"{name}.py").write_text("raise SystemExit('the file of the user hid the part of the package')\n")
    site = environment(work / kind / "venv")
    python = work / kind / "venv" / "bin" / "python"
    before = {entry.name for entry in site.iterdir()}
    install(kind, python, root)
    new = {e.name for e in site.iterdir()} - before - {"__pycache__"}
    new = {name for name in new if not name.endswith(".dist-info")}
    one = {"none": "", "editable": "__editable__"}.get(kind, "pnp_lip")
    if len(new) != bool(one) or not all(name.startswith(one) for name in new):
        sys.exit(f"{kind}: the installation put {sorted(new)} into site-packages, expected one name or none")

    modules = set(house.modules())
    elsewhere = site / "pnp_lip" if kind in ("plain", "wheel") else root / "pnp_lip"
    for folder, home in ((root, root / "pnp_lip"), (user, elsewhere)):
        path = str(root) if kind == "none" and folder == user else ""
        place, *found = run(python, "-c", PROBE, cwd=folder, path=path).split()
        if Path(place) != home:
            sys.exit(f"{kind}, from {folder}: imported {place}, expected {home}")
        if set(found) != modules:
            sys.exit(f"{kind}, from {folder}: these modules differ: {sorted(modules ^ set(found))}")
        if kind != "none":  # mypy finds a module by its file; a bare checkout has none below pnp_lip/operators
            program = work / kind / "program.py"
            program.write_text("".join(f"import {name}\n" for name in sorted(modules)))
            run(python, "-m", "mypy", "--follow-imports=skip", "--cache-dir", work / kind, program, cwd=folder)
    return f"{kind}: {len(modules)} modules from {root.name} and from elsewhere"


if __name__ == "__main__":
    if sys.argv[1:] == ["dist"]:
        sys.exit(check_contents(house.ROOT))
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        for line in pool.map(check, KINDS, [Path(name).resolve()] * len(KINDS)):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
