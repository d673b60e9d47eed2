"""Denoisers that carry a certificate."""

from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser

__all__ = ["GradientFlowDenoiser"]
