"""Certified robustness of classifiers: how far an input may move before the predicted class can change."""

from __future__ import annotations

import copy
from fractions import Fraction

import torch
from torch import Tensor

from pnp_lip.certificates.calculus import round_up
from pnp_lip.errors import InputError
from pnp_lip.theory.block_calculus import Affine
from pnp_lip.theory.certificates import Network, check, output_lipschitz_upper, partitions, states

__all__ = ["certified_radius"]

SLACK = 1 + 1e-12  # covers the rounding of a difference of two rows in float64, and of a quotient


@torch.no_grad()
def certified_radius(network: Network, x: Tensor) -> Tensor:
    """A radius for each input within which no perturbation (Euclidean) changes the predicted class, (N, d) to (N,).

    One output: r(x) = |f(x)|/L, the class being the sign. Several: r(x) = min_{j≠i} (f_i(x) − f_j(x))/L_ij with i the
    predicted class and L_ij a certified Lipschitz constant of f_i − f_j = (v_i − v_j)ᵀ z(x), z the state before the readout.

    L_ij follows from what is proved of f. If f is jointly 1-Lipschitz, ‖f(x) − f(y)‖₂ ≤ ‖x − y‖₂, then
    L_ij ≤ ‖e_i − e_j‖₂ = √2 and the radius is at least margin/√2. If only each output is 1-Lipschitz, as in
    ``FixedWidthNetwork``, then L_ij ≤ 2 and it is at least margin/2; both are attained, so neither may be replaced by the
    other. The constants used here are computed from the rows of V and never larger.

    f(x) is evaluated in float64; its rounding is not counted. Raises InputError when ``x`` is not (N, d), and for other
    networks.

    Source: Tsuzuku, Sato & Sugiyama (2018), Section 4, with a constant for each pair.

    >>> from pnp_lip.theory import UnboundedWidthNetwork, seal
    >>> network = seal(UnboundedWidthNetwork(2, width=4, depth=2, out_features=3))
    >>> margin = network(torch.ones(1, 2)).sort().values.diff()[0, -1]
    >>> bool(certified_radius(network, torch.ones(1, 2))[0] >= margin / 2**0.5 * (1 - 1e-5))
    True
    """
    if not isinstance(network, Network):
        raise InputError(f"expected a network of pnp_lip.theory; got {type(network).__name__}.")
    if x.ndim != 2:
        raise InputError(f"expected inputs (N, {network.lift.weight.shape[1]}); got {tuple(x.shape)}.")
    outputs: Tensor = copy.deepcopy(network).double()(x.double())
    classes = outputs.shape[1]
    if classes == 1:
        constant = max(output_lipschitz_upper(network)[0] * SLACK, 1e-300)
        return outputs[:, 0].abs() / constant
    constants = pair_constants(network).to(outputs.device)
    first = outputs.argmax(1)
    margins = outputs.gather(1, first[:, None]) - outputs
    radius: Tensor = margins / (constants[first] * SLACK).clamp_min(1e-300)
    return radius.scatter(1, first[:, None], torch.inf).amin(1)


def pair_constants(network: Network) -> Tensor:
    """L_ij for all pairs of outputs, zero on the diagonal."""
    check(network, "", 1e-3)
    v = network.readout.weight.detach().cpu().double()
    i, j = torch.triu_indices(len(v), len(v), offset=1)
    rows = v[i] - v[j]
    found: list[tuple[Fraction, ...]] = []
    for blocks in partitions(network):
        difference = Affine("", rows, [[k] for k in range(len(rows))])
        found.append(difference(states(network, "", blocks)[-1]).lipschitz)
    upper = [round_up(min(pair)) for pair in zip(*found, strict=True)]
    constants = torch.zeros(len(v), len(v), dtype=torch.float64)
    constants[i, j] = constants[j, i] = torch.tensor(upper, dtype=torch.float64)
    return constants
