"""The package's shape: which way imports point, how cheap the import is, how long files are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"pnp_lip": ROOT / "pnp_lip", **{f"pnp_lip.{n}": ROOT / n for n in ("operators", "solvers", "benchmarks")}}

# A part may import parts of a lower level, or of its own. Images, errors, snapshots and version stand below everything.
LEVELS = {
    "errors": 0,
    "protocols": 0,
    "renamed": 0,
    "version": 0,
    "images": 0,
    "noise": 0,
    "snapshot": 0,
    "check": 0,
    "spectral": 1,
    "layers": 2,
    "denoisers": 3,
    "certificates": 4,
    "pretrained": 5,
    "attacker": 5,
    "operators": 5,
    "theory": 5,
    "training": 6,
    "solvers": 6,
    "benchmarks": 7,
    "command_line": 8,
    "weights": 0,
}


def sources() -> list[tuple[str, Path]]:
    """Each source file with the part it belongs to."""
    files = []
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if package == "pnp_lip":
                relative = path.relative_to(folder)
                part = relative.parts[0].removesuffix(".py")
            else:
                part = package.rpartition(".")[2]
            files.append((part, path))
    return files


def imported_parts(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("pnp_lip.")}


@pytest.mark.parametrize(("part", "path"), sources(), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_imports_point_downwards_and_files_are_short(part: str, path: Path) -> None:
    assert path.read_text().count("\n") <= 400
    if part in ("__init__", "__main__"):
        return
    for other in imported_parts(path):
        assert LEVELS[other] <= LEVELS[part], f"{path.name} ({part}) imports pnp_lip.{other}"


def test_import_is_cheap(tmp_path: Path) -> None:
    code = "import sys, pnp_lip; print([m for m in ('torch', 'matplotlib', 'skimage', 'deepinv') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.strip() == "[]"


def test_every_public_name_exists() -> None:
    import pnp_lip

    for name in pnp_lip.__all__:
        assert getattr(pnp_lip, name) is not None
    assert set(pnp_lip.__all__) <= set(dir(pnp_lip))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pnp_lip.nothing
