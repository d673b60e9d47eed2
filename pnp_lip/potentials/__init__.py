"""Learned objectives whose curvature is proved."""

from pnp_lip.potentials.ridge_potential import RidgePotential

__all__ = ["RidgePotential"]
