"""``pnp-lip deblur`` and ``pnp-lip denoise``: one image, or many of them by worker processes, without torch in this one."""

import argparse
import contextlib
import importlib
import itertools
import json
import re
import sys
from pathlib import Path

from tqdm import tqdm

from pnp_lip.command_line.common import STARTED, say
from pnp_lip.command_line.items import Outcome, exit_status, expand, items_of, report, split, sweep
from pnp_lip.command_line.records import request_of
from pnp_lip.command_line.workers import outcomes
from pnp_lip.errors import InputError
from pnp_lip.memory import available

__all__ = ["run"]

SIZE = re.compile(r"(\d+\.?\d*)([KMGT]?)I?B?")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # bytes


def run(options: argparse.Namespace) -> int:
    """Restore what the words name; 0 if all is done, 3 if some have not converged, 2 if some failed."""
    if (options.output is None) == (options.out_dir is None):
        raise InputError("name the result with -o FILE, or a folder for the results of several files with --out-dir DIR.")
    if options.jobs < 1:
        raise InputError(f"--jobs counts the files that are restored at a time and is at least 1; got {options.jobs}.")
    options.images = expand(options.images)
    options.limit = limit_of(options.memory)
    if options.out_dir is not None:
        most, options.jobs = max(1, options.limit // STARTED), min(options.jobs, len(options.images))
        if options.jobs > most:
            size = f"{STARTED / 2**30:.1f} GB before they begin"
            raise InputError(f"--jobs {options.jobs} take {options.jobs} x {size}; at most {most} fit here.")
        options.limit //= options.jobs
        return restore_many(options)
    if len(options.images) > 1:
        raise InputError(f"-o names one file, and there are {len(options.images)} images; pass --out-dir DIR.")
    return int(importlib.import_module("pnp_lip.command_line.restoring").run(options))


def limit_of(text: str | None) -> int:
    """Bytes that may be used: what --memory says, or what is available."""
    if text is None:
        return available()
    found = SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise InputError(f'--memory takes a size such as "6G" or "500M"; got {text!r}.')
    return int(float(found[1]) * UNITS[found[2]])


def restore_many(options: argparse.Namespace) -> int:
    """Restore all files that have no finished result, each on its own, and print what became of each."""
    if "-" in options.images:
        raise InputError("standard input is one image; name its result with -o FILE, or -o - for standard output.")
    for name in ("figure", "reference"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name} belongs to a single image; name its result with -o FILE.")
    folder = Path(options.out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out-dir {folder}: cannot be a folder ({error}).") from error
    items = items_of(options.images, folder)
    left, known = split(items, request_of(options), options)
    sweep(left)
    stream = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        found = {}
        with contextlib.closing(outcomes(left, options)) as running:
            shown = tqdm(running, total=len(left), unit="file", disable=options.quiet or not left)
            for outcome in itertools.chain(known, shown):
                found[outcome.item] = outcome
                if options.json:
                    say(as_json(outcome), stream)
        for line in report([found[item] for item in items], folder):
            say(line)
    return exit_status(list(found.values()))


def as_json(outcome: Outcome) -> str:
    """The record of a result, or why there is none, in one line."""
    about = {"file": outcome.item.source, "output": str(outcome.item.output), "status": outcome.status}
    failed = {"error": outcome.text} if outcome.status == "failed" else {}
    return json.dumps({**outcome.record, **about, **failed})
