"""Proved bounds against the strongest violation an attack finds, and how long proving takes."""

import copy
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pnp_lip.attacker import attack
from pnp_lip.benchmarks.config import CertificatesConfig
from pnp_lip.benchmarks.networks import untrained
from pnp_lip.benchmarks.photographs import central_crop, photograph, sha256_of
from pnp_lip.benchmarks.priors import PotentialPrior, Prior, prior_of
from pnp_lip.benchmarks.record import Destination, Record, Row, Table, timed
from pnp_lip.certificates import certify
from pnp_lip.curvature_attack import attack_curvature
from pnp_lip.denoisers import GradientFlowDenoiser

__all__ = ["run", "tables"]

CURVATURE = ("potential", "σ·255", "curvature ≥", "curvature ≤", "found least", "found largest", "CPU s")


def run(config: CertificatesConfig, to: Destination, priors: Sequence[Prior]) -> Row:
    """The record of every network among ``priors``, an untrained DnCNN, and the times; continues the one that is there."""
    names = ("astronaut" if config.colour else "camera", "chelsea")
    crops = torch.cat([central_crop(photograph(n, 128, colour=config.colour), config.side, n) for n in names])
    channels = crops.shape[1]
    dncnn = untrained("DnCNN", config.seed, in_channels=channels, out_channels=channels, depth=7, nf=32)
    record = Record.open(to, "certificates", config, {"crops": sha256_of(crops)})
    attacked = [*priors, prior_of("DnCNN, untrained", dncnn, channels=channels)]
    networks: dict[str, nn.Module] = {p.name: p.denoiser for p in attacked if isinstance(p.denoiser, nn.Module)}
    for prior in (p for p in attacked if p.name in networks):
        record.register(prior.name, prior.describe())
        for level in config.levels:
            if isinstance(prior, PotentialPrior):
                work = functools.partial(curvature_figures, prior, level, config)
            else:
                work = functools.partial(attacked_figures, networks[prior.name], prior, crops, level, config)
            record.measure({"prior": prior.name, "sigma": level}, work)
    with torch.random.fork_rng(devices=[]):  # torch's own generator stays as it was
        torch.manual_seed(config.seed)
        width, depth = config.channels, config.layers
        random = GradientFlowDenoiser(channels=width, hidden_channels=width, dilations=(1,) * depth, kernel_size=3)
    networks[f"random {depth} × {width} channels"] = random.eval().requires_grad_(False)
    for name, network in networks.items():
        record.measure({"prior": name, "timing": True}, functools.partial(certification, network, config.rtol))
    return record.content


def attacked_figures(network: nn.Module, prior: Prior, crops: Tensor, level: float, config: CertificatesConfig) -> Row:
    """The bound beside the largest ratio ‖D(x) − D(y)‖/‖x − y‖ that the attack found."""
    certificate = prior.certificate
    bound = None if certificate is None else certificate.lipschitz_upper
    search = functools.partial(attack, network, crops, sigma=level / 255, steps=config.steps, seed=config.seed)
    violation, times = timed(lambda: search(bound=1.0 if bound is None else bound))
    return {
        "lipschitz_upper": bound,
        "averagedness": None if certificate is None else certificate.averagedness,
        "found_lower": violation.ratio,
        "refuted": violation.exceeds and bound is not None,
        "cpu_seconds": times["cpu_seconds"],
    }


def curvature_figures(prior: PotentialPrior, level: float, config: CertificatesConfig) -> Row:
    """The bounds of a potential's curvature beside the extreme curvatures that the attack found."""
    bound = None if prior.certificate is None else prior.certificate.curvature
    search = functools.partial(attack_curvature, prior.potential, sigma=level / 255, steps=config.steps, bound=bound)
    (least, largest), times = timed(search)
    return {
        "curvature": None if bound is None else (bound.lower, bound.upper),
        "found": (least.curvature, largest.curvature),
        "refuted": least.exceeds or largest.exceeds,
        "cpu_seconds": times["cpu_seconds"],
    }


def certification(network: nn.Module, rtol: float) -> Row:
    """The bound and the times of a certification without a cache."""
    fresh = copy.deepcopy(network)
    certificate, times = timed(lambda: certify(fresh, rtol=rtol))
    return {"lipschitz_upper": certificate.lipschitz_upper, **times}


def tables(content: Row) -> list[Table]:
    """Bounds beside violations, and the times."""
    attacks, curvatures, times, errors = [], [], [], []
    for r in content["rows"]:
        bound = r.get("lipschitz_upper")
        if "error" in r:
            errors.append((r["prior"], r["error"]))
        elif "found" in r:
            ends = ("none", "none") if r["curvature"] is None else (f"{v:.6g}" for v in r["curvature"])
            (least, largest), seconds = (f"{v:.6g}" for v in r["found"]), f"{r['cpu_seconds']:.1f}"
            curvatures.append((r["prior"], f"{r['sigma']:g}", *ends, least, largest, seconds))
        elif "found_lower" in r:
            found = r["found_lower"]
            known, share = ("none", "–") if bound is None else (f"{bound:.6g}", f"{found / bound:.1%}")
            above, seconds = "yes" if found > 1 else "no", f"{r['cpu_seconds']:.1f}"
            attacks.append((r["prior"], f"{r['sigma']:g}", known, f"{found:.6f}", share, above, seconds))
        else:
            times.append((r["prior"], f"{bound:.6g}", f"{r['cpu_seconds']:.2f}", f"{r['seconds']:.2f}"))
    note = f"Attack: {content['settings']['steps']} steps on crops of {content['settings']['side']}² pixels; a lower bound."
    header = ("network", "σ·255", "Lipschitz ≤", "found ≥", "found / bound", "above 1", "CPU s")
    made = [
        Table("Proved bound and strongest violation found", header, tuple(attacks), note),
        Table("Proved bounds of curvature and extremes found", CURVATURE, tuple(curvatures)),
        Table("Time of a certification", ("network", "Lipschitz ≤", "CPU s", "s"), tuple(times)),
        Table("No result", ("network", "why"), tuple(errors)),
    ]
    return [table for table in made if table.rows]
