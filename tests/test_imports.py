"""What an import loads, counted in modules: seconds depend on the machine."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import house
import pytest

COMMANDS = ("", "demo", "denoise", "deblur", "ct", "certify", "train", "bench", "experiment")
HELP = """
import contextlib, io
from pnp_lip.command_line import main
for command in {commands}:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    assert "usage: pnp-lip" in said.getvalue(), command
"""
AFTER_DEEPINV = {"deepinv", "numpy", "pnp_lip", "scipy"}  # what our own parts load beside what `import deepinv` loads


def loaded(folder: Path, *parts: str) -> list[set[str]]:
    """The modules that a fresh Python has loaded after each part of the code."""
    code = "".join(f"{part}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))\n" for part in parts)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return [set(json.loads(line)) for line in run.stdout.splitlines()]


def families(modules: set[str]) -> set[str]:
    """The packages of ``modules`` that are not Python's own; helpers of compiled packages begin with an underscore."""
    return {name.partition(".")[0] for name in modules if name[0] != "_"} - sys.stdlib_module_names


@pytest.mark.parametrize("code", ["import pnp_lip", HELP.format(commands=COMMANDS)])
def test_the_package_and_every_help_page_load_nothing_but_themselves(code: str, tmp_path: Path) -> None:
    (modules,) = loaded(tmp_path, code)
    assert families(modules) == {"pnp_lip"} and len(modules) < 300


def test_operators_solvers_and_denoisers_cost_little_beside_deepinv(tmp_path: Path) -> None:
    """deepinv loads torchvision, and that torch's compiler: no subclass of its classes can do without."""
    before, after = loaded(tmp_path, "import deepinv", "import pnp_lip.denoisers, pnp_lip.operators, pnp_lip.solvers")
    own = after - before
    assert families(own) <= AFTER_DEEPINV and len(own) < 0.2 * len(before), families(own)


NAMES = {"PIL": "pillow", "astra": "astra-toolbox", "flint": "python-flint", "skimage": "scikit-image"}  # as published


def test_every_package_that_is_imported_is_declared() -> None:
    """Also those that another package happens to bring."""
    project = pytest.importorskip("tomllib").loads((house.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [entries for name, entries in project["optional-dependencies"].items() if name not in ("dev", "docs", "test")]
    entries = [*project["dependencies"], *(entry for extra in extras for entry in extra)]
    declared = {re.split(r"[^\w-]", entry)[0] for entry in entries} | {"dask"}  # which distributed is made for
    roots = set()
    for node in (node for name in house.modules() for node in ast.walk(house.tree(name))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        roots |= {name.partition(".")[0] for name in names}
    assert len(roots) > 10
    assert {NAMES.get(root, root) for root in roots - sys.stdlib_module_names} - {"pnp_lip"} - declared == set()
