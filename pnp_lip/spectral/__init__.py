"""Bounds of operator norms, each named for its direction."""

from pnp_lip.spectral.border_norm import border_norm_bound, mirror_closed
from pnp_lip.spectral.circular_norm import circular_norm_upper
from pnp_lip.spectral.lattice_map import (
    LatticeMap,
    convolution,
    identity,
    pixel_unshuffle,
    stack_columns,
    stack_rows,
)
from pnp_lip.spectral.norm_bound import NormBound, norm_bound, norm_lower, norm_upper
from pnp_lip.spectral.rounding import execution_error_upper
from pnp_lip.spectral.symbol import grid_factor, half_torus, symbol

__all__ = [
    "LatticeMap",
    "NormBound",
    "border_norm_bound",
    "circular_norm_upper",
    "convolution",
    "execution_error_upper",
    "grid_factor",
    "half_torus",
    "identity",
    "mirror_closed",
    "norm_bound",
    "norm_lower",
    "norm_upper",
    "pixel_unshuffle",
    "stack_columns",
    "stack_rows",
    "symbol",
]
