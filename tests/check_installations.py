"""Install the package in three ways, each in an environment of its own, and check that one import name arrives.

Run by `.ci/run` (python tests/check_installations.py); not a pytest file, because it builds wheels.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROBE = """
import importlib, pathlib, pnp_lip
for name in ("operators", "solvers", "benchmarks", "layers", "weights"):
    importlib.import_module("pnp_lip." + name)
from pnp_lip import load_pretrained
load_pretrained("grey")
print(pathlib.Path(pnp_lip.__file__).resolve().parent)
"""


def environment(folder: Path) -> Path:
    """A virtual environment that sees every installed distribution but this package, without installing them again."""
    venv.create(folder, with_pip=True)
    others = folder / "others"
    others.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if (
            not entry.name.startswith(("pnp_lip", "__editable__", "pip", "setuptools", "wheel"))
            and entry.suffix != ".pth"
        ):
            (others / entry.name).symlink_to(entry)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(f"{others}\n")
    return site


def check(kind: str, work: Path) -> None:
    """Install as ``kind`` says and compare what came with what should."""
    site = environment(work / kind)
    before = {entry.name for entry in site.iterdir()}
    python = work / kind / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    if kind == "wheel":
        wheels = work / "wheels"
        subprocess.run([*pip[:3], "wheel", "--quiet", "--no-deps", "-w", str(wheels), str(ROOT)], check=True)
        subprocess.run([*pip, str(next(wheels.glob("*.whl")))], check=True)
    else:
        subprocess.run([*pip, *(["-e"] if kind == "editable" else []), str(ROOT)], check=True)
    found = subprocess.run([python, "-c", PROBE], check=True, cwd=work, capture_output=True, text=True).stdout.strip()
    expected = ROOT / "pnp_lip" if kind == "editable" else site / "pnp_lip"
    if Path(found) != expected.resolve():
        sys.exit(f"{kind}: imported {found}, expected {expected}")
    new = {n for n in {e.name for e in site.iterdir()} - before if not n.endswith(".dist-info") and n != "__pycache__"}
    allowed = {"pnp_lip"} if kind != "editable" else {n for n in new if n.startswith("__editable__")}
    if new != allowed:
        sys.exit(f"{kind}: the installation put {sorted(new)} into site-packages, expected {sorted(allowed)}")
    sys.stdout.write(f"{kind}: {found}\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for kind in ("plain", "editable", "wheel"):
            check(kind, Path(name).resolve())
