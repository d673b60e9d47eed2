"""The convolutional gradient-flow layer, and what it sees beyond the image's border."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers.activations import Activation, ReLU
from pnp_lip.layers.fourier import correlate
from pnp_lip.layers.gradient_flow_linear import check_sizes
from pnp_lip.spectral.polyphase import dilate

__all__ = ["PADDING_MODES", "GradientFlowConv2d", "pad"]

PADDING_MODES = ("zeros", "circular")
# The side of the blocks of pixels that one strided convolution computes at once for a single output channel, which would leave
# most lanes of a processor's vector idle. Measured on 256x256 images: from 16 channels to one 4.6 times as fast as pixel by
# pixel, bitwise with the same result; from 32 to three or more nothing is gained.
BLOCK = 4


class GradientFlowConv2d(nn.Module):
    """One explicit Euler step of a negative gradient flow, W a stride-one convolution that keeps the image size.

    Φ(x) = x − τ Wᵀ σ(Wx + b)

    The steps τ that make Φ nonexpansive, averaged or firm are those of ``GradientFlowLinear``. ‖W‖ is at most the supremum
    of the symbol's norm over the torus, for every image size, for zero and for circular padding. Other paddings are refused
    because they have a norm above one.

    Shapes: x is (B, channels, H, W); the weight is (hidden_channels, channels, k, k) with k odd. Wᵀ is the exact adjoint:
    the same convolution with the kernel flipped and its two channel axes exchanged. The activation carries a shift of its
    own where it has one; ``bias=True`` adds b. Raises InputError for an even kernel or an unknown padding, ShapeError for
    the wrong number of channels, also in the activation.
    Source: Sherry, Celledoni, Ehrhardt, Murari, Owren & Schönlieb (2024), Section 2; Baillon & Haddad (1977).

    >>> layer = GradientFlowConv2d(2, 4, 3, padding_mode="circular")
    >>> layer(torch.zeros(1, 2, 8, 8)).shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        *,
        dilation: int = 1,
        padding_mode: str = "zeros",
        activation: Activation | None = None,
        bias: bool = False,
        step_fraction: float = 0.95,
    ) -> None:
        super().__init__()
        check_sizes(channels, hidden_channels, step_fraction)
        if kernel_size < 1 or kernel_size % 2 == 0 or dilation < 1:
            raise InputError(
                f"`kernel_size` must be odd, so that the image keeps its size, and `dilation` at least 1; "
                f"got {kernel_size} and {dilation}."
            )
        if padding_mode not in PADDING_MODES:
            raise InputError(
                f"`padding_mode` must be one of {PADDING_MODES}, as others have a norm above one; got {padding_mode!r}."
            )
        self.activation: Activation = ReLU() if activation is None else activation
        self.dilation, self.padding_mode = dilation, padding_mode
        self.fourier = False  # gradients through the Fourier transform: faster in training, with another rounding
        scale = 1.0 / (kernel_size * (hidden_channels**0.5 + channels**0.5))
        self.weight: Tensor = nn.Parameter(scale * torch.randn(hidden_channels, channels, kernel_size, kernel_size))
        self.bias: Tensor | None = nn.Parameter(torch.zeros(hidden_channels)) if bias else None
        self.tau: Tensor = nn.Parameter(torch.tensor(2.0 * step_fraction))

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Φ(x) for x of shape (B, channels, H, W)."""
        weight, bias, d = self.weight, self.bias, self.dilation
        if x.ndim != 4 or x.shape[1] != weight.shape[1]:
            raise ShapeError(f"this layer takes (B, {weight.shape[1]}, H, W) tensors; got {tuple(x.shape)}.")
        scale, shift = self.activation.scale_and_shift(sigma)
        if scale is not None and scale.shape[-1] != len(weight):  # it would be broadcast
            raise ShapeError(f"this layer has {len(weight)} hidden channels; its activation has {scale.shape[-1]}.")
        if scale is not None and scale.ndim > 1:  # a noise level per image
            if len(scale) != len(x):  # the image would be broadcast
                raise ShapeError(f"this layer takes one noise level or one per image ({len(x)}); got {len(scale)}.")
            s = self.activation(self.conv(x, weight, bias), sigma)
            return x - self.conv_adjoint(s, self.tau * weight)
        scaled = weight
        if scale is not None:  # one noise level: fold 1/λ and λ into the two convolutions
            if shift is not None:
                bias = shift if bias is None else bias + shift
            bias = None if bias is None else bias / scale
            weight, scaled = weight / scale[:, None, None, None], weight * scale[:, None, None, None]
        phases = d > 1 and self.padding_mode == "zeros" and not (x.shape[-2] % d or x.shape[-1] % d)
        z, d = (to_phases(x, d), 1) if phases else (x, d)
        t = self.conv(z, weight, bias, d)
        s = self.activation(t, sigma) if scale is None else self.activation.unit(t)
        step = self.conv_adjoint(s, self.tau * scaled, d)
        return x - (from_phases(step, self.dilation) if phases else step)

    def conv(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None, dilation: int | None = None) -> Tensor:
        """W x with the weights ``kernel``, keeping the image size, under this layer's padding."""
        d = self.dilation if dilation is None else dilation
        reach = d * (kernel.shape[-1] // 2)
        if self.fourier and torch.is_grad_enabled():
            t = correlate(pad(x, reach, self.padding_mode), dilate(kernel, (d, d)))
            return t if bias is None else t + bias[:, None, None]
        if self.padding_mode != "zeros":
            x, reach = pad(x, reach, self.padding_mode), 0
        if kernel.shape[0] > 1 or d > 1 or bias is not None:
            return F.conv2d(x, kernel, bias, padding=reach, dilation=d)
        bottom, right = (-(n + 2 * reach - kernel.shape[-1] + 1) % BLOCK for n in x.shape[-2:])
        # To pad here in every case would double a small network's time (measured).
        if bottom or right:
            x, reach = F.pad(x, (reach, reach + right, reach, reach + bottom)), 0
        # The kernel at every place of a block of output pixels, one output channel for each.
        last = BLOCK - 1
        blocks = torch.cat([F.pad(kernel, (j, last - j, i, last - i)) for i in range(BLOCK) for j in range(BLOCK)])
        t = F.pixel_shuffle(F.conv2d(x, blocks, padding=reach, stride=BLOCK), BLOCK)
        return t[..., : t.shape[-2] - bottom, : t.shape[-1] - right]

    def conv_adjoint(self, s: Tensor, kernel: Tensor, dilation: int | None = None) -> Tensor:
        """Wᵀ s with the weights ``kernel``: flipped, channel axes exchanged, which zero and circular padding allow."""
        return self.conv(s, kernel.transpose(0, 1).flip(-1, -2), dilation=dilation)

    @property
    def kernel(self) -> tuple[int, int]:
        """The numbers of hidden channels and of taps along an axis, without making constrained weights for it."""
        original = "parametrizations.weight.original"
        stored = self.get_parameter(original) if parametrize.is_parametrized(self, "weight") else self.weight
        return stored.shape[0], stored.shape[-1]

    def extra_repr(self) -> str:
        hidden, channels, k, _ = self.weight.shape
        return f"{channels}, {hidden}, kernel_size={k}, dilation={self.dilation}, padding_mode={self.padding_mode!r}"


def pad(x: Tensor, reach: int, mode: str) -> Tensor:
    """x continued by ``reach`` pixels on each side, by zeros or periodically, more than once around a small image."""
    if mode == "zeros":
        return F.pad(x, (reach,) * 4)
    if reach <= min(x.shape[-2:]):
        return F.pad(x, (reach,) * 4, mode="circular")
    rows, columns = (torch.arange(-reach, size + reach, device=x.device) % size for size in x.shape[-2:])
    return x[..., rows[:, None], columns]


def to_phases(x: Tensor, d: int) -> Tensor:
    """(B, C, H, W) as (B·d², C, H/d, W/d): every d-th pixel, on which a convolution dilated by d is an ordinary one."""
    return torch.unflatten(F.pixel_unshuffle(x, d), 1, (-1, d * d)).transpose(1, 2).flatten(0, 1)


def from_phases(x: Tensor, d: int) -> Tensor:
    """The inverse, and transpose, of ``to_phases``."""
    return F.pixel_shuffle(torch.unflatten(x, 0, (-1, d * d)).transpose(1, 2).flatten(1, 2), d)
