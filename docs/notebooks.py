"""Notebooks of the tutorials: ``python docs/notebooks.py`` writes ``docs/tutorials/*.ipynb`` from the pages beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

TUTORIALS = Path(__file__).parent / "tutorials"
BLOCK = re.compile(r"^```(python)?\n(.*?)\n```$", flags=re.DOTALL | re.MULTILINE)


def notebook(page: str) -> str:
    """Prose becomes text cells, Python and commands become code cells; nothing else is added."""
    cells, end = [], 0
    for block in [*BLOCK.finditer(page), None]:
        prose = page[end : block.start() if block else len(page)].strip()
        prose = re.sub(r"\s*This\s+page\s+is\s+also\s+a\s+\[notebook\]\(.*?\)\.", "", prose)
        if prose:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": prose})
        if block:
            code = block[2] if block[1] else re.sub("^", "!", block[2], flags=re.MULTILINE)
            cells.append({"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": code})
            end = block.end()
    cells = [{"id": f"cell-{k}", **cell} for k, cell in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in sorted(TUTORIALS.glob("*.md")):
        path.with_suffix(".ipynb").write_text(notebook(path.read_text(encoding="utf-8")), encoding="utf-8")
