"""How long one pass of each denoiser takes, in several ways of running it, beside deepinv's DRUNet and DnCNN.

``run(Config(...), path, priors)`` fills a record; ``pnp-lip bench speed`` is the command. All are timed in turns within one
process, so that the machine's other work falls on all of them, and only ratios are compared with the bar.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.benchmarks.comparison import Tell
from pnp_lip.benchmarks.networks import untrained
from pnp_lip.benchmarks.photographs import central_crop, photograph, sha256_of
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Record
from pnp_lip.benchmarks.tables import Table

__all__ = ["Config", "run", "summarise"]

Pass = Callable[[], Tensor]
RIVALS = ("DRUNet", "DnCNN")  # of deepinv, with random weights, which take the same time as trained ones
BAR = 15.0  # times faster than DRUNet, ours and theirs each in the fastest way of float32


@dataclasses.dataclass(frozen=True)
class Config:
    """Images are ``side`` × ``side``, grey, with noise ``level``/255; each way is timed ``repeats`` times; ``compiled`` adds
    torch.compile for ours, which needs a C++ compiler and some minutes."""

    side: int = 256
    level: float = 25
    repeats: int = 9
    compiled: bool = False
    seed: int = 0


def run(
    config: Config,
    path: Path,
    priors: Sequence[Prior],
    skipped: Mapping[str, str] | None = None,
    *,
    fresh: bool = False,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """The record of every network among ``priors`` and of the rivals; one that holds them all is left as it is."""
    clean = central_crop(photograph("camera", max(config.side, 256)), config.side, "camera")
    generator = torch.Generator().manual_seed(config.seed)
    y = clean + config.level / 255 * torch.randn(clean.shape, generator=generator)
    record = Record.open(path, "speed", dataclasses.asdict(config), {"image": sha256_of(clean)}, fresh=fresh)
    for name, reason in (skipped or {}).items():
        if name not in RIVALS:
            record.skip(name, reason)
    networks = [p for p in priors if isinstance(p.denoiser, nn.Module) and any(True for _ in p.denoiser.parameters())]
    networks += [
        Prior(
            kind,
            untrained(kind, config.seed, in_channels=1, out_channels=1),
            reason="random weights, for its speed only",
        )
        for kind in RIVALS
        if kind not in {p.name for p in networks}
    ]
    passes: dict[tuple[str, str], Pass] = {}
    for prior in networks:
        record.register(prior.name, prior.describe())
        for way, one_pass in ways(prior.denoiser, y, config.level / 255, config.compiled and prior.ours).items():
            passes[prior.name, way] = one_pass
    if all(record.find("rows", {"prior": name, "way": way}) for name, way in passes):
        return record.content
    measure(record, passes, config.repeats, tell)
    return record.content


def ways(denoiser: nn.Module, y: Tensor, sigma: float, compiled: bool) -> dict[str, Pass]:
    """The ways of running a network: as it is, stored by pixels, in bfloat16, compiled."""

    def plain(network: Any, y: Tensor) -> Tensor:
        with torch.no_grad():
            d: Tensor = network(y, sigma)
        return d

    def in_bfloat16() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(denoiser, y).float()

    by_pixels = copy.deepcopy(denoiser).to(memory_format=torch.channels_last)
    found: dict[str, Pass] = {
        "plain": partial(plain, denoiser, y),
        "channels-last": partial(plain, by_pixels, y.to(memory_format=torch.channels_last)),
        "bfloat16": in_bfloat16,
    }
    if compiled:
        found["compiled"] = partial(plain, torch.compile(denoiser), y)
    return found


def measure(record: Record, passes: Mapping[tuple[str, str], Pass], repeats: int, tell: Tell) -> None:
    """Time all passes in turns; a way that fails is noted with its error."""
    outputs: dict[tuple[str, str], Tensor] = {}
    for (name, way), one_pass in passes.items():
        try:
            outputs[name, way] = one_pass()  # also the warm-up
        except Exception as error:  # a missing compiler, or another network's failure, must not stop the others
            record.add("rows", {"prior": name, "way": way}, {"error": f"{type(error).__name__}: {str(error)[:200]}"})
    seconds = {at: np.empty((repeats, 2)) for at in outputs}
    for i in range(repeats):
        for at, times in seconds.items():
            wall, cpu = time.perf_counter(), time.process_time()
            passes[at]()
            times[i] = time.process_time() - cpu, time.perf_counter() - wall
    reference = fastest(seconds, "DRUNet")
    for (name, way), times in seconds.items():
        cpu_seconds, wall_seconds = (float(t) for t in np.median(times, axis=0))
        figures = {
            "cpu_seconds": cpu_seconds,
            "seconds": wall_seconds,
            "times_faster": None if reference is None else float(np.median(reference[:, 0] / times[:, 0])),
            "difference": float((outputs[name, way] - outputs[name, "plain"]).abs().max()),
        }
        record.add("rows", {"prior": name, "way": way}, figures)
        tell(f"{name}, {way}: {1e3 * cpu_seconds:.0f} ms")


def fastest(seconds: Mapping[tuple[str, str], Any], name: str) -> Any:
    """The times of a network in its fastest way of float32, None if it never ran."""
    mine = [times for (network, way), times in seconds.items() if network == name and way != "bfloat16"]
    return min(mine, key=lambda times: float(np.median(times[:, 0])), default=None)


def summarise(content: Mapping[str, Any]) -> list[Table]:
    """Times, ratios and the bar."""
    rows = [r for r in content["rows"] if "error" not in r]
    times = tuple(
        (r["prior"], r["way"], f"{1e3 * r['cpu_seconds']:.0f}", f"{1e3 * r['seconds']:.0f}",
         "–" if r["times_faster"] is None else f"{r['times_faster']:.1f}", f"{r['difference']:.0e}")
        for r in sorted(rows, key=lambda r: r["cpu_seconds"])
    )  # fmt: skip
    side = content["settings"]["side"]
    repeats = content["settings"]["repeats"]
    note = (
        f"One grey image of {side} × {side}; medians of {repeats} passes, all in turns; DRUNet and DnCNN with random weights. "
        "The reference is DRUNet's fastest way without bfloat16. Difference: of the result from the plain way's, at most. A "
        "certificate speaks of the real function of the weights: bfloat16 rounds every product by up to 2⁻⁹ of its size, far "
        "above what certify bounds for float32."
    )
    header = ("network", "way", "processor ms", "elapsed ms", "times faster than DRUNet", "difference")
    tables = [Table("Time of one pass", header, times, note), *bars(content, rows)]
    errors = tuple((f"{r['prior']}, {r['way']}", r["error"]) for r in content["rows"] if "error" in r)
    return tables + ([Table("No result", ("network", "why"), errors)] if errors else [])


def bars(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Whether each of ours is fast enough in float32."""
    found = []
    for name in (n for n, about in content["priors"].items() if about["ours"]):
        ratios = [
            r["times_faster"] for r in rows if r["prior"] == name and r["way"] != "bfloat16" and r["times_faster"]
        ]
        if ratios:
            met = "met" if max(ratios) >= BAR else "missed"
            found.append((f"{name} faster than DRUNet", f"≥ {BAR:g} times", f"{max(ratios):.1f} times", met))
    return [Table("Bars", ("what", "bar", "found", ""), tuple(found))] if found else []
