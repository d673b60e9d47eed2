"""Plug-and-play image reconstruction with learned denoisers whose convergence is proved.

The names below load on first use, so that ``import pnp_lip`` stays cheap.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp_lip.renamed import renamed

if not (Path(__file__).parent / "operators").is_dir():  # a checkout: operators, solvers and benchmarks stand beside us
    __path__.append(str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from pnp_lip.attacker import Violation, attack
    from pnp_lip.certificates import Certificate, certify, enforce, firm
    from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, denoise_guided, guided, relax
    from pnp_lip.noise import estimate_noise
    from pnp_lip.pretrained import load_denoiser, load_pretrained, pretrained_names, save_denoiser
    from pnp_lip.version import __version__

__all__ = [
    "Certificate",
    "ClippedDenoiser",
    "GradientFlowDenoiser",
    "Violation",
    "__version__",
    "attack",
    "certify",
    "denoise_guided",
    "enforce",
    "estimate_noise",
    "firm",
    "guided",
    "load_denoiser",
    "load_pretrained",
    "pretrained_names",
    "relax",
    "save_denoiser",
]

HOMES = {
    "Certificate": "certificates",
    "ClippedDenoiser": "denoisers",
    "GradientFlowDenoiser": "denoisers",
    "Violation": "attacker",
    "__version__": "version",
    "attack": "attacker",
    "certify": "certificates",
    "denoise_guided": "denoisers",
    "enforce": "certificates",
    "estimate_noise": "noise",
    "firm": "certificates",
    "guided": "denoisers",
    "load_denoiser": "pretrained",
    "load_pretrained": "pretrained",
    "pretrained_names": "pretrained",
    "relax": "denoisers",
    "save_denoiser": "pretrained",
}


RENAMED = {
    "certified_radius": "pnp_lip.theory:certified_radius",
    "exact": "pnp_lip.theory:",
    "experiments": "pnp_lip.theory.experiments:",
    "networks": "pnp_lip.theory:",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(f"pnp_lip.{HOMES[name]}"), name)
    return renamed(__name__, RENAMED)(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
