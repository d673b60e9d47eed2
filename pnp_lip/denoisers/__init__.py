"""Denoisers that carry a certificate, and what is made of them."""

from pnp_lip.denoisers.exact_tiling import ExactTiling
from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser, add_guidance, denoiser_from_config
from pnp_lip.denoisers.guided_denoiser import (
    GUIDE_SIGMA_FACTOR,
    GuidedDenoiser,
    can_be_guided,
    guided,
    require_guidance,
)
from pnp_lip.denoisers.sliced_denoiser import SlicedDenoiser
from pnp_lip.denoisers.wrappers import ClippedDenoiser, RelaxedDenoiser, relax
from pnp_lip.renamed import renamed

__all__ = [
    "GUIDE_SIGMA_FACTOR",
    "ClippedDenoiser",
    "ExactTiling",
    "GradientFlowDenoiser",
    "GuidedDenoiser",
    "RelaxedDenoiser",
    "SlicedDenoiser",
    "add_guidance",
    "can_be_guided",
    "denoiser_from_config",
    "guided",
    "relax",
    "require_guidance",
]

__getattr__ = renamed(__name__, {"denoise_guided": "pnp_lip.solvers:denoise_guided"})
