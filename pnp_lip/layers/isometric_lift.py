"""The lift into more channels, an isometry, and its adjoint."""

from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.errors import InputError

__all__ = ["IsometricLift"]


class IsometricLift(nn.Module):
    """Q x = (x, 0, …, 0), Qᵀ(x, ·) = x: QᵀQ = Id, so QᵀNQ is α-averaged when N is.

    A learned orthonormal lift would add nothing: it can be absorbed into the weights of the layers between Q and Qᵀ.
    Shapes: (B, in_channels, H, W) to (B, channels, H, W), channels ≥ in_channels ≥ 1, else InputError; ``adjoint`` back.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        if not 1 <= in_channels <= channels:
            raise InputError(f"a lift needs 1 <= in_channels <= channels; got {in_channels} and {channels}.")
        self.in_channels, self.channels = in_channels, channels

    def forward(self, x: Tensor) -> Tensor:
        """Q x."""
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - self.in_channels))

    def adjoint(self, z: Tensor) -> Tensor:
        """Qᵀ z."""
        return z[:, : self.in_channels]
