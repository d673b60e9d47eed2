"""Plug-and-play image reconstruction with learned denoisers whose convergence is proved.

The names below load on first use, so that ``import pnp_lip`` stays cheap.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not (Path(__file__).parent / "operators").is_dir():  # a checkout: operators, solvers and benchmarks stand beside us
    __path__.append(str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from pnp_lip.attacker import Violation, attack
    from pnp_lip.certificates import Certificate, certified_radius, certify, enforce, firm
    from pnp_lip.denoisers import AnnealingDenoiser, ClippedDenoiser, GradientFlowDenoiser, guided, relax
    from pnp_lip.noise import estimate_noise
    from pnp_lip.pretrained import certified_names, load_denoiser, load_pretrained, pretrained_names, save_denoiser
    from pnp_lip.solvers import denoise_guided
    from pnp_lip.version import __version__

__all__ = [
    "AnnealingDenoiser",
    "Certificate",
    "ClippedDenoiser",
    "GradientFlowDenoiser",
    "Violation",
    "__version__",
    "attack",
    "certified_names",
    "certified_radius",
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
    "AnnealingDenoiser": "denoisers",
    "Certificate": "certificates",
    "ClippedDenoiser": "denoisers",
    "GradientFlowDenoiser": "denoisers",
    "Violation": "attacker",
    "__version__": "version",
    "attack": "attacker",
    "certified_names": "pretrained",
    "certified_radius": "certificates",
    "certify": "certificates",
    "denoise_guided": "solvers",
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


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(f"pnp_lip.{HOMES[name]}"), name)
    raise AttributeError(f"module 'pnp_lip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
