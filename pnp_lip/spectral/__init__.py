"""Bounds of operator norms, each named for its direction."""

from pnp_lip.spectral.circular_norm import circular_norm_upper
from pnp_lip.spectral.norm_bound import NormBound, norm_bound, norm_lower, norm_upper
from pnp_lip.spectral.rounding import execution_error_upper
from pnp_lip.spectral.symbol import grid_factor, half_torus, symbol

__all__ = [
    "NormBound",
    "circular_norm_upper",
    "execution_error_upper",
    "grid_factor",
    "half_torus",
    "norm_bound",
    "norm_lower",
    "norm_upper",
    "symbol",
]
