"""The universal 1-Lipschitz networks of Murari, Furuya & Schönlieb (2025): trained, certified, and built by hand.

``pnp_lip.theory.experiments`` holds the experiments. Importing this package teaches ``certify`` the networks.
"""

from pnp_lip.theory.certificates import certified_radius, output_lipschitz_upper
from pnp_lip.theory.constraints import Projector, parametrise, plain, seal
from pnp_lip.theory.exact import (
    MaxMin,
    covering_cosine_lower,
    distance_to_points,
    lipschitz_extension,
    piecewise_linear,
    sphere_directions,
    to_fixed_width,
    to_unbounded_width,
)
from pnp_lip.theory.networks import BlockAffine, Constraints, FixedWidthNetwork, MaxMinLayer, UnboundedWidthNetwork
from pnp_lip.theory.wasserstein import Wasserstein1, wasserstein1

__all__ = [
    "BlockAffine",
    "Constraints",
    "FixedWidthNetwork",
    "MaxMin",
    "MaxMinLayer",
    "Projector",
    "UnboundedWidthNetwork",
    "Wasserstein1",
    "certified_radius",
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
