"""A denoiser whose clips follow a guide image: a second pass that knows where there is something to keep."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser, Sigma, require_image
from pnp_lip.denoisers.tiling import improve, stored
from pnp_lip.errors import InputError, ShapeError
from pnp_lip.layers import GradientFlowConv2d, Guidance, GuideNetwork
from pnp_lip.snapshot import Snapshot, lasting

__all__ = [
    "GUIDE_SIGMA_FACTOR",
    "GuidedDenoiser",
    "add_guidance",
    "can_be_guided",
    "denoiser_from_config",
    "guided",
    "require_guidance",
]

# The noise level that a guide made by denoising should assume, in units of the true one: noise left in the guide would pass for
# structure and be kept. Guides with it forgive a noise level that is stated 20 % too low (tests/test_weights.py).
GUIDE_SIGMA_FACTOR = 1.1

KEPT_NUMBERS = 2**29  # limits and centres held between calls, 2 GB in float32; more of them are made at every call

ATTACHED = ("guidance", "centred", "guide_network")  # the keys of a configuration that ``add_guidance`` answers to


def add_guidance(
    denoiser: GradientFlowDenoiser, *, centred: bool = False, network: Sequence[int] | None = None
) -> GradientFlowDenoiser:
    """Attach, in place, what ``guided`` needs: a ``Guidance`` for each layer and, if asked for, a ``GuideNetwork``.

    The map D itself does not change, nor does its certificate. What was attached before stays, with its weights: guidance
    only gains centres that it lacks, and without ``network`` a guide network remains.

    Parameters: ``centred`` gives the clips centres; ``network`` is the (width, depth) of an untrained guide network.
    Returns the denoiser. Raises InputError for a size that makes no network.

    >>> denoiser = add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1, 1)), network=(8, 3))
    >>> denoiser.config["guidance"], denoiser.config["guide_network"]
    (True, [8, 3])
    """
    like, old = next(denoiser.parameters()), denoiser.guidance
    if old is None or (centred and not denoiser.centred):
        new = nn.ModuleList(Guidance(denoiser.hidden_channels, centred=centred) for _ in denoiser.layers).to(like)
        if old is not None:
            new.load_state_dict(old.state_dict(), strict=False)
        denoiser.guidance = new.train(denoiser.training)
    if network is not None:
        if len(network) != 2:
            raise InputError(f"`network` is the width and the depth of a guide network; got {network!r}.")
        new_network = GuideNetwork(denoiser.in_channels, width=network[0], depth=network[1])
        denoiser.guide_network = new_network.to(like).train(denoiser.training)
    return denoiser


def denoiser_from_config(config: Mapping[str, object]) -> GradientFlowDenoiser:
    """The untrained denoiser with this ``config``, as files of weights hold it.

    Raises TypeError for keys that no denoiser has, InputError for values that make none.

    >>> denoiser = denoiser_from_config({"hidden_channels": 4, "dilations": [1], "guidance": True})
    >>> denoiser.centred, denoiser_from_config(denoiser.config).config == denoiser.config
    (False, True)
    """
    network = {key: value for key, value in config.items() if key not in ATTACHED}
    denoiser = GradientFlowDenoiser(**network)  # type: ignore[arg-type]
    centred, size = bool(config.get("centred")), cast(Sequence[int] | None, config.get("guide_network"))
    if config.get("guidance"):
        return add_guidance(denoiser, centred=centred, network=size)
    if centred or size is not None:
        raise InputError("`centred` and `guide_network` belong to guidance, which this configuration lacks.")
    return denoiser


class Kept(NamedTuple):
    """What a guide makes of the layers, and what that was made from."""

    mode: tuple[object, ...]
    sources: Snapshot
    seen: Sequence[Tensor]
    clips: list[list[Tensor]] | None


class GuidedDenoiser(Denoiser):  # type: ignore[misc]
    """A denoiser whose clips a fixed image g sets at every place; nonexpansive in x for every g and every σ.

    D_g(x, σ) = Φ_m ∘ … ∘ Φ_1(x), Φ_i(z) = z − τ_i W_iᵀ clip(W_i z − c_i(p), −λ_i(p), λ_i(p)),
    λ_i(p) = λ_i(σ)·G_i(p), c_i(p) = ν_i(p)·(W_i ĝ)(p) where it is centred, otherwise 0; G_i > 0 and ν_i the denoiser's
    ``Guidance`` at W_i ĝ/λ_i(σ) and W_i(ĝ − g)/λ_i(σ), ĝ = U(g, σ) by its ``GuideNetwork`` or g

    A clip has slopes in [0, 1] whatever its limits and its centre are, so that D_g has the very certificate of D. Where g
    shows an edge or a texture the thresholds are small and x is kept; where it is flat they are large. What is drawn to zero
    is the difference from the centre, so that only the share 1 − ν of what the guide shows is shrunk. For a g that is itself
    made from the data, everything is proved of the map with that g held fixed; the map from data to result, g included, is
    not nonexpansive.

    Limits and centres are made once for each noise level, guide and state of the weights, and kept. Where an image has too
    many of them, each window of it makes its own at every call.

    Shapes: the guide is (B, C, H, W) or (1, C, H, W), on the scale of x. Raises InputError for a denoiser without guidance,
    ShapeError for a guide of another shape than x.

    Source: the adaptivity to a first solution, for convex regularisers: Pourya, Neumayer & Unser (2024), "Iteratively
    refined image reconstruction with learned attentive regularizers".
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
        self.kept: Kept | None = None

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
        seen, clips = (self.seen(x, s), None) if inner.differentiable() else self.remembered(x, s)
        for i, (layer, guidance, reach) in enumerate(self.parts()):
            if clips is None:  # the responses to the guide are averaged over one pixel more
                z = inner.by_window(partial(flow_anew, layer, guidance, s), z, *seen, reach=reach + 1, whole=whole)
            else:
                z = inner.by_window(layer.flow, z, *clips[i], reach=reach, whole=whole)
        return inner.lift.adjoint(z)

    def remembered(self, x: Tensor, sigma: Tensor) -> tuple[Sequence[Tensor], list[list[Tensor]] | None]:
        """What layers look at and, if these are few enough, their limits and centres; made anew if anything has changed."""
        inner = self.denoiser
        mode = (tuple(sigma.tolist()), x.dtype, x.device, torch.is_autocast_enabled(x.device.type))
        sources = [self.guide, *inner.parameters(), *inner.buffers()]
        if self.kept is None or self.kept.mode != mode or not self.kept.sources.holds(sources):
            numbers = inner.hidden_channels * (1 + inner.centred) * len(inner.layers) * x[0, 0].numel()
            few = max(sigma.numel(), len(self.guide)) * numbers <= KEPT_NUMBERS
            with lasting():
                seen = self.seen(x, sigma)
                self.kept = Kept(mode, Snapshot(sources), seen, self.clips(seen, sigma) if few else None)
        return self.kept.seen, self.kept.clips

    def seen(self, x: Tensor, sigma: Tensor) -> Sequence[Tensor]:
        """What layers look at: the states of ĝ and of ĝ − g, of the type of x."""
        network, guide, lift = self.denoiser.guide_network, self.guide.to(x), self.denoiser.lift
        improved = guide if network is None else improve(network, guide, sigma=sigma)
        seen = lift(improved), lift(improved - guide)
        return seen if self.denoiser.runs_whole(x) else [stored(image, by_pixel=True) for image in seen]

    def clips(self, seen: Sequence[Tensor], sigma: Tensor) -> list[list[Tensor]]:
        """λ_i(p) of each layer and, if there is one, c_i(p)."""
        inner, whole, found = self.denoiser, self.denoiser.runs_whole(seen[0]), []
        for layer, guidance, reach in self.parts():  # W reaches half as far as WᵀW, and a mean one pixel more
            step = partial(joined_clips, layer, guidance, sigma)
            made = inner.by_window(step, *seen, reach=reach // 2 + 1, whole=whole)
            found.append([stored(part, by_pixel=True) for part in torch.split(made, inner.hidden_channels, 1)])
        return found

    def parts(self) -> Iterator[tuple[GradientFlowConv2d, Guidance, int]]:
        """Each layer with its guidance and its reach."""
        inner = self.denoiser
        parts = zip(inner.layers, cast(nn.ModuleList, inner.guidance), inner.reaches, strict=True)
        return cast(Iterator[tuple[GradientFlowConv2d, Guidance, int]], parts)


def flow_anew(layer: GradientFlowConv2d, guidance: Guidance, sigma: Tensor, z: Tensor, *seen: Tensor) -> Tensor:
    """A layer's step with limits and centres made for this call alone."""
    return layer.flow(z, *guidance.clipping(layer, *seen, sigma))


def joined_clips(layer: GradientFlowConv2d, guidance: Guidance, sigma: Tensor, *seen: Tensor) -> Tensor:
    """A layer's limits and centres one after the other."""
    return torch.cat(guidance.clipping(layer, *seen, sigma), 1)


def can_be_guided(denoiser: object) -> bool:
    """Whether ``guided`` takes this denoiser."""
    while hasattr(denoiser, "with_guide") and hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    return isinstance(denoiser, GradientFlowDenoiser) and denoiser.guidance is not None


def require_guidance(denoiser: object) -> None:
    """Raise InputError unless ``guided`` takes this denoiser."""
    if not can_be_guided(denoiser):
        raise InputError(
            f"this {type(denoiser).__name__} has learned no guidance; `pnp-lip train --guidance --start FILE` adds it to one "
            "of ours."
        )


def guided(denoiser: nn.Module, guide: Tensor) -> nn.Module:
    """D_g for a denoiser that has learned guidance, also inside a relaxation or a projection onto a box.

    Raises InputError for any other denoiser.

    >>> denoiser = add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1,)))
    >>> guided(denoiser, torch.zeros(1, 1, 8, 8))(torch.zeros(2, 1, 8, 8), 0.1).shape
    torch.Size([2, 1, 8, 8])
    """
    if hasattr(denoiser, "with_guide"):
        return cast(nn.Module, denoiser.with_guide(guide))  # type: ignore[operator]
    return GuidedDenoiser(cast(GradientFlowDenoiser, denoiser), guide)
