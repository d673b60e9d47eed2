"""Bounds of operator norms, each named for its direction."""

from pnp_lip.spectral.norm_bound import NormBound
from pnp_lip.spectral.symbol import grid_factor, half_torus, symbol

__all__ = ["NormBound", "grid_factor", "half_torus", "symbol"]
