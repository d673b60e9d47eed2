"""The public names of ``pnp_lip``: the one list of them. ``pnp_lip`` itself loads this file when a name is first used."""

from pnp_lip.attacker import Violation, attack
from pnp_lip.certificates import Certificate, certify, enforce, firm
from pnp_lip.curvature_attack import CurvatureViolation, attack_curvature
from pnp_lip.denoisers import ClippedDenoiser, GradientFlowDenoiser, SlicedDenoiser, relax
from pnp_lip.noise import estimate_noise
from pnp_lip.potentials import SlicedPotential
from pnp_lip.pretrained import certified_names, load_denoiser, load_pretrained, pretrained_names, save_denoiser
from pnp_lip.reconstruction import reconstruct
from pnp_lip.restore import Restoration, deblur, denoise
from pnp_lip.solvers import PotentialPrior, ProximalDenoiser, Variational
from pnp_lip.version import __version__

__all__ = [
    "Certificate",
    "ClippedDenoiser",
    "CurvatureViolation",
    "GradientFlowDenoiser",
    "PotentialPrior",
    "ProximalDenoiser",
    "Restoration",
    "SlicedDenoiser",
    "SlicedPotential",
    "Variational",
    "Violation",
    "__version__",
    "attack",
    "attack_curvature",
    "certified_names",
    "certify",
    "deblur",
    "denoise",
    "enforce",
    "estimate_noise",
    "firm",
    "load_denoiser",
    "load_pretrained",
    "pretrained_names",
    "reconstruct",
    "relax",
    "save_denoiser",
]
