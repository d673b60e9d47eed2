"""The universal 1-Lipschitz networks of Murari, Furuya & Schönlieb (2025): trained, certified, and built by hand."""

from pnp_lip.theory.block_affine import BlockAffine
from pnp_lip.theory.certificates import output_lipschitz_upper
from pnp_lip.theory.directions import covering_cosine_lower, sphere_directions
from pnp_lip.theory.exact_networks import to_unbounded_width
from pnp_lip.theory.extension import distance_to_points, lipschitz_extension
from pnp_lip.theory.fixed_width_network import FixedWidthNetwork
from pnp_lip.theory.max_min import MaxMin
from pnp_lip.theory.max_min_layer import MaxMinLayer
from pnp_lip.theory.parametrisation import parametrise, plain
from pnp_lip.theory.piecewise_linear import piecewise_linear
from pnp_lip.theory.projection import Constraints, Projector, seal
from pnp_lip.theory.radius import certified_radius
from pnp_lip.theory.size import ConstructionSize, construction_size
from pnp_lip.theory.to_fixed_width import to_fixed_width
from pnp_lip.theory.unbounded_width_network import UnboundedWidthNetwork
from pnp_lip.theory.wasserstein import Wasserstein1, wasserstein1

__all__ = [
    "BlockAffine",
    "Constraints",
    "ConstructionSize",
    "FixedWidthNetwork",
    "MaxMin",
    "MaxMinLayer",
    "Projector",
    "UnboundedWidthNetwork",
    "Wasserstein1",
    "certified_radius",
    "construction_size",
    "covering_cosine_lower",
    "distance_to_points",
    "lipschitz_extension",
    "output_lipschitz_upper",
    "parametrise",
    "piecewise_linear",
    "plain",
    "seal",
    "sphere_directions",
    "to_fixed_width",
    "to_unbounded_width",
    "wasserstein1",
]
