"""Proved bounds against the strongest violation an attack finds, and how long proving takes.

``run(Config(...), path, priors)`` fills a record; ``pnp-lip bench certificates`` is the command.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pnp_lip.attacker import attack
from pnp_lip.benchmarks.comparison import Tell
from pnp_lip.benchmarks.networks import untrained
from pnp_lip.benchmarks.photographs import central_crop, photograph, sha256_of
from pnp_lip.benchmarks.priors import Prior, prior_of
from pnp_lip.benchmarks.record import Record
from pnp_lip.benchmarks.tables import Table
from pnp_lip.certificates import certify
from pnp_lip.certificates.certify import CACHE
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import CertificateError

__all__ = ["Config", "run", "summarise"]


@dataclasses.dataclass(frozen=True)
class Config:
    """``levels`` of the denoisers' noise in units of 1/255; the attack's ``steps`` and the ``side`` of the attacked crops in
    pixels, in ``colour`` for networks of three channels; ``layers`` and ``channels`` of the random network whose certification
    is timed to the relative tolerance ``rtol``."""

    levels: tuple[float, ...] = (5, 25)
    steps: int = 8
    side: int = 20
    colour: bool = False
    layers: int = 12
    channels: int = 64
    rtol: float = 1e-3
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
    """The record of every network among ``priors``, an untrained DnCNN, and the times; continues the one at ``path``."""
    names = ("astronaut" if config.colour else "camera", "chelsea")
    crops = torch.cat([central_crop(photograph(n, 128, colour=config.colour), config.side, n) for n in names])
    channels = crops.shape[1]
    dncnn = untrained("DnCNN", config.seed, in_channels=channels, out_channels=channels, depth=7, nf=32)
    record = Record.open(path, "certificates", dataclasses.asdict(config), {"crops": sha256_of(crops)}, fresh=fresh)
    for name, reason in (skipped or {}).items():
        record.skip(name, reason)
    networks = [p for p in priors if isinstance(p.denoiser, nn.Module)] + [
        prior_of("DnCNN, untrained", dncnn, channels=channels)
    ]
    for prior in networks:
        record.register(prior.name, prior.describe())
        for level in config.levels:
            work = functools.partial(attacked, prior, crops, level, config)
            cell(record, {"prior": prior.name, "sigma": level}, work, tell)
    big = random_network(config)
    timed = {p.name: p.denoiser for p in networks} | {f"random {config.layers} × {config.channels} channels": big}
    for name, network in timed.items():
        cell(record, {"prior": name, "timing": True}, functools.partial(certification, network, config.rtol), tell)
    return record.content


def cell(record: Record, key: dict[str, Any], work: Callable[[], dict[str, Any]], tell: Tell) -> None:
    """One row, unless the record holds it; an error stays in its row."""
    if record.find("rows", key) is not None:
        return
    try:
        figures = work()
    except Exception as error:  # a foreign network's failure must not stop the others
        figures = {"error": f"{type(error).__name__}: {error}"}
    record.add("rows", key, figures)
    tell(", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in {**key, **figures}.items()))


def random_network(config: Config) -> GradientFlowDenoiser:
    """A gradient-flow network as it is initialised."""
    state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    network = GradientFlowDenoiser(
        channels=config.channels, hidden_channels=config.channels, dilations=(1,) * config.layers, kernel_size=3
    )
    torch.set_rng_state(state)
    network.eval().requires_grad_(False)
    return network


def attacked(prior: Prior, crops: Tensor, level: float, config: Config) -> dict[str, Any]:
    """The bound beside the largest ratio ‖D(x) − D(y)‖/‖x − y‖ that the attack found."""
    bound = None if prior.certificate is None else prior.certificate.lipschitz_upper
    start = time.process_time()
    violation = attack(
        prior.denoiser,
        crops,
        sigma=level / 255,
        steps=config.steps,
        seed=config.seed,
        bound=1.0 if bound is None else bound,
    )
    return {
        "lipschitz_upper": bound,
        "averagedness": None if prior.certificate is None else prior.certificate.averagedness,
        "found_lower": violation.ratio,
        "refuted": violation.exceeds and bound is not None,
        "cpu_seconds": round(time.process_time() - start, 3),
    }


def certification(network: nn.Module, rtol: float) -> dict[str, Any]:
    """Processor time of a certification that nothing is cached for, or the reason why there is no certificate."""
    fresh = copy.deepcopy(network)
    fresh.__dict__.pop(CACHE, None)
    start, wall = time.process_time(), time.perf_counter()
    try:
        bound: float | None = certify(fresh, rtol=rtol).lipschitz_upper
    except CertificateError as error:
        return {"error": str(error)}
    times = {"cpu_seconds": round(time.process_time() - start, 3), "seconds": round(time.perf_counter() - wall, 3)}
    return {"lipschitz_upper": bound, **times}


def summarise(content: Mapping[str, Any]) -> list[Table]:
    """Bounds beside violations, and the times."""
    rows = content["rows"]
    attacks = tuple(
        (r["prior"], f"{r['sigma']:g}", "none" if r["lipschitz_upper"] is None else f"{r['lipschitz_upper']:.6g}",
         f"{r['found_lower']:.6f}", "–" if r["lipschitz_upper"] is None else f"{r['found_lower'] / r['lipschitz_upper']:.1%}",
         "yes" if r["found_lower"] > 1 else "no", f"{r['cpu_seconds']:.1f}")
        for r in rows if "found_lower" in r
    )  # fmt: skip
    times = tuple(
        (r["prior"], f"{r['lipschitz_upper']:.6g}", f"{r['cpu_seconds']:.2f}", f"{r['seconds']:.2f}")
        for r in rows
        if r.get("timing") and "error" not in r
    )
    errors = tuple((r["prior"], r["error"]) for r in rows if "error" in r)
    note = f"Attack: {content['settings']['steps']} steps on crops of {content['settings']['side']}² pixels; a lower bound."
    tables = [
        Table("Proved bound and strongest violation found", ("network", "σ·255", "Lipschitz ≤", "found ≥", "found / bound",
              "above 1", "CPU s"), attacks, note),
        Table("Time of a certification", ("network", "Lipschitz ≤", "CPU s", "s"), times),
    ]  # fmt: skip
    return tables + ([Table("No result", ("network", "why"), errors)] if errors else [])
