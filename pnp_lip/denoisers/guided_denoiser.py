"""A denoiser whose clips follow a guide image: a second pass that knows where there is something to keep."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn
from torch.nn import functional as F

from pnp_lip.denoisers.clipped_denoiser import ClippedDenoiser
from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser, Sigma, noise_level, require_image
from pnp_lip.denoisers.relaxed_denoiser import RelaxedDenoiser
from pnp_lip.denoisers.tiling import cache_tile, map_windows, stored
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import Guidance
from pnp_lip.snapshot import Snapshot, lasting

__all__ = [
    "GuidedDenoiser",
    "can_be_guided",
    "can_estimate",
    "denoise_guided",
    "estimate",
    "guided",
    "require_estimate",
    "require_guidance",
]

# Thresholds and centres held between calls (2 GB in float32); more of them are computed at every call, window by window.
KEPT_NUMBERS = 2**29
GUIDE_TILE = (512, 512)  # whole blocks, of the windows in which a network improves a guide
GUIDE_SIGMA_FACTOR = (
    1.1  # noise level assumed for a guide, in units of the data's: noise left in a guide passes for structure
)


class GuidedDenoiser(Denoiser):  # type: ignore[misc]
    """A denoiser whose clips a fixed image g sets at every place; nonexpansive in x for every g and every σ.

    D_g(x, σ) = Φ_m ∘ … ∘ Φ_1(x), Φ_i(z) = z − τ_i W_iᵀ clip(W_i z − c_i(p), −λ_i(p), λ_i(p)),
    λ_i(p) = λ_i(σ)·G_i(p), c_i(p) = ν_i(p)·(W_i ĝ)(p) where it is centred, otherwise 0; G_i > 0 and ν_i the denoiser's
    ``Guidance`` at W_i ĝ/λ_i(σ) and W_i(ĝ − g)/λ_i(σ), ĝ = U(g, σ, r) by its ``GuideNetwork`` or g

    A clip has slopes in [0, 1] whatever its limits and its centre are, so that D_g has the very certificate of D. Where g
    shows an edge or a texture the thresholds are small and x is kept; where it is flat they are large. What is drawn to zero
    is the difference from the centre, so that only the share 1 − ν of what the guide shows is shrunk. For a g that is itself
    made from the data, as by ``refine``, everything is proved of the map with that g held fixed; the map from data to result,
    g included, is not nonexpansive. The same holds of r, the ``residual``: what the data hold beyond the guide, as an image,
    for a network that looks at it (``solvers.residual_image``; 0 by default).

    Shapes: the guide is (B, C, H, W) or (1, C, H, W), on the scale of x, and so is the residual. Raises InputError for a
    denoiser without guidance, ShapeError for a guide of another shape than x.

    Source: the adaptivity to a first solution, for convex regularisers: Pourya, Neumayer & Unser (2024), "Iteratively
    refined image reconstruction with learned attentive regularizers".
    """

    def __init__(self, denoiser: GradientFlowDenoiser, guide: Tensor, residual: Tensor | None = None) -> None:
        super().__init__()
        require_guidance(denoiser)
        self.denoiser = denoiser
        self.guide: Tensor
        self.residual: Tensor
        with lasting():
            self.register_buffer("guide", self.checked("guide", guide).clone())
            self.register_buffer(
                "residual",
                torch.zeros_like(self.guide) if residual is None else self.checked("residual", residual).clone(),
            )
        if self.residual.shape != self.guide.shape:
            raise ShapeError(
                f"the residual must have the guide's shape {tuple(self.guide.shape)}; got {tuple(self.residual.shape)}."
            )
        self.kept: tuple[Any, Snapshot, list[list[Tensor]]] | None = None
        self.kept_guide: tuple[Any, Snapshot, Tensor] | None = None

    def checked(self, name: str, image: Tensor) -> Tensor:
        """The image, if it is one of this denoiser's."""
        if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[1] != self.denoiser.in_channels:
            came = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ShapeError(
                f"the {name} must be an image of shape (B, {self.denoiser.in_channels}, H, W); got {came}."
            )
        if not bool(torch.isfinite(image).all()):
            raise InputError(f"the {name} holds NaN or infinite values.")
        return image.detach()

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: Any) -> Tensor:
        """D_g(x, σ)."""
        inner, guide = self.denoiser, self.guide
        require_image(inner, x)
        if x.shape[1:] != guide.shape[1:] or guide.shape[0] not in (1, x.shape[0]):
            raise ShapeError(f"the guide has shape {tuple(guide.shape)}; it cannot guide {tuple(x.shape)}.")
        s = noise_level(inner.default_sigma if sigma is None else sigma, x.shape[0]).to(x.device)
        z, hidden = inner.lift(x), inner.config["hidden_channels"]
        layers: list[Any] = list(zip(inner.layers, inner.guidance, inner.reaches, strict=True))  # type: ignore[arg-type]
        numbers = sum(sum(guidance.sizes(hidden)) for _, guidance, _ in layers) * x[0, 0].numel()
        few = max(s.numel(), guide.shape[0]) * numbers <= KEPT_NUMBERS
        kept = self.clippings(x, s) if few and not inner.differentiable(()) else None
        seen = self.seen(x, s) if kept is None else ()
        if inner.differentiable((x,)) or x.device.type != "cpu":
            for i, (layer, guidance, _) in enumerate(layers):
                z = layer.flow(z, *(guidance.clipping(layer, *seen, s) if kept is None else kept[i]))
            return inner.lift.adjoint(z)
        tile = cache_tile(x.shape[0], hidden, x.shape[2], x.shape[3])
        for i, (layer, guidance, reach) in enumerate(layers):
            if kept is not None:
                step = partial(in_layout, layer)
                z = map_windows(step, z, *kept[i], tile=tile, reach=reach, circular=inner.circular)
            else:  # the guide's response is averaged over one pixel more
                anew = partial(in_layout_anew, layer, guidance, s)
                z = map_windows(anew, z, *seen, tile=tile, reach=reach + 1, circular=inner.circular)
        return inner.lift.adjoint(z)

    def seen(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What layers look at: the states of ĝ and of ĝ − g, of the type of x."""
        improved, lift = self.improved(x, sigma), self.denoiser.lift
        return lift(improved), lift(improved - self.guide.to(x))

    def improved(self, x: Tensor, sigma: Tensor) -> Tensor:
        """U(g, σ, r), or g where there is no network to improve it; of the type of x, and kept as the limits are."""
        network, guide, residual = self.denoiser.guide_network, self.guide.to(x), self.residual.to(x)
        if network is None:
            return guide
        if self.denoiser.differentiable(()):
            return network(guide, sigma, residual)  # type: ignore[no-any-return]
        if self.kept_guide is None or self.outdated(self.kept_guide, sigma, x):
            h, w = guide.shape[-2:]
            b = network.block
            # Whole blocks of the network, so that each window begins with one.
            whole = [F.pad(image, (0, -w % b, 0, -h % b), mode="replicate") for image in (guide, residual)]
            with torch.no_grad():
                improved = map_windows(
                    lambda g, r: network(g, sigma, r), *whole, tile=GUIDE_TILE, reach=network.reach, circular=False
                )
            self.kept_guide = (self.mode(sigma, x), Snapshot(self.sources()), improved[..., :h, :w])
        return self.kept_guide[-1]

    def outdated(self, kept: tuple[Any, Snapshot, Any], sigma: Tensor, like: Tensor) -> bool:
        """Whether what was kept is of another noise level, guide, weights, type, device or mode of execution."""
        return kept[0] != self.mode(sigma, like) or not kept[1].holds(self.sources())

    def mode(self, sigma: Tensor, like: Tensor) -> tuple[object, ...]:
        """What kept numbers depend on besides tensors; those of inference mode are of no use outside of it."""
        reduced = torch.is_autocast_enabled(like.device.type)
        return (tuple(sigma.tolist()), like.dtype, like.device, reduced, torch.is_inference_mode_enabled())

    def sources(self) -> Iterator[Tensor]:
        """The tensors that kept numbers depend on."""
        return itertools.chain([self.guide, self.residual], self.denoiser.parameters(), self.denoiser.buffers())

    def clippings(self, x: Tensor, sigma: Tensor) -> list[list[Tensor]]:
        """λ_i(p) of each layer, and c_i(p) if there is one, kept for the next call with this noise level, guide and weights."""
        inner = self.denoiser
        if self.kept is None or self.outdated(self.kept, sigma, x):
            g, change = self.seen(x, sigma)
            layers: Any = zip(inner.layers, inner.guidance, inner.reaches, strict=True)  # type: ignore[arg-type]
            tile = cache_tile(g.shape[0], inner.config["hidden_channels"], g.shape[2], g.shape[3])
            found: list[list[Tensor]] = []
            for layer, guidance, reach in layers:  # W reaches half as far as WᵀW, and a mean one pixel more
                step = partial(clipping_in_layout, layer, guidance, sigma)
                made = map_windows(step, g, change, tile=tile, reach=reach // 2 + 1, circular=inner.circular)
                parts = torch.split(made, guidance.sizes(inner.config["hidden_channels"]), 1)
                found.append([stored(part, by_pixel=True) for part in parts])
            self.kept = (self.mode(sigma, x), Snapshot(self.sources()), found)
        return self.kept[-1]

    def part(self, images: list[int]) -> GuidedDenoiser:
        """The denoiser for these images of the batch alone, as the solvers ask for when others have converged."""
        alone = self.guide.shape[0] == 1
        return self if alone else GuidedDenoiser(self.denoiser, self.guide[images], self.residual[images])


@torch.no_grad()
def estimate(denoiser: Any, y: Tensor, sigma: Sigma) -> Tensor:
    """U(g, σ, y − g), g = D(y, 1.1 σ): what the guide network makes of noisy images y (B, C, H, W).

    Better than D(y, σ), and nothing is proved of it: ``refine`` makes guides with it, in steps that are counted beforehand.
    Raises what ``require_estimate`` raises.

    >>> network = dict(guidance=True, guide_network=(4, 3), residual=True)
    >>> denoiser = GradientFlowDenoiser(hidden_channels=4, dilations=(1,), **network)
    >>> estimate(denoiser, torch.zeros(2, 1, 8, 8), 0.1).shape
    torch.Size([2, 1, 8, 8])
    """
    inner = require_estimate(denoiser)
    s = noise_level(inner.default_sigma if sigma is None else sigma, y.shape[0]).to(y.device)
    g: Tensor = inner(y, GUIDE_SIGMA_FACTOR * s)
    return GuidedDenoiser(inner, g, y - g).improved(y, s)


def can_estimate(denoiser: Any) -> bool:
    """Whether ``estimate`` takes this denoiser."""
    return can_be_guided(denoiser) and getattr(innermost(denoiser).guide_network, "residual", False)


def require_estimate(denoiser: Any) -> GradientFlowDenoiser:
    """The denoiser whose guide network ``estimate`` asks. Raises InputError where there is none that looks at the data."""
    if not can_estimate(denoiser):
        raise InputError(
            f"this {type(denoiser).__name__} has no guide network that looks at the data; `pnp-lip train --guide-network "
            "WIDTH,DEPTH,SCALES --start FILE` adds it to one of ours."
        )
    return innermost(denoiser)


def innermost(denoiser: Any) -> GradientFlowDenoiser:
    """The network inside relaxations, projections and guidance."""
    while not isinstance(denoiser, GradientFlowDenoiser):
        denoiser = denoiser.denoiser
    return denoiser


def in_layout(layer: Any, z: Tensor, *clipping: Tensor) -> Tensor:
    """A layer's step with its numbers stored as convolutions are fastest."""
    d: Tensor = layer.flow(stored(z, by_pixel=True), *clipping)
    return d


def clipping_in_layout(layer: Any, guidance: Guidance, sigma: Tensor, g: Tensor, change: Tensor) -> Tensor:
    """A layer's limits and, if there are any, centres one after the other, made from images stored for convolutions."""
    return torch.cat(guidance.clipping(layer, stored(g, by_pixel=True), stored(change, by_pixel=True), sigma), 1)


def in_layout_anew(layer: Any, guidance: Guidance, sigma: Tensor, z: Tensor, g: Tensor, change: Tensor) -> Tensor:
    """The step with limits and centres that are made for the occasion."""
    made = guidance.clipping(layer, stored(g, by_pixel=True), stored(change, by_pixel=True), sigma)
    return in_layout(layer, z, *(stored(part, by_pixel=True) for part in made))


def can_be_guided(denoiser: Any) -> bool:
    """Whether ``guided`` takes this denoiser."""
    if isinstance(denoiser, (RelaxedDenoiser, ClippedDenoiser, GuidedDenoiser)):
        return can_be_guided(denoiser.denoiser)
    return isinstance(denoiser, GradientFlowDenoiser) and denoiser.guidance is not None


def require_guidance(denoiser: Any) -> None:
    """Raise InputError unless ``guided`` takes this denoiser."""
    if not can_be_guided(denoiser):
        raise InputError(
            f"this {type(denoiser).__name__} has learned no guidance; `pnp-lip train --guidance --start FILE` adds it to one "
            "of ours."
        )


def guided(denoiser: nn.Module, guide: Tensor, residual: Tensor | None = None) -> nn.Module:
    """D_g for a denoiser that has learned guidance, also inside a relaxation or a projection onto a box.

    ``residual`` is what the data hold beyond the guide, as an image (``GuidedDenoiser``).

    Raises InputError for any other denoiser.

    >>> denoiser = GradientFlowDenoiser(hidden_channels=4, dilations=(1,), guidance=True)
    >>> guided(denoiser, torch.zeros(1, 1, 8, 8))(torch.zeros(2, 1, 8, 8), 0.1).shape
    torch.Size([2, 1, 8, 8])
    """
    if isinstance(denoiser, RelaxedDenoiser):
        return RelaxedDenoiser(guided(denoiser.denoiser, guide, residual), denoiser.theta)
    if isinstance(denoiser, ClippedDenoiser):
        return ClippedDenoiser(guided(denoiser.denoiser, guide, residual), *denoiser.box)
    if isinstance(denoiser, GuidedDenoiser):
        return GuidedDenoiser(denoiser.denoiser, guide, residual)
    return GuidedDenoiser(denoiser, guide, residual)  # type: ignore[arg-type]


@torch.no_grad()
def denoise_guided(denoiser: nn.Module, y: Tensor, sigma: float, *, rounds: int = 1) -> Tensor:
    """D_g(y, σ) of noisy images y (B, C, H, W), g = D(y, 1.1 σ), r = y − g; in each further round the result is the next guide.

    Better than D(y, σ), and where σ is too small also than with the guide D(y, σ). Not nonexpansive in y, which makes
    its own guide. Raises InputError for a denoiser without guidance and for rounds < 1.

    >>> denoiser = GradientFlowDenoiser(hidden_channels=4, dilations=(1,), guidance=True)
    >>> denoise_guided(denoiser, torch.zeros(2, 1, 8, 8), 0.1).shape
    torch.Size([2, 1, 8, 8])
    """
    require_guidance(denoiser)
    if rounds < 1:
        raise InputError(f"`rounds` counts the guided passes and is >= 1; got {rounds}.")
    x_hat: Tensor = denoiser(y, GUIDE_SIGMA_FACTOR * sigma)
    for k in range(rounds):
        x_hat = guided(denoiser, x_hat, y - x_hat)(y, (GUIDE_SIGMA_FACTOR if k + 1 < rounds else 1) * sigma)
    return x_hat
