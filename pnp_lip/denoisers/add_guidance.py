"""What a denoiser needs to be guided, attached to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser
from pnp_lip.errors import InputError
from pnp_lip.layers import Guidance, GuideNetwork

__all__ = ["add_guidance", "denoiser_from_config"]

ATTACHED = ("guidance", "centred", "guide_network")  # the keys of a configuration that ``add_guidance`` answers to


def add_guidance(
    denoiser: GradientFlowDenoiser, *, centred: bool = False, network: tuple[int, int] | GuideNetwork | None = None
) -> GradientFlowDenoiser:
    """Attach, in place, what ``guided`` needs: a ``Guidance`` for each layer and, if asked for, a ``GuideNetwork``.

    The map D itself does not change, nor does its certificate. What was attached before stays, with its weights: guidance
    only gains centres that it lacks, and without ``network`` a guide network remains.

    Parameters: ``centred`` gives the clips centres; ``network`` is the (width, depth) of an untrained guide network, or a
    guide network to copy. Returns the denoiser. Raises InputError for a size that makes no network, and for a network of
    other channels.

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
        if not isinstance(network, GuideNetwork):
            if len(network) != 2:
                raise InputError(f"`network` is the width and the depth of a guide network; got {network!r}.")
            network = GuideNetwork(denoiser.in_channels, width=network[0], depth=network[1])
        elif network.channels != denoiser.in_channels:
            raise InputError(
                f"the guide network must take {denoiser.in_channels} channels, as the denoiser does; got {network.channels}."
            )
        denoiser.guide_network = copy.deepcopy(network).to(like).train(denoiser.training)
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
        return add_guidance(denoiser, centred=centred, network=None if size is None else tuple(size))  # type: ignore[arg-type]
    if centred or size is not None:
        raise InputError("`centred` and `guide_network` belong to guidance, which this configuration lacks.")
    return denoiser
