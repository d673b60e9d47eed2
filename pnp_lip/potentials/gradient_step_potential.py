"""The gradient-step potential: a learned, smooth objective without a bound of its curvature."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma, noise_level
from pnp_lip.denoisers.tiling import even_share, map_windows
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.fingerprint import recognise
from pnp_lip.layers import UNet

__all__ = ["GradientStepPotential", "gradient_step_from_config"]

TILE = 1024  # rows and columns of a window at most, without its margins; of float64 half as many


class GradientStepPotential(nn.Module):
    """R_σ(x) = ½‖x − N_σ(x)‖², N a U-net with smooth activations.

    It is trained so that x − ∇R_σ(x) denoises, and then so that critical points of f + λR_σ reconstruct.

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
        network = UNet(in_channels, width=size[0], depth=size[1], scales=size[2])
        self.network = network.to(memory_format=torch.channels_last)  # a fifth faster on CPUs

    @property
    def config(self) -> dict[str, object]:
        """The arguments that build it again."""
        return {"in_channels": self.in_channels, "size": list(self.network.size), "default_sigma": self.default_sigma}

    def forward(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """R_σ(x), one number per image in float64."""
        z, inside, level = self.prepared(x, sigma)
        if torch.is_grad_enabled():
            r = self.remainder(z, inside, sigma=level)
        else:
            r = self.in_windows(self.remainder, z, inside, level, reach=self.network.reach)
        return 0.5 * r.double().square().flatten(1).sum(1)

    def grad(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """∇R_σ(x) = r − Jᵀr with r = x − N_σ(x) and J the derivative of N_σ, of the shape of x; not differentiable."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z, inside, level = self.prepared(leaf, sigma)
            # A pixel's derivative needs r as far as N reaches, and r needs z as far again.
            g = self.in_windows(self.step, z.detach(), inside, level, reach=2 * self.network.reach)
            return torch.autograd.grad(z, leaf, g)[0]

    def denoise(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """D_σ(x) = x − ∇R_σ(x), differentiable in x and in the weights."""
        return x - self.differentiable_grad(x, sigma)

    def differentiable_grad(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """∇R_σ(x) in one piece, to be differentiated again."""
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            z, inside, level = self.prepared(leaf, sigma)
            r = self.remainder(z, inside, sigma=level)
            return torch.autograd.grad(r, leaf, r, create_graph=True)[0]

    def prepared(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor, Tensor]:
        """x in whole blocks, its border repeated as far as the last one needs it; 1 at pixels of x and 0 beyond; the σ."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ShapeError(f"this potential takes (B, {self.in_channels}, H, W) images; got {tuple(x.shape)}.")
        level = noise_level(self.default_sigma if sigma is None else sigma, len(x))
        (h, w), block = x.shape[-2:], self.network.block
        more = (0, -w % block, 0, -h % block)
        inside = F.pad(torch.ones(1, 1, h, w, dtype=x.dtype, device=x.device), more)
        return F.pad(x, more, mode="replicate"), inside, level.to(x)

    def remainder(self, z: Tensor, inside: Tensor, *, sigma: Tensor) -> Tensor:
        """r = z − N_σ(z) at the pixels of the image, 0 beyond."""
        r: Tensor = (z - self.network(z, sigma=sigma)) * inside
        return r

    def step(self, z: Tensor, inside: Tensor, *, sigma: Tensor) -> Tensor:
        """The derivative of ½‖r‖² in z."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            r = self.remainder(leaf, inside, sigma=sigma)
            return torch.autograd.grad(r, leaf, r)[0]

    def in_windows(self, function: Callable[..., Tensor], z: Tensor, inside: Tensor, sigma: Tensor, *, reach: int) -> Tensor:
        """``function``, whose value at a pixel depends on no more than ``reach`` around it, in windows that bound the memory.

        They are alike and begin with whole blocks.
        """
        most = TILE * torch.float32.itemsize // z.element_size()
        rows, columns = (even_share(side, most, self.network.block) for side in z.shape[-2:])
        return map_windows(partial(function, sigma=sigma), z, inside, tile=(rows, columns), reach=reach, circular=False)


recognise(GradientStepPotential, UNet)


def gradient_step_from_config(config: Mapping[str, object]) -> GradientStepPotential:
    """The potential whose ``config`` this is."""
    return GradientStepPotential(**config)  # type: ignore[arg-type]
