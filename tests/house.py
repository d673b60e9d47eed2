"""The source as data: files, imports, sizes. ``test_architecture.py`` asks it; ``python tests/test_architecture.py`` lists it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"pnp_lip": ROOT / "pnp_lip", **{f"pnp_lip.{n}": ROOT / n for n in ("benchmarks", "operators", "solvers")}}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; a package by its ``__init__.py``."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def part(name: str) -> str:
    """The part of the house a module belongs to: ``solvers`` for ``pnp_lip.solvers.red``."""
    return [*name.split("."), "__init__"][1]


def imported(name: str) -> Iterator[str]:
    """The dotted names that a module's import statements name, wherever they stand: under TYPE_CHECKING, in functions."""
    package = name if modules()[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, (*package.split(".")[: len(package.split(".")) - node.level + 1], base)))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def needs(name: str, target: str) -> set[str]:
    """The modules that Python runs for one import of ``target`` in module ``name``.

    These are the module itself, and the ``__init__.py`` of each package on the way to it that does not hold ``name``: those
    that do hold it are running already, and count only when something is imported from them by name.
    """
    while target and target not in modules():
        target = target.rpartition(".")[0]  # the last part is a name inside a module
    if not target:
        return set()  # somebody else's package
    parts = target.split(".")
    on_the_way = {".".join(parts[:i]) for i in range(1, len(parts))}
    return {target} | {package for package in on_the_way if not f"{name}.".startswith(f"{package}.")}


@cache
def graph() -> dict[str, set[str]]:
    """Which module needs which."""
    return {name: set().union(*(needs(name, target) for target in imported(name))) for name in modules()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components with more than one module, and modules that need themselves (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in order:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == order[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1 or node in edges.get(node, ()):
                found.append(sorted(component))

    for node in sorted(edges):
        if node not in order:
            visit(node)
    return found


def lines(name: str) -> int:
    return modules()[name].read_text(encoding="utf-8").count("\n")


def long_functions(limit: int) -> list[tuple[str, int]]:
    """Functions of more lines than ``limit``, their docstrings included."""
    return [
        (f"{name}.{node.name}", node.end_lineno - node.lineno + 1)
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > limit
    ]


def public(name: str) -> list[str]:
    """The names in a module's ``__all__``."""
    for node in tree(name).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [e.value for e in getattr(node.value, "elts", []) if isinstance(e, ast.Constant)]
    return []


def wide_constructors(limit: int) -> list[tuple[str, int]]:
    """Public classes whose constructor takes more parameters than ``limit``; a dataclass's fields are its parameters."""
    found = []
    for name in modules():
        classes = {node.name for node in tree(name).body if isinstance(node, ast.ClassDef)} & set(public(name))
        for owned in sorted(classes):
            made = getattr(importlib.import_module(name), owned)
            count = 0 if issubclass(made, (Exception, dict)) else len(inspect.signature(made).parameters)
            if count > limit:
                found.append((f"{name}.{owned}", count))
    return found


def anys() -> dict[str, int]:
    """How often the word ``Any`` stands in each module that has it."""
    counts = {name: len(re.findall(r"\bAny\b", path.read_text(encoding="utf-8"))) for name, path in modules().items()}
    return {name: count for name, count in counts.items() if count}


def undocumented() -> list[str]:
    """Public classes and functions without a docstring."""
    return [
        f"{name}.{node.name}"
        for name in modules()
        for node in tree(name).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and node.name in public(name)
        and not ast.get_docstring(node)
    ]


def main() -> None:
    """Print what the architecture's tests measure."""
    from sentences import decisions_on_sentences

    totals: dict[str, list[int]] = {}
    for name in modules():
        count = totals.setdefault(part(name), [0, 0, 0])
        for i, amount in enumerate((1, lines(name), anys().get(name, 0))):
            count[i] += amount
    rows = ["part             files  lines   Any"]
    rows += [f"{name:<16} {a:>5} {b:>6} {c:>5}" for name, (a, b, c) in sorted(totals.items())]
    rows.append(f"{'all':<16} {len(modules()):>5} {sum(map(lines, modules())):>6} {sum(anys().values()):>5}")
    lists = {
        "circles of imports": [" ↔ ".join(circle) for circle in circles(graph())],
        "files above 400 lines": [f"{name}: {lines(name)}" for name in modules() if lines(name) > 400],
        "functions above 60 lines": [f"{name}: {count}" for name, count in long_functions(60)],
        "public constructors above 8 parameters": [f"{name}: {count}" for name, count in wide_constructors(8)],
        "decisions that look into a sentence": [
            f"{name}:{line}: {text}" for name in modules() for line, text in decisions_on_sentences(tree(name))
        ],
        "public names without a docstring": undocumented(),
    }
    for title, entries in lists.items():
        rows += ["", f"{title}: {len(entries)}", *(f"  {entry}" for entry in entries)]
    sys.stdout.write("\n".join(rows) + "\n")
