"""How long one pass of each denoiser takes, in several ways of running it, beside deepinv's DRUNet and DnCNN.

All are timed in turns within one process, so that the machine's other work falls on all of them. Only ratios are compared
with the bar.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pnp_lip.benchmarks.config import SpeedConfig
from pnp_lip.benchmarks.networks import untrained
from pnp_lip.benchmarks.photographs import central_crop, photograph, sha256_of
from pnp_lip.benchmarks.priors import Prior
from pnp_lip.benchmarks.record import Destination, Record, Row, Table, attempted, timed

__all__ = ["run", "tables"]

Pass = Callable[[], Tensor]
Way = tuple[str, str]  # the network's name and how it is run
RIVALS = ("DRUNet", "DnCNN")  # of deepinv, with random weights, which take the same time as trained ones
BAR = 15.0  # times faster than DRUNet, ours and theirs each in the fastest way of float32


def run(config: SpeedConfig, to: Destination, priors: Sequence[Prior]) -> Row:
    """The record of every network among ``priors`` and of the rivals; one that holds them all is left as it is."""
    clean = central_crop(photograph("camera", max(config.side, 256)), config.side, "camera")
    generator = torch.Generator().manual_seed(config.seed)
    y = clean + config.level / 255 * torch.randn(clean.shape, generator=generator)
    record = Record.open(to, "speed", config, {"image": sha256_of(clean)})
    passes: dict[Way, Pass] = {}
    names = {p.name for p in priors}
    rivals = {kind: untrained(kind, config.seed, in_channels=1, out_channels=1) for kind in RIVALS if kind not in names}
    for prior in [*priors, *(Prior(*rival, reason="random weights, to measure its speed") for rival in rivals.items())]:
        network, _ = prior.at(1.0, config.level / 255)
        if isinstance(network, nn.Module) and any(True for _ in network.parameters()):
            record.register(prior.name, prior.describe())
            passes |= {(prior.name, way): work for way, work in ways(network, y, config.level / 255).items()}
    if not all(record.find("rows", {"prior": name, "way": way}) for name, way in passes):
        measure(record, passes, config.repeats)
    return record.content


def ways(denoiser: nn.Module, y: Tensor, sigma: float) -> dict[str, Pass]:
    """The ways of running a network: as it is, and stored by pixels."""
    by_pixels = copy.deepcopy(denoiser).to(memory_format=torch.channels_last)
    moved = y.to(memory_format=torch.channels_last)
    return {"plain": partial(denoiser, y, sigma), "channels-last": partial(by_pixels, moved, sigma)}


@torch.no_grad()
def measure(record: Record, passes: Mapping[Way, Pass], repeats: int) -> None:
    """Time all passes in turns; a way that fails is noted with its error."""
    outputs: dict[Way, Tensor] = {}
    for (name, way), one_pass in passes.items():
        found = attempted(lambda one_pass=one_pass: {"output": one_pass()})  # type: ignore[misc]  # also the warm-up
        if "error" in found:
            record.add("rows", {"prior": name, "way": way}, found)
        else:
            outputs[name, way] = found["output"]
    rounds = [{at: timed(passes[at], 9)[1] for at in outputs} for _ in range(repeats)]
    cpu = {at: np.array([times[at]["cpu_seconds"] for times in rounds]) for at in outputs}
    theirs = [seconds for (name, _), seconds in cpu.items() if name == "DRUNet"]
    reference = min(theirs, key=lambda seconds: float(np.median(seconds)), default=None)  # its fastest way
    for (name, way), seconds in cpu.items():
        figures: Row = {
            "cpu_seconds": float(np.median(seconds)),
            "seconds": float(np.median([times[name, way]["seconds"] for times in rounds])),
            "times_faster": None if reference is None else float(np.median(reference / seconds)),
            "difference": float((outputs[name, way] - outputs[name, "plain"]).abs().max()),
        }
        record.add("rows", {"prior": name, "way": way}, figures)
        record.tell(f"{name}, {way}: {1e3 * figures['cpu_seconds']:.0f} ms")


def tables(content: Row) -> list[Table]:
    """Times, ratios and the bar: whether each of ours is fast enough in float32."""
    rows = [r for r in content["rows"] if "error" not in r]
    times = tuple(
        (r["prior"], r["way"], f"{1e3 * r['cpu_seconds']:.0f}", f"{1e3 * r['seconds']:.0f}",
         "–" if r["times_faster"] is None else f"{r['times_faster']:.1f}", f"{r['difference']:.0e}")
        for r in sorted(rows, key=lambda r: r["cpu_seconds"])
    )  # fmt: skip
    side, repeats = content["settings"]["side"], content["settings"]["repeats"]
    note = (
        f"One grey image of {side} × {side}; medians of {repeats} passes, all in turns; DRUNet and DnCNN with random weights. "
        "The reference is DRUNet's fastest way without bfloat16. Difference: the largest one from the plain way's result."
    )
    if any(r["way"] == "bfloat16" for r in rows):  # older records have it
        note += (
            " A certificate is about the real function of the weights. bfloat16 rounds every product by up to 2⁻⁹ of its "
            "size, far above the rounding that certify bounds for float32."
        )
    header = ("network", "way", "processor ms", "elapsed ms", "times faster than DRUNet", "difference")
    bars = []
    for name in (n for n, about in content["priors"].items() if about["ours"]):
        mine = [r["times_faster"] for r in rows if r["prior"] == name and r["way"] != "bfloat16"]
        ratio = max((r for r in mine if r is not None), default=None)
        if ratio is not None:
            met = "met" if ratio >= BAR else "missed"
            bars.append((f"{name} faster than DRUNet", f"≥ {BAR:g} times", f"{ratio:.1f} times", met))
    errors = tuple((f"{r['prior']}, {r['way']}", r["error"]) for r in content["rows"] if "error" in r)
    made = [Table("Time of one pass", header, times, note), Table("Bars", ("what", "bar", "found", ""), tuple(bars)),
            Table("No result", ("network", "why"), errors)]  # fmt: skip
    return [table for table in made if table.rows]
