"""The convolutional denoiser that is nonexpansive by construction."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from pnp_lip.denoisers.tiling import cache_tile, map_windows, stored
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import GradientFlowConv2d, IsometricLift, NoiseClip

__all__ = ["GradientFlowDenoiser", "Sigma", "denoiser_from_config", "noise_level", "require_image"]

Sigma = float | Tensor | None

# On the image alone: a state of eight channels leaves seven of them idle (measured). Filters of 9x9 are 0.1 dB better than 5x5.
DILATIONS = (1,) * 20

# The sum of the layers' first thresholds in units of σ. Started at σ/2 each, twelve layers remove most of the image at first, and
# training silences most of them for good: measured, 100 steps from here pass 10,000 steps from there at every noise level.
INITIAL_SHRINKAGE = 0.25


class GradientFlowDenoiser(Denoiser):  # type: ignore[misc]
    """A denoiser conditioned on the noise level and nonexpansive in the image for each noise level.

    D(x, σ) = Qᵀ Φ_m(· , σ) ∘ … ∘ Φ_1(Q x, σ), Φ_i(z, σ) = z − τ_i W_iᵀ clip(W_i z + b_i(σ), −λ_i(σ), λ_i(σ))

    Q appends zero channels, none by default. With α_i = τ_i‖W_i‖²/2 < 1 for all i, D(·, σ) is α-averaged with α = S/(1 + S),
    S = Σ α_i/(1 − α_i), for every σ; ``pnp_lip.certify`` proves the α_i.

    Parameters: ``channels`` of the state, those of the image by default; ``hidden_channels`` of W; ``dilations``, one per
    layer; ``padding_mode`` "zeros" or "circular"; ``default_sigma``, used when a solver passes no noise level;
    ``step_fraction``, the first τ_i/2. The untrained network is nonexpansive only after ``constrain`` or ``project``.

    Shapes: x is (B, in_channels, H, W) with values in [0, 1]; σ, on the same scale, is None, a number, or a tensor of
    shape (), (1,), (B,) or (1, 1). Raises InputError for a negative or non-finite σ and ShapeError for a wrong shape.
    Source: Sherry et al. (2024); Combettes & Yamada (2015), Proposition 2.5, for the averagedness of the composition.

    >>> denoiser = GradientFlowDenoiser(channels=4, hidden_channels=4, dilations=(1, 1))
    >>> denoiser(torch.zeros(2, 1, 8, 8), 0.1).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        channels: int | None = None,
        hidden_channels: int = 32,
        dilations: Sequence[int] = DILATIONS,
        kernel_size: int = 9,
        padding_mode: str = "zeros",
        default_sigma: float = 0.05,
        step_fraction: float = 0.97,
    ) -> None:
        super().__init__()
        if not dilations:
            raise InputError("a denoiser needs at least one layer; `dilations` is empty.")
        noise_level(default_sigma, 1)
        self.default_sigma = default_sigma
        self.lift = IsometricLift(in_channels, in_channels if channels is None else channels)
        self.layers = nn.ModuleList(
            GradientFlowConv2d(
                self.lift.channels,
                hidden_channels,
                kernel_size,
                dilation=dilation,
                padding_mode=padding_mode,
                activation=NoiseClip(hidden_channels, threshold=INITIAL_SHRINKAGE / len(dilations)),
                step_fraction=step_fraction,
            )
            for dilation in dilations
        )

    @property
    def in_channels(self) -> int:
        """The image's channels."""
        return self.lift.in_channels

    @property
    def channels(self) -> int:
        """The state's channels."""
        return self.lift.channels

    @property
    def hidden_channels(self) -> int:
        """The most channels of a W."""
        return max(layer.kernel[0] for layer in self.flows)

    @property
    def kernel_size(self) -> int:
        """The most taps of a W along an axis."""
        return max(layer.kernel[1] for layer in self.flows)

    @property
    def dilations(self) -> tuple[int, ...]:
        """Each layer's dilation."""
        return tuple(layer.dilation for layer in self.flows)

    @property
    def padding_mode(self) -> str:
        """The layers' common padding. Raises InputError where they differ."""
        modes = sorted({layer.padding_mode for layer in self.flows})
        if len(modes) > 1:
            raise InputError(f"all layers must pad alike; got {' and '.join(modes)}.")
        return modes[0]

    @property
    def flows(self) -> list[GradientFlowConv2d]:
        """The layers, for which all of the above holds at every moment."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def config(self) -> dict[str, object]:
        """What ``denoiser_from_config`` builds the same network from; files of weights hold it."""
        names = ("in_channels", "channels", "hidden_channels", "kernel_size", "padding_mode", "default_sigma")
        return {name: getattr(self, name) for name in names} | {"dilations": list(self.dilations)}

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: object) -> Tensor:
        """D(x, σ). Further keywords are accepted because deepinv's solvers may pass them, and ignored."""
        require_image(self, x)
        s = self.level(sigma, x)
        z, whole = self.lift(x), self.runs_whole(x)
        for layer, dilation, reach in zip(self.layers, self.dilations, self.reaches, strict=True):
            # A dilated layer chooses between two algorithms, alike to the bit in planes only.
            z = self.by_window(layer, z, sigma=s, reach=reach, whole=whole, by_pixel=dilation == 1)
        return self.lift.adjoint(z)

    def level(self, sigma: Sigma, x: Tensor) -> Tensor:
        """σ as a tensor beside x, the default where there is none."""
        return noise_level(self.default_sigma if sigma is None else sigma, x.shape[0]).to(x.device)

    def runs_whole(self, x: Tensor) -> bool:
        """Whether layers are evaluated on the whole image: where torch keeps a graph, and on other devices than a processor."""
        graph = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.parameters()))
        return graph or x.device.type != "cpu"

    def by_window(self, layer: nn.Module, z: Tensor, *, sigma: Tensor, reach: int, whole: bool, by_pixel: bool) -> Tensor:
        """Φ(z, σ) of the ``whole`` batch, or image by image in windows whose hidden channels stay in the cache.

        The windows are 2 to 3 times faster, and smaller ones for several images at once would lose that again.
        """
        if whole:
            return cast(Tensor, layer(z, sigma=sigma))
        tile, circular = cache_tile(self.hidden_channels, *z.shape[2:]), self.padding_mode == "circular"

        def in_layout(window: Tensor, *, sigma: Tensor) -> Tensor:
            return cast(Tensor, layer(stored(window, by_pixel=by_pixel), sigma=sigma))

        levels = sigma.expand(len(z)) if len(sigma) == 1 else sigma
        parts = [
            map_windows(partial(in_layout, sigma=levels[i : i + 1]), z[i : i + 1], tile=tile, reach=reach, circular=circular)
            for i in range(len(z))
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def use_fourier(self, on: bool) -> None:
        """Whether to convolve by the Fourier transform where gradients are recorded: less than half the time, other rounding."""
        for layer in self.layers:
            layer.fourier = on  # type: ignore[assignment]

    @property
    def reaches(self) -> list[int]:
        """How many rows or columns away a pixel can influence another in each layer: 2·dilation·⌊k/2⌋, W and its adjoint."""
        return [2 * layer.dilation * (layer.kernel[1] // 2) for layer in self.flows]

    @torch.no_grad()
    def tiled(self, x: Tensor, sigma: Sigma = None, *, tile: int = 2048) -> Tensor:
        """D(x, σ), evaluated in windows of ``tile`` pixels a side and what they see: the same map in less memory.

        The windows overlap by the receptive field Σ reaches, end at the image's own border, and wrap around under
        circular padding; so the result is that of ``forward``, for which the certificate speaks. Bit for bit on
        processors with AVX-512 in float32 and bfloat16, except for kernels of at most 3x3 where a window of the state
        holds no more than 20,480 numbers, because torch computes those otherwise (measured with torch 2.15); elsewhere,
        and beside a ``forward`` that keeps a graph, up to the rounding of sums in another order. Without gradients.
        Shapes and errors as in ``forward``; also raises InputError unless tile ≥ 1.

        >>> denoiser = GradientFlowDenoiser(channels=4, hidden_channels=4, dilations=(1, 1))
        >>> x = torch.rand(1, 1, 99, 80)
        >>> torch.allclose(denoiser.tiled(x, 0.1, tile=32), denoiser(x, 0.1), atol=1e-6)
        True
        """
        reach, circular = sum(self.reaches), self.padding_mode == "circular"
        return map_windows(lambda z: self(z, sigma), x, tile=(tile, tile), reach=reach, circular=circular)


def denoiser_from_config(config: Mapping[str, object]) -> GradientFlowDenoiser:
    """The untrained denoiser with this ``config``, as files of weights hold it.

    Raises TypeError for keys that no denoiser has, InputError for values that make none.

    >>> denoiser = denoiser_from_config({"hidden_channels": 4, "dilations": [1]})
    >>> denoiser_from_config(denoiser.config).config == denoiser.config
    True
    """
    return GradientFlowDenoiser(**config)  # type: ignore[arg-type]


def require_image(denoiser: GradientFlowDenoiser, x: Tensor) -> None:
    """Raise ShapeError unless the denoiser takes x: its channels, at least one pixel, the type of its weights."""
    if not isinstance(x, Tensor):
        raise ShapeError(f"this denoiser takes torch tensors; got {type(x).__name__}. Use torch.from_numpy.")
    if x.ndim != 4 or x.shape[1] != denoiser.in_channels or not x.is_floating_point() or x.numel() == 0:
        raise ShapeError(
            f"this denoiser takes floating-point tensors of shape (B, {denoiser.in_channels}, H, W), none of them 0; "
            f"got {tuple(x.shape)} of {x.dtype}."
        )
    dtype = next(denoiser.parameters()).dtype
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise ShapeError(f"the weights are {dtype}, the image {x.dtype}; convert one of them, as by x.to({dtype}).")


def noise_level(sigma: float | Tensor, batch: int) -> Tensor:
    """The noise level as a tensor of shape (1,) or (batch,), checked to be finite and not negative."""
    s = torch.as_tensor(sigma, dtype=torch.get_default_dtype() if not isinstance(sigma, Tensor) else None).reshape(-1)
    if s.numel() not in (1, batch):
        raise ShapeError(f"`sigma` must hold one value or one per image ({batch}); got {s.numel()}.")
    if not bool(torch.isfinite(s).all() and (s >= 0).all()):
        raise InputError(f"`sigma` must be finite and not negative (a standard deviation on [0, 1]); got {sigma}.")
    if bool((s > 1).any()):
        warnings.warn(
            f"`sigma` is a standard deviation on the scale of images in [0, 1]; got {sigma}. For 8-bit levels divide by 255.",
            stacklevel=3,
        )
    return s
