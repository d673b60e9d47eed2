"""Bounds of operator norms, each named for its direction."""

from pnp_lip.spectral.norm_bound import Method, NormBound, PaddingMode, border_norm_bound, norm_bound
from pnp_lip.spectral.power_iteration import norm_lower
from pnp_lip.spectral.rounding import execution_error_upper
from pnp_lip.spectral.torus import grid_factor, half_torus, symbol

__all__ = [
    "Method",
    "NormBound",
    "PaddingMode",
    "border_norm_bound",
    "execution_error_upper",
    "grid_factor",
    "half_torus",
    "norm_bound",
    "norm_lower",
    "symbol",
]
