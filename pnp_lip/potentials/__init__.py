"""Learned objectives: a ridge potential, whose curvature is proved, and a gradient-step potential, which is smooth."""

from typing import TypeAlias

from pnp_lip.potentials.gradient_step_potential import GradientStepPotential
from pnp_lip.potentials.ridge_potential import RidgePotential
from pnp_lip.potentials.sliced_potential import SlicedPotential

__all__ = ["GradientStepPotential", "Potential", "RidgePotential", "SlicedPotential"]

Potential: TypeAlias = GradientStepPotential | RidgePotential  # those that can be saved and loaded
