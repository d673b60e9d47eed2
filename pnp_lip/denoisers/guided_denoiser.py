"""A denoiser whose clips follow a guide image: a second pass that knows where there is something to keep."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast
from weakref import WeakKeyDictionary

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser, Sigma, require_image
from pnp_lip.denoisers.tiling import improve, stored
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import GradientFlowConv2d, Guidance
from pnp_lip.memory import most_kept
from pnp_lip.snapshot import Snapshot, lasting

__all__ = ["GUIDE_SIGMA_FACTOR", "GuidedDenoiser", "can_be_guided", "guided", "require_guidance"]

# The noise level that a guide made by denoising should assume, in units of the true one: noise left in the guide would pass for
# structure and be kept. Guides with it forgive a noise level that is stated 20 % too low (tests/test_weights.py).
GUIDE_SIGMA_FACTOR = 1.1


# A layer's step, the images that it takes besides its state, and how many rows or columns away it looks.
Step = tuple[Callable[..., Tensor], Sequence[Tensor], int]


@dataclass
class Kept:
    mode: tuple[object, ...]
    sources: Snapshot
    steps: list[Step]


# The limits and centres of the last call of each denoiser that is alive. Outside of it, so that no file can bring its own.
KEPT: "WeakKeyDictionary[GuidedDenoiser, Kept]" = WeakKeyDictionary()


class GuidedDenoiser(Denoiser):  # type: ignore[misc]
    """A denoiser whose clips a fixed image g sets at every place; nonexpansive in x for every g and every σ.

    D_g(x, σ) = Φ_m ∘ … ∘ Φ_1(x), Φ_i(z) = z − τ_i W_iᵀ clip(W_i z − c_i(p), −λ_i(p), λ_i(p)),
    λ_i(p) = λ_i(σ)·G_i(p), c_i(p) = ν_i(p)·(W_i ĝ)(p) where it is centred, otherwise 0; G_i > 0 and ν_i the denoiser's
    ``Guidance`` at W_i ĝ/λ_i(σ) and W_i(ĝ − g)/λ_i(σ), ĝ = U(g, σ) by its ``GuideNetwork`` or g

    A clip has slopes in [0, 1] whatever its limits and its centre are, so that D_g has the very certificate of D. Where g
    shows an edge or a texture the thresholds are small and x is kept; where it is flat they are large. Of what the guide
    shows, only the share 1 − ν is shrunk. For a g that is itself made from the data, everything is proved of the map with
    that g held fixed; the map from data to result, g included, is not nonexpansive. Limits and centres are made once for
    each noise level, guide and state of the weights, and kept, of as many layers as a quarter of the machine's memory holds.

    Shapes: the guide is (B, C, H, W) or (1, C, H, W), on the scale of x. Raises InputError for a denoiser without guidance,
    ShapeError for a guide of another shape than x.
    Source: Pourya, Neumayer & Unser (2024), "Iteratively refined image reconstruction with learned attentive regularizers".
    """

    def __init__(self, denoiser: GradientFlowDenoiser, guide: Tensor) -> None:
        super().__init__()
        require_guidance(denoiser)
        if not isinstance(guide, Tensor) or guide.ndim != 4 or guide.shape[1] != denoiser.in_channels:
            came = tuple(guide.shape) if isinstance(guide, Tensor) else type(guide).__name__
            raise ShapeError(f"the guide must be an image of shape (B, {denoiser.in_channels}, H, W); got {came}.")
        if not bool(torch.isfinite(guide).all()):
            raise InputError("the guide holds NaN or infinite values.")
        self.denoiser = denoiser
        self.guide: Tensor
        with lasting():
            self.register_buffer("guide", guide.detach().clone())

    def with_guide(self, guide: Tensor) -> "GuidedDenoiser":
        """The denoiser with another guide."""
        return GuidedDenoiser(self.denoiser, guide)

    def part(self, images: list[int]) -> "GuidedDenoiser":
        """The denoiser for these images of the batch alone, as the solvers ask for when others have converged."""
        return self if self.guide.shape[0] == 1 else self.with_guide(self.guide[images])

    def forward(self, x: Tensor, sigma: Sigma = None, **kwargs: object) -> Tensor:
        """D_g(x, σ)."""
        inner, guide = self.denoiser, self.guide
        require_image(inner, x)
        if x.shape[1:] != guide.shape[1:] or guide.shape[0] not in (1, x.shape[0]):
            raise ShapeError(f"the guide has shape {tuple(guide.shape)}; it cannot guide {tuple(x.shape)}.")
        s, z, whole = inner.level(sigma, x), inner.lift(x), inner.runs_whole(x)
        # Nothing is kept while guidance is being trained.
        steps = self.steps(x, s, bytes_kept=0) if inner.differentiable() else self.kept_steps(x, s)
        for step, images, reach in steps:
            z = inner.by_window(step, z, *images, sigma=s, reach=reach, whole=whole)
        return inner.lift.adjoint(z)

    def kept_steps(self, x: Tensor, sigma: Tensor) -> list[Step]:
        """The steps of the last call, or new ones if anything has changed."""
        inner = self.denoiser
        shape = (inner.padding_mode, inner.dilations, inner.centred, inner.guide_network is None)
        mode = (tuple(sigma.tolist()), x.dtype, x.device, torch.is_autocast_enabled(x.device.type), shape)
        sources = [self.guide, *inner.parameters(), *inner.buffers()]
        kept = KEPT.get(self)
        if kept is None or kept.mode != mode or not kept.sources.holds(sources):
            KEPT.pop(self, None)  # before room is made for the new ones
            with lasting():
                kept = KEPT[self] = Kept(mode, Snapshot(sources), self.steps(x, sigma, bytes_kept=most_kept()))
        return kept.steps

    def steps(self, x: Tensor, sigma: Tensor, *, bytes_kept: int) -> list[Step]:
        """Each layer's step with its limits λ_i(p) and centres c_i(p), or with what makes them once ``bytes_kept`` are used."""
        inner, guide, network = self.denoiser, self.guide.to(x), self.denoiser.guide_network
        whole = inner.runs_whole(x)
        steps: list[Step] = []
        improved = guide if network is None else improve(network, guide, sigma=sigma)
        seen = [inner.lift(improved), inner.lift(improved - guide)]
        seen = seen if whole else [stored(image, by_pixel=True) for image in seen]
        parts = zip(inner.layers, cast(nn.ModuleList, inner.guidance), inner.reaches, strict=True)
        for layer, guidance, reach in cast(Iterable[tuple[GradientFlowConv2d, Guidance, int]], parts):
            clips = layer.kernel[0] * (1 + guidance.centred)
            bytes_kept -= max(sigma.numel(), len(guide)) * clips * x[0, 0].numel() * x.element_size()
            if bytes_kept < 0:  # the responses to the guide are averaged over one pixel more
                steps.append((partial(flow_anew, layer, guidance), seen, reach + 1))
                continue
            # W reaches half as far as WᵀW, and a mean one pixel more.
            join = partial(joined_clips, layer, guidance)
            made = inner.by_window(join, *seen, sigma=sigma, reach=reach // 2 + 1, whole=whole)
            if not bool(torch.isfinite(made).all()):
                raise InputError("the guide makes limits that are not finite; give an image on the scale of x, near [0, 1].")
            images = [stored(part, by_pixel=True) for part in torch.split(made, layer.kernel[0], 1)]
            steps.append((partial(flow_kept, layer), images, reach))
        return steps


def flow_kept(layer: GradientFlowConv2d, z: Tensor, *clips: Tensor, sigma: Tensor) -> Tensor:
    """A layer's step with limits and centres that were made for σ before."""
    return layer.flow(z, *clips)


def flow_anew(layer: GradientFlowConv2d, guidance: Guidance, z: Tensor, *seen: Tensor, sigma: Tensor) -> Tensor:
    """A layer's step with limits and centres made for this call alone."""
    return layer.flow(z, *guidance.clipping(layer, sigma, *seen))


def joined_clips(layer: GradientFlowConv2d, guidance: Guidance, *seen: Tensor, sigma: Tensor) -> Tensor:
    """A layer's limits and centres one after the other."""
    return torch.cat(guidance.clipping(layer, sigma, *seen), 1)


def can_be_guided(denoiser: object) -> bool:
    """Whether ``guided`` takes this denoiser."""
    while hasattr(denoiser, "with_guide") and hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    return isinstance(denoiser, GradientFlowDenoiser) and denoiser.guidance is not None


def require_guidance(denoiser: object) -> None:
    """Raise InputError unless ``guided`` takes this denoiser."""
    if not can_be_guided(denoiser):
        kind = type(denoiser).__name__
        raise InputError(f"this {kind} has learned no guidance; `pnp-lip train --guidance --start FILE` adds it to ours.")


def guided(denoiser: nn.Module, guide: Tensor) -> nn.Module:
    """D_g for a denoiser that has learned guidance, also inside a relaxation or a projection onto a box, else InputError.

    >>> from pnp_lip.denoisers import add_guidance
    >>> denoiser = add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1,)))
    >>> guided(denoiser, torch.zeros(1, 1, 8, 8))(torch.zeros(2, 1, 8, 8), 0.1).shape
    torch.Size([2, 1, 8, 8])
    """
    if hasattr(denoiser, "with_guide"):
        return cast(nn.Module, denoiser.with_guide(guide))  # type: ignore[operator]
    return GuidedDenoiser(cast(GradientFlowDenoiser, denoiser), guide)
