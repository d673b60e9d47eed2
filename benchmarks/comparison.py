"""Run every prior on every case: strengths chosen on the validation cases, failures kept in their rows, progress told."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Record
from pnp_lip.benchmarks.tuning import climb
from pnp_lip.images import write_image

__all__ = ["Case", "Measure", "Scene", "Tell", "compare", "seeded"]

logger = logging.getLogger(__name__)
Tell = Callable[[str], None]
START = 0.5  # where the search for a strength begins
STRIDE = 2  # points of the grid that it goes at a time at first


@dataclasses.dataclass(frozen=True)
class Scene:
    """Data y of an image x (None where nobody knows it), their forward model, the noise that strengths are counted in.

    ``shown`` is what stands for the data in pictures.
    """

    x: Tensor | None
    y: Tensor
    physics: Any
    noise: float
    shown: Tensor


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem: the fields that name it, the group whose validation cases strengths are chosen on, and how it is made."""

    key: Mapping[str, Any]
    group: str
    make: Callable[[], Scene]


Measure = Callable[[Prior, float, Scene, bool], tuple[Tensor, dict[str, Any]]]  # the flag: whether this is for tuning


def seeded(seed: int, key: Mapping[str, Any]) -> torch.Generator:
    """A generator of its own for each case, so that a case's noise does not depend on which others are run."""
    return torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(json.dumps(dict(key), sort_keys=True).encode()))


def compare(
    record: Record,
    cases: Sequence[Case],
    validation: Mapping[str, Sequence[Case]],
    priors: Sequence[Prior],
    measure: Measure,
    tell: Tell,
) -> None:
    """Fill the record with a row for each prior and case that it does not hold yet.

    A prior that raises has the error in its row and is tried again when the run is repeated; all others go on.
    """
    for prior in priors:
        record.register(prior.name, prior.describe())
    cells = [(case, prior) for case in cases for prior in priors]
    todo = [(c, p) for c, p in cells if record.find("rows", {"prior": p.name, **c.key}) is None]
    if len(todo) < len(cells):
        tell(f"{len(cells) - len(todo)} of {len(cells)} results are in {record.path} already")
    scenes: dict[int, Scene] = {}  # of the case at work, made once for all priors
    started = time.perf_counter()
    for done, (case, prior) in enumerate(todo):
        figures = attempt(record, case, prior, scenes, validation, measure)
        row = record.add("rows", {"prior": prior.name, **case.key}, figures)
        left = (time.perf_counter() - started) / (done + 1) * (len(todo) - done - 1)
        tell(f"[{done + 1}/{len(todo)}, {left / 60:.0f} min left] {line(row, case)}")


def attempt(
    record: Record,
    case: Case,
    prior: Prior,
    scenes: dict[int, Scene],
    validation: Mapping[str, Sequence[Case]],
    measure: Measure,
) -> dict[str, Any]:
    """The figures of one cell, or the error that stands in their place."""
    try:
        prior = prepared(record, prior, case.group, validation[case.group], measure)
        strength = tuned(record, prior, case.group, validation[case.group], measure)
        if id(case) not in scenes:
            scenes.clear()
            scenes[id(case)] = case.make()
        scene = scenes[id(case)]
        x_hat, figures = measure(prior, strength, scene, False)
        show(record, case, prior, scene, x_hat, figures)
        return {"strength": strength, **figures}
    except Exception as error:  # whatever a foreign prior raises must not stop the others
        logger.debug("%s failed", prior.name, exc_info=True)
        return {"error": f"{type(error).__name__}: {error}"}


def prepared(record: Record, prior: Prior, group: str, cases: Sequence[Case], measure: Measure) -> Prior:
    """The prior with the strength of the one before it, which is chosen first."""
    if prior.before is None:
        return prior
    return dataclasses.replace(prior, first_strength=tuned(record, prior.before, group, cases, measure))


def tuned(record: Record, prior: Prior, group: str, cases: Sequence[Case], measure: Measure) -> float:
    """The strength with the best mean PSNR on the validation cases, from the record where it was chosen before."""
    key = {"prior": prior.name, "group": group}
    entry = record.find("tuning", key)
    if entry is None:
        scenes = [case.make() for case in cases]

        def score(strength: float) -> float:
            found = [measure(prior, strength, scene, True)[1] for scene in scenes]
            diverged = any(figures.get("status") == "diverged" for figures in found)
            return -math.inf if diverged else sum(float(figures["psnr"]) for figures in found) / len(found)

        strength, curve = climb(score, prior.grid, START if START in prior.grid else prior.grid[0], stride=STRIDE)
        shown = {f"{s:g}": round(v, 3) for s, v in curve.items()}
        entry = record.add(
            "tuning", key, {"strength": strength, "psnr": shown, "on": [dict(case.key) for case in cases]}
        )
    return float(entry["strength"])


def show(record: Record, case: Case, prior: Prior, scene: Scene, x_hat: Tensor, figures: dict[str, Any]) -> None:
    """Keep pictures of the first case, and residual curves of it only."""
    pictures = record.content["pictures"]
    if not pictures:
        pictures.update(case=dict(case.key), files={})
        for name, image in (("original", scene.x), ("data", scene.shown)):
            if image is not None:
                save_picture(record, name, image)
    if pictures["case"] == dict(case.key):
        save_picture(record, prior.name, x_hat)
    else:
        figures.pop("curve", None)


def save_picture(record: Record, name: str, image: Tensor) -> None:
    """Write a picture beside the record and note it there."""
    slug = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
    path = Path(f"{record.path.stem}-pictures") / f"{slug}.png"
    write_image(record.path.parent / path, image.nan_to_num(0.0).clamp(0, 1))
    record.content["pictures"]["files"][name] = path.as_posix()


def line(row: Mapping[str, Any], case: Case) -> str:
    """A row in a line."""
    what = ", ".join(str(v) for v in case.key.values())
    if "error" in row:
        return f"{what}, {row['prior']}: failed: {row['error']}"
    quality = "no truth" if row.get("psnr") is None else f"{row['psnr']:.2f} dB"
    ending = [row["status"]] if "status" in row else []
    return ", ".join([what, f"{row['prior']}: {quality}", *ending, f"{row['cpu_seconds']:.1f} s"])
