"""Many files of one command: which they are, where each result goes, which are finished, and what became of each."""

import argparse
import dataclasses
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pnp_lip.command_line.common import NOT_CONVERGED, OUT_OF_MEMORY, SUFFIXES, ran_out_of_memory
from pnp_lip.command_line.records import changed, claim, record_of, sha256_of, wrote
from pnp_lip.errors import InputError, PnpLipError

__all__ = ["Item", "Outcome", "exit_status", "expand", "failure", "items_of", "outcome", "report", "split",
           "sweep"]  # fmt: skip

FAILED = 2  # exit status
ROWS = 40  # of a table; of more items only those that need attention are listed
NUMBER = re.compile(r"\d+([.,]\d+)*")
NOTES = 20  # lines that say what was assumed, mended or lost; the records hold all
PART = re.compile(r"\.{1,2}(?P<stem>.+?)\.\d+\.part(\.\d+\.part)?(?P<suffix>\.\w+)")  # of write_atomically


@dataclasses.dataclass(frozen=True)
class Item:
    """An image file and where its result goes."""

    source: str
    output: Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an item: ``status`` is that of the result, "done" for one without a solver, or "failed".

    ``text`` says why it failed, or what is proved; ``notes`` what the user should know; ``seconds`` are 0 for a result of an
    earlier run; ``record`` is the JSON beside the result.
    """

    item: Item
    status: str
    text: str
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    record: Mapping[str, object] = dataclasses.field(default_factory=dict)


def expand(given: Sequence[str]) -> list[str]:
    """The files that the words name, each once; a pattern that the shell left alone stands for its matches.

    Raises InputError for a pattern without matches and for a folder.
    """
    found: dict[str, str] = {}
    for word in given:
        matches = [word]
        if glob.has_magic(word) and not Path(word).exists():
            matches = sorted(path for path in glob.glob(word, recursive=True) if Path(path).is_file())
            if not matches:
                raise InputError(f"no file matches {word!r}.")
        for path in matches:
            if Path(path).is_dir():
                raise InputError(f'{path} is a folder; name its files, for instance "{Path(path) / "*.png"}".')
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def items_of(sources: Sequence[str], folder: Path) -> list[Item]:
    """Each file with its output, of the same name and kind where that is unique, else with its folder, its kind, or a number."""
    paths = [Path(source) for source in sources]
    names: dict[Path, str] = {}
    makers: tuple[Callable[[Path], str], ...] = (
        lambda p: p.stem,
        lambda p: f"{p.absolute().parent.name}-{p.stem}",
        lambda p: f"{p.stem}-{p.suffix[1:]}",
        lambda p: f"{p.stem}-{hashlib.sha256(os.fsencode(os.path.realpath(p))).hexdigest()[:12]}",
    )
    for make in makers:  # a name that two files could have belongs to neither
        count = Counter(make(path).casefold() for path in paths)
        taken = {name.casefold() for name in names.values()}
        for path in paths:
            if path not in names and count[make(path).casefold()] == 1 and make(path).casefold() not in taken:
                names[path] = make(path)
    suffixes = [path.suffix.lower() if path.suffix.lower() in SUFFIXES else ".png" for path in paths]
    return [Item(s, folder / (names[p] + suffix)) for s, p, suffix in zip(sources, paths, suffixes, strict=True)]


def split(items: Sequence[Item], request: Mapping[str, str], options: argparse.Namespace) -> tuple[list[Item], list[Outcome]]:
    """The items that are to be restored, and what is known of the others: finished before, or refused."""
    left, known = [], []
    inputs = {os.path.realpath(item.source) for item in items}
    for item in items:
        beside = item.output.with_suffix(".json")
        record = record_of(beside)
        try:
            if {os.path.realpath(item.output), os.path.realpath(beside)} & inputs:
                raise InputError(f"{item.output} would replace an input; choose another --out-dir.")
            others = [
                name for name in record.get("written", {}) if name != item.output.name and wrote(item.output.with_name(name))
            ]
            if others and not options.force:
                raise InputError(f"{beside} is the record of {others[0]}; choose another --out-dir.")
            finished = "request" in record and wrote(item.output)
            source = Path(item.source)
            changes = changed(record, request, sha256_of(source) if source.is_file() else None) if finished else []
            if finished and not changes:
                known.append(outcome(item, record))
                continue
            if finished and not options.force:
                raise InputError(f"restored before with other {', '.join(changes)}; --force replaces that result.")
            claim([item.output, beside], force=options.force)
            left.append(item)
        except (InputError, OSError) as error:
            known.append(Outcome(item, "failed", str(error)))
    return left, known


def outcome(item: Item, record: Mapping[str, object], notes: tuple[str, ...] = (), seconds: float = 0.0) -> Outcome:
    """Of a result with its record."""
    guarantee = record.get("guarantee")
    proved = isinstance(guarantee, Mapping) and bool(guarantee["proved"])
    text = "" if guarantee is None else "proved" if proved else "not proved"
    return Outcome(item, str(record.get("status", "done")), text, notes, seconds, record)


def failure(item: Item, error: Exception) -> Outcome:
    """Of an item that has no result, for this reason."""
    if isinstance(error, PnpLipError | OSError):
        return Outcome(item, "failed", str(error))
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Outcome(item, "failed", OUT_OF_MEMORY if ran_out_of_memory(error) else text)


def exit_status(found: Sequence[Outcome]) -> int:
    """0 if all is done, 3 if some have not converged, 2 if some failed."""
    statuses = {outcome.status for outcome in found}
    return FAILED if "failed" in statuses else 0 if statuses <= {"converged", "done"} else NOT_CONVERGED


def sweep(items: Sequence[Item]) -> None:
    """Remove what a killed command left of the results that are now to be made."""
    names = {name for item in items for name in (item.output.name, item.output.with_suffix(".json").name)}
    for folder in {item.output.parent for item in items}:
        for path in folder.iterdir():
            found = PART.fullmatch(path.name)
            if found and found["stem"] + found["suffix"] in names:
                path.unlink(missing_ok=True)


def report(found: Sequence[Outcome], folder: Path, what: str = "files") -> list[str]:
    """A table of what became of each item, what is said of several of them once, and the sums."""
    good = [o for o in found if o.status in ("converged", "done")]
    listed = found if len(found) <= ROWS else [o for o in found if o not in good]
    width = max((len(o.item.output.name) for o in listed), default=0)
    lines = [f"{o.item.output.name:<{width}}  {o.status:<9}  {o.text}{timed(o)}" for o in listed]
    notes: dict[str, list[tuple[str, str]]] = {}  # those that differ by their numbers alone together
    for name, note in ((o.item.output.name, note) for o in found for note in o.notes):
        notes.setdefault(NUMBER.sub("", note), []).append((note, name))
    for (note, name), *more in sorted(notes.values(), key=len, reverse=True)[:NOTES]:
        example = f", such as {name}" if any(note != other for other, _ in more) else ""
        lines.append(f"{f'{len(more) + 1} {what}{example}' if more else name}: {note}")
    lines += [f"{len(notes) - NOTES} other remarks stand in the records"] if len(notes) > NOTES else []
    counts = Counter(o.status for o in found)
    before = sum(o.seconds == 0 and o.status != "failed" for o in found)
    words = [f"{count} {status}" for status, count in sorted(counts.items())]
    return [
        *lines,
        f"{len(found)} {what if len(found) > 1 else what[:-1]} in {folder}: {', '.join(words)}"
        + (f"; {before} of them finished before" if before else ""),
    ]


def timed(outcome: Outcome) -> str:
    """How long it took."""
    if outcome.status == "failed":
        return ""
    return f"  {outcome.seconds:.1f} s" if outcome.seconds else "  finished before"
