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

from pnp_lip.command_line.common import SUFFIXES
from pnp_lip.command_line.records import claim, record_of, sha256_of_file, wrote
from pnp_lip.errors import InputError

__all__ = ["Item", "Outcome", "expand", "items_of", "outcome", "split", "sweep"]

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
        lambda p: f"{p.stem}-{hashlib.sha256(os.path.realpath(p).encode()).hexdigest()[:12]}",
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
            finished = "request" in record and wrote(item.output)
            changes = changed(record, request, item) if finished else []
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


def changed(record: Mapping[str, Mapping[str, str]], request: Mapping[str, str], item: Item) -> list[str]:
    """What is not as it was when the result was made."""
    old = record["request"]
    names = [name for name in sorted({*old, *request}) if old.get(name) != request.get(name)]
    same = Path(item.source).is_file() and record["input"]["sha256"] == sha256_of_file(Path(item.source))
    return [*([] if same else ["pixels"]), *names]


def outcome(item: Item, record: Mapping[str, object], notes: tuple[str, ...] = (), seconds: float = 0.0) -> Outcome:
    """Of a result with its record."""
    guarantee = record.get("guarantee")
    proved = isinstance(guarantee, Mapping) and bool(guarantee["proved"])
    text = "" if guarantee is None else "proved" if proved else "not proved"
    return Outcome(item, str(record.get("status", "done")), text, notes, seconds, record)


def sweep(items: Sequence[Item]) -> None:
    """Remove what a killed command left of the results that are now to be made."""
    names = {name for item in items for name in (item.output.name, item.output.with_suffix(".json").name)}
    for folder in {item.output.parent for item in items}:
        for path in folder.iterdir():
            found = PART.fullmatch(path.name)
            if found and found["stem"] + found["suffix"] in names:
                path.unlink(missing_ok=True)
