"""The record of a benchmark, a JSON file that is written after every row and continued where it stopped; and its tables."""

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically
from pnp_lip.solvers.result import finite
from pnp_lip.version import __version__

__all__ = ["FORMAT", "Destination", "Record", "Row", "Table", "Tell", "attempted", "fingerprint", "read_record",
           "settings", "timed", "wrapped"]  # fmt: skip

FORMAT = "pnp-lip benchmark 1"
PACKAGES = ("torch", "deepinv", "numpy", "scipy", "scikit-image", "bm3d", "ffdnet", "scico")
PROSE = 110  # characters of a line of text
PLACES = ("images", "kernels", "phantom")  # files that a configuration names; their hashes say more

T = TypeVar("T")
Row: TypeAlias = dict[str, Any]  # a JSON object; which keys it has depends on the benchmark
Tell: TypeAlias = Callable[[str], None]  # takes a line of progress


@dataclasses.dataclass(frozen=True)
class Destination:
    """The file that a benchmark writes, the priors that cannot take part with the reasons, and who hears of each line."""

    path: Path
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tell: Tell = lambda text: None


@dataclasses.dataclass(frozen=True)
class Record:
    """What a benchmark was asked, and every figure it found so far.

    ``content`` is what the file holds: "benchmark", "settings" and "data" (hashes of what it runs on), whose
    "fingerprint" decides whether a file may be continued; "environments" it ran in; "priors" with their certificates;
    "skipped" with reasons; "tuning" with the curves seen; "rows", one for each result.
    """

    path: Path
    content: Row
    tell: Tell

    @classmethod
    def open(cls, to: Destination, benchmark: str, config: object, data: Row) -> "Record":
        """A new record, or the stored one if its settings and data are the same.

        Raises InputError when the file holds another run.
        """
        asked = json.loads(json.dumps({"benchmark": benchmark, "settings": settings(config), "data": data}))
        lists: Row = {"environments": [], "priors": {}, "skipped": {}, "tuning": [], "rows": []}
        content = {"format": FORMAT, "fingerprint": fingerprint(asked), **asked, **lists}
        if to.path.exists():
            found = read_record(to.path)
            if found["fingerprint"] != content["fingerprint"]:
                raise InputError(f"{to.path} holds a run with other settings or data; choose another --out, or delete it.")
            content = found
        here = environment()
        if here not in content["environments"]:
            content["environments"].append(here)
        content["skipped"] = dict(to.skipped)
        record = cls(to.path, content, to.tell)
        record.save()
        return record

    def register(self, name: str, description: Row) -> None:
        """Note who takes part; results of a namesake with other weights or settings are dropped."""
        description = plain(description)
        if self.content["priors"].get(name, description) != description:
            for part in ("rows", "tuning"):
                self.content[part] = [row for row in self.content[part] if row.get("prior") != name]
        self.content["priors"][name] = description
        self.save()

    def find(self, part: str, key: Mapping[str, object]) -> Row | None:
        """The entry of "rows" or "tuning" with this key, if it was measured without an error."""
        matches = (row for row in self.content[part] if all(row.get(k) == v for k, v in key.items()))
        return next((row for row in matches if "error" not in row), None)

    def add(self, part: str, key: Mapping[str, object], figures: Row) -> Row:
        """Store an entry, in the place of one with the same key, and write the file."""
        rows = self.content[part]
        rows[:] = [row for row in rows if any(row.get(k) != v for k, v in key.items())]
        rows.append(plain({**key, **figures}))
        self.save()
        return dict(rows[-1])

    def measure(self, key: Mapping[str, object], work: Callable[[], Row]) -> None:
        """The row with this key, unless the record holds it; the next run tries a row with an error again."""
        if self.find("rows", key) is None:
            row = self.add("rows", key, attempted(work))
            self.tell(", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))

    def save(self) -> None:
        """Write the file in one atomic step."""
        with write_atomically(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: str | Path) -> Row:
    """The content of a record. Raises InputError for a missing file or one that is no record."""
    path = Path(path)
    try:
        content: Row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable record ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a record of this version's benchmarks ({FORMAT!r}); run the benchmark again.")
    return content


def settings(config: object) -> Row:
    """A configuration, a dataclass that may hold others, as plain data without the places where files lie."""
    return dataclasses.asdict(config, dict_factory=lambda pairs: {k: v for k, v in pairs if k not in PLACES})  # type: ignore[call-overload, no-any-return]


def fingerprint(content: Row) -> str:
    """SHA-256 of what was asked: benchmark, settings and data."""
    asked = {key: content[key] for key in ("benchmark", "settings", "data")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def plain(row: Row) -> Row:
    """The row as JSON gives it back; numbers that are not finite become None."""
    return dict(json.loads(json.dumps(finite(row))))


def attempted(work: Callable[[], Row]) -> Row:
    """The figures, or the error that stands in their place: whatever a foreign network raises must not stop the others."""
    try:
        return work()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:500]}"}


def environment() -> Row:
    """Versions, processor and threads, as plain data."""
    import torch

    versions = {"pnp-lip": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cpus = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", cpus.read_text()) if cpus.is_file() else []
    return {
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": (names or [platform.processor()])[0],
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }


def timed(work: Callable[[], T], digits: int = 4) -> tuple[T, dict[str, float]]:
    """A result; the seconds it took of the processor and of the clock, with so many ``digits``; on Linux the megabytes."""
    before = peak_memory(reset=True)
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    used, passed = time.process_time() - cpu, time.perf_counter() - wall
    costs = {"cpu_seconds": round(used, digits), "seconds": round(passed, digits)}
    return result, costs if before is None else {**costs, "memory": round((peak_memory() or before) - before, 1)}


def peak_memory(*, reset: bool = False) -> float | None:
    """The process's largest resident memory in MB, from now on after a ``reset``; None where the system does not tell."""
    status = Path("/proc/self/status")
    try:
        if reset:
            ctypes.CDLL(None).malloc_trim(0)  # else what was freed is used again and not counted
            Path("/proc/self/clear_refs").write_text("5")
        return int(re.findall(r"VmHWM:\s*(\d+)", status.read_text())[0]) / 1024
    except (OSError, AttributeError, IndexError, TypeError):
        return None


def wrapped(text: str) -> str:
    """Prose in lines of at most ``PROSE`` characters; words stay whole."""
    return textwrap.fill(text, PROSE, break_long_words=False, break_on_hyphens=False)


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, a note below it, the header and the rows, all text. A table without a header is a paragraph.

    >>> print(Table("t", ("a", "b"), (("1", "2"),)).markdown())
    **t**
    <BLANKLINE>
    | a | b |
    |---|---|
    | 1 | 2 |
    <BLANKLINE>
    """

    title: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown, its title in bold above it."""
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += [wrapped(self.note), ""] if self.note else []
        if self.header:
            lines += [f"| {' | '.join(self.header)} |", "|---" * len(self.header) + "|"]
            lines += [f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |" for row in self.rows]
        return "\n".join([*lines, ""])
