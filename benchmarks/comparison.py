"""Run every prior on every case: strengths chosen on the validation cases, failures kept in their rows."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Record, Row, describe_error
from pnp_lip.benchmarks.tuning import climb
from pnp_lip.images import write_image
from pnp_lip.protocols import PhysicsLike

__all__ = ["Case", "CaseKey", "Comparison", "Measure", "Observation", "seeded"]

logger = logging.getLogger(__name__)
START = 0.5  # the strength from which the search starts
STRIDE = 2  # points of the grid in the search's first steps, so factors of 2

CaseKey: TypeAlias = Mapping[str, str | float]  # the fields that name a problem


@dataclasses.dataclass(frozen=True)
class Observation:
    """Data ``y`` of an image ``x`` (None where nobody knows it), their forward model, and the unit of strengths.

    ``noise`` is that unit, the noise's standard deviation; ``shown`` stands for the data in pictures.
    """

    x: Tensor | None
    y: Tensor
    physics: PhysicsLike | None
    noise: float
    shown: Tensor


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem: the fields that name it, the group that shares its strengths, and the function that makes it."""

    key: CaseKey
    group: str
    make: Callable[[], Observation]


Measure = Callable[[Prior, float, Observation, bool], tuple[Tensor, Row]]  # the flag: whether a strength is chosen


def seeded(seed: int, key: CaseKey) -> torch.Generator:
    """A generator of its own for each case, so that a case's noise does not depend on which others are run."""
    return torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(json.dumps(dict(key), sort_keys=True).encode()))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Fills ``record``; ``validation`` holds each group's cases for choosing strengths, ``measure`` makes the figures."""

    record: Record
    validation: Mapping[str, Sequence[Case]]
    measure: Measure

    def run(self, cases: Sequence[Case], priors: Sequence[Prior]) -> Row:
        """The record's content with a row for each prior and case.

        The error of a prior that raises stands in its row, and the next run tries it again; all others go on.
        """
        for prior in priors:
            self.record.register(prior.name, prior.describe())
        todo = [(c, [p for p in priors if not self.record.find("rows", {"prior": p.name, **c.key})]) for c in cases]
        total, left = len(cases) * len(priors), sum(len(missing) for _, missing in todo)
        if left < total:
            self.record.tell(f"{total - left} of {total} results are in {self.record.path} already")
        started, done = time.perf_counter(), 0
        for case, missing in todo:
            observe = functools.cache(case.make)
            for prior in missing:
                row = self.record.add("rows", {"prior": prior.name, **case.key}, self.attempt(case, prior, observe))
                done += 1
                minutes = (time.perf_counter() - started) / done * (left - done) / 60
                self.record.tell(f"[{done}/{left}, {minutes:.0f} min left] {line(row, case)}")
        return self.record.content

    def attempt(self, case: Case, prior: Prior, observe: Callable[[], Observation]) -> Row:
        """The figures of one prior on one case, or the error that stands in their place."""
        try:
            if prior.guide is not None:
                first = self.strength(prior.guide.prior, case.group)
                prior = dataclasses.replace(prior, guide=dataclasses.replace(prior.guide, strength=first))
            strength = self.strength(prior, case.group)
            x_hat, figures = self.measure(prior, strength, observe(), False)
            self.show(case, prior, observe(), x_hat, figures)
            return {"strength": strength, **figures}
        except Exception as error:  # whatever a foreign prior raises must not stop the others
            logger.debug("%s failed", prior.name, exc_info=True)
            return {"error": describe_error(error)}

    def strength(self, prior: Prior, group: str) -> float:
        """The strength with the best mean PSNR on the validation cases, from the record if it was chosen before."""
        key = {"prior": prior.name, "group": group}
        entry = self.record.find("tuning", key)
        if entry is None:
            cases, grid = self.validation[group], prior.strength.grid
            observations = [case.make() for case in cases]

            def score(strength: float) -> float:
                found = [self.measure(prior, strength, observation, True)[1] for observation in observations]
                diverged = any(figures.get("status") == "diverged" for figures in found)
                return -math.inf if diverged else sum(float(figures["psnr"]) for figures in found) / len(found)

            best, curve = climb(score, grid, START if START in grid else grid[0], stride=STRIDE)
            seen = {f"{s:g}": round(v, 3) for s, v in curve.items()}
            entry = self.record.add("tuning", key, {"strength": best, "psnr": seen, "on": [dict(c.key) for c in cases]})
        return float(entry["strength"])

    def show(self, case: Case, prior: Prior, observation: Observation, x_hat: Tensor, figures: Row) -> None:
        """Keep pictures of the first case, and residual curves of it only."""
        pictures = self.record.content["pictures"]
        if not pictures:
            pictures.update(case=dict(case.key), files={})
            for name, image in (("original", observation.x), ("data", observation.shown)):
                if image is not None:
                    self.save_picture(name, image)
        if pictures["case"] == dict(case.key):
            self.save_picture(prior.name, x_hat)
        else:
            figures.pop("curve", None)

    def save_picture(self, name: str, image: Tensor) -> None:
        """Write a picture beside the record and note it there."""
        slug = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
        path = Path(f"{self.record.path.stem}-pictures") / f"{slug}.png"
        write_image(self.record.path.parent / path, image.nan_to_num(0.0).clamp(0, 1))
        self.record.content["pictures"]["files"][name] = path.as_posix()


def line(row: Row, case: Case) -> str:
    """A row in a line."""
    what = ", ".join(str(v) for v in case.key.values())
    if "error" in row:
        return f"{what}, {row['prior']}: failed: {row['error']}"
    quality = "no truth" if row.get("psnr") is None else f"{row['psnr']:.2f} dB"
    ending = [row["status"]] if "status" in row else []
    return ", ".join([what, f"{row['prior']}: {quality}", *ending, f"{row['cpu_seconds']:.1f} s"])
