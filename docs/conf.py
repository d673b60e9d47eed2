"""The documentation site: ``sphinx-build -W --keep-going docs build/site``, once ``pip install ".[docs]"`` is done."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # a checkout needs no installation

import pnp_lip  # noqa: E402

project, author = "pnp-lip", "The pnp-lip developers"
copyright = f"2026, {author}"
version = release = pnp_lip.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_gallery.gen_gallery", "sphinx_copybutton"]
exclude_patterns = ["gallery", "notebook/training", "theory", "sg_execution_times.rst", "auto_gallery/*.ipynb"]
nitpicky = False

myst_heading_anchors = 3  # as on GitHub, where the same pages are read
myst_enable_extensions = ["deflist"]
suppress_warnings = ["config.cache"]

autodoc_typehints = "none"
autodoc_member_order = "groupwise"
autodoc_default_options = {"members": True, "imported-members": True}

html_theme = "furo"
html_title = "pnp-lip"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"\.py$",
    "plot_gallery": "True",
    "show_memory": False,
    "min_reported_time": 1e9,
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
}

# Markdown pages beside the docs that are linked as files of the repository: the build copies them, and the links follow.
BESIDE = {"benchmarks/records": "records", "pnp_lip/weights": "weights"}


def copy_pages(app: object) -> None:
    """Records and cards as pages. A file that did not change keeps its time, so that Sphinx does not read it again."""
    for folder, copied in BESIDE.items():
        (ROOT / "docs" / copied).mkdir(exist_ok=True)
        for page in (ROOT / folder).glob("*.md"):
            target, text = ROOT / "docs" / copied / page.name, page.read_text(encoding="utf-8")
            text = "---\norphan: true\n---\n\n" + ("" if text.startswith("# ") else f"# {page.stem}\n\n") + text
            if not target.exists() or target.read_text(encoding="utf-8") != text:
                target.write_text(text, encoding="utf-8")


def follow_copies(app: object, docname: str, source: list[str]) -> None:
    """Links to ``../benchmarks/records/NAME.md`` lead to its copy, those to the gallery's folder to its pictures."""
    source[0] = source[0].replace("](gallery)", "](auto_gallery/index.rst)")
    up = "../" * docname.count("/")
    for folder, copied in BESIDE.items():
        source[0] = re.sub(rf"\]\((?:\.\./)+{folder}/([\w-]+\.md)", rf"]({up}{copied}/\1", source[0])


def document_once(app: object, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """The names of ``pnp_lip`` stand on its page, and not on those of their folders as well."""
    page = app.env.docname  # type: ignore[attr-defined]
    return True if what == "module" and page != "reference/pnp_lip" and name in pnp_lip.__all__ else None


FOLDERS = ["operators", "solvers", "certificates", "layers", "denoisers", "potentials", "scans", "training", "theory"]
PACKAGES = ["pnp_lip", *(f"pnp_lip.{folder}" for folder in FOLDERS)]
DOCUMENTED = {name: f"{package}.{name}" for package in reversed(PACKAGES) for name in importlib.import_module(package).__all__}
SPECIAL = re.compile(r"``(.*?)``|([|*\\]|(?<=\w)_(?=\W|$))", re.S)


def rewritten(found: re.Match[str]) -> str:
    """A documented name becomes a link, other code stays, and |, * and a final _ mean themselves."""
    if found[2]:
        return "\\" + found[2]
    return f":py:obj:`{found[1]} <{DOCUMENTED[found[1]]}>`" if found[1] in DOCUMENTED else found[0]


def escape_formulas(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with formulas and code."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else SPECIAL.sub(rewritten, line) for line in lines]


def setup(app: object) -> None:
    app.connect("builder-inited", copy_pages)  # type: ignore[attr-defined]
    app.connect("source-read", follow_copies)  # type: ignore[attr-defined]
    app.connect("autodoc-skip-member", document_once)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", escape_formulas)  # type: ignore[attr-defined]
