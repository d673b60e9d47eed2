"""Denoisers that carry a certificate."""

from pnp_lip.denoisers.clipped_denoiser import ClippedDenoiser
from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser
from pnp_lip.denoisers.guided_denoiser import (
    GUIDE_SIGMA_FACTOR,
    GuidedDenoiser,
    can_be_guided,
    can_estimate,
    denoise_guided,
    estimate,
    guided,
    require_estimate,
    require_guidance,
)
from pnp_lip.denoisers.relaxed_denoiser import RelaxedDenoiser, relax

__all__ = [
    "GUIDE_SIGMA_FACTOR",
    "ClippedDenoiser",
    "GradientFlowDenoiser",
    "GuidedDenoiser",
    "RelaxedDenoiser",
    "can_be_guided",
    "can_estimate",
    "denoise_guided",
    "estimate",
    "guided",
    "relax",
    "require_estimate",
    "require_guidance",
]
