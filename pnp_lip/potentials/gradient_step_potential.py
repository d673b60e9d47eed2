"""The gradient-step potential: a learned objective without a bound of its curvature, whose gradient step denoises."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma, noise_level
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.fingerprint import recognise
from pnp_lip.layers import UNet

__all__ = ["GradientStepPotential", "gradient_step_from_config"]


class GradientStepPotential(nn.Module):
    """R_σ(x) = ½‖x − N_σ(x)‖², N a U-net with smooth activations, trained so that D_σ(x) = x − ∇R_σ(x) denoises.

    N is built of convolutions and SiLU: R_σ is smooth, so its gradient is Lipschitz on every box, and definable in the
    structure of the exponential function. ``Variational`` asks no more: it converges to a critical point of f + λR_σ. How
    large the curvature is, nothing proves; backtracking finds what a run needs.

    Parameters: ``in_channels`` of the image; ``size``, the width, the depth and the number of scales of N;
    ``default_sigma``.

    Shapes: x (B, in_channels, H, W) on [0, 1], of any size; σ, on the same scale, None, a number, or a tensor of shape
    (), (1,), (B,) or (1, 1). Raises InputError for settings out of their range, ShapeError for a wrong shape.
    Source: Hurault, Leclaire & Papadakis (2022), "Gradient step denoiser for convergent plug-and-play".

    >>> potential = GradientStepPotential(size=(4, 3, 2))
    >>> x = torch.rand(2, 1, 9, 8)
    >>> potential(x, 0.1).shape, potential.grad(x, 0.1).shape
    (torch.Size([2]), torch.Size([2, 1, 9, 8]))
    """

    def __init__(self, *, in_channels: int = 1, size: Sequence[int] = (32, 4, 3), default_sigma: float = 0.05) -> None:
        super().__init__()
        if in_channels < 1 or len(size) != 3:
            raise InputError(
                f"expected in_channels >= 1 and `size`, the width, the depth and the number of scales of a U-net; got "
                f"{in_channels} and {size!r}."
            )
        noise_level(default_sigma, 1)
        self.in_channels, self.default_sigma = in_channels, default_sigma
        self.network = UNet(in_channels, width=size[0], depth=size[1], scales=size[2], smooth=True)

    @property
    def config(self) -> dict[str, object]:
        """The arguments that build it again."""
        return {"in_channels": self.in_channels, "size": list(self.network.size), "default_sigma": self.default_sigma}

    def forward(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """R_σ(x), one number per image in float64."""
        return 0.5 * self.remainder(x, sigma).double().square().flatten(1).sum(1)

    def grad(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """∇R_σ(x) = r − Jᵀr with r = x − N_σ(x) and J the derivative of N_σ, of the shape of x; not differentiable."""
        return self.step(x.detach(), sigma).detach()

    def denoise(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """D_σ(x) = x − ∇R_σ(x), for training: differentiable in the weights."""
        return x - self.step(x, sigma, differentiable=True)

    def step(self, x: Tensor, sigma: Sigma, differentiable: bool = False) -> Tensor:
        """∇R_σ(x)."""
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            r = self.remainder(leaf, sigma)
            (gradient,) = torch.autograd.grad(r, leaf, r, create_graph=differentiable)
        return gradient

    def remainder(self, x: Tensor, sigma: Sigma) -> Tensor:
        """x − N_σ(x). N works in whole blocks: the image's border is repeated as far as the last block needs it."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ShapeError(f"this potential takes (B, {self.in_channels}, H, W) images; got {tuple(x.shape)}.")
        level = noise_level(self.default_sigma if sigma is None else sigma, len(x))
        (h, w), block = x.shape[-2:], self.network.block
        whole = F.pad(x, (0, -w % block, 0, -h % block), mode="replicate")
        return x - self.network(whole, sigma=torch.as_tensor(level).to(x).reshape(-1))[..., :h, :w]


recognise(GradientStepPotential, UNet)


def gradient_step_from_config(config: Mapping[str, object]) -> GradientStepPotential:
    """The potential whose ``config`` this is."""
    return GradientStepPotential(**config)  # type: ignore[arg-type]
