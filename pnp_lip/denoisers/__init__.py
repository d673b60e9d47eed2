"""Denoisers that carry a certificate, and what is made of them."""

from pnp_lip.denoisers.exact_tiling import ExactTiling
from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser, denoiser_from_config
from pnp_lip.denoisers.sliced_denoiser import SlicedDenoiser
from pnp_lip.denoisers.wrappers import ClippedDenoiser, RelaxedDenoiser, relax

__all__ = [
    "ClippedDenoiser",
    "ExactTiling",
    "GradientFlowDenoiser",
    "RelaxedDenoiser",
    "SlicedDenoiser",
    "denoiser_from_config",
    "relax",
]
