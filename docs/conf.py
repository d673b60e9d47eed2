"""The documentation site. ``sphinx-build -W --keep-going docs build/site`` builds it; CONTRIBUTING.md says what it needs."""

from __future__ import annotations

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
}

SPECIAL = re.compile(r"(``.*?``)|([|*\\]|(?<=\w)_(?=\W|$))", re.S)


def escape_formulas(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with formulas: |, * and a final _ mean themselves."""
    lines[:] = [
        line if line.lstrip().startswith((">>>", "...")) else SPECIAL.sub(lambda m: m[1] or "\\" + m[2], line) for line in lines
    ]


def setup(app: object) -> None:
    app.connect("autodoc-process-docstring", escape_formulas)  # type: ignore[attr-defined]
