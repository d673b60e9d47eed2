"""Images larger than memory, on Zarr arrays, chunk by chunk, with the map and the guarantee of the solver."""

from pnp_lip.large.run import LargeResult
from pnp_lip.large.solving import solve

__all__ = ["LargeResult", "solve"]
