"""A denoiser without a certificate, which makes better guides than certified ones can."""

from collections.abc import Sequence

from deepinv.models import Denoiser
from torch import Tensor

from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser, Sigma, require_image
from pnp_lip.denoisers.guided_denoiser import GUIDE_SIGMA_FACTOR
from pnp_lip.denoisers.tiling import improve
from pnp_lip.errors import InputError
from pnp_lip.layers import UNet

__all__ = ["AnnealingDenoiser"]


class AnnealingDenoiser(Denoiser):  # type: ignore[misc]
    """D(y, σ) = U(g, y − g, σ), g = first(y, 1.1 σ): a U-net that looks at a first result and at what that took away.

    It denoises better than ``first`` and has no certificate: it is not nonexpansive, and no solver proves anything of it.
    ``solvers.Anneal`` makes guides with it, in steps that are counted beforehand. Untrained, D(y, σ) = g.

    Parameters: ``first``, a denoiser without guidance, which would be of no use here; ``size``, the width, the depth and
    the number of scales of U. Shapes as in ``GradientFlowDenoiser``. Raises InputError for others.

    >>> import torch
    >>> first = GradientFlowDenoiser(hidden_channels=4, dilations=(1,))
    >>> AnnealingDenoiser(first, (4, 3, 2))(torch.zeros(2, 1, 8, 8), 0.1).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, first: GradientFlowDenoiser, size: Sequence[int] = (32, 6, 3)) -> None:
        super().__init__()
        if first.guidance is not None:
            raise InputError("`first` is used without a guide; take a denoiser without guidance.")
        if len(size) != 3:
            raise InputError(f"`size` is the width, the depth and the number of scales of the U-net; got {size!r}.")
        self.first = first
        self.network = UNet(first.in_channels, width=size[0], depth=size[1], scales=size[2])
        self.in_channels, self.default_sigma = first.in_channels, first.default_sigma

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: object) -> Tensor:
        """D(x, σ)."""
        require_image(self.first, x)
        s = self.first.level(sigma, x)
        g: Tensor = self.first(x, GUIDE_SIGMA_FACTOR * s)
        return improve(self.network, g, x - g, sigma=s)

    @property
    def config(self) -> dict[str, object]:
        """What files of weights hold: the configuration of ``first`` and the size of U."""
        return {"first": self.first.config, "network": list(self.network.size)}
