"""The blocks of README: ``python tests/readme.py start``, ``test`` or ``python`` prints one, for ``.ci/run``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def shell(sentence: str) -> str:
    """The commands of the first block after a sentence."""
    found = re.search(r"```\n(.*?)```", TEXT.partition(sentence)[2], flags=re.DOTALL)
    if not found:
        raise LookupError(f"README has no commands after {sentence!r}.")
    return found[1]


def python() -> list[str]:
    """The Python examples, in order."""
    return re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


if __name__ == "__main__":
    blocks = {
        "start": lambda: shell("## Start"),
        "test": lambda: shell("Run the tests"),
        "python": lambda: "".join(python()),
    }
    sys.stdout.write(blocks[sys.argv[1]]())
