"""The code blocks of README and docs. ``python tests/readme.py start``, ``test`` or ``python`` prints README's, for CI."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if not {"auto_gallery", "records", "weights"} & {*page.parts})
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One code block: its language ("" is the shell), its text, and its first line's number."""

    language: str
    code: str
    line: int


def blocks(text: str) -> list[Block]:
    """The code blocks of a page, in order."""
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in FENCE.finditer(text)]


def commands(code: str) -> list[str]:
    """The commands of a shell block, each on one line, without comments."""
    lines = (re.sub(r"\s+#.*", "", line).strip() for line in code.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def shell(sentence: str) -> str:
    """The commands of the first block after a sentence of README."""
    found = re.search(r"```\n(.*?)```", TEXT.partition(sentence)[2], flags=re.DOTALL)
    if not found:
        raise LookupError(f"README has no commands after {sentence!r}.")
    return found[1]


def python() -> list[str]:
    """README's Python examples, in order."""
    return [block.code for block in blocks(TEXT) if block.language == "python"]


if __name__ == "__main__":
    printed = {
        "start": lambda: shell("## Start"),
        "test": lambda: shell("Run the tests"),
        "python": lambda: "".join(python()),
    }
    sys.stdout.write(printed[sys.argv[1]]())
