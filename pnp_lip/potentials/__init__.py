"""Learned objectives whose curvature is proved."""

from pnp_lip.potentials.ridge_potential import RidgePotential
from pnp_lip.potentials.sliced_potential import SlicedPotential

__all__ = ["RidgePotential", "SlicedPotential"]
