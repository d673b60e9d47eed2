"""How much memory there is, and how much of it may be held between calls."""

import contextlib
import contextvars
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available", "keeping_within", "most_kept", "resident"]

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # bytes: cgroup's first version writes a number beyond it where there is no limit
FALLBACK = 4 << 30  # bytes that a system is taken to have which does not tell
LIMIT: contextvars.ContextVar[int | None] = contextvars.ContextVar("LIMIT", default=None)


def most_kept() -> int:
    """Bytes that one object may hold between calls: a quarter of the machine's memory, or of the limit that is set."""
    limit = LIMIT.get()
    return min([machine(), *(room for room, _ in cgroups())] if limit is None else [limit]) // 4


@contextlib.contextmanager
def keeping_within(limit: int) -> Iterator[None]:
    """What is held between calls here is measured by this many bytes instead of the machine's."""
    token = LIMIT.set(limit)
    try:
        yield
    finally:
        LIMIT.reset(token)


def machine() -> int:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return FALLBACK


def available() -> int:
    """Bytes that this process can still take: what is free or held as cache, within the limits of its control groups."""
    free = [number(line) * 1024 for line in read(PROC / "meminfo") if line.startswith("MemAvailable")]
    return min([*(free or [machine()]), *(limit - used for limit, used in cgroups())])


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = read(PROC / "self" / "statm")
    return int(pages[0].split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def cgroups() -> list[tuple[int, int]]:
    """(limit, use without cached files) of each control group of this process that has a limit, of both versions of Linux."""
    found = []
    for line in read(PROC / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        first = "memory" in controllers.split(",")
        if controllers and not first:
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else ("memory.max", "memory.current")
        root = CGROUP / "memory" if first else CGROUP
        group = root / path.strip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            limit, used = (read(folder / name) for name in names)
            if limit and used and limit[0].isdecimal() and int(limit[0]) < UNLIMITED:
                files = [number(entry) for entry in read(folder / "memory.stat") if entry.startswith("inactive_file ")]
                found.append((int(limit[0]), int(used[0]) - sum(files)))
    return found


def number(line: str) -> int:
    """The number after the first word."""
    return int(line.split()[1])


def read(path: Path) -> list[str]:
    """The lines of a file, none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
