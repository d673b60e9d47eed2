"""The package's shape: which way imports point, how long things are, what decides about a proof.

``python tests/test_architecture.py`` lists what is measured here.
"""

from __future__ import annotations

import ast
import re
import sys
from textwrap import dedent

import house
import pytest
from sentences import decisions_on_sentences

# A part may import its own files and parts of a lower level.
LEVELS = {
    **dict.fromkeys(("errors", "memory", "progress", "protocols", "renamed", "version", "snapshot", "check", "weights"), 0),
    "fingerprint": 1,
    **dict.fromkeys(("images", "spectral"), 1),
    **dict.fromkeys(("colour", "layers", "noise", "pictures"), 2),
    **dict.fromkeys(("denoisers", "frame"), 3),
    "potentials": 4,
    "certificates": 5,
    **dict.fromkeys(("attacker", "curvature_attack", "operators", "pretrained", "second_opinion", "theory"), 6),
    **dict.fromkeys(("scans", "solvers"), 7),
    **dict.fromkeys(("large", "restore", "training"), 8),
    "reconstruction": 9,
    "benchmarks": 10,
    **dict.fromkeys(("command_line", "public"), 11),
    "__init__": 12,
}

RECORDS = re.compile(  # a scanner has as many numbers as it has, and a certificate as many claims
    r"pnp_lip\.(operators\..*(Beam|Geometry)|certificates\.certificate\.Certificate|solvers\.(result\.Result|descent\.State|minimisation\.Problem))$"
)
MACHINE_PATH = re.compile(r"""(?<![\w.:/<>])(/(home|root|tmp|work|mnt|media|scratch|Users|usr/local)/\w|[A-Z]:\\\w)""")

NAMES = sorted(house.modules())


def test_imports_point_downwards() -> None:
    where = {name: (LEVELS[house.part(name)], house.part(name)) for name in NAMES}
    steps = [(name, other) for name in NAMES for other in house.graph()[name] if where[name] != where[other]]
    assert [f"{name} imports {other}" for name, other in steps if where[other][0] >= where[name][0]] == []


def test_nothing_inside_imports_from_the_front_door() -> None:
    """``from pnp_lip import x`` inside the package would tie each file to all others."""
    statements = [(name, node) for name in NAMES for node in ast.walk(house.tree(name))]
    assert [n for n, s in statements if isinstance(s, ast.ImportFrom) and s.module == "pnp_lip"] == []
    assert [n for n in NAMES if "pnp_lip" in house.graph()[n]] == []


def test_no_circle_of_imports() -> None:
    assert house.circles(house.graph()) == []


@pytest.mark.parametrize(
    ("imports", "circle"),
    [
        ({"a.b": ["a.c"], "a.c": ["a.b"]}, True),
        ({"a.b": ["a.x"], "a": ["a.b.x"]}, True),  # a name of one's own package, which imports the module
        ({"a.b": ["a.c.x"], "a": ["a.b.x", "a.c.x"]}, False),  # as it should be: from the file that has the name
        ({"a.b": ["d.e.x"], "d.f": ["a.b.x"], "d": ["d.f.x"]}, True),  # d/__init__ runs before d.e
    ],
)
def test_circles_are_found(monkeypatch: pytest.MonkeyPatch, imports: dict[str, list[str]], circle: bool) -> None:
    names = dict.fromkeys(("a", "a.b", "a.c", "d", "d.e", "d.f"))
    monkeypatch.setattr(house, "modules", lambda: names)
    graph = {n: set().union(*(house.needs(n, target) for target in imports.get(n, ()))) for n in names}
    assert bool(house.circles(graph)) == circle


def test_sizes() -> None:
    most = {"pnp_lip.check": 480}  # one file that others can read and run alone
    assert [(name, house.lines(name)) for name in NAMES if house.lines(name) > most.get(name, 400)] == []
    assert house.long_functions(60) == []
    assert sum(map(house.lines, NAMES)) <= 27_650


def test_constructors_are_narrow() -> None:
    assert [entry for entry in house.wide_constructors(8) if not RECORDS.match(entry[0])] == []


def test_types_say_something() -> None:
    assert sum(house.anys().values()) <= 100, house.anys()


def test_public_names_are_documented() -> None:
    assert house.undocumented() == []


def test_no_source_names_a_machine() -> None:
    assert [name for name, path in house.modules().items() if MACHINE_PATH.search(path.read_text("utf-8"))] == []


def test_no_decision_looks_into_a_sentence() -> None:
    found = {name: decisions_on_sentences(house.tree(name)) for name in NAMES}
    assert {name: looks for name, looks in found.items() if looks} == {}


LOOKS = """
    hypothesis.met or ASSUMED in str(hypothesis.value)
    SMALLEST.findall(layer.scope)
    norm.scope.startswith("symmetric")
    "assumed" in guarantee.failure.lower()
    certificate.failures[0].split(":")
    re.search("at least", record["scope"])
    layer.get("method").endswith("torus")
    guarantee.statement == NOTHING
    TEXTS[hypothesis.reason]
    "zero" in f"{layer.scope}, {layer.path}"
    "proved" in str(self.guarantee)
    [h for h in hypotheses if "at most" in h.bound]
    [f for f in certificate.failures if f.startswith("layer")]
"""
BLOCKS = """
    text = layer.scope
    words = text.lower()
    found = "symmetric" in words
---
    for failure in certificate.failures:
        if "padding" in failure:
            pass
---
    match guarantee.theorem:
        case "Krasnoselskii-Mann":
            pass
"""
HONEST = """
    hypothesis.met or hypothesis.waived_by is not None
    certificate.smallest_image == (1, 1)
    layer.method is Method.TORUS or layer.method == Method.DENSE
    Method[layer["method"]]
    "; ".join(certificate.failures) or "none"
    len(certificate.failures) == 1 and not guarantee.failure
    f"{layer.scope}; {norm.scope}" + hypothesis.advice
    result.status == "converged" and name.startswith("ridge")
    hypothesis.value <= hypothesis.bound and str(path).endswith(".npz")
    values.index(choice.value)
"""


@pytest.mark.parametrize("code", [*map(str.strip, LOOKS.strip().splitlines()), *map(dedent, BLOCKS.split("---\n"))])
def test_looks_into_sentences_are_found(code: str) -> None:
    assert decisions_on_sentences(ast.parse(code))


@pytest.mark.parametrize("code", [line.strip() for line in HONEST.strip().splitlines()])
def test_typed_decisions_pass(code: str) -> None:
    assert decisions_on_sentences(ast.parse(code)) == []


def test_every_public_name_exists() -> None:
    import pnp_lip

    for name in pnp_lip.__all__:
        assert getattr(pnp_lip, name) is not None
    assert set(pnp_lip.__all__) <= set(dir(pnp_lip))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pnp_lip.nothing


def test_an_old_name_warns_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import pnp_lip

    monkeypatch.setitem(pnp_lip.RENAMED, "strike", "attack")
    with pytest.warns(DeprecationWarning, match=r"pnp_lip\.strike is now pnp_lip\.attack") as caught:
        from pnp_lip import strike
    assert strike is pnp_lip.attack and {entry.filename for entry in caught} == {__file__}


def test_a_checkout_needs_no_links() -> None:
    """Windows checks symbolic links out as text files."""
    assert [path for folder in house.FOLDERS.values() for path in folder.rglob("*") if path.is_symlink()] == []


if __name__ == "__main__":
    sys.path.insert(0, str(house.ROOT))
    house.main()
